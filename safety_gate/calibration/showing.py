"""A calibration as Markdown, as JSON, and for the terminal."""

import io
import json
from collections.abc import Sequence
from typing import Any, Final

from safety_gate.calibration.calibrate import Calibration
from safety_gate.calibration.proposal import Proposal
from safety_gate.calibration.table import Row
from safety_gate.rates import Rate
from safety_gate.report.inert import code_span, markdown_prose, plain_prose, shown
from safety_gate.roc import Auc

SCHEMA: Final = "safety-gate/calibration/v1"
HEAD: Final = ("figure", "AUC (95%)", "fires", "unsafe caught", "safe alarmed")
PROPOSED: Final = ("figure", "proposed", "unsafe", "safe", "unsafe, left out", "safe, left out")
CAVEAT: Final = (
    "Figures of the adapters that were given: others, of other makers, can lie elsewhere. Columns "
    "'left out' judge each adapter by the threshold that the others give."
)
NO_POLICY: Final = "No threshold catches half of the unsafe adapters with so few false alarms."


def auc_cell(auc: Auc | None) -> str:
    """Write an AUC with its interval."""
    return "" if auc is None else f"{auc.value:.3f} ({auc.low:.3f}-{auc.high:.3f})"


def rate_cell(rate: Rate | None) -> str:
    """Write a rate with its counts."""
    if rate is None or rate.value is None:
        return ""
    return f"{rate.count}/{rate.total} ({rate.value:.0%})"


def row_cells(row: Row) -> tuple[str, ...]:
    """Return one row of the table."""
    return (row.name, auc_cell(row.auc), row.cut, rate_cell(row.caught), rate_cell(row.alarms))


def proposal_cells(proposal: Proposal) -> tuple[str, ...]:
    """Return one row of the table of thresholds."""
    rates = (
        *(proposal.caught, proposal.alarms),
        *(proposal.caught_left_out, proposal.alarms_left_out),
    )
    cut = f"{proposal.signal.side} {proposal.cut:g}"
    return (proposal.signal.name, cut, *map(rate_cell, rates))


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of our own words and figures; none of them holds a bar."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def markdown(found: Calibration) -> str:
    """Return the calibration as Markdown."""
    parts = [
        f"# Calibration: {_counts(found)}\n",
        markdown_table(HEAD, [row_cells(row) for row in (*found.signals, *found.verdicts)]),
        "## Proposed thresholds\n",
        markdown_table(PROPOSED, [proposal_cells(p) for p in found.proposals]),
        f"{CAVEAT}\n",
        f"```yaml\n{found.policy}```\n" if found.policy else f"{NO_POLICY}\n",
    ]
    parts += [f"Note: {markdown_prose(note)}.\n" for note in found.notes]
    if found.left_out:
        lines = [f"- {code_span(one.name)}: {one.why}" for one in found.left_out]
        parts.append("## Left out\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def text(found: Calibration, width: int = 110) -> str:
    """Return the calibration for a terminal of the given width."""
    from rich.console import Console

    buffer = io.StringIO()
    console = Console(file=buffer, width=width)
    console.print(f"Calibration: {_counts(found)}\n", markup=False, highlight=False)
    console.print(_grid(HEAD, [row_cells(row) for row in (*found.signals, *found.verdicts)]))
    console.print(_grid(PROPOSED, [proposal_cells(p) for p in found.proposals]))
    console.print(f"{CAVEAT}\n", markup=False, highlight=False)
    for note in found.notes:
        console.print(f"Note: {plain_prose(note)}.\n", markup=False, highlight=False)
    for one in found.left_out:
        line = f"Left out: {shown(one.name)}: {one.why}"
        console.print(line, markup=False, highlight=False)
    console.print(found.policy or NO_POLICY, markup=False, highlight=False)
    return buffer.getvalue()


def as_json(found: Calibration) -> str:
    """Return the calibration as JSON, with every adapter's own figures."""
    return (
        json.dumps(
            {
                "schema": SCHEMA,
                "rows": [_row(row) for row in (*found.signals, *found.verdicts)],
                "proposals": [_proposal(proposal) for proposal in found.proposals],
                "policy": found.policy,
                "adapters": [
                    {
                        "adapter": one.name,
                        "label": "unsafe" if one.unsafe else "safe",
                        "signals": dict(one.signals),
                        "verdicts": dict(one.verdicts),
                    }
                    for one in found.specimens
                ],
                "notes": list(found.notes),
                "left_out": [{"adapter": one.name, "why": one.why} for one in found.left_out],
            },
            indent=1,
            allow_nan=False,
        )
        + "\n"
    )


def _counts(found: Calibration) -> str:
    unsafe = sum(one.unsafe for one in found.specimens)
    safe = len(found.specimens) - unsafe
    return f"{unsafe} unsafe and {safe} safe adapters, {len(found.left_out)} left out"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for index, title in enumerate(head):
        table.add_column(title, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _row(row: Row) -> dict[str, Any]:
    return {
        "figure": row.name,
        "fires": row.cut,
        "auc": None if row.auc is None else [row.auc.value, row.auc.low, row.auc.high],
        "unsafe_caught": _rate(row.caught),
        "safe_alarmed": _rate(row.alarms),
    }


def _proposal(proposal: Proposal) -> dict[str, Any]:
    return {
        "figure": proposal.signal.name,
        "scope": proposal.signal.scope,
        "metric": proposal.signal.metric,
        "side": proposal.signal.side,
        "threshold": proposal.cut,
        "unsafe_caught": _rate(proposal.caught),
        "safe_alarmed": _rate(proposal.alarms),
        "unsafe_caught_left_out": _rate(proposal.caught_left_out),
        "safe_alarmed_left_out": _rate(proposal.alarms_left_out),
        "blocks": proposal.blocks,
    }


def _rate(rate: Rate | None) -> dict[str, Any] | None:
    if rate is None:
        return None
    return {"count": rate.count, "total": rate.total, "interval": list(rate.interval)}
