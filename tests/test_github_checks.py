"""Check run, commit status and code scanning: within GitHub's limits, on the right commit."""

import datetime
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from safety_gate.publish import limits
from safety_gate.publish.annotation import annotations
from safety_gate.publish.check_run import MOST_ANNOTATIONS, conclusion_of, publish_check_run
from safety_gate.publish.github import NotPublished, connect
from safety_gate.publish.publication import Publication
from safety_gate.publish.sarif_upload import Analysis, publish_sarif
from safety_gate.publish.status import context_of, publish_status, state_of
from safety_gate.publish.told import Told
from safety_gate.records import Finding, Place, Report
from safety_gate.report.sarif import SarifSource, to_sarif
from tests.loopback_github import Fault, LoopbackGitHub, Repository
from tests.loopback_github.publications import BASE, HEAD, MERGE, QUICK, RUN_URL, publication
from tests.sample_reports import HOSTILE, blocked, hostile

NAME = "octo/adapters"
WRITE = {"checks": "write", "statuses": "write", "security-events": "write"}


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as server:
        yield server


@pytest.fixture
def github(server: LoopbackGitHub) -> LoopbackGitHub:
    server.reset()
    return server


@pytest.fixture
def repo(github: LoopbackGitHub) -> Repository:
    repo = github.add_repository(NAME)
    repo.add_pull(7, head=HEAD, base=BASE)
    return repo


def with_findings(number: int) -> Report:
    """A report with as many findings, places and texts being hostile ones."""
    report = blocked()
    findings = tuple(
        Finding(
            rule="file-pickle",
            severity="block",
            place=Place(kind="file", name=f"{HOSTILE[index % len(HOSTILE)]}{index}"),
            what="a file that can run code when it is loaded",
            hint="Remove the file.",
            got=HOSTILE[index % len(HOSTILE)],
        )
        for index in range(number)
    )
    return replace(report, findings=findings)


def check(github: LoopbackGitHub, what: Publication, *, policy: str = "") -> Told:
    client = connect(github.add_token(permissions=WRITE), api_url=github.api_url, patience=QUICK)
    try:
        return publish_check_run(
            client, NAME, what, external_id="4711-1", policy=policy, patience=QUICK
        )
    finally:
        client.close()


def status(github: LoopbackGitHub, what: Publication) -> Told:
    client = connect(github.add_token(permissions=WRITE), api_url=github.api_url, patience=QUICK)
    try:
        return publish_status(client, NAME, what, patience=QUICK)
    finally:
        client.close()


def upload(github: LoopbackGitHub, analysis: Analysis, text: str | None = None) -> Told:
    if text is None:
        text = to_sarif([SarifSource(report=blocked(), folder="adapters/x")])
    client = connect(github.add_token(permissions=WRITE), api_url=github.api_url, patience=QUICK)
    try:
        return publish_sarif(client, NAME, text, analysis, patience=QUICK)
    finally:
        client.close()


def test_check_run_is_on_the_head_with_annotations(
    github: LoopbackGitHub, repo: Repository
) -> None:
    told = check(github, publication("blocked"), policy="safety-gate.yml")
    (run,) = repo.check_runs
    assert told.url == f"https://github.example/octo/adapters/runs/{run.id}"
    assert run.head_sha == HEAD
    assert run.fields["name"] == "Safety Gate (safety-gate)"
    assert (run.fields["status"], run.fields["conclusion"]) == ("completed", "failure")
    assert run.fields["output"]["title"] == "blocked: 1 adapter"
    assert "## Safety Gate: blocked" in run.fields["output"]["summary"]
    assert "<!--" not in run.fields["output"]["summary"]
    levels = [annotation["annotation_level"] for annotation in run.annotations]
    assert levels == sorted(levels, key=["failure", "warning", "notice"].index)
    assert len(run.annotations) == len(blocked().findings)
    paths = {annotation["path"] for annotation in run.annotations}
    assert "adapters/a0/training_args.bin" in paths
    assert "adapters/a0/adapter_model.safetensors" in paths


@pytest.mark.parametrize(
    ("findings", "calls"),
    [(1, 1), (50, 1), (51, 2), (149, 3), (MOST_ANNOTATIONS + 100, 4)],
)
def test_annotations_go_in_chunks_of_fifty(
    github: LoopbackGitHub, repo: Repository, findings: int, calls: int
) -> None:
    check(github, publication(with_findings(findings)))
    assert len(github.sent("POST", "/check-runs")) == 1
    assert len(github.sent("PATCH", "/check-runs/")) == calls - 1
    assert len(repo.check_runs[0].annotations) == min(findings, MOST_ANNOTATIONS)


def test_huge_report_fits_a_check_run(github: LoopbackGitHub, repo: Repository) -> None:
    check(github, publication(*[blocked(layers=60)] * 20))
    assert len(repo.check_runs[0].fields["output"]["summary"]) <= limits.CHECK_TEXT


def test_hostile_report_is_taken(github: LoopbackGitHub, repo: Repository) -> None:
    check(github, publication(hostile()))
    assert len(repo.check_runs[0].annotations) == len(hostile().findings)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("POST", "/check-runs$", status=502, heard=True), id="502-after"),
        pytest.param(Fault("POST", "/check-runs$", cut="reset", heard=True), id="reset-after"),
        pytest.param(Fault("POST", "/check-runs$", status=502), id="502-before"),
    ],
)
def test_check_run_is_made_once(github: LoopbackGitHub, repo: Repository, fault: Fault) -> None:
    github.add_fault(fault)
    check(github, publication("blocked"))
    assert len(repo.check_runs) == 1


