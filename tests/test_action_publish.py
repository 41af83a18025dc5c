"""The publishing job: a stranger's report is checked, placed by its commit, only commented."""

import copy
import datetime
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from safety_gate.action.report_reader import BadReport, read_report
from safety_gate.action.run import act
from safety_gate.action.run_record import exit_code_of, read_run, to_run_json
from safety_gate.action.task import Result, Task
from safety_gate.action.world import World
from safety_gate.publish.publication import Publication
from safety_gate.records import Report
from safety_gate.report.json_report import to_json
from tests.loopback_github import Fault, LoopbackGitHub, Repository
from tests.loopback_github.publications import BASE, HEAD, OTHER, QUICK, publication
from tests.loopback_github.runner import (
    REPOSITORY,
    Heard,
    JobFiles,
    hear,
    workflow_run_event,
    write_job,
)
from tests.loopback_github.state import Json
from tests.sample_reports import HOSTILE, blocked, hostile, passed, undecided

NUMBER = 9
NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
RIGHTS = {"actions": "read", "pull-requests": "write", "checks": "write", "statuses": "write"}


def no_gate(task: Task) -> Result:
    raise AssertionError(f"a publishing job judges nothing, and was asked for {task.adapter}")


@dataclass
class Desk:
    """A pull request from a fork, and the workspace of a job on workflow_run: an artifact alone."""

    github: LoopbackGitHub
    hosted: Repository
    folder: Path

    def publish(
        self, artifact: str | bytes | None, payload: Json | None = None, **inputs: str
    ) -> tuple[int, JobFiles, Heard]:
        workspace = self.folder / "workspace"
        (workspace / "safety-gate-report").mkdir(parents=True, exist_ok=True)
        file = workspace / "safety-gate-report/run.json"
        file.unlink(missing_ok=True)
        if artifact is not None:
            file.write_bytes(artifact.encode() if isinstance(artifact, str) else artifact)
        given = {"github-token": self.github.add_token(permissions=RIGHTS)}
        given |= {name.replace("_", "-"): value for name, value in inputs.items()}
        job = write_job(
            self.folder / "job",
            workspace,
            api_url=self.github.api_url,
            event_name="workflow_run",
            payload=payload or workflow_run_event(HEAD),
            sha=BASE,
            inputs=given,
        )
        stream = io.StringIO()
        patience = replace(QUICK, tries=2)
        world = World(stream=stream, judge=no_gate, now=NOW, patience=patience)
        return act(job.environment, world), job, hear(stream.getvalue())

    @property
    def bodies(self) -> list[str]:
        return [comment.body for comment in self.hosted.comments[NUMBER]]


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as server:
        yield server


@pytest.fixture
def desk(server: LoopbackGitHub, tmp_path: Path) -> Desk:
    server.reset()
    hosted = server.add_repository(REPOSITORY)
    files = ["adapters/a/adapter_config.json"]
    fork = "stranger/adapters"
    hosted.add_pull(NUMBER, head=HEAD, base=BASE, files=files, head_repository=fork)
    return Desk(server, hosted, tmp_path)


def artifact(*reports: Report | str, **options: Any) -> str:
    return to_run_json(publication(*reports, **options), "pull_request")


def test_report_of_a_fork_is_commented(desk: Desk) -> None:
    status, job, heard = desk.publish(artifact("blocked"))
    assert status == 0
    (body,) = desk.bodies
    assert "## Safety Gate: blocked" in body
    assert "nothing was judged again" in body
    assert "https://github.example/octo/adapters/actions/runs/815" in body
    assert "IMPORTANT" not in body
    assert job.outputs()["comment-url"]
    assert job.outputs()["verdict"] == "blocked"
    assert "comment: created" in heard.text


def test_next_report_resolves_it(desk: Desk) -> None:
    desk.publish(artifact("blocked"))
    desk.hosted.pulls[NUMBER].head = OTHER
    payload = workflow_run_event(OTHER, conclusion="success")
    desk.publish(artifact("passed", commit=OTHER), payload)
    (body,) = desk.bodies
    assert "**Resolved:**" in body


def test_report_for_another_commit_is_refused(desk: Desk) -> None:
    """An old artifact, or one that claims a commit that was never judged."""
    status, _, heard = desk.publish(artifact("passed", commit=OTHER))
    assert status == 3
    assert desk.bodies == []
    assert "another commit" in heard.of("error")[0].properties["title"]


def test_report_for_an_old_head_is_not_published(desk: Desk) -> None:
    desk.hosted.pulls[NUMBER].head = OTHER
    status, _, heard = desk.publish(artifact("passed"))
    assert (status, desk.bodies) == (0, [])
    assert "newer commits" in heard.of("notice")[0].data


def test_closed_pull_request_hears_nothing(desk: Desk) -> None:
    desk.hosted.pulls[NUMBER].state = "closed"
    assert desk.publish(artifact("passed"))[0] == 0
    assert desk.bodies == []


