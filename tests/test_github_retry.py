"""Patience: what is sent again, what never is, and how long is waited; and errors in our words."""

import ast
import builtins
import inspect
import sys
import time
from collections.abc import Iterator

import pytest
import requests
import urllib3
from github import GithubObject, PaginatedList, Requester
from github.GithubException import GithubException, RateLimitExceededException

from safety_gate.publish.github import (
    FOREIGN,
    NotPublished,
    Patience,
    connect,
    create_once,
    translated,
)
from tests.loopback_github import Fault, LoopbackGitHub
from tests.loopback_github.faults import secondary_limit, too_many
from tests.loopback_github.publications import BASE, HEAD, QUICK

PATHS = {"GET": "/comments$", "POST": "/comments$", "PATCH": "/comments/", "DELETE": "/comments/"}


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as server:
        yield server


@pytest.fixture
def github(server: LoopbackGitHub) -> LoopbackGitHub:
    server.reset()
    repo = server.add_repository("octo/adapters")
    repo.add_pull(7, head=HEAD, base=BASE)
    repo.add_comment(7, "there", "github-actions[bot]", "Bot")
    return server


def ask(github: LoopbackGitHub, method: str, patience: Patience = QUICK) -> None:
    """Send one request of a method by the real client."""
    token = github.add_token(permissions={"pull-requests": "write"})
    client = connect(token, api_url=github.api_url, patience=patience)
    issue = client.get_repo("octo/adapters").get_issue(7)
    try:
        match method:
            case "GET":
                list(issue.get_comments())
            case "POST":
                issue.create_comment("new")
            case "PATCH":
                issue.get_comment(1000).edit("edited")
            case "DELETE":
                issue.get_comment(1000).delete()
    finally:
        client.close()


@pytest.mark.parametrize("method", PATHS)
@pytest.mark.parametrize(
    ("kind", "retried"),
    [("secondary", True), ("429", True), ("502", "unless POST"), ("403", False), ("404", False)],
)
def test_what_is_sent_again(
    github: LoopbackGitHub, method: str, kind: str, retried: bool | str
) -> None:
    path = PATHS[method]
    faults = {
        "secondary": secondary_limit(method, path),
        "429": too_many(method, path, 0),
        "502": Fault(method, path, status=502),
        "403": Fault(method, path, status=403, message="Resource not accessible by integration"),
        "404": Fault(method, path, status=404, message="Not Found"),
    }
    github.add_fault(faults[kind])
    again = method != "POST" if retried == "unless POST" else retried
    patience = Patience(**{**QUICK_FIELDS, "longest_wait": 0.05})
    if again:
        ask(github, method, patience)
    else:
        with pytest.raises(GithubException):
            ask(github, method, patience)
    assert len(github.sent(method, path)) == (2 if again else 1)


QUICK_FIELDS = {name: getattr(QUICK, name) for name in Patience.__dataclass_fields__}


@pytest.mark.parametrize("method", PATHS)
def test_tries_are_counted(github: LoopbackGitHub, method: str) -> None:
    github.add_fault(too_many(method, PATHS[method], 0, times=99))
    with pytest.raises((GithubException, requests.exceptions.RetryError)):
        ask(github, method)
    assert len(github.sent(method, PATHS[method])) == QUICK.tries


def test_retry_after_is_waited_for(github: LoopbackGitHub) -> None:
    github.add_fault(too_many("PATCH", "/comments/", 1))
    start = time.monotonic()
    ask(github, "PATCH")
    assert 1.0 <= time.monotonic() - start < 10.0


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
@pytest.mark.parametrize("status", [403, 429, 503])
def test_nobody_waits_for_an_hour(github: LoopbackGitHub, method: str, status: int) -> None:
    headers = {"Retry-After": "3600"}
    github.add_fault(Fault(method, PATHS[method], status=status, headers=headers))
    start = time.monotonic()
    with pytest.raises(GithubException):
        ask(github, method)
    assert time.monotonic() - start < 5.0
    assert len(github.sent(method, PATHS[method])) == 1


def test_unnamed_limit_waits_as_long_as_we_are_told_to(github: LoopbackGitHub) -> None:
    github.add_fault(too_many("POST", "/comments$", None))
    start = time.monotonic()
    ask(github, "POST", Patience(**{**QUICK_FIELDS, "longest_wait": 0.6}))
    assert 0.6 <= time.monotonic() - start < 5.0


