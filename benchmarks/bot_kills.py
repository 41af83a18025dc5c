"""Jobs against kill -9 of all workers at once: none lost, none stuck, never two of one repository.

A job that a killed worker held is stuck until its lease ends; how long that took is measured.

    python -m benchmarks.bot_kills [--store sqlite|postgres] [--jobs 1000] [--kills 10]

With PostgreSQL, the server itself is killed once as well, between two kills of the workers.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg

from safety_gate.jobs.facts import Rules, Wanted
from safety_gate.jobs.journal import Silent
from safety_gate.jobs.location import open_store
from safety_gate.records import Report, Undecided
from safety_gate.worker.judging import Judged, Judgement, Work
from safety_gate.worker.loop import Hands, Limits, Worker
from tests import jobs_postgres

POLICY = hashlib.sha256(b"policy").hexdigest()
RULES = Rules(lease_s=2.0, backoff_s=0.2, queue_bound=100_000)
JUDGE_S = 0.03  # that one judgement takes
REPOS = 250
PATIENCE_S = 300.0


class SlowJudge:
    """Holds a lock of the repository while it judges: two at once would be seen."""

    policy = POLICY

    def __init__(self, folder: Path) -> None:
        """Write into this folder."""
        self._folder = folder

    def judge(self, work: Work) -> Judgement:
        """Judge, slowly."""
        name = work.repo.replace("/", "--")
        with open(self._folder / f"{name}.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with its process
            except BlockingIOError:
                (self._folder / f"{name}.two-at-once").touch()
            time.sleep(JUDGE_S)
        return Judged(report=report())


def report() -> Report:
    """Return a small report."""
    return Report(
        verdict=Undecided(),
        findings=(),
        adapter=None,
        base=None,
        aligned=None,
        policy=None,
        modules=(),
        total=None,
        ledger=(),
        evidence="a benchmark",
        versions={},
    )


class StillEyes:
    """A Hub on which nothing moves."""

    def head(self, repo: str, ref: str) -> str | None:
        """Return the commit that belongs to a ref."""
        return hashlib.sha1(f"{repo} {ref}".encode(), usedforsecurity=False).hexdigest()

    def heads(self, repo: str) -> Mapping[str, str]:
        """Return nothing."""
        return {}

    def is_our_commit(self, repo: str, sha: str) -> bool:
        """Tell that it is not."""
        return False

    def watched(self) -> Iterable[str]:
        """Return nothing."""
        return ()


def work(url: str, folder: Path) -> None:
    """Be one worker, until killed."""
    hands = Hands(
        store=open_store(url, RULES),
        judge=SlowJudge(folder),
        publisher=Silent(),
        eyes=StillEyes(),
    )
    limits = Limits(poll_s=0.05, down_s=0.2, judge_tries=20)
    Worker(hands, holder=f"w-{os.getpid()}", limits=limits).run(threading.Event())


class Crew:
    """Worker processes that are killed together."""

    def __init__(self, url: str, folder: Path, size: int) -> None:
        """Prepare; nothing runs yet."""
        self._command = [sys.executable, "-m", "benchmarks.bot_kills", "--work", url, str(folder)]
        self._size = size
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start them all."""
        self._processes = [
            subprocess.Popen(self._command, stderr=subprocess.DEVNULL) for _ in range(self._size)
        ]

    def kill(self) -> None:
        """Kill them all."""
        for process in self._processes:
            process.send_signal(signal.SIGKILL)
        for process in self._processes:
            process.wait()


