"""One behaviour suite for both stores."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from safety_gate.jobs.facts import (
    BATCH,
    LIVE,
    Arrival,
    Ignored,
    Lease,
    Page,
    Rules,
    Search,
    Told,
    Wanted,
)
from safety_gate.jobs.sql_store import SqlStore
from safety_gate.jobs.sqlite import open_sqlite
from tests import jobs_postgres

POLICY: Final = "a" * 64
LEASE_S: Final = 0.6
RULES: Final = Rules(lease_s=LEASE_S, queue_bound=50, hop_budget=3, backoff_s=0.2)

Open = Callable[[Rules], SqlStore]


def sha(number: int) -> str:
    return f"{number:040x}"


def wanted(number: int, repo: str = "acme/lora", ref: str = "refs/heads/main") -> Wanted:
    return Wanted(repo=repo, ref=ref, sha=sha(number), policy=POLICY)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[jobs_postgres.Postgres]:
    if not jobs_postgres.is_there():
        pytest.skip("PostgreSQL is not installed")
    with jobs_postgres.running(tmp_path_factory.mktemp("postgres")) as running:
        yield running


@pytest.fixture(params=["sqlite", "postgres"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Return what opens the same database again, as another process would."""
    opened: list[SqlStore] = []
    if request.param == "postgres":
        server: jobs_postgres.Postgres = request.getfixturevalue("server")
        server.empty()

    def open_(rules: Rules) -> SqlStore:
        if request.param == "postgres":
            from safety_gate.jobs.postgres import open_postgres

            opened.append(open_postgres(server.url, rules))
        else:
            opened.append(open_sqlite(tmp_path / "jobs.db", rules))
        return opened[-1]

    yield open_
    for store in opened:
        store.close_store()


@pytest.fixture
def store(reopen: Open) -> SqlStore:
    return reopen(RULES)


def claimed(store: SqlStore, holder: str = "w1") -> Lease:
    lease = store.claim(holder)
    assert lease is not None
    return lease


def test_a_job_goes_round(store: SqlStore) -> None:
    assert store.receive([wanted(1)]) == ["queued"]
    lease = claimed(store)
    assert (lease.repo, lease.sha, lease.attempt, lease.tries) == ("acme/lora", sha(1), 1, 1)
    assert not lease.has_verdict
    assert store.beat(lease)
    assert store.decide(lease, "passed", "{}")
    assert store.begin(lease, "commit")
    assert store.end(lease, "commit", Told(oid=sha(99), url="https://hub/x", note="made"))
    assert store.close(lease, "done")
    found = store.verdict_for("acme/lora", sha(1), POLICY)
    assert found is not None
    assert (found.word, found.report, found.job) == ("passed", "{}", lease.job)
    assert store.steps(lease.job)["commit"].told.oid == sha(99)
    assert store.is_own(sha(99))
    assert store.claim("w1") is None
    counts = store.counts()
    assert (counts.jobs["done"], counts.verdicts, counts.arrivals) == (
        1,
        {"passed": 1},
        {"queued": 1},
    )


def test_the_same_event_is_one_job(store: SqlStore) -> None:
    assert store.receive([wanted(1)] * 3) == ["queued", "known", "known"]
    lease = claimed(store)
    assert store.receive([wanted(1)]) == ["known"]
    assert store.close(lease, "done")
    assert store.receive([wanted(1)]) == ["known"]
    assert store.claim("w1") is None
    assert store.counts().arrivals == {"queued": 1, "known": 4}


def test_another_policy_is_another_job(store: SqlStore) -> None:
    other = Wanted(repo="acme/lora", ref="refs/heads/main", sha=sha(1), policy="b" * 64)
    assert store.receive([wanted(1), other]) == ["queued", "queued"]


def test_one_job_of_a_repository_at_a_time(store: SqlStore) -> None:
    store.receive([wanted(1), wanted(2, ref="refs/pr/1"), wanted(3, repo="acme/other")])
    first, second = claimed(store, "w1"), claimed(store, "w2")
    assert {first.repo, second.repo} == {"acme/lora", "acme/other"}
    assert store.claim("w3") is None
    of_lora = first if first.repo == "acme/lora" else second
    assert store.close(of_lora, "done")
    assert {of_lora.sha, claimed(store, "w3").sha} == {sha(1), sha(2)}


def test_a_newer_commit_closes_what_waits(store: SqlStore) -> None:
    store.receive([wanted(1), wanted(2, ref="refs/pr/1")])
    assert store.receive([wanted(3)]) == ["queued"]
    assert store.counts().jobs["superseded"] == 1
    assert [claimed_and_closed(store), claimed_and_closed(store)] == [sha(3), sha(2)]
    assert store.claim("w") is None  # nobody judges the commit that was replaced