def test_check_run_edit_is_retried(github: LoopbackGitHub, repo: Repository) -> None:
    github.add_fault(Fault("PATCH", "/check-runs/", status=502))
    check(github, publication(with_findings(60)))
    assert len(repo.check_runs[0].annotations) == 60


def test_personal_token_cannot_make_check_runs(github: LoopbackGitHub, repo: Repository) -> None:
    token = github.add_token("alice", WRITE, kind="User")
    client = connect(token, api_url=github.api_url, patience=QUICK)
    with pytest.raises(NotPublished):
        publish_check_run(client, NAME, publication("passed"), external_id="1", patience=QUICK)
    client.close()


VERDICTS = [
    (publication("passed"), "success", "success"),
    (publication("blocked"), "failure", "failure"),
    (publication("undecided"), "failure", "error"),
    (publication("passed", "undecided"), "failure", "error"),
    (publication("undecided", "blocked"), "failure", "failure"),
    (publication(), "neutral", "success"),
    (publication("blocked", tolerated=("blocked", "undecided")), "neutral", "success"),
    (publication("undecided", tolerated=("blocked",)), "failure", "error"),
]


@pytest.mark.parametrize(("what", "conclusion", "state"), VERDICTS)
def test_conclusions_and_states(what: Publication, conclusion: str, state: str) -> None:
    assert conclusion_of(what) == conclusion
    assert state_of(what) == state


@pytest.mark.parametrize("what", [what for what, _, _ in VERDICTS])
def test_only_passed_is_a_success_of_a_check(what: Publication) -> None:
    assert (conclusion_of(what) == "success") == (what.word == "passed")


def test_status_is_on_the_head_commit(github: LoopbackGitHub, repo: Repository) -> None:
    status(github, publication("blocked", "passed"))
    (made,) = repo.statuses
    assert (made.sha, made.state, made.context) == (HEAD, "failure", "safety-gate")
    assert made.description == "blocked: 1 of 2 adapters"
    assert made.target_url == RUN_URL


def test_status_says_that_it_is_tolerated(github: LoopbackGitHub, repo: Repository) -> None:
    status(github, publication("blocked", tolerated=("blocked",)))
    assert repo.statuses[0].description == "blocked, tolerated: 1 adapter"


def test_status_survives_a_server_fault(github: LoopbackGitHub, repo: Repository) -> None:
    github.add_fault(Fault("POST", "/statuses/", status=500))
    assert status(github, publication("passed")).state == "created"


@pytest.mark.parametrize(
    ("gate_id", "context"),
    [("safety-gate", "safety-gate"), ("nightly", "safety-gate/nightly")],
)
def test_status_context(gate_id: str, context: str) -> None:
    assert context_of(publication("passed", gate_id=gate_id)) == context


def test_sarif_is_uploaded_for_the_merge_commit(github: LoopbackGitHub, repo: Repository) -> None:
    assert upload(github, Analysis(commit=MERGE, ref="refs/pull/7/merge")).state == "created"
    (sent,) = repo.sarifs
    assert (sent["commit_sha"], sent["ref"]) == (MERGE, "refs/pull/7/merge")
    assert sent["sarif"]["runs"][0]["automationDetails"]["id"] == "safety-gate/"


@pytest.mark.parametrize(
    "analysis",
    [
        Analysis(commit="abc", ref="refs/heads/main"),
        Analysis(commit=MERGE, ref="main"),
        Analysis(commit=MERGE, ref="refs/remotes/origin/main"),
    ],
)
def test_sarif_for_anything_else_is_not_sent(
    github: LoopbackGitHub, repo: Repository, analysis: Analysis
) -> None:
    with pytest.raises(NotPublished, match="branch, a tag or a pull request"):
        upload(github, analysis)
    assert not github.sent("POST")


def test_sarif_that_is_too_large_is_not_sent(
    github: LoopbackGitHub, repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SARIF_GZIP", 100)
    with pytest.raises(NotPublished, match="too large"):
        upload(github, Analysis(commit=MERGE, ref="refs/heads/main"))
    assert not github.sent("POST")


def test_repository_without_code_scanning_refuses(github: LoopbackGitHub, repo: Repository) -> None:
    repo.code_scanning = False
    with pytest.raises(NotPublished) as refused:
        upload(github, Analysis(commit=MERGE, ref="refs/heads/main"))
    assert refused.value.got == "status 403"


def test_sarif_of_a_hostile_report_is_taken(github: LoopbackGitHub, repo: Repository) -> None:
    text = to_sarif([SarifSource(report=hostile(), folder="adapters/x")])
    upload(github, Analysis(commit=MERGE, ref="refs/heads/main"), text)
    assert repo.sarifs[0]["sarif"] == json.loads(text)


def test_annotations_name_the_policy_file() -> None:
    finding = Finding(
        rule="waiver-expired",
        severity="warn",
        place=Place(kind="policy", name="SEC-1"),
        what="a waiver has expired",
        hint="Renew it.",
    )
    what = publication(replace(blocked(), findings=(finding,)))
    assert annotations(what, policy="policies/gate.yml")[0].path == "policies/gate.yml"
    assert annotations(what)[0].path == "adapters/a0/adapter_config.json"


def test_time_is_not_part_of_what_is_published() -> None:
    """Equal reports give equal words: nothing but GitHub's own stamps tells when."""
    today = datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d")
    assert all(today not in one.message for one in annotations(publication("blocked")))
