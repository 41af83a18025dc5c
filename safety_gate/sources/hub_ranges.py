"""Ranged reads of one pinned commit: signed addresses renewed, faults retried, bytes counted."""

import http.client
import ssl
import threading
from collections.abc import Mapping
from typing import Final

from safety_gate.errors import SourceError
from safety_gate.sources.hub_answers import HubFile, Pinned
from safety_gate.sources.hub_client import BytesAt, HubClient, check_online
from safety_gate.sources.hub_connection import Connections, CutOff, Refused, WrongSpan
from safety_gate.sources.hub_errors import (
    BYTES_HINT,
    HubTooLarge,
    HubUnreachable,
    HubWrongBytes,
    for_status,
    translate,
)
from safety_gate.sources.hub_patience import TRANSIENT_STATUS, Transient, Waiter, asked_wait
from safety_gate.sources.hub_plan import Span

# What a CDN says of a signature that has run out, and a Hub of an address that has moved.
EXPIRED: Final = frozenset({301, 302, 303, 307, 308, 400, 401, 403, 404, 410})
MAX_HTTP_BYTES: Final = 50 * 1000**3  # larger files are not served over HTTP (huggingface_hub)


class HubRanges:
    """Reads spans of the files of one commit; safe to use from several threads.

    Every file is asked for once with HEAD; its signed address is used until it is refused.
    """

    def __init__(
        self,
        client: HubClient,
        pinned: Pinned,
        files: Mapping[str, HubFile],
        *,
        limit_bytes: int,
    ) -> None:
        """Start without any connection.

        Args:
            client: asks the Hub.
            pinned: the commit.
            files: all its files by path.
            limit_bytes: more than this is never received, repeats included.
        """
        self._client = client
        self._pinned = pinned
        self._files = files
        self._limit = limit_bytes
        self._connections = Connections(client.timeouts)
        self._waiter = Waiter(client.patience)
        self._lock = threading.Lock()
        self._received = 0  # guarded by the lock
        self._places: dict[str, BytesAt] = {}  # guarded by the lock
        self._asking: dict[str, threading.Lock] = {}  # guarded by the lock

    @property
    def received(self) -> int:
        """Return the bytes of files that came over the network so far."""
        with self._lock:
            return self._received

    def close(self) -> None:
        """Close all connections; reads under way fail."""
        self._waiter.close()
        self._connections.close()

    def read(self, span: Span, view: memoryview) -> None:
        """Fill ``view`` with a span; what came before a fault is not asked for again.

        Raises:
            HubWrongBytes: other bytes than asked for.
            HubTooLarge: the budget is used up, or the file cannot be read over HTTP.
            HubError: the Hub or its CDN does not give them, after all retries.
        """
        if span.size == 0:
            return
        where = self._where(span.path)
        check_online(where)
        size = self._files[span.path].size
        if size > MAX_HTTP_BYTES:
            raise HubTooLarge(
                "the Hub does not serve files of this size over HTTP",
                where=where,
                got=f"{size} bytes",
                expected=f"at most {MAX_HTTP_BYTES} bytes",
                hint="Download the repository with `hf download` and give its folder.",
            )
        attempt = _Attempt(self, span, view, where)
        self._waiter.run(attempt)

    def recheck(self, path: str) -> None:
        """Ask the Hub again whether a file is what the tree said.

        Raises:
            SourceError: it is not, or the Hub does not tell.
        """
        self._client.locate(self._pinned, self._files[path])

    def _where(self, path: str) -> str:
        return f"{self._pinned.repo_id}@{self._pinned.sha}: {path}"

    def _place(self, path: str) -> BytesAt:
        """Return where the bytes are; only one thread asks."""
        with self._lock:
            asking = self._asking.setdefault(path, threading.Lock())
        with asking:
            with self._lock:
                place = self._places.get(path)
            if place is None:
                place = self._client.locate(self._pinned, self._files[path])
                with self._lock:
                    self._places[path] = place
            return place

    def _forget(self, path: str, place: BytesAt) -> None:
        """Drop an address that was refused, unless another thread has renewed it already."""
        with self._lock:
            if self._places.get(path) is place:
                del self._places[path]

    def _count(self, count: int) -> None:
        with self._lock:
            self._received += count
            over = self._received > self._limit
        if over:
            raise HubTooLarge(
                "more bytes were read than the budget allows",
                where=f"{self._pinned.repo_id}@{self._pinned.sha}",
                expected=f"at most {self._limit} bytes",
                hint="Raise the budget (gigabytes in SAFETY_GATE_HUB_GB), or download the"
                " repository and give its folder.",
            )


class _Attempt:
    """One span on its way; called again after a fault, it goes on where it stopped."""

    def __init__(self, ranges: HubRanges, span: Span, view: memoryview, where: str) -> None:
        self._ranges = ranges
        self._span = span
        self._view = view
        self._where = where
        self._done = 0
        self._renewed = False

    def _progress(self, count: int) -> None:
        self._done += count
        self._ranges._count(count)

    def __call__(self) -> None:
        """Read the rest; Transient where another attempt may help."""
        span = self._span
        place = self._ranges._place(span.path)
        rest = Span(path=span.path, start=span.start + self._done, stop=span.stop)
        try:
            self._ranges._connections.read(
                place.url,
                place.headers,
                rest,
                total=self._ranges._files[span.path].size,
                view=self._view[self._done :],
                count=self._progress,
            )
        except Refused as refused:
            raise self._refused(refused, place) from None
        except WrongSpan as wrong:
            raise self._wrong(str(wrong)) from None
        except CutOff as cut:
            raise Transient(self._unreachable("the answer was cut off", str(cut))) from None
        except ssl.SSLCertVerificationError as error:
            raise translate(error, self._where) from None
        except (OSError, http.client.HTTPException) as error:
            raise Transient(translate(error, self._where)) from None

    def _refused(self, refused: Refused, place: BytesAt) -> Exception:
        """Renew the address once; else say what the status means."""
        if refused.status in TRANSIENT_STATUS:
            error = for_status(refused.status, self._where)
            return Transient(error, wait=asked_wait(refused.headers))
        if refused.status == 416:
            return self._wrong("HTTP 416")
        if refused.status in EXPIRED and not self._renewed:
            self._renewed = True
            self._ranges._forget(self._span.path, place)
            return Transient(for_status(refused.status, self._where), wait=0.0)
        if place.on_hub:
            return for_status(refused.status, self._where)
        return self._unreachable("the CDN refuses to give out the bytes", f"HTTP {refused.status}")

    def _wrong(self, got: str) -> SourceError:
        return HubWrongBytes(
            "the server does not answer with the bytes that were asked for",
            where=self._where,
            got=got,
            expected=f"HTTP 206 and bytes {self._span.start} to {self._span.stop - 1}",
            hint=BYTES_HINT,
        )

    def _unreachable(self, what: str, got: str) -> SourceError:
        return HubUnreachable(
            what,
            where=self._where,
            got=got,
            hint="Run again; if it stays, look at https://status.huggingface.co.",
        )
