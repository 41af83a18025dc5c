"""The store itself, in SQL that both databases understand; see store.py for the protocol."""

import math
import time
from collections.abc import Callable, Mapping, Sequence

from safety_gate.jobs import arrivals, pruning, reading
from safety_gate.jobs.database import Database, Queue, Transaction
from safety_gate.jobs.facts import (
    Answer,
    Arrival,
    Brief,
    Counts,
    Lease,
    Page,
    Reason,
    Rules,
    Search,
    Standing,
    State,
    Step,
    Stored,
    Told,
    demoted,
)

Clock = Callable[[], float]  # seconds since 1970


class SqlStore:
    """A JobStore over a database and a queue that lies in it."""

    def __init__(
        self, database: Database, queue: Queue, rules: Rules, *, clock: Clock = time.time
    ) -> None:
        """Hold together what was opened."""
        self._database = database
        self._queue = queue
        self._rules = rules
        self._clock = clock

    @property
    def rules(self) -> Rules:
        """How this store lends and bounds."""
        return self._rules

    def receive(self, arrivals_: Sequence[Arrival]) -> list[Answer]:
        """Take in events, all or none; answer each."""
        with self._database.transaction() as tx:
            desk = arrivals.Desk(tx, self._queue, self._rules, now=self._clock())
            return desk.take_all(arrivals_)

    def claim(self, holder: str) -> Lease | None:
        """Lend out the next job whose repository no other worker has."""
        with self._database.transaction() as tx:
            job = self._queue.next(tx, holder)
            if job is None:
                return None
            rows = tx.run(
                "update sg_job set state = 'running', holder = ?, changed = ?,"
                " attempt = attempt + 1, tries = tries + 1 where id = ? returning"
                " repo, ref, sha, policy, priority, attempt, tries",
                holder,
                self._clock(),
                job,
            )
            repo, ref, sha, policy, priority, attempt, tries = rows[0]
            judged = tx.run("select 1 from sg_verdict where job = ?", job)
        return Lease(
            job=job,
            repo=repo,
            ref=ref,
            sha=sha,
            policy=policy,
            priority=priority,
            attempt=attempt,
            tries=tries,
            holder=holder,
            has_verdict=bool(judged),
        )

    def _is_held(self, tx: Transaction, lease: Lease) -> bool:
        """Tell whether this lease still stands, and keep it so until the end of the transaction."""
        sql = "select 1 from sg_job where id = ? and attempt = ? and state = 'running'"
        return bool(tx.run(sql + tx.for_update, lease.job, lease.attempt))

    def beat(self, lease: Lease) -> bool:
        """Extend a lease by ``rules.lease_s`` from now."""
        with self._database.transaction() as tx:
            if held := self._is_held(tx, lease):
                self._queue.renew(tx, lease)
            return held

    def decide(self, lease: Lease, word: str, report: str, repaired: str = "") -> bool:
        """Keep a verdict; where there is one for this job already, that one stays."""
        with self._database.transaction() as tx:
            if not self._is_held(tx, lease):
                return False
            tx.run(
                "insert into sg_verdict"
                " (job, repo, ref, sha, policy, word, report, repaired, attempt, decided)"
                " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict (job) do nothing",
                *(lease.job, lease.repo, lease.ref, lease.sha, lease.policy),
                *(word, report, repaired, lease.attempt, self._clock()),
            )
            return True

    def begin(self, lease: Lease, step: str) -> bool:
        """Note that a publishing step is about to be taken."""
        return self._journal(lease, step, "begun", Told())

    def end(self, lease: Lease, step: str, told: Told) -> bool:
        """Note that a publishing step was taken, and remember a commit as our own."""
        return self._journal(lease, step, "done", told)

    def _journal(self, lease: Lease, step: str, state: str, told: Told) -> bool:
        now = self._clock()
        with self._database.transaction() as tx:
            if told.oid:  # even from a worker that has lost its lease: the commit is there
                arrivals.remember(tx, lease.repo, told.oid, now)
            if not self._is_held(tx, lease):
                return False
            tx.run(
                "insert into sg_step (job, name, state, attempt, oid, url, note, changed)"
                " values (?, ?, ?, ?, ?, ?, ?, ?) on conflict (job, name) do update set"
                " state = excluded.state, attempt = excluded.attempt, oid = excluded.oid,"
                " url = excluded.url, note = excluded.note, changed = excluded.changed",
                *(lease.job, step, state, lease.attempt, told.oid, told.url, told.note, now),
            )
            return True

    def close(self, lease: Lease, state: State, why: str = "") -> bool:
        """End a job for good."""
        if state in ("queued", "running"):
            raise AssertionError(f"a job does not end as {state}")
        with self._database.transaction() as tx:
            if not self._is_held(tx, lease):
                return False
            self._queue.end(tx, lease)
            self._move(tx, lease, state, why)
            return True

    def retry(self, lease: Lease, why: str) -> bool:
        """Give a job back after a failure; it waits, and goes behind those that did not fail."""
        return self._give_back(
            lease,
            why,
            priority=demoted(lease.priority, lease.tries),
            delay_s=self._rules.wait(lease.tries),
        )

    def release(self, lease: Lease) -> bool:
        """Give a job back as if it had not been taken."""
        return self._give_back(lease, "", priority=lease.priority, delay_s=0.0, refund=1)

    def _give_back(
        self, lease: Lease, why: str, *, priority: int, delay_s: float, refund: int = 0
    ) -> bool:
        with self._database.transaction() as tx:
            if not self._is_held(tx, lease):
                return False
            self._queue.put_back(tx, lease, priority=priority, delay_s=delay_s)
            tx.run(
                "update sg_job set priority = ?, run_after = ?, tries = tries - ? where id = ?",
                *(priority, self._clock() + delay_s, refund, lease.job),
            )
            self._move(tx, lease, "queued", why)
            return True

    def _move(self, tx: Transaction, lease: Lease, state: State, why: str) -> None:
        tx.run(
            "update sg_job set state = ?, why = ?, holder = '', changed = ? where id = ?",
            *(state, why[:500], self._clock(), lease.job),
        )

    def note(self, arrival: Arrival, answer: Reason) -> None:
        """Record why a job that was taken in is not judged after all."""
        now = self._clock()
        with self._database.transaction() as tx:
            arrivals.record(tx, arrival, answer, now)
            if answer == "own-commit":
                arrivals.remember(tx, arrival.repo, arrival.sha, now)

    def steps(self, job: int) -> Mapping[str, Step]:
        """Return the publishing journal of a job."""
        with self._database.transaction() as tx:
            return reading.steps(tx, job)

    def verdict(self, job: int) -> Stored | None:
        """Return the verdict of a job."""
        with self._database.transaction() as tx:
            return reading.verdict(tx, job)

    def verdict_for(self, repo: str, sha: str, policy: str) -> Stored | None:
        """Return the latest verdict for exactly this commit; never one for another commit."""
        with self._database.transaction() as tx:
            return reading.verdict_for(tx, repo, sha, policy)

    def verdicts(self, page: Page, *, repo: str | None = None) -> list[Stored]:
        """Return verdicts, newest job first."""
        with self._database.transaction() as tx:
            return reading.verdicts(tx, page, repo)

    def browse(self, search: Search, page: Page) -> list[Brief]:
        """Return verdicts without their reports, newest job first."""
        with self._database.transaction() as tx:
            return reading.browse(tx, search, page)

    def unfinished(self, page: Page) -> list[Standing]:
        """Return the jobs that run and those that wait, in the order of the line."""
        with self._database.transaction() as tx:
            return reading.unfinished(tx, page)

    def newest(self, repo: str, ref: str, policy: str) -> Standing | None:
        """Return the newest job of a ref, whatever came of it."""
        with self._database.transaction() as tx:
            return reading.newest(tx, repo, ref, policy)

    def settled(self, repo: str, ref: str, sha: str, policy: str) -> bool:
        """Tell whether this head needs nothing: its job is the newest of its ref, or it is ours."""
        with self._database.transaction() as tx:
            return reading.settled(tx, (repo, ref, sha, policy))

    def is_own(self, sha: str) -> bool:
        """Tell whether we made this commit."""
        with self._database.transaction() as tx:
            return arrivals.is_own(tx, sha)

    def counts(self) -> Counts:
        """Return how full the store is."""
        with self._database.transaction() as tx:
            return reading.counts(tx, now=self._clock())

    def prune(self, older_than_s: float, *, reports_s: float = math.inf) -> int:
        """Forget what is old; return how many rows went. The newest job of a ref always stays."""
        now = self._clock()
        with self._database.transaction() as tx:
            gone = pruning.prune_arrivals(tx, before=now - older_than_s)
            gone += pruning.prune_closed(tx, before=now - older_than_s)
            if math.isfinite(reports_s):
                gone += pruning.prune_reports(tx, before=now - reports_s)
            return gone

    def close_store(self) -> None:
        """Let go of the database."""
        self._database.close()
