"""Before and after on a terminal, and what lies between them."""

from typing import assert_never

from rich.console import Console
from rich.table import Table
from rich.text import Text

from safety_gate.repair.record import UNSETTLED, Attempt, Made, Repaired
from safety_gate.report.comparison import comparison
from safety_gate.report.inert import Prose, plain_prose, shown
from safety_gate.report.summary import figure, percent
from safety_gate.report.terminal import render_text

MOST_TRIED = 8  # attempts of the search that are shown; the JSON report has them all


def render_repair_text(repaired: Repaired, console: Console) -> None:
    """Print what was done, both judgments side by side, then the report on the new files."""
    for line in _head(repaired):
        console.print(line, markup=False, emoji=False, highlight=False)
    if repaired.after is not None:
        console.print(_table(repaired), markup=False, emoji=False, highlight=False)
    for line in _tried(repaired.tried):
        console.print(line, markup=False, emoji=False, highlight=False)
    console.print()
    render_text(repaired.after or repaired.before, console)


def _head(repaired: Repaired) -> list[Text]:
    lines = [Text(repaired.headline.upper(), style="bold")]
    if repaired.why:
        lines.append(Text(plain_prose(repaired.why)))
    if repaired.made is not None:
        lines += _made(repaired.made)
    if repaired.unsettled:
        lines.append(
            Text(f"Undecided: {UNSETTLED}; until then the exit status is 3.", style="bold")
        )
    if repaired.output is not None:
        lines.append(Text.assemble("New adapter: ", (shown(str(repaired.output)), "cyan")))
    return [*lines, Text()]


def _made(made: Made) -> list[Text]:
    share = made.change / made.before_norm
    changed = f"{len(made.modules):,} of {made.of_modules:,} modules changed"
    size = f"the change is {share:.3g} of the update's own size"
    return [
        Text(f"Method: {plain_prose(made.method)}, on {plain_prose(made.selection)}"),
        Text(f"{changed}; {size}."),
        *(Text(f"Note: {plain_prose(note)}.") for note in made.notes),
    ]


def _table(repaired: Repaired) -> Table:
    """Show what two reports say about the same things."""
    after = repaired.after
    if after is None:
        raise AssertionError("there is nothing to compare with")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    for row in comparison(repaired.before, after):
        cells = (row.what, row.before, row.after)
        table.add_row(*map(_cell, cells))
    return table


def _cell(value: Prose | int | float) -> str:
    match value:
        case Prose(text=text):
            return plain_prose(text)
        case int():
            return f"{value:,}"
        case float():
            return figure(value)
        case _:
            assert_never(value)


def _tried(tried: tuple[Attempt, ...]) -> list[Text]:
    """Show the smallest attempts that were forecast to pass, or else the smallest of all."""
    if not tried:
        return []
    good = [attempt for attempt in tried if attempt.forecast]
    shortlist = sorted(good or tried, key=lambda attempt: attempt.change)[:MOST_TRIED]
    head = f"Tried {len(tried):,} repairs; {len(good):,} would pass."
    lines = [Text(), Text(head, style="bold")]
    for attempt in shortlist:
        verdict = attempt.judged or ("would pass" if attempt.forecast else "would not pass")
        words = f"{attempt.method}, on {attempt.selection}"
        told = f"{plain_prose(words)}: {verdict}{_said(attempt)}"
        lines.append(Text(f"  {attempt.change:<10.4g} {told}"))
    return lines


def _said(attempt: Attempt) -> str:
    """Say what the model did, where it was asked."""
    parts = {"refusals kept": attempt.kept, "task": attempt.exact}
    told = [f"{percent(value)} {name}" for name, value in parts.items() if value is not None]
    return f" ({', '.join(told)})" if told else ""