class Stuck:
    """Sees how long the jobs of killed workers stay in dead hands."""

    def __init__(self, url: str) -> None:
        """Look into this database."""
        self._url = url
        self._threads: list[threading.Thread] = []
        self.delays: list[float] = []  # seconds from a kill until its last job was back in the line

    def watch(self) -> None:
        """Note what is in dead hands now, and follow it."""
        began, held = time.monotonic(), set(self._held())
        if held:
            thread = threading.Thread(target=self._follow, args=(began, held), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _follow(self, began: float, held: set[tuple[int, int]]) -> None:
        ends = time.monotonic() + PATIENCE_S
        while held & set(self._held()):
            assert time.monotonic() < ends, "stuck for ever"
            time.sleep(0.02)
        self.delays.append(time.monotonic() - began)

    def _held(self) -> list[tuple[int, int]]:
        try:
            return _rows(self._url, "select id, attempt from sg_job where state = 'running'")
        except psycopg.OperationalError:  # the server was killed as well: nothing is known yet
            return [(-1, -1)]

    def wait(self) -> float:
        """Return the longest delay."""
        for thread in self._threads:
            thread.join()
        return max(self.delays, default=0.0)


def _rows(url: str, sql: str) -> list[Any]:
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30)
        with contextlib.closing(connection):
            return connection.execute(sql).fetchall()
    with psycopg.connect(url) as pg:
        return list(pg.execute(sql.encode()).fetchall())


def _fill(url: str, jobs: int) -> None:
    store, eyes = open_store(url, RULES), StillEyes()
    events = []
    for number in range(jobs):
        repo, ref = f"acme/r{number % REPOS}", f"refs/pr/{number // REPOS + 1}"
        head = eyes.head(repo, ref)
        assert head is not None
        events.append(Wanted(repo=repo, ref=ref, sha=head, policy=POLICY))
    assert store.receive(events) == ["queued"] * jobs
    store.close_store()


def _done(url: str) -> tuple[int, int]:
    store = open_store(url, RULES)
    counts = store.counts()
    store.close_store()
    return counts.jobs["done"], sum(counts.verdicts.values())


def _storm(
    url: str, folder: Path, given: argparse.Namespace, server: jobs_postgres.Postgres | None
) -> None:
    crew, stuck = Crew(url, folder, given.workers), Stuck(url)
    crew.start()
    began = time.monotonic()
    for kill in range(1, given.kills + 1):
        _until(url, given.jobs * kill // (given.kills + 1))
        crew.kill()
        stuck.watch()
        if server is not None and kill == given.kills // 2:
            crew.start()
            time.sleep(2.5)
            server.kill()
            server.start()
            crew.kill()
        crew.start()
    _until(url, given.jobs)
    waited = time.monotonic() - began
    longest = stuck.wait()
    crew.kill()
    done, verdicts = _done(url)
    two = len(list(folder.glob("*.two-at-once")))
    again = _again(url, given.jobs)
    print(
        f"{given.store}: {given.jobs} jobs, {given.workers} workers, {given.kills} kills of all"
        f"{' and one of PostgreSQL' if server else ''}: {given.jobs - done} lost or stuck,"
        f" {verdicts} verdicts, {two} repositories with two at once,"
        f" {again} leases beyond the first, {waited:.0f} s; jobs of killed workers were back in the"
        f" line after {longest:.2f} s at most, with a lease of {RULES.lease_s:g} s"
    )
    assert (done, verdicts, two) == (given.jobs, given.jobs, 0)


def _again(url: str, jobs: int) -> int:
    return int(_rows(url, "select sum(attempt) from sg_job")[0][0]) - jobs


def _until(url: str, jobs: int) -> None:
    """Wait until so many are done; the last ones may wait for a lease to end."""
    store = open_store(url, RULES)
    ends = time.monotonic() + PATIENCE_S
    while store.counts().jobs["done"] < jobs:
        assert time.monotonic() < ends, f"stuck: {store.counts().jobs}"
        time.sleep(0.1)
    store.close_store()


def main() -> None:
    """Measure, print, and fail where a promise is broken."""
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--workers", type=int, default=3)
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url, server = f"sqlite:///{folder}/jobs.db", None
        if given.store == "postgres":
            server = stack.enter_context(jobs_postgres.running(folder))
            url = server.url
        _fill(url, given.jobs)
        marks = folder / "marks"
        marks.mkdir()
        _storm(url, marks, given, server)


if __name__ == "__main__":
    main()
