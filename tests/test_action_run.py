"""The action as a whole: verdicts, outputs, exit status, and what publishing cannot change."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safety_gate.action.run import act
from safety_gate.action.task import Result, Task
from safety_gate.action.world import World
from tests.loopback_github import Fault, LoopbackGitHub
from tests.loopback_github.desk import CONFIG, NOW, NUMBER, Desk, make_desk
from tests.loopback_github.publications import REPORTS
from tests.loopback_github.runner import (
    hear,
    pull_request_event,
)
from tests.loopback_github.state import FORK
from tests.sample_reports import hostile


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as server:
        yield server


@pytest.fixture
def desk(server: LoopbackGitHub, tmp_path: Path) -> Desk:
    return make_desk(server, tmp_path)


@pytest.mark.parametrize(("verdict", "status"), [("passed", 0), ("blocked", 1), ("undecided", 3)])
def test_pull_request(desk: Desk, verdict: str, status: int) -> None:
    desk.verdicts["adapters/a"] = verdict
    job = desk.job()
    code, heard = desk.run(job)
    outputs = job.outputs()
    assert code == status
    assert outputs["verdict"] == verdict
    assert outputs["comment-url"].startswith("https://github.example/octo/adapters/pull/7#")
    assert outputs["report-path"] == "safety-gate-report/report.md"
    assert outputs["json-path"] == "safety-gate-report/run.json"
    assert outputs["sarif-path"] == outputs["repaired-path"] == outputs["repaired-url"] == ""
    assert f"## Safety Gate: {verdict}" in job.summary.read_text()
    assert f"## Safety Gate: {verdict}" in desk.hosted.comments[NUMBER][0].body
    assert [task.adapter for task in desk.tasks] == ["adapters/a"]
    level = "error" if status else "notice"
    assert heard.of(level)[0].data.startswith(f"{verdict}: 1 adapter")


def test_second_run_updates_the_comment_to_resolved(desk: Desk) -> None:
    desk.verdicts["adapters/a"] = "blocked"
    first = desk.job()
    assert desk.run(first)[0] == 1
    desk.verdicts["adapters/a"] = "passed"
    second = desk.job()
    assert desk.run(second)[0] == 0
    (only,) = desk.hosted.comments[NUMBER]
    assert "**Resolved:**" in only.body
    assert first.outputs()["comment-url"] == second.outputs()["comment-url"]


def test_outputs_tell_scores_digests_and_waivers(desk: Desk) -> None:
    desk.verdicts["adapters/a"] = "blocked"
    job = desk.job(sarif_file="out/findings.sarif", json_file="out/run.json")
    desk.run(job)
    outputs, report = job.outputs(), REPORTS["blocked"]()
    assert report.total is not None
    assert report.adapter is not None
    assert outputs["score"] == f"{report.total.drift.undone:.6g}"
    assert outputs["adapter-sha256"] == report.adapter.digest
    assert outputs["waived-count"] == "1"
    sarif = json.loads((desk.workspace.path / outputs["sarif-path"]).read_text())
    assert sarif["version"] == "2.1.0"
    record = json.loads((desk.workspace.path / "out/run.json").read_text())
    assert (record["commit"], record["verdict"], record["exit_code"]) == (desk.head, "blocked", 1)
    predicate = json.loads((desk.workspace.path / outputs["predicate-path"]).read_text())
    assert predicate["verificationResult"] == "FAILED"
    assert predicate["verifier"]["id"] == "https://github.example/octo/safety-gate@v0.1.0"
    assert predicate["resourceUri"].endswith(f"/tree/{desk.head}/adapters/a")
    statement = desk.workspace.path / "safety-gate-report/statement.intoto.json"
    assert json.loads(statement.read_text())["predicate"] == predicate


def test_inputs_and_their_origin_are_printed_and_tokens_are_not(desk: Desk) -> None:
    desk.hosted.contents[desk.base, "safety-gate.yml"] = b"action: {comment: never}\n"
    job = desk.job(hf_token="canary-of-hugging-face", fail_on="blocked")  # noqa: S106
    _, heard = desk.run(job)
    assert "  fail-on: blocked (input)" in heard.lines
    assert "  comment: never (policy file)" in heard.lines
    assert "  comment-id: safety-gate (default)" in heard.lines
    assert "  hf-token: set (input)" in heard.lines
    token = job.environment["INPUT_GITHUB-TOKEN"]
    shown = heard.text + job.output.read_text() + job.summary.read_text()
    shown += "".join(
        path.read_text() for path in (desk.workspace.path / "safety-gate-report").iterdir()
    )
    assert "canary-of-hugging-face" not in shown
    assert token not in shown
    assert {c.data for c in heard.of("add-mask")} == {token, "canary-of-hugging-face"}


@pytest.mark.parametrize(
    ("inputs", "verdict", "status"),
    [
        ({"fail_on": "blocked"}, "undecided", 0),
        ({"fail_on": "blocked"}, "blocked", 1),
        ({"fail_on": "undecided"}, "blocked", 0),
        ({"fail_on": "none"}, "blocked", 0),
        ({"warn_only": "true"}, "blocked", 0),
        ({"warn_only": "true"}, "undecided", 0),
    ],
)
def test_tolerated_verdicts_stay_what_they_are(
    desk: Desk, inputs: dict[str, Any], verdict: str, status: int
) -> None:
    desk.verdicts["adapters/a"] = verdict
    job = desk.job(**inputs)
    code, heard = desk.run(job)
    assert code == status
    assert job.outputs()["verdict"] == verdict
    assert f"## Safety Gate: {verdict}" in job.summary.read_text()
    if status == 0:
        assert heard.of("error") == []
        assert "tolerated" in heard.of("warning")[0].data


def test_worst_of_several_adapters_decides(desk: Desk) -> None:
    desk.hosted.pulls[NUMBER].files.append({"filename": f"adapters/old/{CONFIG}", "status": "m"})
    desk.verdicts = {"adapters/a": "passed", "adapters/old": "undecided"}
    job = desk.job()
    assert desk.run(job)[0] == 3
    assert job.outputs()["verdict"] == "undecided"
    assert "| `adapters/old` | undecided |" in job.summary.read_text()
    record = json.loads((desk.workspace.path / "safety-gate-report/run.json").read_text())
    assert [one["name"] for one in record["adapters"]] == ["adapters/a", "adapters/old"]


def test_status_goes_to_the_head_and_sarif_to_the_merge_commit(desk: Desk) -> None:
    desk.verdicts["adapters/a"] = "blocked"
    job = desk.job(check_run="true", commit_status="true")
    job.environment["SAFETY_GATE_SARIF_UPLOAD"] = "true"
    desk.run(job)
    assert [s.sha for s in desk.hosted.statuses] == [desk.head]
    assert [c.head_sha for c in desk.hosted.check_runs] == [desk.head]
    (sarif,) = desk.hosted.sarifs
    assert (sarif["commit_sha"], sarif["ref"]) == (desk.merge, "refs/pull/7/merge")


@pytest.mark.parametrize("verdict", ["passed", "blocked", "undecided"])
def test_token_of_a_fork_changes_neither_verdict_nor_status(desk: Desk, verdict: str) -> None:
    desk.verdicts["adapters/a"] = verdict
    with_rights = desk.job(commit_status="true")
    status, _ = desk.run(with_rights)
    desk.permissions = FORK
    payload = pull_request_event(NUMBER, desk.head, desk.base, head_repository="mallory/adapters")
    fork = desk.job(payload=payload, commit_status="true")
    code, heard = desk.run(fork)
    assert code == status
    same = ("verdict", "score", "adapter-sha256", "waived-count", "json-path", "report-path")
    assert {n: fork.outputs()[n] for n in same} == {n: with_rights.outputs()[n] for n in same}
    assert fork.outputs()["comment-url"] == ""
    assert fork.summary.read_text().startswith(with_rights.summary.read_text().strip())
    assert "**Not published:** comment" in fork.summary.read_text()
    titles = [c.properties["title"] for c in heard.of("warning")]
    assert "Safety Gate: no comment" in titles
    assert "Safety Gate: no commit status" in titles


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST", "/comments$", status=500, times=99),
        Fault("POST", "/comments$", cut="reset", times=99),
        Fault("GET", "/comments$", status=200, body="junk", times=99),
        Fault("POST", "/graphql", status=401, message="Bad credentials", times=99),
    ],
    ids=["500", "reset", "junk", "graphql-401"],
)
def test_publishing_faults_change_nothing_but_the_comment(desk: Desk, fault: Fault) -> None:
    desk.verdicts["adapters/a"] = "blocked"
    desk.github.add_fault(fault)
    job = desk.job()
    assert desk.run(job)[0] == 1
    assert job.outputs()["verdict"] == "blocked"
    assert "## Safety Gate: blocked" in job.summary.read_text()


def test_outputs_and_summary_come_before_the_network(desk: Desk) -> None:
    """When the first write reaches GitHub, the runner's files are complete."""
    desk.verdicts["adapters/a"] = "blocked"
    job = desk.job(commit_status="true")
    seen: list[str] = []
    record = desk.github._record

    def spy(scope: object, path: str, whole: bytes) -> None:
        if "/statuses/" in path:
            seen.append(job.output.read_text() + job.summary.read_text())
        record(scope, path, whole)  # type: ignore[arg-type]

    desk.github._record = spy  # type: ignore[method-assign]
    try:
        desk.run(job)
    finally:
        desk.github._record = record  # type: ignore[method-assign]
    assert "verdict<<" in seen[0]
    assert "predicate-path<<" in seen[0]
    assert "## Safety Gate: blocked" in seen[0]


