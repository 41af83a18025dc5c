"""The policy comes from where the judged change cannot reach."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from safety_gate.action.event import Event, Manual, MergeGroup, PullRequest, Push, WorkflowRun
from safety_gate.action.policy_source import PolicySource, find_policy
from safety_gate.action.repository import Repository, reading
from safety_gate.action.runner import Runner, read_runner
from safety_gate.errors import BadPolicy, GateError
from safety_gate.publish.github import NotPublished
from safety_gate.publish.publisher import Address
from tests.loopback_github import Fault, LoopbackGitHub
from tests.loopback_github import Repository as Hosted
from tests.loopback_github.publications import BASE, HEAD, MERGE, QUICK
from tests.loopback_github.runner import REPOSITORY, Workspace, write_job

STRICT, WEAK = b"strict: the base branch's", b"weak: the pull request's"
PULL = PullRequest(number=7, head=HEAD, base=BASE, from_fork=True)
RUN = WorkflowRun(
    head=HEAD,
    head_repository="stranger/adapters",
    head_branch="x",
    event="pull_request",
    conclusion="success",
    run_id=1,
    commit=MERGE,
)


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as server:
        yield server


@pytest.fixture
def github(server: LoopbackGitHub) -> LoopbackGitHub:
    server.reset()
    return server


@pytest.fixture
def hosted(github: LoopbackGitHub) -> Hosted:
    hosted = github.add_repository(REPOSITORY)
    hosted.commits |= {BASE, HEAD, MERGE}
    return hosted


@pytest.fixture
def repository(github: LoopbackGitHub, hosted: Hosted) -> Iterator[Repository]:
    address = Address(repository=REPOSITORY, api_url=github.api_url, token=github.add_token())
    with reading(address, QUICK) as opened:
        yield opened


@pytest.fixture
def runner(tmp_path: Path, github: LoopbackGitHub) -> Runner:
    """The job's workspace has the policy as the pull request wants it."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "safety-gate.yml").write_bytes(WEAK)
    job = write_job(
        tmp_path / "job",
        workspace,
        api_url=github.api_url,
        event_name="x",
        payload={},
        sha=MERGE,
    )
    return read_runner(job.environment)


def find(
    event: Event, runner: Runner, repository: Repository | None, path: str = "", preset: str = ""
) -> PolicySource:
    return find_policy(path, preset, event, runner, repository)


@pytest.mark.parametrize("path", ["", "safety-gate.yml", "./safety-gate.yml"])
@pytest.mark.parametrize(
    ("event", "commit"),
    [(PULL, BASE), (MergeGroup(head=HEAD, base=BASE), BASE), (RUN, MERGE)],
    ids=["pull_request", "merge_group", "workflow_run"],
)
def test_a_pull_request_cannot_weaken_its_own_gate(
    hosted: Hosted, repository: Repository, runner: Runner, event: Event, commit: str, path: str
) -> None:
    hosted.contents[commit, "safety-gate.yml"] = STRICT
    found = find(event, runner, repository, path)
    assert (found.data, found.path) == (STRICT, "safety-gate.yml")
    assert found.origin == f"safety-gate.yml at {commit[:12]}"
    assert found.uri == f"https://github.example/{REPOSITORY}/blob/{commit}/safety-gate.yml"


@pytest.mark.parametrize("event", [PULL, RUN])
def test_policy_that_only_the_pull_request_has_does_not_count(
    hosted: Hosted, repository: Repository, runner: Runner, event: Event
) -> None:
    found = find(event, runner, repository)
    assert (found.origin, found.path) == ("preset default", "")
    with pytest.raises(BadPolicy, match="not where it counts") as refused:
        find(event, runner, repository, "safety-gate.yml")
    assert "Merge the policy file first" in refused.value.hint


@pytest.mark.parametrize("status", [404, 403, 401, 500])
def test_a_policy_that_cannot_be_seen_is_not_taken_for_missing(
    github: LoopbackGitHub, hosted: Hosted, repository: Repository, runner: Runner, status: int
) -> None:
    """A token without contents: read is told 404 for everything; the default must not step in."""
    hosted.contents[BASE, "safety-gate.yml"] = STRICT
    github.add_fault(Fault("GET", "/contents", status=status, message="Not Found", times=99))
    with pytest.raises(NotPublished):
        find(PULL, runner, repository)


def test_links_and_folders_are_no_policy(
    hosted: Hosted, repository: Repository, runner: Runner
) -> None:
    hosted.links[BASE, "safety-gate.yml"] = "other.yml"
    hosted.contents[BASE, "policies/a.yml"] = STRICT
    assert find(PULL, runner, repository).origin == "preset default"
    with pytest.raises(BadPolicy):
        find(PULL, runner, repository, "policies")
    assert find(PULL, runner, repository, "policies/a.yml").data == STRICT


def test_policy_that_is_too_large_is_refused(
    hosted: Hosted, repository: Repository, runner: Runner
) -> None:
    hosted.contents[BASE, "safety-gate.yml"] = b"#" * 300_000
    with pytest.raises(GateError):
        find(PULL, runner, repository)


@pytest.mark.parametrize("event", [Push(before=BASE, after=MERGE), Manual(name="x", commit=MERGE)])
def test_trusted_events_read_the_workspace(runner: Runner, event: Event) -> None:
    found = find(event, runner, None)
    assert found.data == WEAK
    assert found.origin == f"safety-gate.yml at {MERGE[:12]}"


def test_workspace_policy_is_no_link(runner: Runner) -> None:
    (runner.workspace / "linked.yml").symlink_to("safety-gate.yml")
    with pytest.raises(BadPolicy, match="cannot be read"):
        find(Manual(name="x", commit=MERGE), runner, None, "linked.yml")


def test_workspace_without_a_policy_has_the_default(runner: Runner) -> None:
    (runner.workspace / "safety-gate.yml").unlink()
    assert find(Manual(name="x", commit=MERGE), runner, None).origin == "preset default"
    with pytest.raises(BadPolicy):
        find(Manual(name="x", commit=MERGE), runner, None, "gate.yml")


@pytest.mark.parametrize("path", ["../x.yml", "/etc/passwd", "a\\b", "a\nb"])
def test_paths_outside_are_refused(runner: Runner, path: str) -> None:
    with pytest.raises(BadPolicy) as refused:
        find(PULL, runner, None, path)
    assert "repository" in refused.value.hint


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_presets(runner: Runner, preset: str) -> None:
    found = find(PULL, runner, None, preset=preset)
    assert found.origin == f"preset {preset}"
    assert found.uri == f"urn:safety-gate:preset:{preset}"
    assert f"name: {preset}".encode() in found.data


def test_without_a_token_the_local_history_serves(tmp_path: Path, github: LoopbackGitHub) -> None:
    workspace = Workspace(tmp_path / "workspace")
    base = workspace.commit({"safety-gate.yml": STRICT})
    head = workspace.commit({"safety-gate.yml": WEAK})
    job = write_job(
        tmp_path / "job",
        workspace.path,
        api_url=github.api_url,
        event_name="x",
        payload={},
        sha=head,
    )
    runner = read_runner(job.environment)
    event = PullRequest(number=7, head=head, base=base, from_fork=True)
    assert find(event, runner, None).data == STRICT


def test_without_token_and_history_nothing_is_guessed(runner: Runner) -> None:
    with pytest.raises(BadPolicy, match="cannot be read") as refused:
        find(PULL, runner, None)
    assert "github-token" in refused.value.hint