def claimed_and_closed(store: SqlStore) -> str:
    lease = claimed(store)
    assert store.close(lease, "done")
    return lease.sha


def test_a_newer_commit_leaves_what_runs_alone(store: SqlStore) -> None:
    store.receive([wanted(1)])
    lease = claimed(store)
    store.receive([wanted(2)])
    assert store.beat(lease)
    assert store.close(lease, "done")
    assert claimed(store).sha == sha(2)


def test_a_force_push_back_opens_the_job_again(store: SqlStore) -> None:
    store.receive([wanted(1)])
    lease = claimed(store)
    store.decide(lease, "blocked", "{}")
    store.begin(lease, "comment")
    store.end(lease, "comment", Told())
    store.close(lease, "done")
    store.receive([wanted(2)])
    assert store.receive([wanted(1)]) == ["queued"]  # and 2, which waited, is closed
    again = claimed(store)
    assert (again.job, again.sha, again.has_verdict) == (lease.job, sha(1), True)
    assert store.steps(lease.job) == {}  # to be told again
    assert store.close(again, "done")
    assert store.claim("w1") is None
    assert not store.settled("acme/lora", "refs/heads/main", sha(2), POLICY)
    assert store.receive([wanted(2)]) == ["queued"]  # superseded unjudged, and now the head


def test_a_swapped_pair_of_events_is_opened_again(store: SqlStore) -> None:
    store.receive([wanted(2)])
    store.receive([wanted(1)])  # the older event comes second and closes the newer commit's job
    lease = claimed(store)
    assert lease.sha == sha(1)
    assert store.receive([wanted(2)]) == ["queued"]  # as the worker does when it sees the head
    assert store.close(lease, "superseded")
    assert claimed(store).sha == sha(2)


def test_a_silent_worker_loses_its_job(store: SqlStore) -> None:
    store.receive([wanted(1)])
    first = claimed(store, "w1")
    assert store.claim("w2") is None
    second = waited(store, "w2")
    assert (second.job, second.attempt, second.tries) == (first.job, 2, 2)
    assert not store.beat(first)
    assert not store.decide(first, "passed", "late")
    assert not store.begin(first, "comment")
    assert not store.close(first, "done")
    assert not store.retry(first, "late")
    assert store.verdict(first.job) is None
    assert store.decide(second, "blocked", "{}")


def waited(store: SqlStore, holder: str) -> Lease:
    ends = time.monotonic() + 20 * LEASE_S
    while time.monotonic() < ends:
        if lease := store.claim(holder):
            return lease
        time.sleep(0.03)
    raise AssertionError("no job came free")


def test_a_beating_worker_keeps_its_job(store: SqlStore) -> None:
    store.receive([wanted(1)])
    lease = claimed(store, "w1")
    ends = time.monotonic() + 3 * LEASE_S
    while time.monotonic() < ends:
        assert store.beat(lease)
        assert store.claim("w2") is None
        time.sleep(LEASE_S / 8)


def test_a_late_commit_is_remembered_all_the_same(store: SqlStore) -> None:
    store.receive([wanted(1)])
    first = claimed(store, "w1")
    waited(store, "w2")
    assert not store.end(first, "commit", Told(oid=sha(77)))
    assert store.is_own(sha(77))
    assert store.steps(first.job) == {}


def test_the_first_verdict_of_a_job_stays(store: SqlStore) -> None:
    store.receive([wanted(1)])
    lease = claimed(store)
    assert store.decide(lease, "blocked", "first")
    assert store.decide(lease, "passed", "second")
    stored = store.verdict(lease.job)
    assert stored is not None
    assert (stored.word, stored.report) == ("blocked", "first")


def test_a_failed_job_waits_and_goes_behind(store: SqlStore) -> None:
    store.receive([wanted(1)])
    lease = claimed(store)
    assert store.retry(lease, "the Hub was down")
    assert store.claim("w1") is None  # backoff_s has not passed
    store.receive([wanted(2, ref="refs/pr/1"), wanted(3, repo="acme/other")])
    time.sleep(0.3)
    order = [claimed_and_closed(store) for _ in range(3)]
    assert order == [sha(2), sha(3), sha(1)]


def test_a_polite_end_does_not_count(store: SqlStore) -> None:
    store.receive([wanted(1)])
    assert store.release(claimed(store))
    lease = claimed(store, "w2")
    assert (lease.attempt, lease.tries, lease.priority) == (2, 1, LIVE)


def test_what_someone_waits_for_goes_first(store: SqlStore) -> None:
    batch = Wanted(
        repo="acme/audit", ref="refs/heads/main", sha=sha(1), policy=POLICY, priority=BATCH
    )
    store.receive([batch, wanted(2)])
    assert claimed_and_closed(store) == sha(2)


