"""What can go wrong with the Hub, in our words: the one place where the client's errors end.

SourceError
└── HubError              the Hub did not give what was asked for
    ├── HubGated          its owner must let this account in first
    ├── HubUnauthorised   the token is missing, wrong, or may not read this
    ├── HubRepoMissing    no such repository, or a private one
    ├── HubRevisionMissing    the repository has no such branch, tag or commit
    ├── HubDisabled       the Hub or its owner has closed the repository
    ├── HubRateLimited    too many requests, and waiting longer is not worth it
    ├── HubOffline        HF_HUB_OFFLINE is set
    ├── HubUnreachable    network, timeout, or a Hub that answers 5xx
    ├── HubTooLarge       more bytes than the budget
    └── HubWrongBytes     what came is not what was asked for, or not what the commit says
A file that is missing is the MissingFile of every other source.

A message holds a status and never the server's own words: a mirror could echo our token there.
"""

import http.client
import ssl
from collections.abc import Callable

import httpx2
from huggingface_hub import errors as hf

from safety_gate.errors import MissingFile, SourceError

TOKEN_PAGE = "https://huggingface.co/settings/tokens"  # noqa: S105 - a page, not a password


class HubError(SourceError):
    """The Hub did not give what was asked for."""

    rule = "hub-unreadable"


class HubGated(HubError):
    """The repository is gated, and this account was not let in."""

    rule = "hub-gated"


class HubUnauthorised(HubError):
    """The token is missing, wrong, or may not read this repository."""

    rule = "hub-unauthorised"


class HubRepoMissing(HubError):
    """There is no such repository, or it is private and the token does not reach it."""

    rule = "hub-repo-missing"


class HubRevisionMissing(HubError):
    """The repository has no such branch, tag or commit."""

    rule = "hub-revision-missing"


class HubDisabled(HubError):
    """The repository was closed by the Hub or by its owner."""

    rule = "hub-disabled"


class HubRateLimited(HubError):
    """Too many requests, and the Hub asks to wait longer than we are ready to."""

    rule = "hub-rate-limited"


class HubOffline(HubError):
    """HF_HUB_OFFLINE forbids every request."""

    rule = "hub-offline"


class HubUnreachable(HubError):
    """Network, timeout, or a Hub that answers 5xx, after all retries."""

    rule = "hub-unreachable"


class HubTooLarge(HubError):
    """More would have to be read than the budget allows."""

    rule = "hub-too-large"


class HubWrongBytes(HubError):
    """What came is not what was asked for, or not what the pinned commit says."""

    rule = "hub-wrong-bytes"


GATED_HINT = (
    "Ask for access on the model's page, then give a token of that account"
    f" (HF_TOKEN, from {TOKEN_PAGE}) that may read gated repositories."
)
TOKEN_HINT = (
    "Give a valid token that may read this repository (HF_TOKEN); make one at"
    f" {TOKEN_PAGE}. A public repository needs none."
)
NAME_HINT = "Check the spelling of org/name; a private repository needs HF_TOKEN with read access."
REVISION_HINT = "Check what stands behind the @: a branch, a tag, refs/pr/N or a commit."
RATE_HINT = (
    "Give a token (HF_TOKEN): without one, all machines behind this address share one limit."
    " Otherwise wait five minutes and run again."
)
OFFLINE_HINT = "Unset HF_HUB_OFFLINE, or download the repository before and give its folder."
NETWORK_HINT = (
    "Check the network, the proxy settings and https://status.huggingface.co, then run again."
    " HF_ENDPOINT chooses another Hub."
)
BYTES_HINT = (
    "Run again; if it stays, use the Hub itself and not a mirror (unset HF_ENDPOINT), or download"
    " the repository with `hf download` and give its folder."
)
BUG_HINT = "Report this as a bug of Safety Gate, with the name of the repository."


def missing_file(path: str, repo: str) -> MissingFile:
    """Return the error of a file that the pinned commit does not have."""
    return MissingFile(
        "this file is not in the repository at this commit",
        where=path,
        got=repo,
        hint="Check that the repository is complete on the Hub, and the revision the right one.",
    )


def _status_error(error: hf.HfHubHTTPError, where: str) -> SourceError:
    """Translate an answer that carries no more than its status."""
    return for_status(error.response.status_code, where)


