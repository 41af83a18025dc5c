"""A base image of our own, for a machine without a registry, and the real Dockerfile on it."""

import ast
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.image.engine import FILES, Engine, said

ROOT = Path(__file__).parents[2]
BASE, IMAGE = "localhost/python-slim:bookworm", "localhost/safety-gate:test"
# What the public slim image has and the Dockerfile counts on: Python 3.11, certificates, apt. Not
# git, which the Dockerfile installs.
PACKAGES = "python3,python3-venv,ca-certificates"
CERTIFICATES = Path("/etc/ssl/certs")


def import_base(engine: Engine, folder: Path) -> str:
    """Make the base of Debian's packages."""
    tree = folder / "base"
    said("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(tree))
    for cache in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(tree / cache)
    with subprocess.Popen(["tar", "-C", tree, "-c", "."], stdout=subprocess.PIPE) as tar:
        engine.podman("import", "-", BASE, stdin=tar.stdout)
    assert tar.returncode == 0
    shutil.rmtree(tree)
    return BASE


def build_image(engine: Engine, base: str, folder: Path) -> str:
    """Build the Dockerfile as it is, with this machine's way to packages lent to pip."""
    pip = pip_settings()
    (folder / "pip.conf").write_text(pip.text)
    mounts = [f"{folder / 'pip.conf'}:/etc/pip.conf:ro", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
    mounts += [f"{path}:{path}:ro" for path in pip.folders]
    options = [f"--volume={mount}" for mount in mounts]
    if pip.folders:
        options.append("--build-arg=PIP_EXTRA_INDEX_URL=")
    context = ["--file", str(ROOT / "Dockerfile"), str(ROOT)]
    options += [*FILES, "--isolation=chroot", f"--build-arg=BASE_IMAGE={base}", f"--tag={IMAGE}"]
    engine.buildah("bud", *options, *context)
    return IMAGE


@dataclass(frozen=True, slots=True)
class PipSettings:
    """How pip is configured here, from files and environment alike."""

    text: str  # as one configuration file
    folders: tuple[Path, ...]  # that it names


def pip_settings() -> PipSettings:
    """Ask pip, so that the build finds packages where everything else on this machine does."""
    found: dict[str, str] = {}
    for line in said(sys.executable, "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        # The environment comes first in pip's list, and has the say.
        found.setdefault(name.rpartition(".")[2], str(ast.literal_eval(value)))
    text = "".join(f"{name} = {' '.join(value.split())}\n" for name, value in found.items())
    folders = [Path(word) for word in found.get("find-links", "").split()]
    # A folder that serves as an index links to the files beside it.
    urls = [url for url in found.get("extra-index-url", "").split() if url.startswith("file:")]
    folders += [Path(urlsplit(url).path).parent for url in urls]
    return PipSettings(f"[global]\n{text}", tuple(path for path in folders if path.is_dir()))
