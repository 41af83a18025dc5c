"""Every call that publishing makes, times everything that can go wrong with it."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx2
import huggingface_hub.errors as hf
import pytest
from huggingface_hub import constants, get_session

from safety_gate.publish.card import START
from safety_gate.publish.hub import HubWishes, publish_hub
from safety_gate.publish.hub_desk import Desk, Target
from safety_gate.publish.hub_fault import FOREIGN, NotPublishedOnHub, translated
from safety_gate.publish.hub_told import HubPublished, HubTold
from safety_gate.sources.hub_patience import Transient
from tests.hub_publications import (
    CARD,
    OWNER,
    QUICK,
    REPO,
    adapter_repo,
    card_of,
    threads,
    variant,
    writer,
)
from tests.loopback_hub import Fault, LoopbackHub, rate_limited
from tests.sample_reports import blocked

pytest_plugins = ("tests.loopback_hub.fixtures",)

# Without large files, so that a run takes a moment; test_hub_publish_variant.py has them.
OLD = {"README.md": CARD, "adapter_config.json": b"{}"}
NEW = {"README.md": b"# Repaired\n", "adapter_config.json": b'{"r": 1}'}
ROUTES = (
    "whoami",
    "info",
    "tree",
    "paths-info",
    "resolve",
    "validate-yaml",
    "preupload",
    "commit",
    "discussions",
    "comment",
)
FAULTS: dict[str, Callable[[str], Fault]] = {
    "403": lambda route: Fault(route=route, status=403),
    "404": lambda route: Fault(route=route, status=404),
    "409": lambda route: Fault(route=route, status=409),
    "412": lambda route: Fault(route=route, status=412),
    "429": lambda route: rate_limited(route, seconds=0),
    "503": lambda route: Fault(route=route, status=503, body=b"<html>"),
    "no answer": lambda route: Fault(route=route, drop=True),
    "lost answer": lambda route: Fault(route=route, cut_after=0),
    "half an answer": lambda route: Fault(route=route, cut_after=5),
    "a login page": lambda route: Fault(route=route, status=200, body=b"<html>Log in</html>"),
    "another shape": lambda route: Fault(route=route, status=200, body=b"[1, {}]"),
}
PASSING = ("409", "412", "429", "503", "no answer", "lost answer", "half an answer")


@pytest.fixture(autouse=True)
def _no_naps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client sleeps for seconds between the tries that it makes itself."""
    monkeypatch.setattr(time, "sleep", lambda _: None)


def run(hub: LoopbackHub, target: Target, folder: Path) -> HubPublished:
    made = variant(folder, NEW) if not (folder / "repaired").exists() else None
    wishes = HubWishes(
        card=True, discussion="always", comment="always", picture=False, variant=made
    )
    return publish_hub(writer(hub), target, blocked(), wishes, patience=QUICK)


def check_end(hub: LoopbackHub) -> None:
    """Whatever happened: at most one of everything, and the owner's words as they were."""
    repo = hub.repo(REPO)
    assert len([d for d in threads(hub) if d.status == "open"]) <= 1
    assert len([d for d in repo.discussions if d.is_pull_request and d.status == "open"]) <= 1
    card = card_of(hub)
    assert card.startswith(CARD)
    assert card.count(START.encode()) <= 1
    assert repo.head.files["adapter_config.json"].data == OLD["adapter_config.json"]


@pytest.mark.parametrize("kind", FAULTS)
def test_one_fault_anywhere(hub: LoopbackHub, tmp_path: Path, kind: str) -> None:
    for number, route in enumerate(ROUTES):
        hub.reset()
        target = adapter_repo(hub, OLD)
        hub.faults.add(FAULTS[kind](route))
        folder = tmp_path / str(number)
        folder.mkdir()
        told = list(run(hub, target, folder))
        check_end(hub)
        assert len(hub.requests()) < 120, route
        # validate-yaml is the one call whose faults of the server the client shows as bad words.
        if kind in PASSING and not (route == "validate-yaml" and kind in ("409", "412")):
            assert [one.state for one in told if one.state == "failed"] == [], (route, told)
        if kind in PASSING and route != "validate-yaml":
            assert len(threads(hub)) == 1, route
            assert card_of(hub).count(START.encode()) == 1, route


@pytest.mark.parametrize("kind", ["403", "429", "503", "lost answer", "a login page"])
def test_a_fault_that_stays(hub: LoopbackHub, tmp_path: Path, kind: str) -> None:
    for number, route in enumerate(("whoami", "info", "commit", "discussions", "*")):
        hub.reset()
        target = adapter_repo(hub, OLD)
        fault = FAULTS[kind](route)
        fault.times = None
        hub.faults.add(fault)
        folder = tmp_path / str(number)
        folder.mkdir()
        told = list(run(hub, target, folder))
        check_end(hub)
        assert len(hub.requests()) < 200, route
        if (route, kind) != ("commit", "lost answer"):  # made, and found at the next look
            assert any(one.state == "failed" for one in told), (route, told)
        for one in told:
            assert one.state != "failed" or (one.why and one.hint.endswith(".")), one


