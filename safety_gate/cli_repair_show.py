"""Shows a repair: on a terminal, or as a file in any style of report."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import click

from safety_gate.cli_parts import write_whole
from safety_gate.cli_reports import rendered

if TYPE_CHECKING:
    from safety_gate.repair.record import Repaired


def tell(repaired: "Repaired", style: str, report: Path | None) -> None:
    """Print the report, or write it to a file that appears whole."""
    from rich.console import Console

    from safety_gate.repair.side_by_side import render_repair_text

    if style == "text" and report is None:
        render_repair_text(repaired, Console())
        return
    text = _rendered(repaired, style)
    if report is None:
        click.echo(text, nl=False)
    else:
        write_whole(report, text)
        click.echo(f"{repaired.headline}: the report is in {report}", err=True)


def _rendered(repaired: "Repaired", style: str) -> str:
    """Return the report in a style of ``cli_reports``: that of the new files, if there are any."""
    from rich.console import Console

    from safety_gate.repair.sections import render_repair_markdown, repair_json
    from safety_gate.repair.side_by_side import render_repair_text

    last = repaired.after or repaired.before
    match style:
        case "json":
            return repair_json(repaired)
        case "markdown":
            return render_repair_markdown(repaired)
        case "html":
            from safety_gate.report.html import render_html

            return render_html(last, before=repaired.before if repaired.after else None)
        case "sarif":
            return rendered([last], style)
        case _:
            buffer = io.StringIO()
            render_repair_text(repaired, Console(file=buffer, width=100))
            return buffer.getvalue()
