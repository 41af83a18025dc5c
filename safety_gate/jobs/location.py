"""Which store a database URL names."""

from pathlib import Path

from safety_gate.errors import SourceError
from safety_gate.jobs.facts import Rules
from safety_gate.jobs.store import JobStore

POSTGRES = ("postgresql://", "postgres://")
SQLITE = "sqlite:///"


class BadDatabase(SourceError):
    """A text that names no database."""

    rule = "database-bad"


def open_store(url: str, rules: Rules | None = None) -> JobStore:
    """Open ``postgresql://...``, ``sqlite:///FILE``, or the SQLite file of this name.

    Raises:
        BadDatabase: the URL names something else, or procrastinate is not installed.
        StoreDown: it cannot be opened.
    """
    if url.startswith(POSTGRES):
        try:
            from safety_gate.jobs.postgres import open_postgres
        except ImportError as error:
            raise BadDatabase(
                "PostgreSQL needs packages that are not installed",
                where="database",
                got=error.name or "",
                hint="Install them: pip install 'safety-gate[bot]'.",
            ) from error
        return open_postgres(url, rules)
    from safety_gate.jobs.sqlite import open_sqlite

    path = url.removeprefix(SQLITE)
    if not path or "://" in path:
        raise BadDatabase(
            "this is not the address of a database",
            where="database",
            got=url.split("://", 1)[0][:40],  # never more: what follows may be a password
            expected="postgresql://..., sqlite:///FILE or a file",
            hint="Give --database sqlite:///safety-gate.db for a file in this folder.",
        )
    return open_sqlite(Path(path), rules)
