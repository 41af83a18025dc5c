"""Publishing as a whole: no step stops another, none raises, none changes a verdict."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from safety_gate.publish.publisher import Address, Wishes, publish
from safety_gate.publish.sarif_upload import Analysis
from safety_gate.publish.told import Channel, Published, Told
from safety_gate.report.sarif import SarifSource, to_sarif
from tests.loopback_github import Fault, LoopbackGitHub, Repository
from tests.loopback_github.faults import secondary_limit, too_many
from tests.loopback_github.publications import (
    BASE,
    HEAD,
    MERGE,
    OTHER,
    QUICK,
    publication,
)
from tests.sample_reports import blocked

NAME = "octo/adapters"
ALL = {
    "checks": "write",
    "statuses": "write",
    "security-events": "write",
    "pull-requests": "write",
}
CHANNELS: dict[Channel, tuple[str, str]] = {  # how each is first written
    "commit status": ("POST", "/statuses/"),
    "check run": ("POST", "/check-runs$"),
    "code scanning": ("POST", "/code-scanning/sarifs$"),
    "comment": ("POST", "/comments$"),
}
WISHES = Wishes(
    comment="always",
    pull_request=7,
    check_run=True,
    commit_status=True,
    external_id="4711-1",
    sarif=to_sarif([SarifSource(report=blocked(), folder="adapters/x")]),
    analysis=Analysis(commit=MERGE, ref="refs/pull/7/merge"),
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
def repo(github: LoopbackGitHub) -> Repository:
    repo = github.add_repository(NAME)
    repo.add_pull(7, head=HEAD, base=BASE)
    return repo


def tell(github: LoopbackGitHub, wishes: Wishes = WISHES, *, token: str | None = None) -> Published:
    if token is None:
        token = github.add_token(permissions=ALL)
    address = Address(repository=NAME, api_url=github.api_url, token=token)
    patience = replace(QUICK, tries=2)
    return publish(publication("blocked"), wishes, address, patience=patience)


def states(published: Published) -> dict[Channel, str]:
    return {told.channel: told.state for told in published}


def test_everything_is_told(github: LoopbackGitHub, repo: Repository) -> None:
    published = tell(github)
    assert states(published) == dict.fromkeys(CHANNELS, "created")
    assert published.failures == ()
    assert published.comment_url.startswith("https://github.example/octo/adapters/pull/7#")


def test_nothing_wanted_is_nothing_sent(github: LoopbackGitHub, repo: Repository) -> None:
    wishes = Wishes(comment="never", pull_request=7)
    assert tell(github, wishes) == Published()
    assert tell(github, Wishes()) == Published()
    assert github.requests == []


def test_fork_token_fails_each_step_in_words(github: LoopbackGitHub, repo: Repository) -> None:
    token = github.add_token(permissions={"contents": "read", "pull-requests": "read"})
    published = tell(github, token=token)
    assert states(published) == dict.fromkeys(CHANNELS, "failed")
    for told in published.failures:
        assert "may not do this" in told.why
        assert "docs/github.md" in told.hint


def test_without_a_token_nothing_is_asked(github: LoopbackGitHub, repo: Repository) -> None:
    published = tell(github, token="")
    assert {told.why for told in published} == {"there is no token"}
    assert github.requests == []


@pytest.mark.parametrize("url", ["", "ftp://x", "nonsense"])
def test_an_odd_address_is_told_and_not_raised(repo: Repository, url: str) -> None:
    address = Address(repository=NAME, api_url=url, token="t" * 20)
    published = publish(publication("blocked"), WISHES, address, patience=QUICK)
    assert set(states(published).values()) == {"failed"}


def test_a_server_that_is_not_there_is_told(repo: Repository) -> None:
    address = Address(repository=NAME, api_url="http://127.0.0.1:9/api/v3", token="t" * 20)
    published = publish(publication("blocked"), WISHES, address, patience=QUICK)
    assert {told.why.partition(" (")[0] for told in published} == {
        "GitHub could not be reached, or kept failing"
    }


def test_address_never_shows_its_token() -> None:
    address = Address(repository=NAME, api_url="https://x.example", token="canary")  # noqa: S106
    assert "canary" not in repr(address)


def test_older_verdict_is_not_published_to_a_newer_head(
    github: LoopbackGitHub, repo: Repository
) -> None:
    repo.pulls[7].head = OTHER
    published = tell(github)
    assert states(published)["comment"] == "skipped"
    assert repo.comments[7] == []
    assert repo.statuses[0].sha == HEAD  # bound to its commit, and so never wrong


FAULTS = {
    "401": {"status": 401, "message": "Bad credentials"},
    "403": {"status": 403, "message": "Resource not accessible by integration"},
    "404": {"status": 404, "message": "Not Found"},
    "409": {"status": 409, "message": "Conflict"},
    "422": {"status": 422, "message": "Validation Failed"},
    "500": {"status": 500, "times": 99},
    "502": {"status": 502, "times": 99},
    "503": {"status": 503, "times": 99, "headers": {"Retry-After": "0"}},
    "429-long": {"status": 429, "times": 99, "headers": {"Retry-After": "900"}},
    "429-short": {"status": 429, "times": 99, "headers": {"Retry-After": "0"}},
    "reset": {"cut": "reset", "times": 99},
    "half": {"cut": "half", "status": 201, "times": 99},
    "html": {"status": 200, "body": "<html>proxy</html>", "times": 99},
    "empty-json": {"status": 201, "body": "{}", "times": 99},
    "list": {"status": 200, "body": "[]", "times": 99},
    "null": {"status": 201, "body": "null", "times": 99},
    "odd-retry-after": {"status": 429, "times": 99, "headers": {"Retry-After": "soon"}},
}


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("fault", FAULTS)
def test_any_fault_of_a_step_is_told_and_stops_no_other(
    github: LoopbackGitHub, repo: Repository, channel: Channel, fault: str
) -> None:
    method, path = CHANNELS[channel]
    github.add_fault(Fault(method, path, **FAULTS[fault]))  # type: ignore[arg-type]
    wishes = replace(
        WISHES,
        commit_status=True,  # before every other
        check_run=channel == "check run",
        sarif=WISHES.sarif if channel == "code scanning" else "",
        pull_request=7 if channel in ("comment", "commit status") else None,
    )
    told = states(tell(github, wishes))
    others = {name: state for name, state in told.items() if name != channel}
    assert list(others.values()) == ["created"]
    # A 2xx without the usual answer may count as done where no address is needed from it.
    assert told[channel] in ("failed", "created")
    if not fault.startswith(("html", "empty", "list", "null")):
        assert told[channel] == "failed"


@pytest.mark.parametrize("method_and_path", [("GET", "/pulls/7$"), ("GET", "/comments$")])
@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "empty-json"])
def test_any_fault_of_reading_is_told(
    github: LoopbackGitHub, repo: Repository, method_and_path: tuple[str, str], fault: str
) -> None:
    github.add_fault(Fault(*method_and_path, **FAULTS[fault]))  # type: ignore[arg-type]
    published = tell(github, replace(WISHES, check_run=False, commit_status=False, sarif=""))
    assert len(published.told) == 1
    assert len(repo.comments[7]) <= 1


def test_limits_that_pass_are_waited_for(github: LoopbackGitHub, repo: Repository) -> None:
    for method, path in CHANNELS.values():
        github.add_fault(too_many(method, path, 0))
        github.add_fault(secondary_limit(method, path))
    patience = replace(QUICK, tries=4, longest_wait=0.05)
    address = Address(
        repository=NAME, api_url=github.api_url, token=github.add_token(permissions=ALL)
    )
    published = publish(publication("blocked"), WISHES, address, patience=patience)
    assert states(published) == dict.fromkeys(CHANNELS, "created")
    assert [len(x) for x in (repo.statuses, repo.check_runs, repo.comments[7])] == [1, 1, 1]


def test_a_failure_must_say_what_to_do() -> None:
    with pytest.raises(AssertionError, match="without why or hint"):
        Told(channel="comment", state="failed", why="x")
