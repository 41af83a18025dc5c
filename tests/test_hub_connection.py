"""Connections for bytes: kept open, replaced when gone, led through a proxy."""

import selectors
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from safety_gate.sources.hub_client import Timeouts
from safety_gate.sources.hub_connection import Connections, CutOff
from safety_gate.sources.hub_plan import Span
from tests.loopback_hub import Fault, LoopbackHub

pytest_plugins = ("tests.loopback_hub.fixtures",)

DATA = bytes(range(256)) * 40
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class Tunnel(socketserver.BaseRequestHandler):
    """A proxy that knows CONNECT."""

    def handle(self) -> None:
        asked = b""
        while b"\r\n\r\n" not in asked:
            asked += self.request.recv(4096)
        self.server.asked.append(asked.decode())  # type: ignore[attr-defined]
        host, _, port = asked.split()[1].decode().rpartition(":")
        with socket.create_connection((host, int(port)), timeout=5) as far:
            self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with selectors.DefaultSelector() as both:  # select() ends at descriptor 1024
                both.register(self.request, selectors.EVENT_READ, far)
                both.register(far, selectors.EVENT_READ, self.request)
                while ready := both.select(5):
                    for key, _ in ready:
                        data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                        if not data:
                            return
                        key.data.sendall(data)


class Proxy(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Tunnel)
        self.asked: list[str] = []


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def url(hub: LoopbackHub) -> str:
    repo = hub.add_repo("acme/model", {"model.safetensors": DATA})
    return hub.world.sign(repo, repo.head.files["model.safetensors"])


@pytest.fixture
def connections() -> Iterator[Connections]:
    with closing(Connections(Timeouts(connect=2.0, read=2.0))) as made:
        yield made


def read(connections: Connections, url: str, start: int, stop: int) -> None:
    room = memoryview(bytearray(stop - start))
    counts: list[int] = []
    span = Span(path="x", start=start, stop=stop)
    connections.read(url, {}, span, total=len(DATA), view=room, count=counts.append)
    assert room == DATA[start:stop]
    assert sum(counts) == stop - start


def test_a_connection_is_used_again(hub: LoopbackHub, url: str, connections: Connections) -> None:
    for start in (0, 10, 5000):
        read(connections, url, start, start + 1000)
    assert len({request.client for request in hub.requests("cdn")}) == 1


def test_a_connection_that_has_gone_is_replaced(
    hub: LoopbackHub, url: str, connections: Connections
) -> None:
    read(connections, url, 0, 10)
    hub.faults.add(Fault(route="cdn", drop=True))
    read(connections, url, 10, 20)
    assert len({request.client for request in hub.requests("cdn")}) == 2


def test_a_whole_file_may_come_with_200(
    hub: LoopbackHub, url: str, connections: Connections
) -> None:
    hub.faults.add(Fault(route="cdn", ignore_range=True))
    read(connections, url, 0, len(DATA))


def test_a_closed_one_opens_nothing(url: str, connections: Connections) -> None:
    connections.close()
    with pytest.raises(CutOff):
        read(connections, url, 0, 10)


def test_close_wakes_up_a_read(hub: LoopbackHub, url: str) -> None:
    connections = Connections(Timeouts(connect=2.0, read=30.0))
    hub.faults.add(Fault(route="cdn", delay=3.0))
    failed: list[BaseException] = []

    def work() -> None:
        try:
            read(connections, url, 0, 10)
        except Exception as error:  # any: the test only asks that it ends
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not hub.requests("cdn"):
        thread.join(0.01)
    connections.close()
    thread.join(2.0)
    assert not thread.is_alive()
    assert len(failed) == 1


def test_through_a_proxy(
    hub: LoopbackHub,
    url: str,
    connections: Connections,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host: Any = proxy.server_address
    monkeypatch.setenv("http_proxy", f"http://user:pa%20ss@{host[0]}:{host[1]}")
    read(connections, url, 0, 1000)
    read(connections, url, 1000, 2000)
    assert len(proxy.asked) == 1
    asked = proxy.asked[0]
    assert asked.startswith(f"CONNECT {hub.cdn.removeprefix('http://')} ")
    assert "Proxy-Authorization: Basic dXNlcjpwYSBzcw==" in asked  # user:pa ss
    assert "proxy-authorization" not in hub.requests("cdn")[0].headers


def test_past_a_proxy(
    url: str, connections: Connections, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    host: Any = proxy.server_address
    monkeypatch.setenv("http_proxy", f"http://{host[0]}:{host[1]}")
    monkeypatch.setenv("no_proxy", "localhost")
    read(connections, url, 0, 1000)
    assert proxy.asked == []