def for_status(status: int, where: str) -> SourceError:
    """Return the error that an HTTP status alone stands for."""
    got = f"HTTP {status}"
    if status in (401, 403):
        return HubUnauthorised(
            "the Hub refuses to let us read this", where=where, got=got, hint=TOKEN_HINT
        )
    if status == 404:
        return HubRepoMissing("the Hub does not have this", where=where, got=got, hint=NAME_HINT)
    if status == 429:
        return HubRateLimited(
            "the Hub limits the number of requests", where=where, got=got, hint=RATE_HINT
        )
    if status == 408 or status >= 500:
        return HubUnreachable(
            "the Hub does not answer as it should", where=where, got=got, hint=NETWORK_HINT
        )
    return HubError(
        "the Hub refuses the request", where=where, got=got, expected="HTTP 200", hint=BUG_HINT
    )


def _built(
    kind: type[SourceError], what: str, hint: str
) -> Callable[[Exception, str], SourceError]:
    """Return a translator that says the same whatever the foreign error says."""

    def build(error: Exception, where: str) -> SourceError:
        status = getattr(getattr(error, "response", None), "status_code", None)
        got = f"HTTP {status}" if status is not None else type(error).__name__
        return kind(what, where=where, got=got, hint=hint)

    return build


def _http(error: Exception, where: str) -> SourceError:
    if not isinstance(error, hf.HfHubHTTPError):
        raise AssertionError("only answers have a status")
    return _status_error(error, where)


_UNREACHABLE = _built(HubUnreachable, "the Hub cannot be reached", NETWORK_HINT)
_NONSENSE = _built(HubError, "the answer is not what a Hub sends", NETWORK_HINT)

# The first that fits decides, so subclasses stand before their parents.
TRANSLATIONS: tuple[tuple[type[Exception], Callable[[Exception, str], SourceError]], ...] = (
    (hf.GatedRepoError, _built(HubGated, "the repository is gated", GATED_HINT)),
    (hf.RepositoryNotFoundError, _built(HubRepoMissing, "no such repository", NAME_HINT)),
    (hf.RevisionNotFoundError, _built(HubRevisionMissing, "no such revision", REVISION_HINT)),
    (hf.RevisionResolutionError, _built(HubRevisionMissing, "no such revision", REVISION_HINT)),
    (
        hf.DisabledRepoError,
        _built(
            HubDisabled,
            "the repository is disabled",
            "Ask its owner why, or name another repository: the Hub gives out none of its bytes.",
        ),
    ),
    (
        hf.EntryNotFoundError,
        _built(
            MissingFile,
            "the file is not in the repository",
            "Check that the repository is complete on the Hub, and the revision the right one.",
        ),
    ),
    (
        hf.HFValidationError,
        _built(HubRepoMissing, "this is not the name of a repository", NAME_HINT),
    ),
    (hf.HfUriError, _built(HubRepoMissing, "this is not the name of a repository", NAME_HINT)),
    (hf.OfflineModeIsEnabled, _built(HubOffline, "requests are forbidden", OFFLINE_HINT)),
    (hf.LocalTokenNotFoundError, _built(HubUnauthorised, "there is no token", TOKEN_HINT)),
    (hf.OIDCError, _built(HubUnauthorised, "no token came for HF_OIDC_RESOURCE", TOKEN_HINT)),
    (hf.DeviceCodeError, _built(HubUnauthorised, "the login on this machine ended", TOKEN_HINT)),
    (hf.FileMetadataError, _NONSENSE),
    (hf.HfHubHTTPError, _http),
    (httpx2.InvalidURL, _built(HubError, "HF_ENDPOINT is not an address", NETWORK_HINT)),
    (httpx2.UnsupportedProtocol, _built(HubError, "HF_ENDPOINT is not an address", NETWORK_HINT)),
    (
        ssl.SSLCertVerificationError,
        _built(
            HubUnreachable,
            "the certificate of the Hub is not trusted",
            "Behind a proxy that opens TLS, point SSL_CERT_FILE at its certificate.",
        ),
    ),
    (httpx2.TransportError, _UNREACHABLE),
    (httpx2.HTTPError, _NONSENSE),
    (httpx2.StreamError, _UNREACHABLE),
    (httpx2.CookieConflict, _NONSENSE),
    (http.client.HTTPException, _UNREACHABLE),
    (OSError, _UNREACHABLE),
    (ValueError, _NONSENSE),  # not JSON: a login page of some proxy
)
FOREIGN = tuple(kind for kind, _ in TRANSLATIONS)


def translate(error: Exception, where: str) -> SourceError:
    """Return our error for one that the client, httpx2 or the socket raised.

    Args:
        error: an instance of one of FOREIGN.
        where: repository, or repository and file.
    """
    for kind, build in TRANSLATIONS:
        if isinstance(error, kind):
            return build(error, where)
    raise AssertionError(f"an error without a translation: {type(error).__name__}")
