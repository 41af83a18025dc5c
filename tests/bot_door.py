"""A door on loopback: the real application behind the real server, in a thread."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from fastapi import FastAPI

from safety_gate.bot.app import make_app
from safety_gate.bot.payload import Watch
from safety_gate.bot.secret import Secrets
from safety_gate.bot.server import server_for
from safety_gate.jobs.store import JobStore

POLICY: Final = "a" * 64
SECRET: Final = "correct-horse-battery"  # noqa: S105
OLD: Final = "previous-horse-battery"
SECRETS: Final = Secrets.read(
    {"SAFETY_GATE_WEBHOOK_SECRET": SECRET, "SAFETY_GATE_WEBHOOK_SECRET_OLD": OLD}
)


def sha(number: int) -> str:
    return f"{number:040x}"


def payload(
    number: int | None = 1, *, repo: str = "acme/lora", ref: str = "refs/heads/main", **more: Any
) -> dict[str, Any]:
    """Return an event as the Hub sends it; None: the ref is gone."""
    moved = {"ref": ref, "oldSha": None, "newSha": None if number is None else sha(number)}
    event = {
        "event": {"action": "update", "scope": "repo.content"},
        "repo": {
            "type": "model",
            "name": repo,
            "id": "x",
            "private": False,
            "headSha": sha(7),
            "owner": {"id": "o"},
        },
        "updatedRefs": [moved],
        "webhook": {"id": "w", "version": 3},
    }
    return event | more


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True)
class Door:
    port: int
    app: Any

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: list[tuple[str, str]] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, path)
            data = body.encode() if isinstance(body, str) else body
            names = {name.lower() for name, _ in headers or ()}
            if data is not None and not names & {"content-length", "transfer-encoding"}:
                connection.putheader("Content-Length", str(len(data)))
            for name, value in headers or ():
                connection.putheader(name, value)
            connection.endheaders(data)
            answer = connection.getresponse()
            text = answer.read().decode()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, text)
        finally:
            connection.close()

    def post(self, body: object, *, secret: str = SECRET, **headers: str) -> Answer:
        data = body if isinstance(body, bytes | str) else json.dumps(body)
        given = [
            ("X-Webhook-Secret", secret),
            *((k.replace("_", "-"), v) for k, v in headers.items()),
        ]
        return self.ask("POST", "/webhook", data, given)


@contextmanager
def opened(
    store: JobStore, watch: Watch | None = None, page: Callable[[FastAPI], None] | None = None
) -> Iterator[Door]:
    """Serve a door in a thread for a block, with a page where one is added."""
    app = make_app(store, watch or Watch(policy=POLICY), SECRETS)
    if page is not None:
        page(app)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = server_for(app, host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    ends = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < ends
        time.sleep(0.005)
    try:
        yield Door(sock.getsockname()[1], app)
    finally:
        server.should_exit = True
        thread.join()
        sock.close()
