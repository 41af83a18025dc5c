"""Events come in: which of them become jobs, and which jobs they close."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from safety_gate.jobs.database import Queue, Transaction
from safety_gate.jobs.facts import HOUR, Answer, Arrival, Ignored, Rules, Wanted

REOPENED = ("done", "superseded", "dead")  # states that a commit leaves when it is the head again


@dataclass(slots=True)
class Desk:
    """Takes in the events of one transaction."""

    tx: Transaction
    queue: Queue
    rules: Rules
    now: float
    waiting: int = field(default=0, init=False)  # jobs in the line, as of now

    def __init__(self, tx: Transaction, queue: Queue, rules: Rules, *, now: float) -> None:
        """Count the line once; a batch of events then counts along."""
        self.tx, self.queue, self.rules, self.now = tx, queue, rules, now
        self.waiting = 0

    def take_all(self, arrivals: Sequence[Arrival]) -> list[Answer]:
        """Answer every event, in its order."""
        self.tx.lock(sorted({arrival.repo for arrival in arrivals}))
        rows = self.tx.run("select count(*) from sg_job where state = 'queued'")
        self.waiting = int(rows[0][0])
        return [self._take(arrival) for arrival in arrivals]

    def _take(self, arrival: Arrival) -> Answer:
        answer: Answer
        match arrival:
            case Ignored():
                answer = arrival.reason
            case Wanted():
                answer = self._wanted(arrival)
        record(self.tx, arrival, answer, self.now)
        return answer

    def _wanted(self, wanted: Wanted) -> Answer:
        if is_own(self.tx, wanted.sha):
            return "own-commit"
        known = self.tx.run(
            "select id, state, opened from sg_job"
            " where repo = ? and ref = ? and sha = ? and policy = ?",
            *(wanted.repo, wanted.ref, wanted.sha, wanted.policy),
        )
        if known and not self._is_opened_again(wanted, known[0][1], known[0][2]):
            return "known"
        if self._own_lately(wanted.repo) >= self.rules.hop_budget:
            return "hop-budget"
        older = self._replaced(wanted)
        if self.waiting - len(older) >= self.rules.queue_bound:
            return "full"
        self._close(older)
        job = self._reopen(known[0][0], wanted) if known else self._insert(wanted)
        self.queue.put(self.tx, job, wanted.repo, wanted.priority)
        self.waiting += 1
        return "queued"

    def _is_opened_again(self, wanted: Wanted, state: str, opened: int) -> bool:
        """Tell whether a commit that we know is the head again, after another one was.

        A force-push can go back to a commit whose job is closed. The event looks like a replay of
        the first; but only after a real one stands a newer job of the same ref between. Where it
        was a replay after all, the worker sees another head and closes the job again.
        """
        newest = self.tx.run(
            "select max(opened) from sg_job where repo = ? and ref = ? and policy = ?",
            *(wanted.repo, wanted.ref, wanted.policy),
        )
        return state == "superseded" or (state in REOPENED and opened < newest[0][0])

    def _own_lately(self, repo: str) -> int:
        sql = "select count(*) from sg_own where repo = ? and made > ?"
        return int(self.tx.run(sql, repo, self.now - HOUR)[0][0])

    def _replaced(self, wanted: Wanted) -> list[int]:
        """Return the waiting jobs of this ref; not those that are half published."""
        rows = self.tx.run(
            "select id from sg_job where repo = ? and ref = ? and policy = ? and sha <> ?"
            " and state = 'queued'"
            " and not exists (select 1 from sg_step s where s.job = sg_job.id)",
            *(wanted.repo, wanted.ref, wanted.policy, wanted.sha),
        )
        return [row[0] for row in rows]

    def _close(self, jobs: Sequence[int]) -> None:
        dropped = self.queue.drop(self.tx, jobs)
        for job in dropped:
            self.tx.run(
                "update sg_job set state = 'superseded', why = 'a newer commit', changed = ?"
                " where id = ?",
                *(self.now, job),
            )
        self.waiting -= len(dropped)

    def _insert(self, wanted: Wanted) -> int:
        rows = self.tx.run(
            "insert into sg_job (repo, ref, sha, policy, priority, state, opened, created, changed)"
            " values (?, ?, ?, ?, ?, 'queued', ?, ?, ?) returning id",
            *(wanted.repo, wanted.ref, wanted.sha, wanted.policy, wanted.priority),
            *(self.tx.tick(), self.now, self.now),
        )
        return int(rows[0][0])

    def _reopen(self, job: int, wanted: Wanted) -> int:
        """Queue a closed job again; its verdict stands, but it is to be told again."""
        self.tx.run("delete from sg_step where job = ?", job)
        self.tx.run(
            "update sg_job set state = 'queued', opened = ?, priority = ?, tries = 0,"
            " run_after = 0, why = '', changed = ? where id = ?",
            *(self.tx.tick(), wanted.priority, self.now, job),
        )
        return job


def record(tx: Transaction, arrival: Arrival, answer: Answer, now: float) -> None:
    """Count an event under its answer; replays grow a number, not the table."""
    tx.run(
        "insert into sg_arrival (repo, ref, sha, answer, times, first, latest)"
        " values (?, ?, ?, ?, 1, ?, ?) on conflict (repo, ref, sha, answer)"
        " do update set times = sg_arrival.times + 1, latest = excluded.latest",
        *(arrival.repo, arrival.ref, arrival.sha, answer, now, now),
    )


def remember(tx: Transaction, repo: str, oid: str, now: float) -> None:
    """Keep a commit as our own."""
    tx.run(
        "insert into sg_own (oid, repo, made) values (?, ?, ?) on conflict (oid) do nothing",
        *(oid, repo, now),
    )


def is_own(tx: Transaction, sha: str) -> bool:
    """Tell whether we made this commit."""
    return bool(tx.run("select 1 from sg_own where oid = ?", sha))
