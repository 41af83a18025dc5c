"""What only the SQLite store promises: a private file, and tables of its own version."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from safety_gate.jobs.facts import Rules, Wanted
from safety_gate.jobs.failures import StoreDown
from safety_gate.jobs.location import BadDatabase, open_store
from safety_gate.jobs.sqlite import open_sqlite

WANTED = Wanted(repo="acme/lora", ref="refs/heads/main", sha="1" * 40, policy="a" * 64)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def generous_umask() -> Iterator[None]:
    before = os.umask(0o000)
    yield
    os.umask(before)


def test_the_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    store = open_sqlite(path)
    store.receive([WANTED])
    assert {file.name: mode(file) for file in tmp_path.iterdir()} == {
        "jobs.db": 0o600,
        "jobs.db-wal": 0o600,
        "jobs.db-shm": 0o600,
    }
    store.close_store()


def test_a_file_that_was_open_to_others_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    path.touch(0o666)
    open_sqlite(path).close_store()
    assert mode(path) == 0o600


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real.db").touch()
    (tmp_path / "jobs.db").symlink_to(tmp_path / "real.db")
    with pytest.raises(StoreDown, match="cannot be opened"):
        open_sqlite(tmp_path / "jobs.db")


def test_a_second_store_keeps_the_locks_of_the_first(tmp_path: Path) -> None:
    """Closing a file drops this process's locks on it; another process must stay locked out."""
    path = tmp_path / "jobs.db"
    first = open_sqlite(path)
    code = (
        "import sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)\n"
        "try:\n    db.execute('begin immediate')\n"
        "except sqlite3.OperationalError:\n    print('locked')\n"
    )
    with first._database.transaction():
        try:
            path.chmod(0o600)
            from safety_gate.jobs.sqlite import _make_private

            _make_private(path)  # what opening a second store does first
        finally:
            run = subprocess.run(
                [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
            )
    first.close_store()
    assert run.stdout == "locked\n"


def test_commits_are_synchronous(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "jobs.db")
    with store._database.transaction() as tx:
        assert tx.run("pragma synchronous") == [(2,)]  # FULL
        assert tx.run("pragma journal_mode") == [("wal",)]
    store.close_store()


def test_tables_of_another_version_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    open_sqlite(path).close_store()
    with sqlite3.connect(path) as connection:
        connection.execute("update sg_meta set value = '99'")
    connection.close()
    with pytest.raises(StoreDown, match="another version"):
        open_sqlite(path)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    path.write_text("not a database, but long enough to be taken for one" * 40)
    with pytest.raises(StoreDown):
        open_sqlite(path)


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "jobs.db")

    def fail() -> None:
        with store._database.transaction() as tx:
            tx.run("insert into sg_own values (?, ?, ?)", "1" * 40, "acme/lora", 0.0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not store.is_own("1" * 40)
    store.close_store()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = open_sqlite(tmp_path / "jobs.db")
    store.close_store()
    with pytest.raises(StoreDown):
        store.receive([WANTED])


@pytest.mark.parametrize("url", ["mysql://root:pw-canary@db/x", "sqlite:///", "", "ftp://x"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(BadDatabase) as caught:
        open_store(url)
    assert "pw-canary" not in str(caught.value)


def test_addresses_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in (f"sqlite:///{tmp_path}/a.db", "sqlite:///b.db", "c.db"):
        open_store(url).close_store()
    assert sorted(path.name for path in tmp_path.glob("*.db")) == ["a.db", "b.db", "c.db"]


def test_a_password_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("procrastinate")
    from safety_gate.jobs import postgres

    monkeypatch.setattr(postgres, "PATIENCE_S", 0.2)
    with pytest.raises(StoreDown) as caught:
        open_store("postgresql://gate:pw-canary@127.0.0.1:1/jobs")
    assert "pw-canary" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"lease_s": float("nan")},
        {"lease_s": 0.0},
        {"queue_bound": 0},
        {"backoff_s": float("inf")},
        {"backoff_s": -1.0},
        {"hop_budget": 0},
    ],
)
def test_rules_refuse_nonsense(change: dict[str, float]) -> None:
    with pytest.raises(AssertionError):
        Rules(**change)  # type: ignore[arg-type]


def test_backoff_doubles_up_to_its_bound() -> None:
    rules = Rules(backoff_s=30.0, backoff_max_s=3600.0)
    assert [rules.wait(tries) for tries in (0, 1, 2, 3, 8, 10_000)] == [
        30.0,
        30.0,
        60.0,
        120.0,
        3600.0,
        3600.0,
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"repo": "../etc"},
        {"repo": "acme/lora; drop table sg_job"},
        {"ref": "main"},
        {"ref": "refs/heads/a\nb"},
        {"sha": "1" * 39},
        {"sha": "G" * 40},
        {"policy": ""},
    ],
)
def test_a_job_refuses_what_is_not_pinned(change: dict[str, str]) -> None:
    good = {"repo": "acme/lora", "ref": "refs/heads/main", "sha": "1" * 40, "policy": "a" * 64}
    with pytest.raises(AssertionError):
        Wanted(**(good | change))  # type: ignore[arg-type]


def test_nothing_in_the_queue_is_pickled() -> None:
    """The store, the worker and the door never load pickle's machinery for their data."""
    import ast

    package = Path(__file__).parent.parent / "safety_gate"
    for room in ("jobs", "worker", "bot"):
        for path in sorted((package / room).glob("*.py")):
            names = {
                alias.name
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Import | ast.ImportFrom)
                for alias in node.names
            } | {
                node.module or ""
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.ImportFrom)
            }
            assert not names & {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
