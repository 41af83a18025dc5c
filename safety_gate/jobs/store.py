"""The protocol that both stores keep; tests/test_jobs_store.py is its behaviour suite."""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

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
)


class JobStore(Protocol):
    """Keeps what is wanted, lends it out, and remembers what came of it.

    Every method is one transaction, durable when it returns, and safe to call from any thread.
    Every method raises StoreDown where the database does not answer; to ask again is always safe.
    Methods that take a lease return False, and change nothing, where the lease is no longer held.
    """

    @property
    def rules(self) -> Rules:
        """How this store lends and bounds."""

    def receive(self, arrivals: Sequence[Arrival]) -> list[Answer]:
        """Take in events, all or none; answer each.

        A newer commit of a ref closes the jobs that wait for older ones. A commit that was closed
        or done, and now is the head again, is opened again.
        """

    def claim(self, holder: str) -> Lease | None:
        """Lend out the next job whose repository no other worker has; None where there is none."""

    def beat(self, lease: Lease) -> bool:
        """Extend a lease by ``rules.lease_s`` from now."""

    def decide(self, lease: Lease, word: str, report: str, repaired: str = "") -> bool:
        """Keep a verdict; where there is one for this job already, that one stays.

        Args:
            lease: the job.
            word: passed, blocked or undecided.
            report: as JSON.
            repaired: the report of a repaired copy, as JSON; empty where there is none.
        """

    def begin(self, lease: Lease, step: str) -> bool:
        """Note that a publishing step is about to be taken."""

    def end(self, lease: Lease, step: str, told: Told) -> bool:
        """Note that a publishing step was taken, and remember a commit as our own."""

    def close(self, lease: Lease, state: State, why: str = "") -> bool:
        """End a job for good."""

    def retry(self, lease: Lease, why: str) -> bool:
        """Give a job back after a failure; it waits, and goes behind those that did not fail."""

    def release(self, lease: Lease) -> bool:
        """Give a job back as if it had not been taken; for a worker that ends politely."""

    def steps(self, job: int) -> Mapping[str, Step]:
        """Return the publishing journal of a job."""

    def verdict(self, job: int) -> Stored | None:
        """Return the verdict of a job."""

    def verdict_for(self, repo: str, sha: str, policy: str) -> Stored | None:
        """Return the latest verdict for exactly this commit; never one for another commit.

        An empty policy stands for any.
        """

    def verdicts(self, page: Page, *, repo: str | None = None) -> list[Stored]:
        """Return verdicts, newest job first."""

    def browse(self, search: Search, page: Page) -> list[Brief]:
        """Return verdicts without their reports, newest job first."""

    def unfinished(self, page: Page) -> list[Standing]:
        """Return the jobs that run and those that wait, in the order of the line."""

    def newest(self, repo: str, ref: str, policy: str) -> Standing | None:
        """Return the newest job of a ref, whatever came of it.

        A job that only found a commit of ours does not count: the judged one is below it.
        """

    def settled(self, repo: str, ref: str, sha: str, policy: str) -> bool:
        """Tell whether this head needs nothing: its job is the newest of its ref, or it is ours."""

    def is_own(self, sha: str) -> bool:
        """Tell whether we made this commit."""

    def note(self, arrival: Arrival, answer: Reason) -> None:
        """Record why a job that was taken in is not judged after all."""

    def counts(self) -> Counts:
        """Return how full the store is."""

    def prune(self, older_than_s: float, *, reports_s: float = math.inf) -> int:
        """Forget what is old; return how many rows went. The newest job of a ref always stays.

        Args:
            older_than_s: arrivals, superseded and ignored jobs go after so many seconds.
            reports_s: verdicts go after so many, with their reports, journals and jobs.
        """

    def close_store(self) -> None:
        """Let go of the database."""