def test_primary_limit_is_not_waited_for_beyond_patience(github: LoopbackGitHub) -> None:
    reset = {"X-RateLimit-Reset": str(int(time.time()) + 1800)}
    message = "API rate limit exceeded for installation ID 1."
    github.add_fault(Fault("GET", "/comments$", status=403, message=message, headers=reset))
    with pytest.raises(RateLimitExceededException):
        ask(github, "GET")
    assert len(github.sent("GET", "/comments$")) == 1


def test_token_version_and_prefix_are_sent(github: LoopbackGitHub) -> None:
    ask(github, "GET")
    (request,) = github.sent("GET")
    assert request.token.startswith("ghs_")
    assert request.headers["x-github-api-version"] == "2022-11-28"
    assert request.path == "/repos/octo/adapters/issues/7/comments"  # below /api/v3


class Heard:
    """Something to create, which fails as told."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.made = 0

    def create(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        self.made += 1
        return "created"


FAULT_500 = GithubException(500, {"message": "x"}, {})


def test_create_once_looks_before_it_asks_again() -> None:
    looked: list[str] = []
    heard = Heard(FAULT_500, requests.ConnectionError())
    found = create_once(heard.create, lambda: looked.append("look"), patience=QUICK)
    assert (found, len(looked), heard.made) == ("created", 2, 1)
    assert create_once(Heard(FAULT_500).create, lambda: "found", patience=QUICK) == "found"


def test_create_once_gives_up_with_the_last_error() -> None:
    with pytest.raises(GithubException):
        create_once(Heard(*[FAULT_500] * 9).create, lambda: None, patience=QUICK)


def test_create_once_does_not_repeat_a_refusal() -> None:
    refusal = GithubException(422, {"message": "x"}, {})
    heard = Heard(refusal)
    with pytest.raises(GithubException):
        create_once(heard.create, lambda: "found", patience=QUICK)
    assert heard.made == 0


def library_errors() -> list[type[BaseException]]:
    """Return every exception class that PyGithub, requests and urllib3 define."""
    modules = (sys.modules["github.GithubException"], requests.exceptions, urllib3.exceptions)
    return [
        one
        for module in modules
        for _, one in inspect.getmembers(module, inspect.isclass)
        if issubclass(one, Exception) and not issubclass(one, Warning)
        if one.__module__.startswith(("github", "requests", "urllib3"))
    ]


@pytest.mark.parametrize("error", library_errors(), ids=lambda one: one.__qualname__)
def test_every_error_of_the_libraries_is_translated(error: type[BaseException]) -> None:
    assert issubclass(error, FOREIGN)


def test_raises_of_pygithub_itself_are_translated() -> None:
    """PyGithub also raises built-in errors; each kind that its sources name is known."""
    names = set()
    for module in (Requester, GithubObject, PaginatedList):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                names.add(ast.unparse(node.exc.func).rpartition(".")[2])
    for name in names & set(dir(builtins)):
        assert issubclass(getattr(builtins, name), FOREIGN), name


@pytest.mark.parametrize(
    ("status", "message", "words"),
    [
        (401, "Bad credentials", "not valid"),
        (403, "Resource not accessible by integration", "may not do this"),
        (403, "API rate limit exceeded", "limits the rate"),
        (403, "Unable to create comment because issue is locked.", "refuses this"),
        (404, "Not Found", "knows no such thing"),
        (422, "Validation Failed", "not valid"),
        (429, "Too many", "limits the rate"),
        (500, "x", "kept failing"),
        (418, "x", "refuses this"),
    ],
)
def test_refusals_become_words(status: int, message: str, words: str) -> None:
    error = Requester.Requester.createException(status, {}, {"message": message})
    with pytest.raises(NotPublished, match=words) as told, translated("comment"):
        raise error
    assert told.value.hint
    assert told.value.got == f"status {status}"
    assert told.value.__cause__ is error


def test_an_address_of_another_server_is_not_followed(github: LoopbackGitHub) -> None:
    """A page that names its successor elsewhere: the token must not go there."""
    headers = {"Link": '<http://127.0.0.1:1/evil?page=2>; rel="next"'}
    fault = Fault("GET", "/comments$", status=200, body='[{"id": 1}]', headers=headers)
    github.add_fault(fault)
    with pytest.raises(NotPublished, match="not on its server"), translated("comment"):
        ask(github, "GET")


def test_translated_lets_our_own_errors_through() -> None:
    own = NotPublished("x", where="y", hint="z")
    with pytest.raises(NotPublished) as told, translated("comment"):
        raise own
    assert told.value is own


def test_usual_patience_has_an_end() -> None:
    usual = Patience()
    assert usual.tries * usual.longest_wait <= 300