def test_a_comment_whose_answer_is_lost_is_not_written_twice(hub: LoopbackHub) -> None:
    adapter_repo(hub, OLD)
    content = {"adapter_config.json": hub.world.content("adapter_config.json", b'{"r": 2}')}
    pushed = hub.world.pull_request(hub.repo(REPO), content, title="x", author=OWNER)
    target = Target(repo_id=REPO, sha=pushed.commit.id, pull_request=1)
    hub.faults.add(Fault(route="comment", cut_after=0))
    wishes = HubWishes(picture=False)
    (told,) = publish_hub(writer(hub), target, blocked(), wishes, patience=QUICK)
    assert told.state == "unchanged"  # it was there at the second look
    assert len(hub.repo(REPO).discussions[0].comments) == 2


def test_a_picture_that_cannot_be_uploaded_leaves_the_words(hub: LoopbackHub) -> None:
    target = adapter_repo(hub, OLD)
    hub.faults.add(Fault(route="other", method="POST", path="/uploads", status=413, times=None))
    wishes = HubWishes(discussion="always")
    (told,) = publish_hub(writer(hub), target, blocked(), wishes, patience=QUICK)
    assert told.state == "created"
    assert "![" not in threads(hub)[0].comments[0]["data"]["latest"]["raw"]


def test_a_hub_that_asks_for_too_long_a_wait_is_not_waited_for(hub: LoopbackHub) -> None:
    target = adapter_repo(hub, OLD)
    hub.faults.add(rate_limited("info", seconds=300, times=None))
    began = time.monotonic()
    (told,) = publish_hub(writer(hub), target, blocked(), HubWishes(picture=False), patience=QUICK)
    assert time.monotonic() - began < 5
    assert told.state == "failed"
    assert "limits the rate" in told.why


def test_a_hub_that_never_answers_is_not_waited_for_for_ever(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = adapter_repo(hub, OLD)
    monkeypatch.setattr("safety_gate.publish.hub_desk.SECONDS", httpx2.Timeout(0.2))
    monkeypatch.setattr(get_session(), "timeout", httpx2.Timeout(None))
    hub.faults.add(Fault(route="discussions", method="POST", delay=1.0))
    wishes = HubWishes(discussion="always", picture=False)
    (told,) = publish_hub(writer(hub), target, blocked(), wishes, patience=QUICK)
    assert told.state == "created"
    assert len(threads(hub)) == 1


def test_after_its_time_a_run_gives_up(hub: LoopbackHub) -> None:
    adapter_repo(hub, OLD)
    hub.faults.add(Fault(route="info", status=500, times=None))
    desk = Desk(api=writer(hub), repo_id=REPO, patience=replace(QUICK, attempts=50), seconds=0)
    with pytest.raises(NotPublishedOnHub):
        desk.patiently(lambda: desk.head("main"))
    assert len(hub.requests("info")) == 1


def test_the_client_gets_a_time_limit(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_session(), "timeout", httpx2.Timeout(None))
    adapter_repo(hub, OLD)
    Desk(api=writer(hub), repo_id=REPO).head("main")
    assert get_session().timeout.read == 60.0
    assert get_session().timeout.connect == 10.0


def test_offline_is_told(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    target = adapter_repo(hub, OLD)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (told,) = publish_hub(writer(hub), target, blocked(), HubWishes(picture=False), patience=QUICK)
    assert (told.state, told.hint) == ("failed", "Unset HF_HUB_OFFLINE.")
    assert hub.requests() == []


def _all_errors() -> list[type[Exception]]:
    """Return every error that the client declares, and those of the library below it."""
    found = [one for one in vars(hf).values() if isinstance(one, type)]
    found += [one for one in vars(httpx2).values() if isinstance(one, type)]
    return [one for one in found if issubclass(one, Exception) and one.__module__ != "builtins"]


# What only other parts of the client raise: jobs, inference, sandboxes, DDUF, its command line.
ELSEWHERE = (
    "CLI",
    "Cache",
    "Confirmation",
    "CorruptedCache",
    "DDUF",
    "DryRun",
    "FileDuplication",
    "Inference",
    "NotASafetensors",
    "SafetensorsParsing",
    "Sandbox",
    "Strict",
    "Text",
    "XetDownload",
)


@pytest.mark.parametrize("kind", _all_errors(), ids=lambda kind: kind.__name__)
def test_every_error_of_the_client_is_ours_in_the_end(kind: type[Exception]) -> None:
    if issubclass(kind, FOREIGN):
        return
    assert kind.__name__.startswith(tuple(ELSEWHERE)), "an error without a translation"


def test_no_error_carries_the_words_of_a_server() -> None:
    request = httpx2.Request("GET", "https://hub.example/?token=hf_secret")
    response = httpx2.Response(403, request=request, headers={"X-Error-Message": "hf_secret"})

    def step() -> None:
        raise hf.HfHubHTTPError("hf_secret", response=response, server_message="hf_secret")

    with pytest.raises(NotPublishedOnHub) as caught:
        translated(step, REPO)
    assert "hf_secret" not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"
    assert not isinstance(caught.value, Transient)


def test_a_record_tells_why() -> None:
    with pytest.raises(AssertionError, match="why or hint"):
        HubTold(channel="discussion", state="failed", why="x")
    with pytest.raises(AssertionError, match="without a reason"):
        HubTold(channel="discussion", state="skipped")
    both = HubPublished(
        told=(
            HubTold(channel="discussion", state="failed", why="x", hint="y"),
            HubTold(channel="model card", state="updated", oid="a" * 40),
        )
    )
    assert [told.channel for told in both.failures] == ["discussion"]
    assert both.oids == ("a" * 40,)
