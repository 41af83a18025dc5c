"""`safety-gate check` on repositories: the whole command against a Hub on loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loopback_hub.server import LoopbackHub
from tests.small_checkpoints import write_trio

pytest_plugins = ("tests.loopback_hub.fixtures",)
ROOT = Path(__file__).parent.parent


def folder_files(folder: Path) -> dict[str, bytes]:
    """Return what a repository would hold."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def check(hub: LoopbackHub, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run the command with this Hub."""
    return subprocess.run(
        [sys.executable, "-m", "safety_gate", "check", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env={**os.environ, "HF_ENDPOINT": hub.endpoint},
    )


@pytest.fixture
def trio(hub: LoopbackHub, tmp_path: Path) -> tuple[Path, Path, Path]:
    """Put base, aligned and adapter on the Hub; return their folders."""
    folders = write_trio(tmp_path)
    for name, folder in zip(("base", "aligned", "adapter"), folders, strict=True):
        hub.add_repo(f"acme/{name}", folder_files(folder))
    return folders


REMOTE = ("acme/adapter@main", "--base", "hf://acme/base", "--aligned", "hf://acme/aligned")


def test_a_repository_is_judged_like_its_folder(
    hub: LoopbackHub, trio: tuple[Path, Path, Path]
) -> None:
    remote = check(hub, *REMOTE, "--format", "json")
    assert remote.returncode == 0, remote.stderr
    base, aligned, adapter = map(str, trio)
    local = check(hub, adapter, "--base", base, "--aligned", aligned, "--format", "json")
    one, other = json.loads(remote.stdout), json.loads(local.stdout)
    assert one["modules"] == other["modules"]
    assert one["total"] == other["total"]
    hashes = [{f["path"]: f["sha256"] for f in r["adapter"]["files"]} for r in (one, other)]
    assert hashes[1].items() <= hashes[0].items()  # the Hub adds its .gitattributes
    assert len(one["adapter"]["revision"]) == len(one["base"]["revision"]) == 40


def test_a_missing_repository_is_undecided_with_the_next_step(hub: LoopbackHub) -> None:
    run = check(hub, *REMOTE)
    assert run.returncode == 3
    assert "hub-repo-missing" in run.stdout
    assert "Traceback" not in run.stderr


def test_bytes_are_kept_only_where_asked(
    hub: LoopbackHub, trio: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    assert check(hub, *REMOTE, "--cache", str(cache)).returncode == 0
    assert check(hub, *REMOTE, "--cache", str(cache)).returncode == 0


@pytest.mark.parametrize("style", ["html", "sarif"])
def test_more_formats(trio: tuple[Path, Path, Path], hub: LoopbackHub, style: str) -> None:
    base, aligned, adapter = map(str, trio)
    run = check(hub, adapter, "--base", base, "--aligned", aligned, "--format", style)
    assert run.returncode == 0
    expected = "<!doctype html>" if style == "html" else '"version": "2.1.0"'
    assert expected in run.stdout.lower() if style == "html" else expected in run.stdout
