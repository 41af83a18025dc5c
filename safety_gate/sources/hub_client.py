"""The thin wrapper over the Hub's client: its session, headers and errors; our redirects.

What is asked of the Hub: which commit a revision is, which files a commit has, and where the
bytes of one of them are. The token goes to the endpoint's own origin and nowhere else.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import httpx2
import huggingface_hub
from huggingface_hub import constants, errors, get_session, get_token, hf_raise_for_status

from safety_gate import __version__
from safety_gate.errors import SourceError
from safety_gate.sources.hub_answers import (
    HubFile,
    Pinned,
    check_identity,
    files_of,
    nonsense,
    pinned_of,
)
from safety_gate.sources.hub_errors import (
    BYTES_HINT,
    FOREIGN,
    HubError,
    HubTooLarge,
    HubWrongBytes,
    translate,
)
from safety_gate.sources.hub_names import COMMIT, check_repo_id, check_revision
from safety_gate.sources.hub_patience import (
    TRANSIENT_STATUS,
    Patience,
    Transient,
    Waiter,
    asked_wait,
)

T = TypeVar("T")

PUBLIC: Final = "https://huggingface.co"
# Where the public Hub sends readers of large files: us.aws.cdn.hf.co, cas-bridge.xethub.hf.co,
# cdn-lfs-us-1.hf.co, cdn-lfs.huggingface.co and the like (hub docs, models-downloading).
CDN_DOMAINS: Final = ("hf.co", "huggingface.co")
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
PORTS: Final = {"http": 80, "https": 443}
MAX_REDIRECTS: Final = 5
MAX_PAGES: Final = 200  # of 1,000 files each; the largest model repositories have a few thousand


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds without any progress."""

    connect: float = 10.0
    read: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BytesAt:
    """Where the bytes of a file can be read for a while."""

    url: str  # often signed, so a secret: never shown
    headers: Mapping[str, str]  # holds the token only where the URL is on the Hub itself
    on_hub: bool


def origin_of(url: str) -> tuple[str, str, int]:
    """Return (scheme, host, port)."""
    parts = urlsplit(url)
    return (
        parts.scheme,
        (parts.hostname or "").lower(),
        parts.port or PORTS.get(parts.scheme, 0),
    )


def _checked_endpoint(endpoint: str | None, *, with_token: bool) -> str:
    """Return the endpoint without a slash at its end."""
    chosen = (endpoint or os.environ.get("HF_ENDPOINT") or PUBLIC).rstrip("/")
    try:
        scheme, host, _ = origin_of(chosen)
    except ValueError:  # a port that is none
        scheme, host = "", ""
    if scheme not in PORTS or not host or "@" in chosen or "?" in chosen or "#" in chosen:
        raise HubError(
            "the address of the Hub is not one",
            where="HF_ENDPOINT",
            expected=f"an address such as {PUBLIC}",
            hint="Unset HF_ENDPOINT, or give the https address of a Hub.",
        )
    if scheme == "http" and with_token and host not in LOOPBACK:
        raise HubError(
            "the token would travel unencrypted",
            where="HF_ENDPOINT",
            got=f"http://{host}",
            expected="https",
            hint="Use the https address of this Hub, or unset HF_TOKEN.",
        )
    return chosen


