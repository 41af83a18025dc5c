"""Plain HTTP/1.1 for bytes: ranged GETs read straight into the caller's memory.

http.client and not the Hub's client (httpx2), for speed: its readinto() receives into the buffer
that is handed in, while httpx2 copies every 64 KiB several times. Measured on loopback, one
connection, 1.5 GB: curl 0.6 GB/s, http.client 0.84 GB/s, urllib3 0.63 GB/s, httpx2 0.38 GB/s.
"""

import base64
import functools
import http.client
import re
import socket
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import httpx2

from safety_gate.sources.hub_client import Timeouts, origin_of
from safety_gate.sources.hub_plan import Span

SLICE: Final = 1 << 20  # bytes between two looks at the clock
SLOWEST: Final = 64 * 1024  # bytes per second, over a whole answer; below, another try is better
IDLE: Final = 20.0  # seconds; CDNs close an idle connection after a minute or less
CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


class Refused(Exception):
    """The server answered, and not with the bytes."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        """Keep status and headers."""
        super().__init__(f"HTTP {status}")
        self.status = status
        self.headers = headers


class WrongSpan(Exception):
    """The answer is a success and yet not the span that was asked for."""


class CutOff(Exception):
    """The answer ended, or became too slow, before all bytes were there."""


class Count(Protocol):
    """Hears how many bytes have come."""

    def __call__(self, count: int, /) -> None:
        """Hear of ``count`` more bytes."""


@functools.cache
def _tls() -> ssl.SSLContext:
    """Return the trust of the Hub's client, so that both trust the same certificates."""
    return httpx2.create_ssl_context()


def _proxy_for(scheme: str, host: str, port: int) -> str | None:
    """Return the proxy that the environment names for this host."""
    if proxy_bypass(f"{host}:{port}"):
        return None
    proxies = getproxies_environment()
    return proxies.get(scheme) or proxies.get("all")


def _connect(origin: tuple[str, str, int], timeouts: Timeouts) -> http.client.HTTPConnection:
    """Prepare a connection, through a proxy where the environment says so."""
    scheme, host, port = origin
    proxy = _proxy_for(scheme, host, port)
    to_host, to_port, headers = host, port, {}
    if proxy is not None:
        parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
        to_host, to_port = parts.hostname or "", parts.port or 80
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            headers["Proxy-Authorization"] = f"Basic {base64.b64encode(login).decode()}"
    connection: http.client.HTTPConnection
    if scheme == "https":
        connection = http.client.HTTPSConnection(
            to_host, to_port, timeout=timeouts.connect, context=_tls()
        )
    else:
        connection = http.client.HTTPConnection(to_host, to_port, timeout=timeouts.connect)
    if proxy is not None:
        connection.set_tunnel(host, port, headers)
    return connection


@dataclass(slots=True)
class _Idle:
    connection: http.client.HTTPConnection
    since: float  # time.monotonic()


