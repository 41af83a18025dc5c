"""The token goes to the Hub alone, and nowhere into words; no other host is ever asked."""

import logging
import socket
import traceback
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from safety_gate.errors import SourceError
from safety_gate.sources.hub import HubLimits, HubSource
from safety_gate.sources.hub_client import HubClient
from safety_gate.sources.hub_errors import HubError, HubWrongBytes
from tests.loopback_hub import Fault, LoopbackHub
from tests.loopback_hub.quick import quick_client
from tests.loopback_hub.reading_faults import BIG, CASES, LIES, LIMITS, ROUTES, SMALL_GET, read_all

pytest_plugins = ("tests.loopback_hub.fixtures",)

REPO = "acme/model"
QUICK_CASES = [case for case in CASES if case.timeouts is None]


@pytest.fixture(autouse=True)
def asked_hosts(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Refuse every name and address but those of the loopback, and note what was asked."""
    asked: set[str] = set()
    real = socket.getaddrinfo

    def resolve(host: Any, *args: Any, **named: Any) -> Any:
        asked.add(str(host))
        if host not in ("127.0.0.1", "localhost", "::1"):
            raise AssertionError(f"a request to {host}")
        return real(host, *args, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    yield asked
    assert asked <= {"127.0.0.1", "localhost"}


@pytest.fixture
def full(hub: LoopbackHub) -> LoopbackHub:
    hub.add_repo(REPO, {"config.json": '{"small": 1}', "model.safetensors": BIG})
    return hub


def test_the_cdn_never_sees_the_token(full: LoopbackHub) -> None:
    read_all(full)
    assert all(request.token for request in full.requests(side="hub"))
    assert full.requests(side="cdn")
    assert all(request.token is None for request in full.requests(side="cdn"))
    assert all("authorization" not in request.headers for request in full.requests(side="cdn"))
    assert all("cookie" not in request.headers for request in full.requests(side="cdn"))


def test_without_a_token_none_is_sent(full: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", full.token())
    HubSource(REPO, client=quick_client(full, False)).close()
    assert all(request.token is None for request in full.requests())


def test_the_token_of_the_environment(full: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    token = full.token()
    monkeypatch.setenv("HF_TOKEN", token)
    HubSource(REPO, client=quick_client(full, None)).close()
    assert {request.token for request in full.requests()} == {token}


@pytest.mark.parametrize(
    "fault",
    [case.fault("*") for case in QUICK_CASES] + [lie.fault for lie in LIES],
    ids=[f"fault-{case.name}" for case in QUICK_CASES] + [f"lie-{lie.name}" for lie in LIES],
)
def test_no_word_of_ours_holds_the_token(
    full: LoopbackHub, caplog: pytest.LogCaptureFixture, fault: Fault
) -> None:
    caplog.set_level(logging.INFO)  # below it, httpcore2 writes down all headers of answers
    token = full.token("canary")
    # A mirror that sends back all it can: the token in its words, headers and addresses.
    echo = {"X-Error-Message": f"bad token {token}", "WWW-Authenticate": token}
    headers = {**echo, **fault.headers, "X-Request-Id": token}
    full.faults.add(
        replace(fault, times=None, headers=headers, body=f'{{"error": "{token}"}}'.encode())
    )
    client = quick_client(full, token)
    told = [repr(client), str(vars(client).keys())]
    try:
        with closing(HubSource(REPO, client=client, limits=LIMITS)) as source:
            room = memoryview(bytearray(100_000))
            source.read_into("model.safetensors", 300_000, room)
            source.read_into("config.json", 0, room[:12])
    except SourceError as error:
        told += [str(error), repr(error), error.hint, error.got, error.where, error.expected]
        told += traceback.format_exception(error)
    told += [record.getMessage() for record in caplog.records]
    assert not [text for text in told if token in text]
    assert not [text for text in told if "Signature=" in text]


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://evil.example/x",
        "https://evil-hf.co/x",
        "https://hf.co.evil.example/x",
        "file:///etc/passwd",
        "ftp://localhost/x",
        "gopher://localhost/x",
        "//evil.example/x",
        "https://127.0.0.1@evil.example/x",
        "http://[::ffff:a9fe:a9fe]/x",
    ],
)
def test_a_redirect_to_another_place_is_not_followed(full: LoopbackHub, location: str) -> None:
    full.faults.add(Fault(route="resolve", headers={"Location": location}, times=None))
    with pytest.raises(HubWrongBytes):
        read_all(full)
    assert full.requests(side="cdn") == []


@pytest.mark.parametrize("route", ["info", "tree"])
def test_the_api_does_not_lead_away(full: LoopbackHub, route: str) -> None:
    headers = {"Location": "https://evil.example/api"}
    full.faults.add(Fault(route=route, status=307, headers=headers, times=None))
    with pytest.raises(HubWrongBytes):
        read_all(full)


def test_the_next_page_does_not_lead_away(full: LoopbackHub) -> None:
    headers = {"Link": '<https://evil.example/tree>; rel="next"'}
    full.faults.add(Fault(route="tree", headers=headers, times=None))
    with pytest.raises(HubWrongBytes):
        read_all(full)


@pytest.mark.parametrize("route", ["info", "tree", "resolve"])
def test_redirects_in_a_circle_end(full: LoopbackHub, route: str) -> None:
    headers = {"Location": "/api/models/acme/model/revision/main"}
    full.faults.add(Fault(route="info", status=307, headers=headers, times=None))
    if route != "info":
        full.faults.clear()
        headers = {"Location": f"/acme/model/{route}/main/config.json"}
        full.faults.add(Fault(route=route, status=307, headers=headers, times=None))
    with pytest.raises(HubError):
        read_all(full)
    assert len(full.requests()) < 20


def test_pages_without_end_end(full: LoopbackHub) -> None:
    headers = {"Link": f'<{full.endpoint}/api/models/acme/model/tree/main>; rel="next"'}
    full.faults.add(Fault(route="tree", headers=headers, times=None))
    with pytest.raises(HubError):
        HubSource(REPO, client=quick_client(full), limits=HubLimits(files=100))


@pytest.mark.parametrize(
    "endpoint",
    [
        "ftp://hub.example",
        "hub.example",
        "https://",
        "https://user@hub.example",
        "https://hub.example?x=1",
        "http://hub.example:port",
        "file:///tmp",
    ],
)
def test_an_endpoint_that_is_none(endpoint: str) -> None:
    with pytest.raises(HubError):
        HubClient(endpoint=endpoint, token=False)


def test_a_token_does_not_travel_unencrypted() -> None:
    with pytest.raises(HubError) as caught:
        HubClient(endpoint="http://hub.example", token="hf_canary")  # noqa: S106
    assert "hf_canary" not in str(caught.value)
    HubClient(endpoint="http://hub.example", token=False)
    HubClient(endpoint="https://hub.example", token="hf_canary")  # noqa: S106


def test_every_request_and_fault_is_covered() -> None:
    assert {route for route, _ in (*ROUTES, SMALL_GET)} == {
        "info",
        "tree",
        "resolve",
        "resolve-cache",
        "cdn",
    }
