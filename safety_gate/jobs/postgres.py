"""The store for many workers: PostgreSQL, with procrastinate as its queue.

What is wanted, verdicts and journal lie in the same tables as in SQLite; which job is next, and
which worker is gone, is procrastinate's. Both change in one transaction, so neither can run ahead:

- ``lock`` is the repository: procrastinate runs one job of a lock at a time;
- ``queueing_lock`` is the job: it stands in the line once;
- a worker that was not heard of for ``lease_s`` is stalled, and its job is lined up again.

Its worker loop is not used: one loop serves both stores, and one behaviour suite holds both.
Arguments of jobs are JSON (jsonb columns); nothing is pickled.
"""

import datetime
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import procrastinate
import psycopg
import psycopg_pool
from procrastinate import sql
from procrastinate.exceptions import ConnectorException

from safety_gate.jobs.database import Row, Transaction
from safety_gate.jobs.facts import Lease, Rules, demoted
from safety_gate.jobs.failures import StoreDown
from safety_gate.jobs.schema import POSTGRES_ID, TABLES, VERSION
from safety_gate.jobs.sql_store import Clock, SqlStore
from safety_gate.jobs.sqlite import check_version

QUEUE: Final = "safety_gate"
TASK: Final = "safety_gate.judge"
CONNECTIONS: Final = 4  # of one process: a door, a worker, its heartbeat, a page
PATIENCE_S: Final = 5.0  # to wait for a connection; the callers wait and ask again
CHECKS_PER_LEASE: Final = 4  # how often within a lease stalled workers are looked for
SCHEMA_LOCK: Final = 0x5AFE6A7E  # advisory locks: one at a time makes the tables,
RECOVERY_LOCK: Final = 0x5AFE6A7F  # one at a time takes jobs back,
REPO_LOCKS: Final = 0x5AFE  # and one at a time takes in events of a repository
HINT: Final = "Check that PostgreSQL runs, and that the database URL and its user are right."


class PostgresTransaction:
    """One transaction on one connection."""

    for_update = " for update"

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        """Speak through this connection."""
        self.connection = connection

    def _execute(self, statement: str, values: Sequence[object]) -> psycopg.Cursor[Row]:
        # Our statements are constants of this package; values travel apart.
        text = statement.replace("%", "%%").replace("?", "%s")
        return self.connection.execute(text, values)

    def run(self, statement: str, *values: object) -> list[Row]:
        """Run one statement; return its rows."""
        cursor = self._execute(statement, values)
        return cursor.fetchall() if cursor.description else []

    def count(self, statement: str, *values: object) -> int:
        """Run one statement; return how many rows it changed."""
        return self._execute(statement, values).rowcount

    def tick(self) -> int:
        """Return the next number of a sequence."""
        return int(self.run("select nextval('sg_tick')")[0][0])

    def lock(self, repos: Sequence[str]) -> None:
        """Wait for other transactions that lock one of these; in order, so never in a circle."""
        for repo in repos:
            self.run("select pg_advisory_xact_lock(?, hashtext(?))", REPO_LOCKS, repo)

    def ask(self, query: str, **values: Any) -> list[Row]:
        """Run one of procrastinate's own queries."""
        cursor = self.connection.execute(sql.queries[query], values)
        return cursor.fetchall() if cursor.description else []


