"""The action's whole command with the shipped gate: folders, the Hub, questions, and repair."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safety_gate.publish.hub_variant import MANIFEST
from tests.loopback_github import LoopbackGitHub
from tests.loopback_github.desk import Desk, make_desk
from tests.loopback_github.runner import JobFiles
from tests.loopback_hub import LoopbackHub

pytest_plugins = ("tests.loopback_hub.fixtures",)
ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"
QUESTIONS = {"q/prompts.jsonl": "prompts.jsonl", "q/openings.json": "openings.json"}
ASKED: dict[str, Any] = {
    "behaviour": "openings",
    "prompts": "q/prompts.jsonl",
    "openings": "q/openings.json",
}


@pytest.fixture(scope="module")
def github() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as server:
        yield server


@pytest.fixture
def desk(github: LoopbackGitHub, tmp_path: Path) -> Desk:
    return make_desk(github, tmp_path)


def folder_files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def on_hub(hub: LoopbackHub, *names: str) -> None:
    """Put checkpoints and adapters on the Hub; the adapters say that they belong there."""
    for name in names:
        files = folder_files(TINY / name)
        if config := files.get("adapter_config.json"):
            claim = {"base_model_name_or_path": "acme/aligned"}
            files["adapter_config.json"] = json.dumps(json.loads(config) | claim).encode()
        hub.add_repo(f"acme/{name}", files)


def run(job: JobFiles, hub: LoopbackHub | None = None) -> "subprocess.CompletedProcess[str]":
    """Run the entry point of the container, as a process of its own."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("SAFETY_GATE_")}
    endpoint = {"HF_ENDPOINT": hub.endpoint} if hub else {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "safety_gate", "action"],
        cwd=job.environment["GITHUB_WORKSPACE"],
        env={**own, **job.environment, **endpoint, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def record(desk: Desk) -> Any:
    path = desk.workspace.path / "safety-gate-report" / "run.json"
    return json.loads(path.read_text())["adapters"][0]["report"]


def with_questions(desk: Desk) -> None:
    """Put the questions on the base commit, where they count."""
    for path, name in QUESTIONS.items():
        desk.hosted.contents[desk.base, path] = (TINY / name).read_bytes()


REMOTE: dict[str, Any] = {"base": "hf://acme/base", "aligned": "hf://acme/aligned"}


def test_an_adapter_on_the_hub_is_blocked_for_its_answers(desk: Desk, hub: LoopbackHub) -> None:
    on_hub(hub, "base", "aligned", "harmful")
    with_questions(desk)
    job = desk.job(adapter="acme/harmful@main", **REMOTE, **ASKED)
    ran = run(job, hub)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    report = record(desk)
    assert report["evidence"].startswith("weights, and the model itself: 140 questions")
    assert "refusals-lost" in {finding["rule"] for finding in report["findings"]}
    assert report["behaviour"]["prompt_set"] == "prompts.jsonl"  # no path of the container
    assert job.outputs()["repaired-path"] == ""


def test_questions_of_the_pull_request_do_not_count(desk: Desk, hub: LoopbackHub) -> None:
    on_hub(hub, "base", "aligned", "harmful")
    (desk.workspace.path / "q").mkdir()
    for path, name in QUESTIONS.items():
        (desk.workspace.path / path).write_bytes((TINY / name).read_bytes())
    job = desk.job(adapter="acme/harmful@main", **REMOTE, **ASKED)
    assert run(job, hub).returncode == 3
    assert "is not where it counts" in job.summary.read_text()


def test_unnamed_pair_that_nobody_knows_is_undecided(desk: Desk, hub: LoopbackHub) -> None:
    on_hub(hub, "harmful")
    job = desk.job(adapter="acme/harmful@main", base="", aligned="")
    assert run(job, hub).returncode == 3
    assert "no known pair has this name" in job.summary.read_text()


def test_a_pair_of_the_policy_is_read_from_the_hub(desk: Desk, hub: LoopbackHub) -> None:
    on_hub(hub, "base", "aligned", "helpful")
    preset = (ROOT / "safety_gate" / "policies" / "default.yml").read_bytes()
    models = b"\nmodels:\n  - {claim: acme/aligned, aligned: acme/aligned, base: acme/base}\n"
    desk.hosted.contents[desk.base, "safety-gate.yml"] = preset + models
    job = desk.job(adapter="acme/helpful@main", base="", aligned="", behaviour="off")
    ran = run(job, hub)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert record(desk)["aligned"]["name"] == "acme/aligned"


def test_a_folder_that_shadows_a_repository_is_refused(desk: Desk, hub: LoopbackHub) -> None:
    """A pull request could bring its own acme/base: the policy means the repository."""
    on_hub(hub, "base", "aligned", "helpful")
    preset = (ROOT / "safety_gate" / "policies" / "default.yml").read_bytes()
    models = b"\nmodels:\n  - {claim: acme/aligned, aligned: acme/aligned, base: acme/base}\n"
    desk.hosted.contents[desk.base, "safety-gate.yml"] = preset + models
    (desk.workspace.path / "acme" / "base").mkdir(parents=True)
    job = desk.job(adapter="acme/helpful@main", base="", aligned="", behaviour="off")
    assert run(job, hub).returncode == 3
    assert "could name a repository on the Hub" in job.summary.read_text()


def test_a_repaired_adapter_is_offered_on_the_hub(desk: Desk, hub: LoopbackHub) -> None:
    on_hub(hub, "base", "aligned", "harmful", "safety")
    with_questions(desk)
    job = desk.job(
        adapter="acme/harmful@main",
        **REMOTE,
        **ASKED,
        repair="auto",
        safety_adapter="hf://acme/safety",
        publish_repaired="pull-request",
        hf_token=hub.token("acme", "write"),
    )
    ran = run(job, hub)
    assert ran.returncode == 1, ran.stdout + ran.stderr  # the judged commit stays blocked
    outputs = job.outputs()
    assert outputs["verdict"] == "blocked"
    assert outputs["repaired-path"], ran.stdout
    assert outputs["repaired-path"] == "safety-gate-report/repaired/acme/harmful"
    assert (desk.workspace.path / outputs["repaired-path"] / "adapter_model.safetensors").is_file()
    assert outputs["repaired-url"].endswith("/acme/harmful/discussions/1")
    offered = hub.repo("acme/harmful").at("refs/pr/1").files
    assert MANIFEST in offered
    again = desk.job(adapter="acme/harmful@refs/pr/1", **REMOTE, **ASKED)
    assert run(again, hub).returncode == 0  # what was offered passes


def test_a_repair_by_weights_alone_is_not_offered(desk: Desk, hub: LoopbackHub) -> None:
    on_hub(hub, "base", "aligned", "harmful")
    job = desk.job(
        adapter="acme/harmful@main",
        **REMOTE,
        behaviour="off",
        repair="unrevert",
        publish_repaired="pull-request",
        hf_token=hub.token("acme", "write"),
    )
    ran = run(job, hub)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert job.outputs()["repaired-url"] == ""
    assert "has not passed with the model asked" in ran.stdout
    assert not hub.repo("acme/harmful").discussions


def test_a_link_in_the_workspace_leads_no_repair_outside(desk: Desk, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (desk.workspace.path / "safety-gate-report").symlink_to(outside)
    job = desk.job(
        adapter=str(TINY / "harmful"),
        base=str(TINY / "base"),
        aligned=str(TINY / "aligned"),
        behaviour="off",
        repair="unrevert",
    )
    run(job)
    assert not list(outside.iterdir())
