"""Sweep and eyes against the loopback Hub, with the Hub's own client."""

import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from safety_gate.bot.hub_eyes import HubEyes
from safety_gate.bot.payload import Watch
from safety_gate.bot.sweep import FAILURES, Sweep
from safety_gate.errors import GateError
from safety_gate.jobs.facts import SWEPT, Page, Search, Told, Wanted
from safety_gate.jobs.failures import StoreDown
from safety_gate.jobs.sql_store import SqlStore
from safety_gate.jobs.sqlite import open_sqlite
from tests.bot_door import POLICY
from tests.loopback_hub import Fault, LoopbackHub

pytest_plugins = ("tests.loopback_hub.fixtures",)

MAIN = "refs/heads/main"
REPO = "acme/lora"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    store = open_sqlite(tmp_path / "jobs.db")
    yield store
    store.close_store()


@pytest.fixture
def eyes(hub: LoopbackHub) -> HubEyes:
    hub.add_repo(REPO, {"adapter_config.json": "{}"})
    api = HfApi(endpoint=hub.endpoint, token=hub.token("reader"))
    return HubEyes(api, account="gate-bot", watch=[REPO])


def test_heads_of_branches_and_pull_requests(hub: LoopbackHub, eyes: HubEyes) -> None:
    repo = hub.repo(REPO)
    change = {"a.txt": hub.world.content("a.txt", b"new")}
    pushed = hub.world.pull_request(repo, change, title="Mine", author="mallory")
    branch = hub.commit(REPO, {"b.txt": "x"}, ref="refs/heads/dev")
    assert eyes.heads(REPO) == {
        MAIN: repo.head.id,
        "refs/heads/dev": branch.id,
        "refs/pr/1": pushed.commit.id,
    }
    assert eyes.head(REPO, "refs/pr/1") == pushed.commit.id
    assert eyes.head(REPO, "refs/heads/none") is None
    assert eyes.head("acme/none", MAIN) is None


def test_a_hub_that_is_down_is_not_a_ref_that_is_gone(hub: LoopbackHub, eyes: HubEyes) -> None:
    hub.faults.add(Fault(route="*", path="/refs", status=503, times=None))
    with pytest.raises(GateError):
        eyes.head(REPO, MAIN)


def test_our_commit_is_known_by_account_and_title(hub: LoopbackHub, eyes: HubEyes) -> None:
    marked = "Safety Gate: passed for 0123 [safety-gate]"
    ours = hub.commit(REPO, {"README.md": "1"}, title=marked, author="gate-bot")
    forged = hub.commit(REPO, {"README.md": "2"}, title=marked, author="mallory")
    other = hub.commit(REPO, {"README.md": "3"}, title="A card", author="gate-bot")
    assert eyes.is_our_commit(REPO, ours.id)
    assert not eyes.is_our_commit(REPO, forged.id)
    assert not eyes.is_our_commit(REPO, other.id)
    assert not HubEyes(HfApi(endpoint=hub.endpoint)).is_our_commit(REPO, ours.id)


def test_a_lost_event_is_found(hub: LoopbackHub, eyes: HubEyes, store: SqlStore) -> None:
    sweep = Sweep(store, eyes, Watch(policy=POLICY))
    assert sweep.once().queued == 1
    lease = store.claim("w")
    assert lease is not None
    assert (lease.repo, lease.ref, lease.sha) == (REPO, MAIN, hub.repo(REPO).head.id)
    assert lease.priority == SWEPT
    assert sweep.once().queued == 0  # it has a job
    store.close(lease, "done")
    assert sweep.once().queued == 0  # it has its verdict
    newer = hub.commit(REPO, {"adapter_model.safetensors": "new"})
    assert sweep.once().queued == 1
    lease = store.claim("w")
    assert lease is not None
    assert lease.sha == newer.id
    assert store.counts().arrivals == {"queued": 2}  # what is settled is not written again


def test_our_own_commit_needs_nothing(hub: LoopbackHub, eyes: HubEyes, store: SqlStore) -> None:
    head = hub.repo(REPO).head.id
    store.receive([Wanted(repo=REPO, ref=MAIN, sha=head, policy=POLICY)])
    lease = store.claim("w")
    assert lease is not None
    ours = hub.commit(REPO, {"README.md": "ours"}).id
    store.end(lease, "commit", Told(oid=ours))
    store.close(lease, "done")
    assert Sweep(store, eyes, Watch(policy=POLICY)).once().queued == 0


