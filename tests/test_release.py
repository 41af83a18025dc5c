"""What a release is made of: the lock, the pins, and how action.yml comes to name an image."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from safety_gate import __version__

ROOT = Path(__file__).parent.parent
LOCKS = ("image.txt", "build.txt")
BASE = re.compile(r"docker\.io/library/python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}")
IMAGE = f"ghcr.io/octo/safety-gate:v0.1.0@sha256:{'0f' * 32}"


def locked(name: str) -> dict[str, tuple[str, int]]:
    """Return version and number of hashes by package."""
    text = (ROOT / "requirements" / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found = [re.match(r"([a-z0-9-]+)==(\S+)((?: +--hash=sha256:[0-9a-f]{64})+)$", x) for x in lines]
    assert all(found), [line for line, match in zip(lines, found, strict=True) if not match]
    return {m[1]: (m[2], m[3].count("--hash")) for m in found if m}


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if "==" in line]
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.parametrize("name", LOCKS)
def test_lock_has_the_versions_that_the_tests_run_with(name: str) -> None:
    ours = constraints()
    for package, (version, _) in locked(name).items():
        if package != "setuptools":  # of torch; nothing of ours runs it
            assert ours[package] == version.removesuffix("+cpu"), package


def test_lock_has_everything_that_is_needed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    bot = project["project"]["optional-dependencies"]["bot"]
    needed = {
        "image.txt": project["project"]["dependencies"] + bot,
        "build.txt": project["build-system"]["requires"],
    }
    for name, requirements in needed.items():
        found = locked(name)
        for requirement in map(Requirement, requirements):
            version, _ = found[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), requirement


def test_torch_is_the_cpu_build_and_brings_no_cuda() -> None:
    found = locked("image.txt")
    assert found["torch"][0].endswith("+cpu")
    assert not [name for name in found if name.startswith("nvidia") or "cuda" in name]


def test_ci_runs_on_the_base_of_the_image() -> None:
    texts = [(ROOT / name).read_text() for name in ("Dockerfile", ".github/workflows/ci.yml")]
    first, second = (BASE.findall(text) for text in texts)
    assert len(first) == 1
    assert first == second


def read(path: Path) -> dict[str, Any]:
    return dict(YAML(typ="safe").load(path))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    for name in ("action.yml", "pyproject.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def script(checkout: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": "/usr/bin:/bin", "GITHUB_REPOSITORY": "Octo/Safety-Gate"}
    path = str(checkout / ".ci" / command[0])
    return subprocess.run(
        [path, *command[1:]], capture_output=True, text=True, check=False, env=environment
    )


def test_release_changes_the_image_of_the_action_and_nothing_else(checkout: Path) -> None:
    before = read(ROOT / "action.yml")
    assert before["runs"]["image"] == "Dockerfile"
    done = script(checkout, "pin-action", IMAGE)
    assert done.returncode == 0, done.stderr
    before["runs"]["image"] = f"docker://{IMAGE}"
    assert read(checkout / "action.yml") == before
    assert "from source" not in (checkout / "action.yml").read_text()
    assert script(checkout, "pin-action", IMAGE).returncode == 1  # pinned already


@pytest.mark.parametrize(
    "image",
    ["", IMAGE.partition("@")[0], IMAGE[:-1], f"{IMAGE}\nargs: x", IMAGE.replace("ghcr.io", "x.y")],
)
def test_release_without_a_digest_is_refused(checkout: Path, image: str) -> None:
    assert script(checkout, "pin-action", image).returncode == 1
    assert (checkout / "action.yml").read_text() == (ROOT / "action.yml").read_text()


def test_names_of_a_release(checkout: Path) -> None:
    done = script(checkout, "release-names")
    assert done.stdout == f"version={__version__}\nimage=ghcr.io/octo/safety-gate\n"
    (checkout / "CHANGELOG.md").write_text("# Changelog\n")
    assert script(checkout, "release-names").returncode == 1
