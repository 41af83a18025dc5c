"""The action's image, built and run without a Docker engine: buildah, podman, runc, as root.

    with opened() as engine:
        image = build_image(engine, import_base(engine, folder), folder)
        step = Host(work).step(engine, image, job, token)
        assert step.status == 1

docs/image.md says how that differs from GitHub's runner.
"""