class HubClient:
    """Asks one Hub on behalf of one account; safe to use from several threads."""

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        token: str | Literal[False] | None = None,
        timeouts: Timeouts | None = None,
        patience: Patience | None = None,
        cdn_domains: tuple[str, ...] = (),
    ) -> None:
        """Choose Hub and account; nothing is asked yet.

        Args:
            endpoint: address of the Hub; else HF_ENDPOINT, else the public one.
            token: a read token; None takes what the client finds (HF_OIDC_RESOURCE, HF_TOKEN,
                `hf auth login`), False none at all.
            timeouts: of single requests.
            patience: how often and how long to try again.
            cdn_domains: further domains that this Hub may send us to for bytes.

        Raises:
            HubError: the endpoint is no address, or would show the token to the network.
        """
        self._token = _token(token)
        self.endpoint = _checked_endpoint(endpoint, with_token=self._token is not None)
        self.origin = origin_of(self.endpoint)
        self.timeouts = timeouts or Timeouts()
        self.patience = patience or Patience()
        self._waiter = Waiter(self.patience)
        local = tuple(LOOPBACK) if self.origin[1] in LOOPBACK else ()
        self._domains = (*CDN_DOMAINS, *cdn_domains, *local, self.origin[1])

    def close(self) -> None:
        """End the waits between attempts, of all threads."""
        self._waiter.close()

    def __repr__(self) -> str:
        """Return the endpoint; never the token."""
        return f"HubClient({self.endpoint!r})"

    def resolve(self, repo_id: str, revision: str | None = None) -> Pinned:
        """Return the commit that a revision is now.

        Raises:
            BadLocation: repo_id or revision could not be one.
            HubError: the Hub does not tell; see hub_errors.py.
        """
        check_repo_id(repo_id)
        if revision is not None:
            check_revision(revision)
        where = f"{repo_id}@{revision}" if revision else repo_id
        url = f"{self.endpoint}/api/models/{repo_id}/revision/{quote(revision or 'main', safe='')}"
        answer = self._asked(lambda: self._get(url, where), where)
        pinned = pinned_of(answer, where)
        if revision is not None and COMMIT.fullmatch(revision) and pinned.sha != revision:
            raise HubWrongBytes(
                "the Hub answers with another commit than asked for",
                where=where,
                got=pinned.sha,
                expected=revision,
                hint=BYTES_HINT,
            )
        check_repo_id(pinned.repo_id)
        return pinned

    def tree(self, pinned: Pinned, *, max_files: int) -> tuple[HubFile, ...]:
        """Return every file of a commit, in the Hub's order; paths are not checked.

        Raises:
            HubTooLarge: more files than ``max_files``.
            HubError: the Hub does not tell.
        """
        where = f"{pinned.repo_id}@{pinned.sha}"
        url = (
            f"{self.endpoint}/api/models/{pinned.repo_id}/tree/{pinned.sha}"
            "?recursive=true&expand=false"
        )
        files: list[HubFile] = []
        for _ in range(MAX_PAGES):
            answer = self._page(url, where)
            files += files_of(answer, where)
            if len(files) > max_files:
                raise HubTooLarge(
                    "the repository has too many files",
                    where=where,
                    got=f"{len(files)} or more",
                    expected=f"at most {max_files}",
                    hint="Keep the model or adapter in a repository of its own.",
                )
            following = answer.links.get("next", {}).get("url")
            if following is None:
                return tuple(files)
            url = urljoin(self.endpoint, following)
        raise nonsense(where, f"at most {MAX_PAGES} pages of files")

    def _page(self, url: str, where: str) -> httpx2.Response:
        if origin_of(url) != self.origin:
            raise self._led_away(url, where)
        return self._asked(lambda: self._get(url, where), where)

    def locate(self, pinned: Pinned, file: HubFile) -> BytesAt:
        """Ask where the bytes of a file are, and check that they are those of the tree.

        Raises:
            HubWrongBytes: the Hub names other bytes, or sends us to a strange host.
            MissingFile: the commit has no such file.
            HubError: the Hub does not tell.
        """
        where = f"{pinned.repo_id}@{pinned.sha}: {file.path}"
        url = f"{self.endpoint}/{pinned.repo_id}/resolve/{pinned.sha}/{quote(file.path)}"
        answer = self._asked(lambda: self._head(url, where), where)
        check_identity(answer.headers, pinned, file, where)
        target = urljoin(str(answer.url), answer.headers.get("Location", ""))
        self._check_host(target, where)
        on_hub = origin_of(target) == self.origin
        return BytesAt(url=target, headers=self._headers() if on_hub else {}, on_hub=on_hub)

    def _headers(self) -> dict[str, str]:
        agent = f"safety-gate/{__version__}; hf_hub/{huggingface_hub.__version__}"
        headers = {"User-Agent": agent, "Accept-Encoding": "identity"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        return headers

    def _get(self, url: str, where: str) -> httpx2.Response:
        return self._sent("GET", url, where, off_hub_is_fine=False)

    def _head(self, url: str, where: str) -> httpx2.Response:
        return self._sent("HEAD", url, where, off_hub_is_fine=True)

    def _sent(self, method: str, url: str, where: str, *, off_hub_is_fine: bool) -> httpx2.Response:
        """Send a request; follow redirects only while they stay at the endpoint's origin."""
        timeout = httpx2.Timeout(self.timeouts.read, connect=self.timeouts.connect)
        for _ in range(MAX_REDIRECTS + 1):
            answer = get_session().request(
                method, url, headers=self._headers(), follow_redirects=False, timeout=timeout
            )
            hf_raise_for_status(answer)
            if not answer.has_redirect_location:
                return answer
            target = urljoin(url, answer.headers["Location"])
            if origin_of(target) != self.origin:
                if off_hub_is_fine:
                    return answer
                raise self._led_away(target, where)
            url = target
        raise nonsense(where, f"at most {MAX_REDIRECTS} redirects")

    def _asked(self, step: Callable[[], T], where: str) -> T:
        """Take a step with patience; every foreign error ends here."""

        def attempt() -> T:
            check_online(where)
            try:
                return step()
            except SourceError:
                raise
            except FOREIGN as error:
                raise _fault(error, where) from None

        return self._waiter.run(attempt)

    def _check_host(self, url: str, where: str) -> None:
        """Refuse to read bytes from where this Hub does not keep any."""
        scheme, host, _ = origin_of(url)
        known = any(host == domain or host.endswith(f".{domain}") for domain in self._domains)
        if not known or scheme not in PORTS or (scheme == "http" and self.origin[0] == "https"):
            raise self._led_away(url, where)

    def _led_away(self, url: str, where: str) -> HubWrongBytes:
        scheme, host, _ = origin_of(url)
        return HubWrongBytes(
            "the Hub sends us to a place that is not on the list",
            where=where,
            got=f"{scheme}://{host}"[:200],  # without path and query, which hold the signature
            expected=f"{', '.join(self._domains)}, with https",
            hint="If this Hub keeps its files there, name the domain in cdn_domains.",
        )


def check_online(where: str) -> None:
    """Raise HubOffline where requests are forbidden.

    The environment is asked as well: the client looks there only when it is imported.
    """
    now = os.environ.get("HF_HUB_OFFLINE", "").upper() in constants.ENV_VARS_TRUE_VALUES
    if now or constants.is_offline_mode():
        raise translate(errors.OfflineModeIsEnabled(), where)


def _token(token: str | Literal[False] | None) -> str | None:
    if token is None:
        try:
            return get_token() or None
        except FOREIGN as error:
            raise translate(error, "the token of the Hub") from None
    return token or None


def _fault(error: Exception, where: str) -> Exception:
    """Return Transient for what may pass, else our error."""
    ours = translate(error, where)
    if isinstance(error, errors.HfHubHTTPError):
        if error.response.status_code in TRANSIENT_STATUS:
            return Transient(ours, wait=asked_wait(error.response.headers))
        return ours
    passing = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)
    return Transient(ours) if isinstance(error, passing) else ours