class PostgresDatabase:
    """A few connections, renewed where the server went away."""

    def __init__(self, url: str) -> None:
        """Connect, and make the tables where they are not there.

        Raises:
            StoreDown: there is no such server, or it has tables of another version.
        """
        self.pool = psycopg_pool.ConnectionPool(
            url,
            min_size=1,
            max_size=CONNECTIONS,
            timeout=PATIENCE_S,
            reconnect_timeout=PATIENCE_S,
            open=True,
            check=psycopg_pool.ConnectionPool.check_connection,
            kwargs={"options": "-c synchronous_commit=on -c lock_timeout=15s"},
        )
        self.app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector())
        self.app.open(self.pool)
        try:
            self._make_tables()
        except BaseException:
            self.pool.close()
            raise

    def _make_tables(self) -> None:
        with self.transaction() as tx:
            tx.run("select pg_advisory_xact_lock(?)", SCHEMA_LOCK)
            if tx.run("select to_regclass('procrastinate_jobs')")[0][0] is None:
                schema = self.app.schema_manager.get_schema()
                _connection(tx).execute(schema)
            tx.run("create sequence if not exists sg_tick")
            for table in TABLES:
                tx.run(table.format(id=POSTGRES_ID))
            tx.run("insert into sg_meta values ('version', ?) on conflict do nothing", VERSION)
            version = tx.run("select value from sg_meta where name = 'version'")[0][0]
        check_version(version, "PostgreSQL")

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Begin, and commit durably at the end of the block."""
        try:
            with self.pool.connection() as connection, connection.transaction():
                yield PostgresTransaction(connection)
        except (psycopg.Error, psycopg_pool.PoolTimeout, ConnectorException) as error:
            # Only the class: a message of the driver can hold the address with its password.
            raise StoreDown(
                "the database does not take this",
                where="PostgreSQL",
                got=type(error).__name__,
                hint=HINT,
            ) from error

    def close(self) -> None:
        """Close all connections."""
        self.pool.close()


def _connection(tx: Transaction) -> psycopg.Connection[Row]:
    return _ours(tx).connection


def _ours(tx: Transaction) -> PostgresTransaction:
    if not isinstance(tx, PostgresTransaction):
        raise AssertionError("procrastinate's queue lies in PostgreSQL only")
    return tx


class ProcrastinateQueue:
    """Lines up and lends through procrastinate's tables, in the transaction of the caller."""

    def __init__(self, app: procrastinate.App, rules: Rules) -> None:
        """Lend for ``rules.lease_s`` by the server's clock."""
        self._manager = app.job_manager
        self._task = app.configure_task(TASK, queue=QUEUE)
        self._rules = rules
        self._lock = threading.Lock()
        self._workers: dict[str, int] = {}  # procrastinate's id of each holder
        self._check_at = 0.0  # by time.monotonic

    def put(self, tx: Transaction, job: int, repo: str, priority: int) -> None:
        """Line up a job."""
        row = self._task.job.evolve(
            priority=priority, lock=repo, queueing_lock=f"job-{job}", task_kwargs={"job": job}
        )
        ticket = self._manager.defer_job(row, connection=_connection(tx)).id
        tx.run("update sg_job set ticket = ? where id = ?", ticket, job)

    def drop(self, tx: Transaction, jobs: Sequence[int]) -> list[int]:
        """Take waiting jobs out of the line; return those that nobody has taken meanwhile.

        procrastinate's row is locked before ours, here as in ``next``: never in a circle.
        """
        cancel = partial(_ours(tx).ask, "cancel_job", abort=False, delete_job=True)
        return [job for job in jobs if cancel(job_id=self._ticket(tx, job))[0][0] is not None]

    def next(self, tx: Transaction, holder: str) -> int | None:
        """Return the job that procrastinate lends to this holder."""
        self._recover(tx)
        row = _ours(tx).ask("fetch_job", queues=[QUEUE], worker_id=self._worker(tx, holder))[0]
        if row[0] is None:
            return None
        self._exchange(tx, row[0])
        job = tx.run("select id from sg_job where ticket = ? for update", row[0])
        return int(job[0][0])

    def _exchange(self, tx: Transaction, ticket: int) -> None:
        """Give the ticket that was drawn to the job of this repository that was pushed last.

        procrastinate draws the oldest of a lock. Whoever takes in events of the repository right
        now may close one of the two: then nothing is exchanged.
        """
        job, repo, priority = tx.run(
            "select id, repo, priority from sg_job where ticket = ?", ticket
        )[0]
        if not tx.run("select pg_try_advisory_xact_lock(?, hashtext(?))", REPO_LOCKS, repo)[0][0]:
            return
        rows = tx.run(
            "select id, ticket from sg_job where state = 'queued' and repo = ? and priority = ?"
            " and id <> ? and run_after <= ? and opened > (select opened from sg_job where id = ?)"
            " order by opened desc limit 1",
            *(repo, priority, job, time.time(), job),
        )
        for newer, other in rows:
            # The lock of a job that is lent out is free, so the two never meet in the index.
            lock = "update procrastinate_jobs set queueing_lock = ? where id = ?"
            tx.run(lock, f"job-{newer}", ticket)
            tx.run(lock, f"job-{job}", other)
            tx.run("update sg_job set ticket = ? where id = ?", other, job)
            tx.run("update sg_job set ticket = ? where id = ?", ticket, newer)

    def renew(self, tx: Transaction, lease: Lease) -> None:
        """Note that the holder is alive."""
        _ours(tx).ask("update_heartbeat", worker_id=self._worker(tx, lease.holder))

    def put_back(self, tx: Transaction, lease: Lease, *, priority: int, delay_s: float) -> None:
        """Line up a job again that was lent out."""
        self._retry(tx, self._ticket(tx, lease.job), priority, delay_s)

    def end(self, tx: Transaction, lease: Lease) -> None:
        """Forget a job that was lent out; what came of it stands in our tables."""
        ticket = self._ticket(tx, lease.job)
        _ours(tx).ask("finish_job", job_id=ticket, status="succeeded", delete_job=True)

    def _ticket(self, tx: Transaction, job: int) -> int:
        return int(tx.run("select ticket from sg_job where id = ?", job)[0][0])

    def _retry(self, tx: Transaction, ticket: int, priority: int, delay_s: float) -> None:
        _ours(tx).ask(
            "retry_job",
            job_id=ticket,
            retry_at=datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=delay_s),
            new_priority=priority,
            new_queue_name=None,
            new_lock=None,
        )

    def _worker(self, tx: Transaction, holder: str) -> int:
        """Return procrastinate's id of a holder; a new one where it was pruned."""
        with self._lock:
            known = self._workers.get(holder)
            sql_ = "update procrastinate_workers set last_heartbeat = now() where id = ?"
            if known is None or not tx.count(sql_, known):
                # A transaction that is rolled back leaves an id that is not there: the next asks.
                self._workers[holder] = int(_ours(tx).ask("register_worker")[0][0])
            return self._workers[holder]

    def _recover(self, tx: Transaction) -> None:
        """Line up the jobs of stalled workers again, now and then, and one process at a time."""
        with self._lock:
            if time.monotonic() < self._check_at:
                return
            self._check_at = time.monotonic() + self._rules.lease_s / CHECKS_PER_LEASE
        if not tx.run("select pg_try_advisory_xact_lock(?)", RECOVERY_LOCK)[0][0]:
            return
        suspects = self._stalled(tx)
        if not suspects:
            return
        # A heartbeat locks the same row first: once we have it, who is still stalled is gone.
        tx.run("select id from sg_job where ticket = any(?) order by id for update", suspects)
        for ticket in self._stalled(tx):
            found = "update sg_job set state = 'queued', why = ? where ticket = ?"
            rows = tx.run(
                f"{found} and state = 'running' returning id, priority, tries",
                "its worker was not heard of any more",
                ticket,
            )
            for job, before, tries in rows:
                priority = demoted(before, tries)
                tx.run("update sg_job set priority = ? where id = ?", priority, job)
                self._retry(tx, ticket, priority, 0.0)
        _ours(tx).ask("prune_stalled_workers", seconds_since_heartbeat=10 * self._rules.lease_s)

    def _stalled(self, tx: Transaction) -> list[int]:
        rows = _ours(tx).ask(
            "select_stalled_jobs_by_heartbeat",
            queue=QUEUE,
            task_name=TASK,
            seconds_since_heartbeat=self._rules.lease_s,
        )
        return [row[0] for row in rows]


def open_postgres(url: str, rules: Rules | None = None, *, clock: Clock = time.time) -> SqlStore:
    """Open the store in a PostgreSQL database.

    Raises:
        StoreDown: it cannot be reached.
    """
    chosen = rules or Rules()
    database = PostgresDatabase(url)
    return SqlStore(database, ProcrastinateQueue(database.app, chosen), chosen, clock=clock)