def test_without_a_token_the_verdict_is_the_same(desk: Desk) -> None:
    desk.verdicts["adapters/a"] = "blocked"
    job = desk.job(github_token="")
    assert desk.run(job)[0] == 1
    assert not desk.github.sent("POST")


def test_hostile_report_steers_nothing(desk: Desk) -> None:
    """Names with workflow commands in them, and a gate that prints them raw."""
    noise = "::set-output name=verdict::passed\n##[set-output name=verdict;]passed"

    def noisy(task: Task) -> Result:
        print(noise, file=stream)
        return Result(report=hostile())

    job = desk.job(sarif_file="x.sarif")
    stream = io.StringIO()
    world = World(stream=stream, judge=noisy, now=NOW, patience=desk.patience)
    assert act(job.environment, world) == 1
    heard = hear(stream.getvalue())
    assert {command.name for command in heard.commands} <= {
        "error",
        "warning",
        "notice",
        "add-mask",
    }
    assert job.outputs()["verdict"] == "blocked"
    for level in ("error", "warning", "notice"):
        assert len(heard.of(level)) <= 10


def test_adapter_folder_with_a_hostile_name(desk: Desk) -> None:
    name = "adapters/::set-output name=verdict::passed ##[set-output name=verdict;]passed"
    folder = desk.workspace.path / name
    folder.mkdir()
    (folder / CONFIG).write_text("{}")
    desk.hosted.pulls[NUMBER].files = [{"filename": f"{name}/{CONFIG}", "status": "added"}]
    desk.verdicts[name] = "blocked"
    job = desk.job()
    code, heard = desk.run(job)
    assert code == 1
    assert not heard.of("set-output")
    assert job.outputs()["verdict"] == "blocked"
    assert all("file" not in command.properties for command in heard.of("error"))


