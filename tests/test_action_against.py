"""A pull request cannot replace what its adapter is compared with."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.loopback_github import LoopbackGitHub
from tests.loopback_github.desk import CONFIG, NUMBER, Desk, make_desk
from tests.loopback_github.runner import push_event

POLICY = b"""
version: 1
name: own
rules:
  - {id: own, scope: module, severity: warn, message: x, when: [{metric: size, above: 1}]}
models:
  - {claim: us/model, aligned: ./models/aligned, base: ./models/base}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as server:
        yield server


@pytest.fixture
def desk(server: LoopbackGitHub, tmp_path: Path) -> Desk:
    return make_desk(server, tmp_path)


def pull(desk: Desk, *changed: str) -> None:
    """Let the pull request change these files as well."""
    del desk.hosted.pulls[NUMBER]
    files = [f"adapters/a/{CONFIG}", *changed]
    desk.hosted.add_pull(NUMBER, head=desk.head, base=desk.base, files=files)


def commit(desk: Desk, *files: str) -> None:
    """Have these files in the merge commit that is checked out."""
    desk.merge = desk.workspace.commit(dict.fromkeys(files, "x"))
    desk.hosted.commits.add(desk.merge)


def test_a_tracked_checkpoint_that_stays_is_judged_against(desk: Desk) -> None:
    commit(desk, "models/base/config.json", "models/aligned/config.json")
    assert desk.run(desk.job())[0] == 0
    assert len(desk.tasks) == 1


@pytest.mark.parametrize("role", ["base", "aligned", "safety_adapter"])
def test_a_checkpoint_that_the_pull_request_brings_decides_nothing(desk: Desk, role: str) -> None:
    path = f"models/{role}/model.safetensors"
    commit(desk, path)
    pull(desk, path)
    named: dict[str, Any] = {role: f"models/{role}"}
    job = desk.job(**named)
    assert desk.run(job)[0] == 3
    assert job.outputs()["verdict"] == "undecided"
    assert not desk.tasks


def test_nor_does_one_that_is_reached_through_its_link(desk: Desk) -> None:
    os.symlink("elsewhere", desk.workspace.path / "models")
    commit(desk, "elsewhere/base/config.json")
    pull(desk, "models", "elsewhere/base/config.json")
    assert desk.run(desk.job())[0] == 3
    assert not desk.tasks


def test_nor_does_one_of_the_policy(desk: Desk) -> None:
    desk.hosted.contents[desk.base, "safety-gate.yml"] = POLICY
    path = "models/aligned/model.safetensors"
    commit(desk, path)
    pull(desk, path)
    assert desk.run(desk.job(base="", aligned=""))[0] == 3
    assert not desk.tasks


def test_a_cache_that_git_tracks_is_refused(desk: Desk) -> None:
    commit(desk, "kept/org--name/block")
    assert desk.run(desk.job(cache_dir="kept"))[0] == 3
    assert not desk.tasks
    assert desk.run(desk.job(cache_dir="free"))[0] == 0


def test_what_cannot_be_told_decides_nothing(desk: Desk) -> None:
    without: dict[str, Any] = {"adapter": "adapters/a", "github_token": "", "comment": "never"}
    assert desk.run(desk.job(**without))[0] == 0
    commit(desk, "models/base/config.json")
    assert desk.run(desk.job(**without))[0] == 3
    assert len(desk.tasks) == 1


def test_a_push_brings_what_was_reviewed(desk: Desk) -> None:
    commit(desk, "models/base/config.json", f"adapters/a/{CONFIG}2")
    job = desk.job("push", push_event(desk.base, desk.merge), ref="refs/heads/main")
    assert desk.run(job)[0] == 0
    assert len(desk.tasks) == 1