def test_the_newest_push_of_a_repository_goes_first(store: SqlStore) -> None:
    """Repositories take turns; within one, who pushed last is not kept waiting by old branches."""
    refs = [f"refs/pr/{number}" for number in (1, 2, 3)]
    store.receive([wanted(number, ref=ref) for number, ref in enumerate(refs, 1)])
    store.receive([wanted(9, repo="acme/other")])
    order = []
    while (lease := store.claim("w")) is not None:
        order.append((lease.repo, lease.ref))
        assert store.close(lease, "done")
    first = ("acme/lora", "refs/pr/3")
    assert order[0] == first
    assert order.index(("acme/lora", "refs/pr/2")) < order.index(("acme/lora", "refs/pr/1"))
    assert len(order) == 4


def test_an_exchanged_job_can_fail_and_be_superseded(store: SqlStore) -> None:
    store.receive([wanted(1, ref="refs/pr/1"), wanted(2, ref="refs/pr/2")])
    lease = claimed(store)
    assert lease.sha == sha(2)
    assert store.receive([wanted(3, ref="refs/pr/1")]) == ["queued"]  # closes the job of sha 1
    assert store.retry(lease, "a failure")
    assert store.receive([wanted(1, ref="refs/pr/1")]) == ["queued"]  # and opens it again
    found: set[str] = set()
    ends = time.monotonic() + 5
    while len(found) < 2 and time.monotonic() < ends:
        if (taken := store.claim("w")) is not None:
            found.add(taken.sha)
            assert store.close(taken, "done")
        else:
            time.sleep(0.02)
    assert found == {sha(1), sha(2)}
    counts = store.counts().jobs
    assert (counts["done"], counts["superseded"], counts["queued"]) == (2, 1, 0)


def test_lists_for_the_page(store: SqlStore) -> None:
    for number, (repo, word) in enumerate(
        [("acme/lora", "passed"), ("acme/LORA-2", "blocked"), ("ac_e/lora", "undecided")], 1
    ):
        store.receive([wanted(number, repo=repo)])
        lease = claimed(store)
        assert store.decide(lease, word, "{}", "{1}" if word == "blocked" else "")
        assert store.close(lease, "done")
    store.receive([wanted(4), wanted(5, repo="acme/next")])
    running = claimed(store)

    def shas(search: Search, page: Page = Page()) -> list[str]:  # noqa: B008
        return [brief.sha for brief in store.browse(search, page)]

    assert shas(Search()) == [sha(3), sha(2), sha(1)]
    assert shas(Search(), Page(limit=1)) == [sha(3)]
    assert shas(Search(owner="ACME")) == [sha(2), sha(1)]
    assert shas(Search(owner="ac_e")) == [sha(3)]  # no sign of a pattern acts as one
    assert shas(Search(repo="acme/lora")) == [sha(1)]
    assert shas(Search(word="blocked")) == [sha(2)]
    assert shas(Search(text="LORA-")) == [sha(2)]
    assert shas(Search(text=sha(1))) == [sha(1)]
    assert shas(Search(text="%")) == []
    line = store.unfinished(Page())
    assert [(one.repo, one.state) for one in line] == [
        (running.repo, "running"),
        ("acme/next", "queued"),
    ]
    newest = store.newest("acme/lora", "refs/heads/main", POLICY)
    assert newest is not None
    assert (newest.sha, newest.state) == (sha(4), "running")
    assert store.newest("acme/lora", "refs/heads/none", POLICY) is None
    repaired = store.verdict_for("acme/LORA-2", sha(2), POLICY)
    assert repaired is not None
    assert repaired.repaired == "{1}"


def test_old_reports_are_forgotten_but_the_newest_of_each_ref(store: SqlStore) -> None:
    for number in (1, 2):
        store.receive([wanted(number)])
        lease = claimed(store)
        assert store.decide(lease, "passed", "{}")
        assert store.begin(lease, "commit")
        assert store.end(lease, "commit", Told())
        assert store.close(lease, "done")
    store.receive([wanted(3)])  # waits, and has no verdict yet
    assert store.prune(3600.0, reports_s=3600.0) == 0
    time.sleep(0.01)
    store.prune(3600.0, reports_s=0.0)
    kept = [one.sha for one in store.browse(Search(), Page())]
    assert kept == []
    assert store.counts().jobs["queued"] == 1
    lease = claimed(store)
    assert store.decide(lease, "passed", "{}")
    assert store.close(lease, "done")
    time.sleep(0.01)
    assert store.prune(3600.0, reports_s=0.0) == 0  # the newest of its ref
    assert [one.sha for one in store.browse(Search(), Page())] == [sha(3)]
    assert store.settled("acme/lora", "refs/heads/main", sha(3), POLICY)


