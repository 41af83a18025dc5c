"""The worker against a real store; the Hub is a table of heads."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from benchmarks.bot_kills import report as undecided
from safety_gate.errors import GateError
from safety_gate.jobs.facts import Lease, Reason, Rules, Told, Wanted
from safety_gate.jobs.failures import HeadMoved, NotTold, StoreDown
from safety_gate.jobs.journal import Telling
from safety_gate.jobs.sql_store import SqlStore
from safety_gate.jobs.sqlite import open_sqlite
from safety_gate.records import Finding, Passed, Place, Report, Undecided
from safety_gate.worker.judging import Judged, Judgement, NotJudged, Work
from safety_gate.worker.loop import Hands, Limits, Worker

POLICY: Final = "a" * 64
REPO: Final = "acme/lora"
MAIN: Final = "refs/heads/main"
LIMITS: Final = Limits(judge_tries=2, publish_tries=2, poll_s=0.01, down_s=0.01)


def sha(number: int) -> str:
    return f"{number:040x}"


def passed() -> Report:
    report = undecided()
    return Report(**{f: getattr(report, f) for f in Report.__slots__} | {"verdict": Passed()})


@dataclass
class World:
    """A Hub, a judge and a publisher in one; tests change it as they go."""

    refs: dict[tuple[str, str], str] = field(default_factory=dict)
    ours: set[str] = field(default_factory=set)
    judged: list[str] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)
    report: Callable[[], Report] = passed
    reason: Reason | None = None
    fails: list[Exception] = field(default_factory=list)  # of the judge, one a call
    not_told: list[Exception] = field(default_factory=list)  # of the publisher, one a call
    during: Callable[[], None] = lambda: None
    policy: str = POLICY
    steps: tuple[str, ...] = ("commit", "comment", "status")

    def judge(self, work: Work) -> Judgement:
        self.judged.append(work.sha)
        self.during()
        if self.fails:
            raise self.fails.pop(0)
        return NotJudged(reason=self.reason) if self.reason else Judged(report=self.report())

    def tell(self, step: str, telling: Telling) -> Told:
        if self.not_told:
            raise self.not_told.pop(0)
        verdict = telling.verdict
        self.told.append((step, verdict.sha))
        if step != "commit":
            return Told(note=verdict.word)
        head = self.refs[verdict.repo, verdict.ref] = sha(int(verdict.sha, 16) + 1000)
        return Told(oid=head)

    def head(self, repo: str, ref: str) -> str | None:
        return self.refs.get((repo, ref))

    def heads(self, repo: str) -> Mapping[str, str]:
        return {ref: head for (name, ref), head in self.refs.items() if name == repo}

    def is_our_commit(self, repo: str, sha: str) -> bool:
        return sha in self.ours

    def watched(self) -> Iterable[str]:
        return sorted({repo for repo, _ in self.refs})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    store = open_sqlite(tmp_path / "jobs.db", Rules(lease_s=5.0, backoff_s=0.0))
    yield store
    store.close_store()


@pytest.fixture
def world() -> World:
    return World(refs={(REPO, MAIN): sha(1)})


@pytest.fixture
def worker(store: SqlStore, world: World) -> Worker:
    hands = Hands(store=store, judge=world, publisher=world, eyes=world)
    return Worker(hands, holder="w", limits=LIMITS)


def push(store: SqlStore, number: int) -> None:
    store.receive([Wanted(repo=REPO, ref=MAIN, sha=sha(number), policy=POLICY)])


def drain(worker: Worker) -> int:
    rounds = 0
    while worker.once():
        rounds += 1
        assert rounds < 100
    return rounds


def unreachable() -> GateError:
    return GateError("the Hub does not answer", where=REPO, hint="Wait.")


def test_a_commit_is_judged_and_told_once(store: SqlStore, world: World, worker: Worker) -> None:
    push(store, 1)
    assert drain(worker) == 1
    assert world.told == [("commit", sha(1)), ("comment", sha(1)), ("status", sha(1))]
    stored = store.verdict_for(REPO, sha(1), POLICY)
    assert stored is not None
    assert (stored.word, json.loads(stored.report)["verdict"]) == ("passed", "passed")
    push(store, 1001)  # the Hub's echo of our own commit
    assert drain(worker) == 0
    assert store.counts().arrivals["own-commit"] == 1


def test_an_echo_that_comes_too_early_ends_there(
    store: SqlStore, world: World, worker: Worker
) -> None:
    """The Hub tells of our commit before the call that made it returns to us."""
    push(store, 1)
    lease = store.claim("w")
    assert lease is not None
    push(store, 1001)
    assert store.claim("w2") is None  # one job of a repository at a time: the echo has to wait
    store.end(lease, "commit", Told(oid=sha(1001)))
    store.close(lease, "done")
    assert drain(worker) == 1
    assert world.judged == []
    assert store.counts().arrivals["own-commit"] == 1


def test_our_own_account_and_title_excuse_a_commit(
    store: SqlStore, world: World, worker: Worker
) -> None:
    world.ours.add(sha(1))
    push(store, 1)
    drain(worker)
    assert world.judged == []
    assert store.is_own(sha(1))


def test_what_is_no_adapter_is_recorded(store: SqlStore, world: World, worker: Worker) -> None:
    world.reason = "not-an-adapter"
    push(store, 1)
    drain(worker)
    assert store.verdict_for(REPO, sha(1), POLICY) is None
    assert store.counts().jobs["ignored"] == 1
    assert store.counts().arrivals["not-an-adapter"] == 1
    assert store.settled(REPO, MAIN, sha(1), POLICY)  # the sweep leaves it alone


def test_an_old_event_leads_to_the_head(store: SqlStore, world: World, worker: Worker) -> None:
    world.refs[REPO, MAIN] = sha(2)
    push(store, 2)
    push(store, 1)  # came late, and closed the job of 2
    drain(worker)
    assert world.judged == [sha(2)]
    assert ("status", sha(2)) in world.told
    assert all(told == sha(2) for _, told in world.told)


def test_a_ref_that_is_gone_closes_its_job(store: SqlStore, world: World, worker: Worker) -> None:
    world.refs.clear()
    push(store, 1)
    assert drain(worker) == 1
    assert store.counts().jobs["superseded"] == 1


def test_a_push_while_judging_keeps_the_old_verdict_silent(
    store: SqlStore, world: World, worker: Worker
) -> None:
    def moved() -> None:
        world.refs[REPO, MAIN] = sha(2)
        world.during = lambda: None

    world.during = moved
    push(store, 1)
    drain(worker)
    assert world.judged == [sha(1), sha(2)]
    assert {told for _, told in world.told} == {sha(2)}
    assert store.verdict_for(REPO, sha(1), POLICY) is not None  # true of its commit, never told


def test_a_passing_failure_is_tried_again(store: SqlStore, world: World, worker: Worker) -> None:
    world.fails = [unreachable()]
    push(store, 1)
    assert drain(worker) == 2
    assert [step for step, _ in world.told] == ["commit", "comment", "status"]


def test_what_never_ends_is_undecided(store: SqlStore, world: World, worker: Worker) -> None:
    world.fails = [unreachable(), RuntimeError("a bug"), unreachable()]
    push(store, 1)
    assert drain(worker) == 3
    stored = store.verdict_for(REPO, sha(1), POLICY)
    assert stored is not None
    assert stored.word == "undecided"
    assert json.loads(stored.report)["findings"][0]["rule"] == "job-given-up"
    assert world.judged == [sha(1)] * 2
    assert ("status", sha(1)) in world.told


def test_a_report_of_a_silent_hub_is_no_verdict_yet(
    store: SqlStore, world: World, worker: Worker
) -> None:
    finding = Finding(
        rule="hub-unreachable",
        severity="undecided",
        place=Place(kind="file", name="x"),
        what="the Hub does not answer",
        hint="Wait.",
    )
    base = undecided()
    down = {f: getattr(base, f) for f in Report.__slots__} | {"findings": (finding,)}
    world.report = lambda: Report(**down) if len(world.judged) == 1 else passed()
    push(store, 1)
    assert drain(worker) == 2
    stored = store.verdict_for(REPO, sha(1), POLICY)
    assert stored is not None
    assert stored.word == "passed"


def test_publishing_goes_on_where_it_stopped(store: SqlStore, world: World, worker: Worker) -> None:
    def hidden() -> NotTold:
        return NotTold("no answer", where=REPO, hint="Wait.")

    world.not_told = [hidden()]
    push(store, 1)
    assert drain(worker) == 2
    assert world.judged == [sha(1)]  # judged once, whatever publishing costs
    assert [step for step, _ in world.told] == ["commit", "comment", "status"]
    world.refs[REPO, MAIN] = sha(2)
    world.not_told = [hidden() for _ in range(10)]
    push(store, 2)
    drain(worker)
    assert store.counts().jobs["dead"] == 1
    assert store.verdict_for(REPO, sha(2), POLICY) is not None


def test_a_head_that_moves_under_the_commit_ends_publishing(
    store: SqlStore, world: World, worker: Worker
) -> None:
    world.not_told = [HeadMoved(REPO, head=sha(2))]  # 412 of the Hub
    push(store, 1)
    world.during = lambda: world.refs.__setitem__((REPO, MAIN), sha(1))
    drain_one = worker.once()
    assert drain_one
    assert world.told == []
    assert store.counts().jobs == {
        "queued": 1,  # the head that the Hub named
        "running": 0,
        "done": 0,
        "superseded": 1,
        "ignored": 0,
        "dead": 0,
    }


def test_a_worker_that_is_interrupted_gives_its_job_back(
    store: SqlStore, world: World, worker: Worker
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    world.during = interrupted
    push(store, 1)
    with pytest.raises(KeyboardInterrupt):
        worker.once()
    lease = store.claim("other")
    assert lease is not None
    assert (lease.attempt, lease.tries) == (2, 1)


def test_a_job_that_takes_too_long_ends_the_process(store: SqlStore, world: World) -> None:
    ended: list[Lease] = []
    world.during = lambda: time.sleep(0.4)
    hands = Hands(store=store, judge=world, publisher=world, eyes=world)
    limits = Limits(job_s=0.1)
    push(store, 1)
    Worker(hands, holder="w", limits=limits, overrun=ended.append).once()
    assert [lease.sha for lease in ended] == [sha(1)]


def test_a_store_that_is_down_is_asked_again(store: SqlStore, world: World) -> None:
    class Moody:
        """A store whose database goes away now and then."""

        down = 3

        def __getattr__(self, name: str) -> object:
            if name == "claim" and Moody.down:
                Moody.down -= 1
                raise StoreDown("no answer", where="db", hint="Wait.")
            return getattr(store, name)

    stop = threading.Event()
    world.during = stop.set
    push(store, 1)
    hands = Hands(store=Moody(), judge=world, publisher=world, eyes=world)  # type: ignore[arg-type]
    Worker(hands, holder="w", limits=LIMITS).run(stop)
    assert store.counts().jobs["done"] == 1


def test_fifty_pushes_in_a_row_end_with_the_last_head(
    store: SqlStore, world: World, worker: Worker
) -> None:
    """50 pushes in 5 s, while a worker judges; the last head's verdict stands, and is told."""
    world.steps = ("comment",)
    world.during = lambda: time.sleep(0.02)
    stop = threading.Event()
    hand = threading.Thread(target=worker.run, args=(stop,))
    hand.start()
    for number in range(2, 52):
        world.refs[REPO, MAIN] = sha(number)
        push(store, number)
        time.sleep(0.01)
    while store.counts().jobs["queued"] or store.counts().jobs["running"]:
        time.sleep(0.01)
    stop.set()
    hand.join()
    assert world.told[-1] == ("comment", sha(51))
    assert len(world.judged) < 50
    assert store.verdict_for(REPO, sha(51), POLICY) is not None


def test_given_up_is_never_a_pass() -> None:
    assert isinstance(undecided().verdict, Undecided)
