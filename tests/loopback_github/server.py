"""The loopback GitHub as a server: a thread, a prefix, a record of requests, faults."""

import asyncio
import json
import logging
import re
import secrets
import socket
import struct
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from tests.loopback_github.app import World, build
from tests.loopback_github.faults import Fault
from tests.loopback_github.state import Json, Repository, Token

API, GRAPHQL = "/api/v3", "/api/graphql"  # as on Enterprise Server
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of zero seconds: close() sends RST


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came."""

    method: str
    path: str  # without the prefix
    query: str
    body: Json | None
    token: str
    headers: Mapping[str, str]


class _Protocol(H11Protocol):
    """Remembers its connections, so that a fault can break one."""

    transports: ClassVar[dict[tuple[str, int], asyncio.Transport]] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transports[tuple(transport.get_extra_info("peername"))] = transport


class LoopbackGitHub:
    """A running server; ``reset`` forgets everything but the address."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        host, port = self._socket.getsockname()
        self.server_url = f"http://{host}:{port}"
        self.api_url = f"{self.server_url}{API}"
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.bugs: list[str] = []  # of this server; a test must never see any
        self.world = World(self.api_url)
        self._app = build(self.world)
        config = uvicorn.Config(
            self._answer,
            interface="asgi3",
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._server = uvicorn.Server(config)
        run = {"sockets": [self._socket]}
        self._thread = threading.Thread(target=self._server.run, kwargs=run, daemon=True)

    def __enter__(self) -> "LoopbackGitHub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._socket.close()
        if self.bugs:
            raise AssertionError(self.bugs[0])

    def reset(self) -> None:
        """Forget repositories, tokens, faults and requests."""
        self.world.repositories.clear()
        self.world.tokens.clear()
        self.requests.clear()
        self.faults.clear()

    def add_repository(self, name: str) -> Repository:
        """Add "owner/name"."""
        self.world.repositories[name] = Repository(name)
        return self.world.repositories[name]

    def add_token(
        self,
        login: str = "github-actions[bot]",
        permissions: Mapping[str, str] | None = None,
        *,
        kind: str = "Bot",
    ) -> str:
        """Return a new token."""
        value = f"ghs_{secrets.token_hex(18)}"
        self.world.tokens[value] = Token(login, dict(permissions or {}), kind)
        return value

    def add_fault(self, fault: Fault) -> None:
        """Let something go wrong."""
        self.faults.append(fault)

    def sent(self, method: str, path: str = "") -> list[Request]:
        """Return the requests of a method whose path matches a regular expression."""
        return [r for r in self.requests if r.method == method and re.search(path, r.path)]

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._handle(scope, receive, send)
        except Exception:
            self.bugs.append(traceback.format_exc())
            raise

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Record the request, let a fault strike, or hand it to the application."""
        whole = await _body(receive)
        path = _unprefixed(scope["path"])
        self._record(scope, path, whole)
        hit = [fault for fault in self.faults if fault.strikes(scope["method"], path)]
        fault = hit[0] if hit else None
        if fault is None or fault.heard:
            heard = await self._ask(scope, path, whole)
        else:
            heard = []
        if fault is not None and fault.cut == "reset":
            _break(scope)
        elif fault is not None:
            await _fail(fault, scope, send)
        else:
            for message in heard:
                await send(message)

    async def _ask(self, scope: Scope, path: str, body: bytes) -> list[Message]:
        """Return the application's answer."""
        answer: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            answer.append(message)

        inner = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(inner, receive, send)
        return answer

    def _record(self, scope: Scope, path: str, whole: bytes) -> None:
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        self.requests.append(
            Request(
                method=scope["method"],
                path=path,
                query=scope["query_string"].decode(),
                body=json.loads(whole) if whole else None,
                token=headers.get("authorization", "").partition(" ")[2],
                headers=headers,
            )
        )


async def _body(receive: Receive) -> bytes:
    whole = b""
    while True:
        message = await receive()
        whole += bytes(message.get("body", b""))
        if not message.get("more_body", False):
            return whole


def _unprefixed(path: str) -> str:
    if path == GRAPHQL:
        return "/graphql"
    return path[len(API) :] if path.startswith(f"{API}/") else "/outside-the-prefix"


async def _fail(fault: Fault, scope: Scope, send: Send) -> None:
    body = (fault.body or json.dumps({"message": fault.message})).encode()
    half = fault.cut == "half"
    length = len(body) + (100 if half else 0)
    headers = {"content-type": "application/json", "content-length": str(length), **fault.headers}
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": fault.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body, "more_body": half})
    if half:
        _transport(scope).close()


def _transport(scope: Scope) -> asyncio.Transport:
    return _Protocol.transports[tuple(scope["client"])]


def _break(scope: Scope) -> None:
    """Break the connection; the client sees a reset and no answer."""
    transport = _transport(scope)
    connection: Any = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    transport.abort()
