"""Serves the door with uvicorn, and closes connections that never get to the point."""

import asyncio
import socket
import threading
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S: Final = 10.0  # from the connection to the end of the headers of the first request
IDLE_S: Final = 15  # between requests
CONNECTIONS: Final = 512  # at once; more are answered 503
BACKLOG: Final = 1024
GRACE_S: Final = 10  # for requests under way when we are told to stop


class PatientProtocol(H11Protocol):
    """uvicorn's protocol, which by itself waits for the first headers for ever (slow loris)."""

    head_s: float = HEAD_S

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Set an alarm for the headers."""
        super().connection_made(transport)
        self._alarm = self.loop.call_later(self.head_s, self._hang_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the alarm."""
        self._alarm.cancel()
        super().connection_lost(exc)

    def _hang_up(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


def server_for(app: FastAPI, *, host: str, port: int) -> uvicorn.Server:
    """Return a server that only has to be run; it logs through logging alone."""
    options: dict[str, Any] = {
        "http": PatientProtocol,
        "ws": "none",
        "loop": "asyncio",
        "lifespan": "on",
        "log_config": None,  # ours; uvicorn's would write addresses unredacted
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "timeout_keep_alive": IDLE_S,
        "limit_concurrency": CONNECTIONS,
        "backlog": BACKLOG,
        "timeout_graceful_shutdown": GRACE_S,
    }
    return uvicorn.Server(uvicorn.Config(app, host=host, port=port, **options))


def serve(server: uvicorn.Server, stop: threading.Event, sockets: list[socket.socket]) -> None:
    """Serve until a signal comes, then tell the other threads."""
    try:
        server.run(sockets=sockets or None)
    finally:
        stop.set()
