"""The way to a GitHub server: client, patience, and its errors in our words."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import requests
import urllib3
from github import Auth, Github
from github.GithubException import (
    BadAttributeException,
    BadCredentialsException,
    GithubException,
    RateLimitExceededException,
    UnknownObjectException,
)

from safety_gate.errors import GateError
from safety_gate.publish.retry import RATE_LIMITED, SERVER_FAULTS, GateRetry

API_URL = "https://api.github.com"
API_VERSION = "2022-11-28"  # known to every supported Enterprise Server as well
ACTIONS_BOT = "github-actions[bot]"  # who writes with the token of a workflow
NOT_ALLOWED = "resource not accessible by integration"  # GitHub's words for a read-only token

# All that PyGithub and what lies below it can raise. AssertionError: it checks by assert that no
# address leads away from the server. The last six: an answer of another shape than documented.
FOREIGN = (
    GithubException,
    BadAttributeException,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    OSError,
    AssertionError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long GitHub is waited for; at worst tries times longest_wait for one request."""

    tries: int = 4  # of one request, the first included
    longest_wait: float = 60.0  # seconds between two tries; GitHub asks for a minute at least
    backoff: float = 1.0  # seconds, doubled from try to try
    timeout: int = 15  # seconds for an answer
    between_reads: float = 0.25  # seconds; GitHub asks for 1 between writes
    between_writes: float = 1.0


class NotPublished(GateError):
    """A publication did not get through; the verdict stands as it is."""

    rule = "not-published"


def connect(token: str, *, api_url: str = API_URL, patience: Patience | None = None) -> Github:
    """Return a client; nothing is sent yet.

    Args:
        token: of the workflow (GITHUB_TOKEN), a GitHub App or a person; empty for none.
        api_url: GITHUB_API_URL: https://api.github.com, or https://HOST/api/v3 on Enterprise.
        patience: how long to wait; the usual one where it is left out.
    """
    patience = patience or Patience()
    return Github(
        auth=Auth.Token(token) if token else None,
        base_url=api_url.rstrip("/"),
        per_page=100,
        lazy=True,
        timeout=patience.timeout,
        seconds_between_requests=patience.between_reads,
        seconds_between_writes=patience.between_writes,
        api_version=API_VERSION,
        retry=GateRetry(
            total=patience.tries - 1,
            backoff_factor=patience.backoff,
            backoff_max=patience.longest_wait,
            secondary_rate_wait=patience.longest_wait,
            max_rate_limit_wait=patience.longest_wait,
        ),
    )


def own_login(client: Github) -> str:
    """Return who we write as.

    REST's GET /user refuses the token of a workflow; GraphQL's viewer answers every kind. Where
    that fails too, we write as the workflow, which is what a token is by default.
    """
    try:
        _, answer = client.requester.graphql_query("query { viewer { login } }", {})
        login = answer["data"]["viewer"]["login"]
    except FOREIGN:
        return ACTIONS_BOT
    return login if isinstance(login, str) and login else ACTIONS_BOT


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn whatever the client raises into NotPublished; the one place where that is done."""
    try:
        yield
    except NotPublished:
        raise
    except FOREIGN as error:
        raise _not_published(where, error) from error


def create_once(
    create: Callable[[], T], find: Callable[[], T | None], *, patience: Patience | None = None
) -> T:
    """Create something that must not be there twice.

    After a server fault or a lost answer, what was asked for may be there: ``find`` looks before
    the next try.

    Raises:
        Whatever ``create`` raises, when it is sure that nothing was made, or after the last try.
    """
    patience = patience or Patience()
    for attempt in range(1, patience.tries + 1):
        try:
            return create()
        except FOREIGN as error:
            if not _may_have_been_heard(error):
                raise
            if (there := find()) is not None:
                return there
            if attempt == patience.tries:
                raise
            time.sleep(min(patience.longest_wait, patience.backoff * 2 ** (attempt - 1)))
    raise AssertionError("patience without a single try")


def _may_have_been_heard(error: BaseException) -> bool:
    """Tell whether the server may have done what it was asked in spite of the error."""
    if isinstance(error, GithubException):
        return error.status in SERVER_FAULTS
    return isinstance(error, requests.RequestException | urllib3.exceptions.HTTPError | OSError)


def _message(error: GithubException) -> str:
    """Return the server's own words, in lower case; a stranger's text, only compared."""
    data = error.data
    return str(data.get("message", "") if isinstance(data, dict) else data or "").lower()


def _not_published(where: str, error: BaseException) -> NotPublished:
    match error:
        case GithubException():
            what, hint = _refusal(error)
            got = f"status {error.status}"
        case AssertionError():
            what, got = "an address in GitHub's answer is not on its server", ""
            hint = "Check GITHUB_API_URL; nothing was sent elsewhere."
        case requests.RequestException() | urllib3.exceptions.HTTPError() | OSError():
            what, got = "GitHub could not be reached, or kept failing", type(error).__name__
            hint = "Run the job again; githubstatus.com tells of outages."
        case _:
            what, got = "GitHub answered in a form that is not understood", type(error).__name__
            hint = "Check that GITHUB_API_URL is a GitHub server, and run the job again."
    return NotPublished(what, where=where, got=got, hint=hint)


def _refusal(error: GithubException) -> tuple[str, str]:
    """Return what a refusal means, and what to do about it."""
    again = "Run the job again later."
    if isinstance(error, BadCredentialsException) or error.status == 401:
        return "the token is not valid", "Give a valid token as github-token."
    if isinstance(error, RateLimitExceededException) or error.status == 429:
        return "GitHub limits the rate, for longer than is waited here", again
    message = _message(error)
    if error.status == 403 and NOT_ALLOWED in message:
        return (
            "the token of this job may not do this",
            "Give the job the permission that docs/github.md lists; on pull requests from forks"
            " and of Dependabot publish from a workflow_run job (examples/workflows/publish.yml).",
        )
    if error.status in RATE_LIMITED:
        return "GitHub refuses this", "Check the token's permissions, and whether this is locked."
    if isinstance(error, UnknownObjectException) or error.status == 404:
        return (
            "GitHub knows no such thing, or the token may not see it",
            "Check the token's permissions; docs/github.md lists them.",
        )
    if error.status in SERVER_FAULTS:
        return "GitHub kept failing", again
    if error.status == 422:
        return (
            "GitHub refuses this as not valid",
            "Report this as a bug of Safety Gate, with the log of the run.",
        )
    return "GitHub refuses this", again
