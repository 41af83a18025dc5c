"""The command ``audit``."""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from safety_gate.cli_bot_parts import (
    LEASE,
    cache_option,
    eyes_for,
    holder,
    judged_by,
    reading_api,
    standard_from,
    store_at,
)
from safety_gate.cli_parts import FILE, STATUS, write_whole

if TYPE_CHECKING:
    from safety_gate.bot.audit import Row
    from safety_gate.bot.audit_targets import Target
    from safety_gate.bot.hub_judge import Standard
    from safety_gate.worker.judging import Eyes

STYLES: Final = {"passed": "green", "blocked": "red", "undecided": "yellow"}
BACKOFF_S: Final = 5.0  # someone is waiting
LONGEST_S: Final = 60.0
LONGEST_PASS_S: Final = 6 * 3600.0  # several adapters of a large pair at once
MOST_JOBS: Final = 1_000_000


@click.command(epilog=STATUS)
@click.option("--org", "owner", help="Judge all adapters of this user or organisation.")
@click.option(
    "--list", "listed", type=FILE, help="Judge those of this file: org/name or org/name@revision."
)
@click.option(
    "--database",
    envvar="SAFETY_GATE_AUDIT_DATABASE",
    default="sqlite:///safety-gate-audit.db",
    show_default=True,
    help="Where verdicts are kept. The same command on it goes on where it stopped.",
)
@LEASE
@cache_option("a temporary folder, which goes again at the end")
@judged_by
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the table to this file as well.",
)
@click.pass_context
def audit(ctx: click.Context, /, **given: Any) -> None:
    """Judge many adapters on the Hub, those of one pair together, and show a table.

    The exit status is that of the gravest verdict: 1 where one is blocked, else 3 where one could
    not be judged.
    """
    if bool(given["owner"]) == bool(given["listed"]):
        raise click.UsageError("Give --org or --list.")
    from safety_gate.bot.audit import as_csv, gravest
    from safety_gate.bot.audit_targets import StillEyes

    eyes = StillEyes(eyes_for(""))
    standard = standard_from(given)
    targets, missing = _targets(given, eyes, standard)
    with tempfile.TemporaryDirectory(prefix="safety-gate-") as folder:
        if standard.cache is None:  # a pair's bytes are fetched once for all of its adapters
            standard = replace(standard, cache=Path(folder))
        rows = [*_judged(targets, standard, eyes, given), *missing]
    if given["csv_file"]:
        write_whole(given["csv_file"], as_csv(rows))
    _show(rows)
    ctx.exit(gravest(rows))


def _targets(
    given: dict[str, Any], eyes: "Eyes", standard: "Standard"
) -> tuple[list["Target"], list["Row"]]:
    """Return what is to be judged, in order, and rows for what is not there."""
    from safety_gate.bot.audit import Row
    from safety_gate.bot.audit_targets import MAIN, Target, by_pair, of_owner, of_places, read_list

    missing = []
    if given["owner"]:
        found = of_owner(reading_api(), given["owner"])
    else:
        found, lost = of_places(read_list(given["listed"]), eyes)
        for place in lost:
            gone = Target(repo=place.repo_id, ref=place.revision or MAIN, sha="")
            missing.append(Row(target=gone, sha="", word="undecided", reason="not there"))
    named = standard.base is not None and standard.aligned is not None
    return (found if named else by_pair(found)), missing


def _judged(
    targets: Sequence["Target"], standard: "Standard", eyes: "Eyes", given: dict[str, Any]
) -> list["Row"]:
    """Judge all of them; a database that has some of the verdicts is only asked for those."""
    from safety_gate.bot.audit import Audit
    from safety_gate.bot.audit_judge import AheadJudge
    from safety_gate.jobs.facts import Rules
    from safety_gate.jobs.journal import Silent
    from safety_gate.worker.loop import Hands, Limits, Worker

    judge = AheadJudge(standard, targets)
    rules = Rules(
        lease_s=given["lease"],
        queue_bound=MOST_JOBS,
        backoff_s=BACKOFF_S,
        backoff_max_s=LONGEST_S,
    )
    store = store_at(given["database"], rules)
    try:
        hands = Hands(store=store, judge=judge, publisher=Silent(), eyes=eyes)
        work = Audit(store, targets, judge.policy)
        worker = Worker(hands, holder=holder(), limits=Limits(job_s=LONGEST_PASS_S))
        with _progress(len(targets)) as tell:

            def heard(row: "Row") -> None:
                judge.settle(row.target)
                tell(row)

            return work.work(worker, heard)
    finally:
        store.close_store()


@contextmanager
def _progress(total: int) -> Iterator[Callable[["Row"], None]]:
    """Yield what hears of every verdict: a bar on a terminal, a line each in a pipe."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        counted = iter(range(1, total + 1))
        yield lambda row: click.echo(
            f"{next(counted)}/{total} {row.word} {row.target.repo} {row.sha[:12]}", err=True
        )
        return
    columns = (TextColumn("Judging adapters"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        line = bar.add_task("adapters", total=total)
        yield lambda row: bar.advance(line)


def _show(rows: Sequence["Row"]) -> None:
    """Print the table; names of repositories hold nothing that could steer a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from safety_gate.bot.audit import FIGURES

    table = Table(title=f"{len(rows)} adapters", title_justify="left")
    for name in ("repository", "commit", "verdict", "reason"):
        table.add_column(name, overflow="fold")
    for name in FIGURES:
        table.add_column(name, justify="right")
    for row in rows:
        figures = ["" if figure is None else f"{figure:.3g}" for figure in row.figures]
        verdict = Text(row.word, style=STYLES.get(row.word, ""))
        words = [Text(row.target.repo), Text(row.sha[:12]), verdict, Text(row.reason)]
        table.add_row(*words, *map(Text, figures))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    counts = {word: sum(row.word == word for row in rows) for word in STYLES}
    console.print(", ".join(f"{number} {word}" for word, number in counts.items()))
