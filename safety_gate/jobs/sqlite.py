"""The default store: one SQLite file, for a door and a few workers on one machine.

WAL with synchronous=FULL: what was answered with 202 survives a power cut. Leases lie in the job
table itself. The file is readable by its owner alone, for reports name private repositories.
"""

import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from safety_gate.jobs.database import Row, Transaction
from safety_gate.jobs.facts import Lease, Rules
from safety_gate.jobs.failures import StoreDown
from safety_gate.jobs.schema import SQLITE_ID, TABLES, VERSION
from safety_gate.jobs.sql_store import Clock, SqlStore

BUSY_S: Final = 15.0  # to wait for another process that writes
PRIVATE: Final = stat.S_IRUSR | stat.S_IWUSR
HINT: Final = "Check that the disk is not full and that only local processes use the file."


class SqliteTransaction:
    """One ``begin immediate`` ... ``commit``: the only writer there is."""

    for_update = ""  # whoever could change the row is kept out already

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Speak through this connection."""
        self._connection = connection

    def run(self, sql: str, *values: object) -> list[Row]:
        """Run one statement; return its rows."""
        return self._connection.execute(sql, values).fetchall()

    def count(self, sql: str, *values: object) -> int:
        """Run one statement; return how many rows it changed."""
        return self._connection.execute(sql, values).rowcount

    def tick(self) -> int:
        """Return a number above all that are in the table."""
        return int(self.run("select coalesce(max(opened), 0) + 1 from sg_job")[0][0])

    def lock(self, repos: Sequence[str]) -> None:
        """Do nothing: everyone else is kept out already."""


class SqliteDatabase:
    """One connection, used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open or make the file, and its tables.

        Raises:
            StoreDown: the file cannot be opened, or has tables of another version.
        """
        self._where = path.name
        self._lock = threading.Lock()
        self._connection = self._connect(path)
        with self.transaction() as tx:
            for table in TABLES:
                tx.run(table.format(id=SQLITE_ID))
            tx.run("insert or ignore into sg_meta values ('version', ?)", VERSION)
            version = tx.run("select value from sg_meta where name = 'version'")[0][0]
        check_version(version, self._where)

    def _connect(self, path: Path) -> sqlite3.Connection:
        try:
            _make_private(path)
            connection = sqlite3.connect(
                path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            connection.execute("pragma journal_mode = wal").fetchone()
            for pragma in ("synchronous = full", "foreign_keys = on", "trusted_schema = off"):
                connection.execute(f"pragma {pragma}")
        except (sqlite3.Error, OSError) as error:
            raise StoreDown(
                "the database cannot be opened", where=self._where, got=str(error), hint=HINT
            ) from error
        return connection

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Begin, and commit durably at the end of the block."""
        with self._lock:
            try:
                self._connection.execute("begin immediate")
                try:
                    yield SqliteTransaction(self._connection)
                    self._connection.execute("commit")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("rollback")
                    raise
            except sqlite3.Error as error:
                raise StoreDown(
                    "the database does not take this", where=self._where, got=str(error), hint=HINT
                ) from error

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()


class LeaseQueue:
    """Lends from the job table: a lease is a time until which the job is not lent again."""

    def __init__(self, rules: Rules, clock: Clock) -> None:
        """Lend for ``rules.lease_s`` by this clock."""
        self._rules = rules
        self._clock = clock

    def put(self, tx: Transaction, job: int, repo: str, priority: int) -> None:
        """Do nothing: a queued row is in the line."""

    def drop(self, tx: Transaction, jobs: Sequence[int]) -> list[int]:
        """Return all: a closed row is not in the line."""
        return list(jobs)

    def next(self, tx: Transaction, holder: str) -> int | None:
        """Take back what was not heard of, then lend the first whose repository is free."""
        now = self._clock()
        tx.run(
            "update sg_job set state = 'queued', priority = min(priority, 0) - max(tries, 1),"
            " why = 'its worker was not heard of any more', changed = ?"
            " where state = 'running' and lease_until <= ?",
            *(now, now),
        )
        rows = tx.run(
            "select repo, priority from sg_job j where state = 'queued' and run_after <= ?"
            " and not exists (select 1 from sg_job r where r.repo = j.repo and r.state = 'running')"
            " order by priority desc, opened limit 1",
            now,
        )
        if not rows:
            return None
        job = newest_of(tx, *rows[0], now=now)
        until = now + self._rules.lease_s
        tx.run("update sg_job set lease_until = ? where id = ?", until, job)
        return job

    def renew(self, tx: Transaction, lease: Lease) -> None:
        """Move the end of the lease."""
        until = self._clock() + self._rules.lease_s
        tx.run("update sg_job set lease_until = ? where id = ?", until, lease.job)

    def put_back(self, tx: Transaction, lease: Lease, *, priority: int, delay_s: float) -> None:
        """Do nothing: the row is queued again by the store."""

    def end(self, tx: Transaction, lease: Lease) -> None:
        """Do nothing: the row is closed by the store."""


def open_sqlite(path: Path, rules: Rules | None = None, *, clock: Clock = time.time) -> SqlStore:
    """Open the store in a file, which is made where it is not there.

    Raises:
        StoreDown: it cannot be opened.
    """
    chosen = rules or Rules()
    return SqlStore(SqliteDatabase(path), LeaseQueue(chosen, clock), chosen, clock=clock)


def newest_of(tx: Transaction, repo: str, priority: int, *, now: float) -> int:
    """Return the job of a repository that was pushed last.

    Repositories take turns by who has waited longest; within one, the newest commit goes first.
    """
    rows = tx.run(
        "select id from sg_job where state = 'queued' and repo = ? and priority = ?"
        " and run_after <= ? order by opened desc limit 1",
        *(repo, priority, now),
    )
    return int(rows[0][0])


def check_version(found: str, where: str) -> None:
    """Refuse tables that another version of Safety Gate has made."""
    if found != VERSION:
        raise StoreDown(
            "the tables are of another version of Safety Gate",
            where=where,
            got=found[:20],
            expected=VERSION,
            hint="Use the version of Safety Gate that made this database, or a new database.",
        )


def _make_private(path: Path) -> None:
    """Make the file for its owner alone; SQLite gives its WAL the same mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE))
    except FileExistsError:
        # Never open and close a file that is there: that would drop the locks by which another
        # connection of this process keeps other processes out (sqlite.org/howtocorrupt, 2.2).
        if not stat.S_ISREG(path.lstat().st_mode):
            raise OSError(f"{path.name} is not a regular file") from None
        path.chmod(PRIVATE)
