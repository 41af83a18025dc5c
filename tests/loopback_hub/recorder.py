"""Sees every request of an application: names its route, keeps it, and lets faults happen."""

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal, cast
from urllib.parse import unquote

from tests.loopback_hub.faults import Fault, Faults

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
Side = Literal["hub", "cdn"]

SLASH = "\x1f"  # stands for an encoded slash while routes are matched
REPO = r"/api/(models|datasets|spaces)/[^/]+/[^/]+"
ROUTES: tuple[tuple[str, str], ...] = (  # the first that fits names the route
    ("whoami", r"/api/whoami-v2"),
    ("create-repo", r"/api/repos/create"),
    ("delete-repo", r"/api/repos/delete"),
    ("validate-yaml", r"/api/validate-yaml"),
    ("webhooks", r"/api/settings/webhooks.*"),
    ("tree", REPO + r"/tree/.*"),
    ("paths-info", REPO + r"/paths-info/.*"),
    ("refs", REPO + r"/refs"),
    ("commits", REPO + r"/commits/.*"),
    ("preupload", REPO + r"/preupload/.*"),
    ("commit", REPO + r"/commit/.*"),
    ("branch", REPO + r"/branch/.*"),
    ("tag", REPO + r"/tag/.*"),
    ("squash", REPO + r"/super-squash/.*"),
    ("settings", REPO + r"/settings"),
    ("auth-check", REPO + r"/auth-check.*"),
    ("xet-token", REPO + r"/xet-(read|write)-token/.*"),
    ("comment", REPO + r"/discussions/\d+/comment.*"),
    ("discussions", REPO + r"/discussions.*"),
    ("info", REPO + r"(/revision/.*)?"),
    ("lfs-batch", r".*\.git/info/lfs/objects/batch"),
    ("lfs-verify", r".*\.git/info/lfs/verify"),
    ("resolve", r".*/resolve/.*"),
    ("resolve-cache", r"/api/resolve-cache/.*"),
    ("lfs-put", r"/upload/.*"),
    ("cdn", r"/xet-bridge-us/.*"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One request as it came."""

    side: Side
    route: str  # of ROUTES; "other" for all else
    method: str
    path: str  # decoded
    query: str
    headers: dict[str, str]  # names in lower case
    client: str  # address and port of the connection

    @property
    def token(self) -> str | None:
        """Return the token that came with it."""
        value = self.headers.get("authorization")
        return None if value is None else value.removeprefix("Bearer ")


class Requests:
    """The requests that came so far, of both sides."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: list[Recorded] = []

    def add(self, request: Recorded) -> None:
        """Keep a request."""
        with self._lock:
            self._requests.append(request)

    def clear(self) -> None:
        """Forget all requests."""
        with self._lock:
            self._requests.clear()

    def __call__(
        self, route: str | None = None, *, side: Side | None = None, method: str | None = None
    ) -> list[Recorded]:
        """Return the requests that fit, oldest first."""
        with self._lock:
            known = list(self._requests)
        return [
            r
            for r in known
            if route in (None, r.route) and side in (None, r.side) and method in (None, r.method)
        ]


def route_of(path: str) -> str:
    """Return the name of a route."""
    return next((name for name, form in ROUTES if re.fullmatch(form, path)), "other")


class Recorder:
    """ASGI middleware around one application."""

    def __init__(self, app: App, side: Side, requests: Requests, faults: Faults) -> None:
        self._app = app
        self._side = side
        self._requests = requests
        self._faults = faults

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Record a request, then answer it, with a fault where one is due."""
        if scope["type"] != "http":
            raise AssertionError(f"only http here, not {scope['type']}")
        raw = scope["raw_path"].decode("ascii")
        path = unquote(raw)
        scope["path"] = unquote(re.sub("%2f", "%1F", raw, flags=re.IGNORECASE))
        request = Recorded(
            side=self._side,
            route=route_of(path),
            method=scope["method"],
            path=path,
            query=scope["query_string"].decode(),
            headers={k.decode().lower(): v.decode("latin-1") for k, v in scope["headers"]},
            client="{}:{}".format(*scope["client"]),
        )
        self._requests.add(request)
        fault = self._faults.take(request.route, request.method, path)
        if fault is None:
            await self._app(scope, receive, send)
        else:
            await _with_fault(fault, self._app, scope, receive, send)


async def _with_fault(
    fault: Fault, app: App, scope: MutableMapping[str, Any], receive: Receive, send: Send
) -> None:
    await asyncio.sleep(fault.delay)
    if fault.drop:
        _abort(send)
    elif fault.status is not None:
        await _answer(fault, scope["method"], send)
    else:
        if fault.ignore_range:
            scope["headers"] = [(k, v) for k, v in scope["headers"] if k.lower() != b"range"]
        await app(scope, receive, _Spoiled(fault, send))


async def _answer(fault: Fault, method: str, send: Send) -> None:
    body = b"" if method == "HEAD" else fault.body
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    headers.update(fault.headers)
    pairs = [(k.lower().encode(), v.encode("latin-1")) for k, v in headers.items()]
    await send({"type": "http.response.start", "status": fault.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _abort(send: Send) -> None:
    """End the connection at once; uvicorn has no public way, so this reaches for its transport."""
    cycle = cast(Any, send).__self__
    cycle.transport.abort()
    cycle.disconnected = True  # else uvicorn would answer 500 into the closed connection


class _Spoiled:
    """Changes an answer on its way out."""

    def __init__(self, fault: Fault, send: Send) -> None:
        self._fault = fault
        self._send = send
        self._sent = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = self._headers(message["headers"])
            await self._send(message)
            return
        body = bytes(message.get("body", b""))
        if self._fault.corrupt and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        if self._fault.cut_after is not None:
            body = body[: max(0, self._fault.cut_after - self._sent)]
            self._sent += len(body)
            await self._send({**message, "body": body, "more_body": True})
            await asyncio.sleep(0.02)  # let the bytes leave before the connection ends
            _abort(self._send)
            return
        await self._slowly({**message, "body": body})

    async def _slowly(self, message: Message) -> None:
        body, step = message["body"], self._fault.slow_bytes
        while step is not None and len(body) > step:
            await self._send({**message, "body": body[:step], "more_body": True})
            await asyncio.sleep(0.05)
            body = body[step:]
        await self._send({**message, "body": body})

    def _headers(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        added = {k.lower().encode(): v.encode("latin-1") for k, v in self._fault.headers.items()}
        kept = [(k, v) for k, v in headers if k.lower() not in added]
        if self._fault.span_shift:
            kept = [(k, self._shifted(v) if k == b"content-range" else v) for k, v in kept]
        return [*kept, *added.items()]

    def _shifted(self, value: bytes) -> bytes:
        told = re.fullmatch(rb"bytes (\d+)-(\d+)/(\d+)", value)
        if told is None:
            return value
        first, last = (int(part) + self._fault.span_shift for part in told.groups()[:2])
        return b"bytes %d-%d/%b" % (first, last, told[3])
