"""What the benchmarks of the bot share: a server process, and a client that sends many events."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

SECRET = "correct-horse-battery-staple"  # noqa: S105
START_S = 30.0


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def event(repo: str, sha: str, *, ref: str = "refs/heads/main") -> bytes:
    """Return an event as the Hub sends it."""
    moved = [{"ref": ref, "oldSha": None, "newSha": sha}]
    payload = {
        "event": {"action": "update", "scope": "repo.content"},
        "repo": {"type": "model", "name": repo, "id": "x", "private": False, "headSha": sha},
        "updatedRefs": moved,
        "webhook": {"id": "w", "version": 3},
    }
    return json.dumps(payload).encode()


def request(body: bytes, *, secret: str = SECRET) -> bytes:
    """Return a whole HTTP request."""
    head = (
        "POST /webhook HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"X-Webhook-Secret: {secret}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Server:
    """`safety-gate serve` in a process of its own."""

    def __init__(self, database: str, *, port: int | None = None) -> None:
        """Choose a port; nothing runs yet."""
        self.port = port or free_port()
        self._database = database
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        code = "from safety_gate.cli_bot import serve; serve()"
        arguments = ["--port", str(self.port), "--database", self._database]
        environ = {**os.environ, "SAFETY_GATE_WEBHOOK_SECRET": SECRET}
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], env=environ, stderr=subprocess.DEVNULL
        )
        ends = time.monotonic() + START_S
        while time.monotonic() < ends:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=1):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise AssertionError("the server did not start")

    @property
    def memory(self) -> int:
        """Return the resident bytes of the server."""
        assert self._process is not None
        with open(f"/proc/{self._process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        """Kill it, as a crash would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """End it."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait()


@contextmanager
def serving(database: str) -> Iterator[Server]:
    """Keep a server running for a block."""
    server = Server(database)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@dataclass
class Sent:
    """What came of many requests."""

    statuses: dict[int, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    acked: list[str] = field(default_factory=list)  # keys of the requests answered with 202
    took: float = 0.0

    def at(self, share: float) -> float:
        """Return a quantile of the seconds that one request took."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def send_all(
    port: int, requests: Iterable[tuple[str, bytes]], *, connections: int, until_done: bool = True
) -> Sent:
    """Send requests over some connections, one after the other on each.

    Args:
        port: of the server on loopback.
        requests: a key of each, and its bytes.
        connections: how many at once.
        until_done: try again, for ever, where a connection breaks without an answer.
    """
    sent, todo = Sent(), iter(requests)
    began = time.perf_counter()
    await asyncio.gather(*(_one(port, todo, sent, until_done) for _ in range(connections)))
    sent.took = time.perf_counter() - began
    return sent


async def _one(port: int, todo: Iterator[tuple[str, bytes]], sent: Sent, until_done: bool) -> None:
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    for key, data in todo:
        while True:
            try:
                if streams is None:
                    streams = await asyncio.open_connection("127.0.0.1", port)
                began = time.perf_counter()
                status, closes = await _exchange(*streams, data)
            except (OSError, asyncio.IncompleteReadError, ValueError):
                streams = None
                if not until_done:
                    break
                await asyncio.sleep(0.02)
                continue
            sent.seconds.append(time.perf_counter() - began)
            sent.statuses[status] = sent.statuses.get(status, 0) + 1
            if closes:
                streams[1].close()
                streams = None
            if status == 202:
                sent.acked.append(key)
            break
    if streams is not None:
        streams[1].close()


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes
) -> tuple[int, bool]:
    writer.write(data)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head.split(b" ", 2)[1]), b"connection: close" in head