def test_opted_out_repositories_are_not_even_asked_for(
    hub: LoopbackHub, eyes: HubEyes, store: SqlStore
) -> None:
    hub.requests.clear()
    watch = Watch(policy=POLICY, opted_out=frozenset({"acme"}))
    assert Sweep(store, eyes, watch).once().queued == 0
    assert hub.requests("refs") == []


def test_an_owner_is_swept_by_files_and_not_by_tags(hub: LoopbackHub, store: SqlStore) -> None:
    hub.add_repo("acme/untagged", {"adapter_config.json": "{}"})
    hub.add_repo("acme/nested", {"last/adapter_config.json": "{}"})
    hub.add_repo("acme/full", {"model.safetensors": "x"})
    hub.add_repo("other/lora", {"adapter_config.json": "{}"})
    api = HfApi(endpoint=hub.endpoint, token=hub.token("reader"))
    eyes = HubEyes(api, watch=["acme"])
    assert sorted(eyes.watched()) == ["acme/nested", "acme/untagged"]
    assert Sweep(store, eyes, Watch(policy=POLICY)).once().queued == 2


def test_the_sweep_forgets_replaced_reports_when_it_is_told_to(store: SqlStore) -> None:
    for number in (1, 2):
        store.receive([Wanted(repo=REPO, ref=MAIN, sha=f"{number:040x}", policy=POLICY)])
        lease = store.claim("w")
        assert lease is not None
        store.decide(lease, "passed", "{}")
        store.close(lease, "done")
    stop = threading.Event()

    class Once(Many):
        def watched(self) -> Iterable[str]:
            stop.set()
            return ()

    for reports_s, kept in ((None, 2), (0.0, 1)):
        stop.clear()
        Sweep(store, Once(0), Watch(policy=POLICY), reports_s=reports_s).run(stop, every_s=0.0)
        assert len(store.browse(Search(), Page())) == kept


class Many:
    """So many repositories, some of which do not answer."""

    def __init__(self, count: int, silent: frozenset[int] = frozenset()) -> None:
        self.count = count
        self.silent = silent
        self.asked: list[str] = []

    def watched(self) -> Iterable[str]:
        return (f"acme/r{number}" for number in range(self.count))

    def heads(self, repo: str) -> Mapping[str, str]:
        self.asked.append(repo)
        number = int(repo.removeprefix("acme/r"))
        if number in self.silent:
            raise GateError("no answer", where=repo, hint="Wait.")
        return {MAIN: f"{number:040x}", "refs/convert/parquet": "f" * 40}

    def head(self, repo: str, ref: str) -> str | None:
        return self.heads(repo).get(ref)

    def is_our_commit(self, repo: str, sha: str) -> bool:
        return False


def test_a_pass_is_bounded_and_the_next_goes_on(store: SqlStore) -> None:
    many = Many(5)
    sweep = Sweep(store, many, Watch(policy=POLICY), repos=2)
    passes = [sweep.once() for _ in range(3)]
    assert [one.repos for one in passes] == [2, 2, 1]
    assert [one.whole for one in passes] == [False, False, True]
    assert many.asked == [f"acme/r{number}" for number in range(5)]
    assert sweep.once().repos == 2  # and round again


def test_one_silent_repository_stops_nobody(store: SqlStore) -> None:
    swept = Sweep(store, Many(4, frozenset({1})), Watch(policy=POLICY)).once()
    assert (swept.queued, swept.failed) == (3, 1)


def test_a_silent_hub_ends_the_pass(store: SqlStore) -> None:
    swept = Sweep(store, Many(50, frozenset(range(50))), Watch(policy=POLICY)).once()
    assert (swept.repos, swept.failed) == (FAILURES, FAILURES)


def test_the_sweep_goes_on_after_a_failure(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, many = threading.Event(), Many(1)
    sweep = Sweep(store, many, Watch(policy=POLICY))
    real, fails = store.settled, [StoreDown("no answer", where="db", hint="Wait.")]

    def settled(repo: str, ref: str, sha: str, policy: str) -> bool:
        if fails:
            raise fails.pop()
        stop.set()
        return real(repo, ref, sha, policy)

    monkeypatch.setattr(store, "settled", settled)
    runner = threading.Thread(target=lambda: sweep.run(stop, every_s=0.01))
    runner.start()
    runner.join(20)
    assert not runner.is_alive()
    assert store.counts().jobs["queued"] == 1
