"""The fault matrix: every request that reading makes, times every fault."""

from contextlib import closing
from dataclasses import replace
from typing import Literal

import pytest

from safety_gate.errors import SourceError
from safety_gate.sources import hub_errors as errors
from safety_gate.sources.hub import HubSource
from safety_gate.sources.hub_patience import Patience, Waiter, asked_wait
from tests.loopback_hub import Fault, LoopbackHub, rate_limited
from tests.loopback_hub.quick import QUICK, quick_client
from tests.loopback_hub.reading_faults import (
    BIG,
    CASES,
    LIES,
    LIMITS,
    REPO,
    ROUTES,
    SMALL_GET,
    SPAN,
    Case,
    Lie,
    read_all,
)

pytest_plugins = ("tests.loopback_hub.fixtures",)


@pytest.fixture
def full(hub: LoopbackHub) -> LoopbackHub:
    hub.add_repo(REPO, {"config.json": '{"small": 1}', "model.safetensors": BIG})
    return hub


def pinned_to(fault: Fault, method: str, times: int | None) -> Fault:
    return replace(fault, method=method, times=times)


@pytest.mark.parametrize(("route", "method"), [*ROUTES, SMALL_GET])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fault_that_stays(full: LoopbackHub, case: Case, route: str, method: str) -> None:
    full.faults.add(pinned_to(case.fault(route), method, None))
    with pytest.raises(SourceError) as caught:
        read_all(full, timeouts=case.timeouts)
    assert type(caught.value) is case.lasting.get(route, case.lasting["*"])
    assert caught.value.hint
    hits = len(full.requests(route, method=method))
    assert hits <= QUICK.attempts * (1 + LIMITS.ahead.connections)


@pytest.mark.parametrize(("route", "method"), [*ROUTES, SMALL_GET])
@pytest.mark.parametrize("case", [case for case in CASES if case.passing], ids=lambda c: c.name)
def test_a_fault_that_passes(full: LoopbackHub, case: Case, route: str, method: str) -> None:
    full.faults.add(pinned_to(case.fault(route), method, QUICK.attempts - 1))
    read_all(full, timeouts=case.timeouts)


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.name)
def test_a_lie_that_stays(full: LoopbackHub, lie: Lie) -> None:
    full.faults.add(replace(lie.fault, times=None))
    with pytest.raises(SourceError) as caught:
        read_all(full)
    assert type(caught.value) is lie.lasting


@pytest.mark.parametrize("lie", [lie for lie in LIES if lie.passing], ids=lambda lie: lie.name)
def test_a_lie_that_passes(full: LoopbackHub, lie: Lie) -> None:
    full.faults.add(replace(lie.fault, times=2))
    assert read_all(full).received <= len(BIG)


def test_what_came_before_a_cut_is_not_asked_for_again(full: LoopbackHub) -> None:
    full.faults.add(Fault(route="cdn", cut_after=150_000))
    source = read_all(full)
    assert source.received == 12 + SPAN[1] - SPAN[0]
    first, second = full.requests("cdn")
    assert first.headers["range"] == f"bytes={SPAN[0]}-{SPAN[1] - 1}"
    assert second.headers["range"] == f"bytes={SPAN[0] + 150_000}-{SPAN[1] - 1}"


def test_a_200_is_not_read(full: LoopbackHub) -> None:
    full.faults.add(Fault(route="cdn", ignore_range=True, times=None))
    client = quick_client(full)
    source = HubSource(REPO, client=client, limits=LIMITS)
    with pytest.raises(errors.HubWrongBytes) as caught:
        source.read_into("model.safetensors", *SPAN[:1], memoryview(bytearray(1000)))
    assert "HTTP 206" in str(caught.value)
    assert source.received == 0
    source.close()


def test_an_address_that_ran_out_is_renewed(full: LoopbackHub) -> None:
    client = quick_client(full, full.token())
    source = HubSource(REPO, client=client, limits=LIMITS)
    room = bytearray(1000)
    for start in (300_000, 500_000, 700_000):
        source.read_into("model.safetensors", start, memoryview(room))
        assert room == BIG[start : start + 1000]
        full.world.expire_urls()
    source.close()
    assert len(full.requests("resolve", method="HEAD")) == 3
    assert len(full.requests("cdn")) == 5  # each of the last two: refused, then answered


def test_an_address_that_is_refused_again_and_again(full: LoopbackHub) -> None:
    full.world.url_seconds = -1.0
    with pytest.raises(errors.HubUnreachable):
        read_all(full)
    assert len(full.requests("cdn")) == 2


def test_a_hub_that_is_not_there() -> None:
    with LoopbackHub() as hub:
        client = quick_client(hub)
    with pytest.raises(errors.HubUnreachable):
        HubSource(REPO, client=client)


def test_slow_is_not_too_slow(full: LoopbackHub) -> None:
    full.faults.add(Fault(route="cdn", slow_bytes=100_000, times=None))
    read_all(full)


def test_a_wait_that_is_too_long_is_not_waited_for(full: LoopbackHub) -> None:
    full.faults.add(rate_limited("info", seconds=6, times=None))  # QUICK waits five at most
    with pytest.raises(errors.HubRateLimited):
        read_all(full)
    assert len(full.requests("info")) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
        ({"ratelimit": '"resolvers";r=0;t=299'}, 299.0),
        ({"RateLimit": '"api";r=12;t=55'}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"RateLimit": '"api";r=12;t=55', "Retry-After": "7"}, 7.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"Retry-After": "9" * 400}, None),
        ({"Retry-After": "-1"}, None),
        ({"RateLimit": "nonsense"}, None),
    ],
)
def test_how_long_a_server_asks_us_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_wait(headers) == seconds


def test_what_is_asked_for_is_waited_for(
    full: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(Waiter, "_sleep", lambda _, seconds: waits.append(seconds))
    full.faults.add(rate_limited("info", seconds=55))
    read_all(full, patience=Patience())
    assert waits == [56.0]


def test_waits_without_advice_double(full: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(Waiter, "_sleep", lambda _, seconds: waits.append(seconds))
    full.faults.add(Fault(route="info", status=503, times=None))
    with pytest.raises(errors.HubUnreachable):
        read_all(full, patience=Patience())
    assert len(waits) == 4
    assert all(0 <= wait <= bound for wait, bound in zip(waits, (1, 2, 4, 8), strict=True))


def test_gated_disabled_private_and_unauthorised(full: LoopbackHub) -> None:
    repo = full.repo(REPO)

    def attempt(token: str | Literal[False]) -> None:
        with closing(HubSource(REPO, client=quick_client(full, token))) as source:
            source.read_into("config.json", 0, memoryview(bytearray(1)))

    def fails(token: str | Literal[False], kind: type[SourceError]) -> None:
        with pytest.raises(SourceError) as caught:
            attempt(token)
        assert type(caught.value) is kind

    stranger, owner = full.token("stranger"), full.token("acme")
    repo.gated = "manual"
    fails(False, errors.HubGated)
    fails(stranger, errors.HubGated)
    repo.let_in.add("stranger")
    attempt(stranger)
    repo.gated = None
    repo.private = True
    fails(False, errors.HubRepoMissing)
    fails(stranger, errors.HubRepoMissing)
    attempt(owner)
    full.world.accounts.revoke(owner)
    fails(owner, errors.HubUnauthorised)
    repo.private, repo.disabled = False, True
    fails(False, errors.HubDisabled)
