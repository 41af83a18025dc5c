"""What the Hub's client raises while we write, in our words; and what is worth another try.

A message holds a status and never the server's own words: a mirror could echo our token there.
"""

import json
from collections.abc import Callable
from typing import TypeVar

import httpx2
from huggingface_hub import errors as hf

from safety_gate.sources.hub_errors import FOREIGN as READING
from safety_gate.sources.hub_errors import HubError
from safety_gate.sources.hub_patience import TRANSIENT_STATUS, Transient, asked_wait

T = TypeVar("T")

# The last four: an answer of another shape than documented, and a session closed under us.
FOREIGN: tuple[type[Exception], ...] = (
    *READING,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
)
MOVED = frozenset({409, 412})  # somebody else was quicker: read again, then write again
DISABLED = "discussions are disabled"  # the Hub's words, in lower case; only compared
BAD_METADATA = "Invalid metadata in README.md"  # the client's own words
DOC = "docs/hub_publishing.md"


class NotPublishedOnHub(HubError):
    """A publication did not get through; the verdict stands as it is."""

    rule = "not-published"


class NotAllowed(NotPublishedOnHub):
    """The token may not do this."""

    rule = "not-allowed"


class DiscussionsDisabled(NotPublishedOnHub):
    """The owner has closed the community tab."""

    rule = "discussions-disabled"


class LostAnswer(Transient):
    """What was asked for may have been done: look before asking again."""


def translated(step: Callable[[], T], where: str) -> T:
    """Take one step of the client; the one place where its errors end.

    Raises:
        Transient: it may work at the next try. LostAnswer: it may even have worked at this one.
        NotPublishedOnHub: it will not work.
    """
    try:
        return step()
    except (HubError, Transient):
        raise
    except FOREIGN as error:
        raise _fault(error, where) from None  # the cause may hold addresses with signatures


def _fault(error: Exception, where: str) -> Exception:
    if isinstance(error, hf.LocalEntryNotFoundError | RuntimeError):
        # A download that failed, with no older file to fall back to; or one upload of several.
        cause = error.__cause__
        if isinstance(cause, FOREIGN) and isinstance(cause, Exception):
            return _fault(cause, where)
        return LostAnswer(_not_published(error, None, where))
    status = error.response.status_code if isinstance(error, hf.HfHubHTTPError) else None
    ours = _not_published(error, status, where)
    if isinstance(error, hf.HfHubHTTPError):
        if status in MOVED:
            return Transient(ours)
        if status in TRANSIENT_STATUS:
            # 429 is refused before anything is done; after the others nobody knows.
            kind = Transient if status == 429 else LostAnswer
            return kind(ours, wait=asked_wait(error.response.headers))
        return ours
    if isinstance(error, hf.OfflineModeIsEnabled | httpx2.UnsupportedProtocol | httpx2.InvalidURL):
        return ours
    passing = (httpx2.TransportError, json.JSONDecodeError, ConnectionError, TimeoutError)
    return LostAnswer(ours) if isinstance(error, passing) else ours


def _not_published(error: Exception, status: int | None, where: str) -> NotPublishedOnHub:
    if status == 403 and DISABLED in _server_words(error):
        return DiscussionsDisabled(
            "the owner has disabled discussions",
            where=where,
            got="status 403",
            hint="Read the report in the log or its file; or ask the owner to enable discussions.",
        )
    what, hint = _refusal(error, status)
    got = type(error).__name__ if status is None else f"status {status}"
    kind = NotAllowed if status == 403 else NotPublishedOnHub
    return kind(what, where=where, got=got, hint=hint)


def _server_words(error: Exception) -> str:
    """Return the server's own words, in lower case; a stranger's text, only compared."""
    return str(getattr(error, "server_message", "") or "").lower()


_REFUSALS: dict[int, tuple[str, str]] = {
    400: (
        "the Hub refuses this as not valid",
        "Report this as a bug of Safety Gate, with the log of the run.",
    ),
    401: (
        "the token is not valid, or there is none",
        f"Give a token that may write; {DOC} tells which.",
    ),
    403: ("the token may not do this", f"Give the token the permissions that {DOC} lists."),
    404: (
        "there is no such repository or discussion, or the token may not see it",
        f"Check the repository's name, and the token's permissions; {DOC} lists them.",
    ),
    409: ("somebody else keeps changing the same thing", "Run the gate again."),
    412: ("the branch moved on at every try", "Run the gate again for its newest commit."),
    429: ("the Hub limits the rate, for longer than is waited here", "Run the gate again later."),
}


def _refusal(error: Exception, status: int | None) -> tuple[str, str]:
    """Return what an error means, and what to do about it."""
    if isinstance(error, hf.OfflineModeIsEnabled):
        return "requests are forbidden", "Unset HF_HUB_OFFLINE."
    if isinstance(error, ValueError) and BAD_METADATA in str(error):
        return (
            "the Hub finds the metadata of the card not valid",
            "Mend the lines between the two --- on top of README.md; the Hub's page shows why.",
        )
    if status in _REFUSALS:
        return _REFUSALS[status]
    if status is not None and status < 500:
        return "the Hub refuses this", "Run the gate again later."
    return (
        "the Hub could not be reached, or kept failing",
        "Run the gate again; status.huggingface.co tells of outages. For a Hub of your own that"
        " has no Xet storage, set HF_HUB_DISABLE_XET=1.",
    )
