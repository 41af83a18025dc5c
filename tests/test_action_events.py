"""The action as a whole: events, what is judged by which policy, and what is refused."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from safety_gate.action.run import act
from safety_gate.action.world import World
from safety_gate.errors import BadAdapter
from tests.loopback_github import Fault, LoopbackGitHub
from tests.loopback_github.desk import CONFIG, NOW, NUMBER, Desk, make_desk
from tests.loopback_github.runner import (
    REPOSITORY,
    merge_group_event,
    pull_request_event,
    push_event,
    workflow_run_event,
)
from tests.loopback_github.state import Json


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as server:
        yield server


@pytest.fixture
def desk(server: LoopbackGitHub, tmp_path: Path) -> Desk:
    return make_desk(server, tmp_path)


def test_policy_of_the_base_decides(desk: Desk) -> None:
    strict = b"# strict\naction: {fail-on: [blocked, undecided]}\n"
    desk.hosted.contents[desk.base, "safety-gate.yml"] = strict
    (desk.workspace.path / "safety-gate.yml").write_text("action: {warn-only: true}\n")
    desk.verdicts["adapters/a"] = "undecided"
    code, _ = desk.run(desk.job())
    assert code == 3
    assert desk.tasks[0].policy == strict
    assert desk.tasks[0].policy_origin == f"safety-gate.yml at {desk.base[:12]}"


def test_no_adapter_changed_is_neutral_and_says_so(desk: Desk) -> None:
    desk.hosted.pulls[NUMBER].files = [{"filename": "README.md", "status": "modified"}]
    job = desk.job(check_run="true", commit_status="true")
    code, heard = desk.run(job)
    assert code == 0
    assert job.outputs()["verdict"] == "nothing-to-judge"
    assert desk.tasks == []
    assert "No adapter has changed" in job.summary.read_text()
    assert heard.of("notice")[0].data.startswith("nothing to judge")
    assert desk.hosted.comments[NUMBER] == []
    assert desk.hosted.check_runs[0].fields["conclusion"] == "neutral"
    assert job.outputs()["predicate-path"] == ""


def test_changes_that_cannot_be_seen_never_pass_unjudged(desk: Desk) -> None:
    desk.github.add_fault(Fault("GET", "/pulls/7/files", status=502, times=99))
    desk.run(desk.job())
    assert [task.adapter for task in desk.tasks] == ["adapters/a", "adapters/old"]


def test_adapter_that_was_not_checked_out_is_undecided(desk: Desk) -> None:
    desk.hosted.pulls[NUMBER].files = [{"filename": f"adapters/new/{CONFIG}", "status": "added"}]
    job = desk.job()
    assert desk.run(job)[0] == 3
    assert "actions/checkout" in job.summary.read_text()


def test_another_commit_in_the_workspace_is_undecided(desk: Desk) -> None:
    """With ref: main the adapter of the base branch would be judged, and pass."""
    desk.workspace.git("checkout", "--quiet", desk.base)
    desk.hosted.pulls[NUMBER].files = [{"filename": f"adapters/old/{CONFIG}", "status": "m"}]
    job = desk.job()
    assert desk.run(job)[0] == 3
    assert desk.tasks == []
    assert "another commit is checked out" in job.summary.read_text().lower()


def test_head_commit_of_the_pull_request_may_be_checked_out(desk: Desk) -> None:
    desk.workspace.git("checkout", "--quiet", desk.head)
    assert desk.run(desk.job())[0] == 0


def test_named_adapter_is_judged_whatever_is_checked_out(desk: Desk) -> None:
    desk.workspace.git("checkout", "--quiet", desk.base)
    code, heard = desk.run(desk.job(adapter="adapters/old"))
    assert code == 0
    assert "another commit is checked out" in heard.text


def test_missing_named_adapter_is_undecided(desk: Desk) -> None:
    desk.verdicts["adapters/gone"] = BadAdapter("not there", where="x", hint="Look.")
    assert desk.run(desk.job(adapter="adapters/gone"))[0] == 3
    assert desk.run(desk.job(adapter="nothing/*"))[0] == 3


def test_hub_adapter_goes_to_the_gate_as_it_is_named(desk: Desk) -> None:
    job = desk.job("schedule", {}, sha=desk.merge, ref="refs/heads/main", adapter="org/name@main")
    assert desk.run(job)[0] == 0
    assert (desk.tasks[0].adapter, desk.tasks[0].on_hub) == ("org/name@main", True)
    predicate = json.loads((desk.workspace.path / job.outputs()["predicate-path"]).read_text())
    assert predicate["resourceUri"].startswith("https://huggingface.co/org/name/tree/")


def test_push_comments_on_the_open_pull_request_of_the_commit(desk: Desk) -> None:
    desk.workspace.git("checkout", "--quiet", desk.head)
    payload = push_event(desk.base, desk.head)
    job = desk.job("push", payload, sha=desk.head, ref="refs/heads/x")
    assert desk.run(job)[0] == 0
    assert [task.adapter for task in desk.tasks] == ["adapters/a"]
    assert len(desk.hosted.comments[NUMBER]) == 1


def test_merge_group(desk: Desk) -> None:
    """The queue's own commit is judged, by the policy of the queue's base; nobody is commented."""
    desk.hosted.contents[desk.base, "safety-gate.yml"] = b"action: {commit-status: true}\n"
    payload = merge_group_event(desk.merge, desk.base)
    ref = "refs/heads/gh-readonly-queue/main/pr-7-abc"
    desk.verdicts["adapters/a"] = "blocked"
    job = desk.job("merge_group", payload, sha=desk.merge, ref=ref)
    assert desk.run(job)[0] == 1
    assert [s.sha for s in desk.hosted.statuses] == [desk.merge]
    assert desk.hosted.comments[NUMBER] == []
    assert desk.tasks[0].policy == b"action: {commit-status: true}\n"


@pytest.mark.parametrize("event", ["workflow_dispatch", "schedule", "repository_dispatch"])
def test_manual_events_judge_every_adapter(desk: Desk, event: str) -> None:
    job = desk.job(event, {"schedule": "0 0 * * *"}, sha=desk.merge, ref="refs/heads/main")
    assert desk.run(job)[0] == 0
    assert [task.adapter for task in desk.tasks] == ["adapters/a", "adapters/old"]
    assert desk.hosted.comments[NUMBER] == []


def test_workflow_run_with_an_adapter_judges_it(desk: Desk) -> None:
    payload = workflow_run_event(desk.head, head_repository=REPOSITORY)
    job = desk.job(
        "workflow_run", payload, sha=desk.merge, ref="refs/heads/main", adapter="adapters/a"
    )
    assert desk.run(job)[0] == 0
    assert len(desk.hosted.comments[NUMBER]) == 1


@pytest.mark.parametrize("event", ["pull_request_target", "issue_comment", "release", ""])
def test_refused_events(desk: Desk, event: str) -> None:
    job = desk.job(event)
    code, heard = desk.run(job)
    assert code == 2
    assert job.outputs()["verdict"] == "undecided"
    assert desk.tasks == []
    assert desk.github.requests == []
    if event == "pull_request_target":
        assert "examples/workflows" in heard.of("error")[0].data


@pytest.mark.parametrize(
    "inputs",
    [{"comment": "sometimes"}, {"preset": "nope"}, {"preset": "paper", "policy": "x.yml"}],
)
def test_wrong_inputs_stop_before_anything_is_read(desk: Desk, inputs: dict[str, Any]) -> None:
    job = desk.job(**inputs)
    assert desk.run(job)[0] == 2
    assert desk.github.requests == []
    assert job.outputs() == {"verdict": "undecided"}


def test_policy_that_cannot_be_read_is_undecided(desk: Desk) -> None:
    desk.github.add_fault(Fault("GET", "/contents", status=500, times=99))
    job = desk.job(warn_only="false")
    assert desk.run(job)[0] == 3
    assert desk.tasks == []
    assert job.outputs()["verdict"] == "undecided"


def test_odd_action_section_of_the_policy_is_undecided(desk: Desk) -> None:
    desk.hosted.contents[desk.base, "safety-gate.yml"] = b"action: {comment: sometimes}\n"
    job = desk.job()
    assert desk.run(job)[0] == 3
    assert "cannot be set up" in job.summary.read_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GITHUB_SHA", "main"),
        ("GITHUB_REPOSITORY", "a/b/../c"),
        ("GITHUB_REPOSITORY", ""),
        ("GITHUB_WORKSPACE", ""),
        ("GITHUB_EVENT_PATH", ""),
        ("GITHUB_EVENT_PATH", "/nonexistent"),
        ("GITHUB_API_URL", "https://x.example/) [a](b"),
        ("GITHUB_RUN_ID", "1/../2"),
    ],
)
def test_an_odd_environment_is_wrong_usage(desk: Desk, name: str, value: str) -> None:
    job = desk.job()
    job.environment[name] = value
    assert desk.run(job)[0] == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda event: event.pop("pull_request"),
        lambda event: event["pull_request"].update(number="7"),
        lambda event: event["pull_request"]["head"].update(sha="HEAD"),
        lambda event: event["pull_request"]["base"].update(sha=None),
    ],
)
def test_odd_payloads_are_wrong_usage(desk: Desk, change: Callable[[Json], object]) -> None:
    payload = pull_request_event(NUMBER, desk.head, desk.base)
    change(payload)
    assert desk.run(desk.job(payload=payload))[0] == 2


def test_deleted_fork_is_a_fork(desk: Desk) -> None:
    payload = pull_request_event(NUMBER, desk.head, desk.base, head_repository=None)
    assert desk.run(desk.job(payload=payload))[0] == 0


def test_real_gate_judges_folders_of_the_workspace(desk: Desk) -> None:
    """The shipped gate behind the same door, on a real adapter of a few kilobytes."""
    from safety_gate.action.judging import judge_with_gate
    from tests.small_checkpoints import write_trio

    trio = desk.workspace.path / "models"
    trio.mkdir()
    base, aligned, adapter = write_trio(trio)
    trio_by_name = {"base": base, "aligned": aligned, "adapter": adapter}
    names: dict[str, Any] = {
        name: str(path.relative_to(desk.workspace.path)) for name, path in trio_by_name.items()
    }
    job = desk.job(**names)
    stream = io.StringIO()
    world = World(stream=stream, judge=judge_with_gate, now=NOW, patience=desk.patience)
    status = act(job.environment, world)
    record = json.loads((desk.workspace.path / "safety-gate-report/run.json").read_text())
    (one,) = record["adapters"]
    assert one["report"]["adapter"]["name"] == names["adapter"]
    assert one["report"]["policy"]["origin"] == "preset default"
    assert one["report"]["total"]["coverage"] == 1.0
    assert record["exit_code"] == status