def test_a_half_told_job_is_not_superseded(store: SqlStore) -> None:
    store.receive([wanted(1)])
    lease = claimed(store)
    store.decide(lease, "passed", "{}")
    store.begin(lease, "commit")
    store.release(lease)
    store.receive([wanted(2)])
    assert store.counts().jobs["superseded"] == 0
    assert {claimed_and_closed(store), claimed_and_closed(store)} == {sha(1), sha(2)}


def test_own_commits_are_not_judged(store: SqlStore) -> None:
    store.receive([wanted(1)])
    lease = claimed(store)
    store.begin(lease, "commit")
    store.end(lease, "commit", Told(oid=sha(50)))
    store.close(lease, "done")
    assert store.receive([wanted(50)]) == ["own-commit"]
    assert store.settled("acme/lora", "refs/heads/main", sha(50), POLICY)
    assert store.claim("w1") is None


def test_the_hop_budget_ends_a_loop_that_hides(store: SqlStore) -> None:
    for number in range(RULES.hop_budget):
        assert store.receive([wanted(100 + number)]) == ["queued"]
        lease = claimed(store)
        store.begin(lease, "commit")
        store.end(lease, "commit", Told(oid=sha(200 + number)))
        store.close(lease, "done")
    assert store.receive([wanted(300)]) == ["hop-budget"]
    assert store.receive([wanted(301, repo="acme/other")]) == ["queued"]


def test_the_queue_is_bounded(reopen: Open) -> None:
    store = reopen(Rules(queue_bound=2))
    others = [wanted(9, repo="acme/b"), wanted(9, repo="acme/c")]
    assert store.receive([wanted(1), *others]) == ["queued", "queued", "full"]
    assert store.receive([wanted(2)]) == ["queued"]  # takes the place of the older commit
    assert store.receive([wanted(2)]) == ["known"]
    assert store.counts().jobs["queued"] == 2


def test_ignored_events_are_recorded(store: SqlStore) -> None:
    gone = Ignored(repo="acme/lora", ref="refs/heads/old", sha="", reason="ref-deleted")
    assert store.receive([gone, gone]) == ["ref-deleted", "ref-deleted"]
    assert store.counts().arrivals == {"ref-deleted": 2}
    store.note(wanted(1), "not-an-adapter")
    assert store.counts().arrivals["not-an-adapter"] == 1


def test_what_was_answered_is_there_for_others(reopen: Open) -> None:
    first = reopen(RULES)
    first.receive([wanted(1)])
    second = reopen(RULES)
    lease = claimed(second)
    second.decide(lease, "undecided", "{}")
    assert first.claim("w9") is None
    (stored,) = first.verdicts(Page(limit=5))
    assert stored.word == "undecided"
    assert first.verdicts(Page(), repo="acme/nobody") == []


def test_a_verdict_is_for_its_commit_alone(store: SqlStore) -> None:
    store.receive([wanted(1)])
    lease = claimed(store)
    store.decide(lease, "passed", "{}")
    store.close(lease, "done")
    store.receive([wanted(2)])
    assert store.verdict_for("acme/lora", sha(2), POLICY) is None
    assert store.verdict_for("acme/lora", sha(1), "b" * 64) is None
    assert store.settled("acme/lora", "refs/heads/main", sha(2), POLICY)
    assert not store.settled("acme/lora", "refs/heads/main", sha(1), POLICY)


def test_pruning_keeps_what_counts(store: SqlStore) -> None:
    store.receive([wanted(1)])
    store.receive([wanted(2)])
    lease = claimed(store)
    store.decide(lease, "passed", "{}")
    store.close(lease, "done")
    assert store.prune(3600.0) == 0
    assert store.prune(-1.0) == 3  # two arrivals and the superseded job
    assert store.verdict(lease.job) is not None
    assert store.settled("acme/lora", "refs/heads/main", sha(2), POLICY)


def test_many_hands_never_share_a_repository(reopen: Open) -> None:
    rules = Rules(lease_s=30.0)
    stores = [reopen(rules) for _ in range(3)]
    events: list[Arrival] = [
        wanted(repo * 10 + ref, repo=f"acme/r{repo}", ref=f"refs/pr/{ref}")
        for repo in range(5)
        for ref in range(6)
    ]
    stores[0].receive(events)
    busy: set[str] = set()
    done: list[int] = []
    guard, broken = threading.Lock(), []

    def work(store: SqlStore, holder: str) -> None:
        while lease := store.claim(holder):
            with guard:
                if lease.repo in busy:
                    broken.append(lease.repo)
                busy.add(lease.repo)
            with guard:
                busy.discard(lease.repo)
                done.append(lease.job)
            store.close(lease, "done")

    hands = [
        threading.Thread(target=work, args=(store, f"w{number}"))
        for number, store in enumerate(stores)
    ]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    work(stores[0], "last")  # a hand that saw only busy repositories has ended early
    assert broken == []
    assert len(done) == len(set(done)) == len(events)