def test_artifact_does_not_choose_where_it_goes(desk: Desk) -> None:
    """Another pull request, by another author, with another head: it stays untouched."""
    desk.hosted.add_pull(10, head=OTHER, base=BASE)
    desk.publish(artifact("passed"))
    assert desk.hosted.comments[10] == []
    assert len(desk.bodies) == 1


def test_gate_id_is_the_publishers_and_not_the_artifacts(desk: Desk) -> None:
    desk.publish(artifact("blocked", gate_id="victim"))
    assert desk.bodies[0].startswith("<!-- safety-gate:comment safety-gate -->")


def test_tolerance_is_the_publishers_and_not_the_artifacts(desk: Desk) -> None:
    desk.publish(artifact("blocked", tolerated=("blocked", "undecided")))
    assert "Tolerated" not in desk.bodies[0]
    desk.publish(artifact("blocked"), warn_only="true")
    assert "Tolerated" in desk.bodies[0]


def test_nothing_that_a_branch_could_require_is_ever_set(desk: Desk) -> None:
    payload = workflow_run_event(HEAD, conclusion="success")
    _, _, heard = desk.publish(artifact("passed"), payload, check_run="true", commit_status="true")
    assert (desk.hosted.statuses, desk.hosted.check_runs) == ([], [])
    assert any("Neither check run nor commit status" in c.data for c in heard.of("notice"))


@pytest.mark.parametrize(
    ("verdict", "conclusion", "words"),
    [
        ("passed", "failure", "did not succeed"),
        ("passed", "cancelled", "did not succeed"),
        ("blocked", "success", "succeeded in spite of the verdict"),
        ("undecided", "success", "succeeded in spite of the verdict"),
    ],
)
def test_a_run_that_does_not_fit_its_report_is_pointed_out(
    desk: Desk, verdict: str, conclusion: str, words: str
) -> None:
    desk.publish(artifact(verdict), workflow_run_event(HEAD, conclusion=conclusion))
    assert words in desk.bodies[0]
    assert "> [!IMPORTANT]" in desk.bodies[0]


@pytest.mark.parametrize("path", [".github/workflows/score.yml", ".github/actions/x/action.yml"])
def test_changed_workflows_are_pointed_out(desk: Desk, path: str) -> None:
    """On pull_request the fork's own workflow file runs, and can report what it likes."""
    desk.hosted.pulls[NUMBER].files.append({"filename": path, "status": "modified"})
    desk.publish(artifact("passed"), workflow_run_event(HEAD, conclusion="success"))
    assert "Do not rely on the verdict" in desk.bodies[0]


def test_a_pull_request_too_large_to_be_listed_is_pointed_out(desk: Desk) -> None:
    many = [{"filename": f"f{n}", "status": "added"} for n in range(3000)]
    desk.hosted.pulls[NUMBER].files = many
    desk.publish(artifact("passed"), workflow_run_event(HEAD, conclusion="success"))
    assert "or may do so" in desk.bodies[0]


@pytest.mark.parametrize("event", ["push", "schedule", "workflow_dispatch"])
def test_other_runs_are_left_alone(desk: Desk, event: str) -> None:
    status, _, _ = desk.publish(artifact("blocked"), workflow_run_event(HEAD, event=event))
    assert status == 0
    assert desk.github.requests == []


def test_comment_modes_count_here_too(desk: Desk) -> None:
    payload = workflow_run_event(HEAD, conclusion="success")
    assert desk.publish(artifact("passed"), payload, comment="on-failure")[0] == 0
    assert desk.bodies == []


def test_missing_artifact_is_told(desk: Desk) -> None:
    status, job, heard = desk.publish(None)
    assert status == 3
    assert job.outputs()["verdict"] == "undecided"
    assert "earlier step" in heard.of("error")[0].data


def test_link_in_place_of_the_artifact_is_not_followed(desk: Desk) -> None:
    """An artifact can hold a link; what it leads to must not be read."""
    secret = desk.folder / "secret"
    secret.write_text(artifact("passed"))
    file = desk.folder / "workspace/safety-gate-report/linked.json"
    file.parent.mkdir(parents=True)
    file.symlink_to(secret)
    status, _, _ = desk.publish(None, json_file="safety-gate-report/linked.json")
    assert (status, desk.bodies) == (3, [])


def test_faults_of_reading_are_told(desk: Desk) -> None:
    desk.github.add_fault(Fault("GET", "/pulls", status=500, times=99))
    status, _, heard = desk.publish(artifact("passed"))
    assert status == 3
    assert heard.of("error")