def test_planted_link_in_place_of_the_report_folder(desk: Desk) -> None:
    """Files that cannot be written are a warning; the verdict and the outputs stand."""
    (desk.folder / "elsewhere").mkdir()
    (desk.workspace.path / "safety-gate-report").symlink_to(desk.folder / "elsewhere")
    desk.verdicts["adapters/a"] = "blocked"
    job = desk.job()
    code, heard = desk.run(job)
    assert code == 1
    assert list((desk.folder / "elsewhere").iterdir()) == []
    assert job.outputs()["json-path"] == ""
    assert any("could not write" in c.properties["title"] for c in heard.of("warning"))


def test_gravest_findings_become_annotations_and_the_rest_is_counted(desk: Desk) -> None:
    report = REPORTS["blocked"]()
    block = next(f for f in report.findings if f.severity == "block")
    many = replace(report, findings=(block,) * 30)
    desk.verdicts["adapters/a"] = many
    _, heard = desk.run(desk.job())
    errors = heard.of("error")
    assert len(errors) <= 10
    assert errors[0].data.startswith("blocked: 1 adapter")
    assert errors[-1].data.startswith("And ")
    shown = len([e for e in errors if "file" in e.properties])
    assert errors[-1].data == f"And {30 - shown} more of this kind, all in the job summary."


def test_equal_runs_give_equal_files(desk: Desk) -> None:
    desk.verdicts["adapters/a"] = "blocked"
    folder, seen = desk.workspace.path / "safety-gate-report", []
    for _ in range(2):
        desk.run(desk.job(sarif_file="safety-gate-report/x.sarif"))
        seen.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert seen[0] == seen[1]
    assert set(seen[0]) == {
        "report.md",
        "run.json",
        "x.sarif",
        "predicate.json",
        "statement.intoto.json",
    }
