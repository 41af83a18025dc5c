"""What the shared SQL asks of a database, and of the queue that lies in it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

from safety_gate.jobs.facts import Lease

Row: TypeAlias = tuple[Any, ...]


class Transaction(Protocol):
    """One transaction; all or nothing."""

    def run(self, sql: str, *values: object) -> list[Row]:
        """Run one statement with ``?`` for values; return its rows."""

    def count(self, sql: str, *values: object) -> int:
        """Run one statement; return how many rows it changed."""

    def tick(self) -> int:
        """Return a number above all that it returned before, for one repository at least."""

    def lock(self, repos: Sequence[str]) -> None:
        """Keep other transactions that lock one of these repositories out until the end."""

    @property
    def for_update(self) -> str:
        """What locks the rows of a select until the end."""


class Database(Protocol):
    """Opens transactions."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Begin, and commit durably at the end of the block; raises StoreDown."""

    def close(self) -> None:
        """Let go of all connections."""


class Queue(Protocol):
    """Decides which job is next, and notices workers that are gone.

    Its methods run inside a transaction that keeps ``sg_job`` in step.
    """

    def put(self, tx: Transaction, job: int, repo: str, priority: int) -> None:
        """Line up a job."""

    def drop(self, tx: Transaction, jobs: Sequence[int]) -> list[int]:
        """Take waiting jobs out of the line; return those that nobody has taken meanwhile."""

    def next(self, tx: Transaction, holder: str) -> int | None:
        """Return the job that this holder gets."""

    def renew(self, tx: Transaction, lease: Lease) -> None:
        """Note that the holder is alive."""

    def put_back(self, tx: Transaction, lease: Lease, *, priority: int, delay_s: float) -> None:
        """Line up a job again that was lent out."""

    def end(self, tx: Transaction, lease: Lease) -> None:
        """Forget a job that was lent out."""