class Connections:
    """Connections that are kept open between requests; safe to use from several threads."""

    def __init__(self, timeouts: Timeouts) -> None:
        """Start without any connection."""
        self._timeouts = timeouts
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, str, int], list[_Idle]] = defaultdict(list)
        self._busy: set[http.client.HTTPConnection] = set()
        self._closed = False

    def close(self) -> None:
        """Close all connections; requests under way fail."""
        with self._lock:
            self._closed = True
            idle = [kept.connection for at_origin in self._idle.values() for kept in at_origin]
            self._idle.clear()
            busy = list(self._busy)
        for connection in idle:
            connection.close()
        for connection in busy:  # its thread closes it; shutdown only wakes that thread up
            if connection.sock is not None:
                _shut_down(connection.sock)

    def read(  # noqa: PLR0913
        self,
        url: str,
        headers: Mapping[str, str],
        span: Span,
        *,
        total: int,
        view: memoryview,
        count: Count,
    ) -> None:
        """Fill ``view`` with the span of the file behind ``url``.

        Args:
            url: http or https, checked by the caller.
            headers: to be sent besides Range.
            span: the bytes to ask for.
            total: size of the whole file in bytes.
            view: as long as the span.
            count: called with the number of new bytes.

        Raises:
            Refused: the server answered with something else than bytes.
            WrongSpan: bytes come, but not those asked for; none was read.
            CutOff: the answer was too short or too slow.
            OSError, http.client.HTTPException: the network.
        """
        origin = origin_of(url)
        deadline = time.monotonic() + self._timeouts.read + span.size / SLOWEST
        connection, answer = self._ask(origin, url, headers, span)
        kept = False
        try:
            _check_answer(answer, span, total)
            _receive(answer, view, count, deadline)
            if answer.length == 0 and not answer.will_close:
                answer.close()
                kept = self._keep(origin, connection)
        finally:
            if not kept:  # once kept, it may be in the hands of another thread already
                self._drop(connection)

    def _ask(
        self, origin: tuple[str, str, int], url: str, headers: Mapping[str, str], span: Span
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send the request; a kept connection that has gone is replaced by a new one, once."""
        kept = self._kept(origin)
        if kept is not None:
            try:
                return kept, self._send(kept, url, headers, span)
            except (ConnectionError, http.client.RemoteDisconnected, ssl.SSLEOFError):
                self._drop(kept)
            except BaseException:  # raised again
                self._drop(kept)
                raise
        connection = _connect(origin, self._timeouts)
        self._add(connection)
        try:
            return connection, self._send(connection, url, headers, span)
        except BaseException:  # raised again
            self._drop(connection)
            raise

    def _send(
        self,
        connection: http.client.HTTPConnection,
        url: str,
        headers: Mapping[str, str],
        span: Span,
    ) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        asked = {**headers, "Range": f"bytes={span.start}-{span.stop - 1}"}
        asked["Accept-Encoding"] = "identity"  # a CDN may ignore Range where gzip is accepted
        if connection.sock is None:
            connection.connect()
            if connection.sock is not None:
                connection.sock.settimeout(self._timeouts.read)
        connection.request("GET", target, headers=asked)
        return connection.getresponse()

    def _kept(self, origin: tuple[str, str, int]) -> http.client.HTTPConnection | None:
        """Return a connection that was used a moment ago."""
        stale = []
        with self._lock:
            found = None
            at_origin = self._idle[origin]
            while at_origin and found is None:
                kept = at_origin.pop()
                if time.monotonic() - kept.since < IDLE:
                    found = kept.connection
                    self._busy.add(found)
                else:
                    stale.append(kept.connection)
        for connection in stale:
            connection.close()
        return found

    def _add(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if self._closed:
                raise CutOff("reading was ended")
            self._busy.add(connection)

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._busy.discard(connection)
        connection.close()

    def _keep(self, origin: tuple[str, str, int], connection: http.client.HTTPConnection) -> bool:
        """Put a connection aside for the next request; False where all were closed meanwhile."""
        with self._lock:
            if self._closed:
                return False
            self._busy.discard(connection)
            self._idle[origin].append(_Idle(connection, time.monotonic()))
            return True


def _shut_down(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # its own thread was quicker


def _check_answer(answer: http.client.HTTPResponse, span: Span, total: int) -> None:
    """Accept 206 with exactly the span; and 200 where the span is the whole file."""
    if answer.status not in (200, 206):
        raise Refused(answer.status, dict(answer.headers.items()))
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise WrongSpan("an encoded answer")
    if answer.status == 200:
        if span.start == 0 and span.stop == total == answer.length:
            return
        raise WrongSpan("HTTP 200 and the whole file")
    told = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    if told is None or tuple(map(int, told.groups())) != (span.start, span.stop - 1, total):
        raise WrongSpan("HTTP 206 and another span")
    if answer.length is not None and answer.length != span.size:
        raise WrongSpan("HTTP 206 and another length")


def _receive(
    answer: http.client.HTTPResponse, view: memoryview, count: Count, deadline: float
) -> None:
    """Read the body into ``view``."""
    done = 0
    while done < len(view):
        came = answer.readinto(view[done : done + SLICE])
        if came == 0:
            raise CutOff(f"{done} of {len(view)} bytes came")
        done += came
        count(came)
        if done < len(view) and time.monotonic() > deadline:
            raise CutOff(f"{done} of {len(view)} bytes came in the time allowed")