def test_hostile_report_is_made_inert_again(desk: Desk) -> None:
    status, job, heard = desk.publish(artifact(hostile()))
    assert status == 3  # its digests are none, and so it is no report
    texts = tuple(text.replace("\ud800", "") for text in HOSTILE)  # no reader lets half a pair in
    findings = tuple(replace(finding, waiver="") for finding in hostile(texts).findings)
    honest = replace(blocked(), findings=findings)
    status, job, heard = desk.publish(artifact(honest))
    assert status == 0
    assert job.outputs()["verdict"] == "blocked"
    assert {c.name for c in heard.commands} <= {"warning", "notice", "error", "add-mask"}
    assert "<img" not in desk.bodies[0]
    assert "@acme" not in desk.bodies[0].replace("`", "\0").split("\0")[0]


def edits() -> list[Any]:
    """Every way in which a record may be odd: one change each of an honest one."""

    def put(*path: str | int, value: Any) -> Callable[[Any], None]:
        def change(tree: Any) -> None:
            for step in path[:-1]:
                tree = tree[step]
            tree[path[-1]] = value

        return change

    def drop(*path: str | int) -> Callable[[Any], None]:
        def change(tree: Any) -> None:
            for step in path[:-1]:
                tree = tree[step]
            del tree[path[-1]]

        return change

    report = ("adapters", 0, "report")
    changes = {
        "other-schema": put("schema", value="safety-gate/run/v2"),
        "unknown-key": put("extra", value=1),
        "no-commit": drop("commit"),
        "short-commit": put("commit", value="abc"),
        "gate-id": put("gate_id", value="--> <b>"),
        "event": put("event", value="pull request"),
        "verdict": put("verdict", value="perfect"),
        "exit-code": put("exit_code", value=7),
        "exit-code-type": put("exit_code", value="0"),
        "note": put("note", value="x" * 1001),
        "tolerated": put("tolerated", value=["passed"]),
        "adapters": put("adapters", value={}),
        "too-many": put("adapters", value=[{"name": "x", "report": {}}] * 60),
        "name": put("adapters", 0, "name", value=""),
        "long-name": put("adapters", 0, "name", value="x" * 2000),
        "report": put("adapters", 0, "report", value=[]),
        "report-key": put(*report, "extra", value=1),
        "report-verdict": put(*report, "verdict", value="passed"),
        "report-figure": put(*report, "modules", 0, "cosine", value=7.0),
        "report-null": put(*report, "modules", 0, "z", value=None),
        "report-string": put(*report, "modules", 0, "z", value="1"),
        "report-shape": put(*report, "modules", 0, "shape", value=[1]),
        "report-huge-int": put(*report, "modules", 0, "delta_norm", value=10**400),
        "report-counts": put(*report, "total", "scored_parameters", value=10**9),
        "report-hint": put(*report, "findings", 0, "hint", value=""),
        "report-digest": put(*report, "adapter", "files", 0, "sha256", value="x"),
        "report-versions": put(*report, "versions", value={"a": 1}),
    }
    return [pytest.param(change, id=name) for name, change in changes.items()]


@pytest.mark.parametrize("change", edits())
def test_odd_records_are_refused(change: Callable[[Any], None]) -> None:
    tree = json.loads(artifact("blocked"))
    honest = copy.deepcopy(tree)
    change(tree)
    assert tree != honest
    with pytest.raises(BadReport):
        read_run(json.dumps(tree).encode(), where="json-file")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe",
        b'{"schema": "safety-gate/run/v1", "schema": "safety-gate/run/v1"}',
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a": NaN}',
        b" " * (17 * 1024 * 1024),
    ],
    ids=["empty", "list", "null", "object", "bytes", "twice", "deep", "nan", "large"],
)
def test_what_is_no_record_is_refused(desk: Desk, data: bytes) -> None:
    with pytest.raises(BadReport):
        read_run(data, where="json-file")
    assert desk.publish(data)[0] == 3
    assert desk.bodies == []


@pytest.mark.parametrize("report", [passed, blocked, undecided])
def test_reports_are_read_back_as_they_were(report: Callable[[], Report]) -> None:
    """Whoever adds a fact to the JSON report must teach the reader as well."""
    text = to_json(report())
    assert to_json(read_report(json.loads(text), where="x")) == text


@pytest.mark.parametrize(
    "what",
    [
        publication(),
        publication("passed"),
        publication("passed", "blocked", "undecided"),
        publication("undecided", tolerated=("undecided",)),
    ],
)
def test_runs_are_read_back_as_they_were(what: Publication) -> None:
    text = to_run_json(what, "push")
    record, judged = read_run(text.encode(), where="x")
    again = replace(what, judged=judged, note=record.note)
    assert to_run_json(again, record.event) == text
    assert (record.verdict, record.exit_code) == (what.word, exit_code_of(what))


def test_run_json_steers_no_runner() -> None:
    text = to_run_json(publication(hostile()), "push")
    assert text.isascii()
    assert "##[" not in text
    assert hear(text).commands == []
