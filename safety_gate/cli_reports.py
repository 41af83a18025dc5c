"""Shows reports: on a terminal, or as a file that appears whole, in any style."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from safety_gate.cli_parts import write_whole

if TYPE_CHECKING:
    from rich.console import Console

    from safety_gate.records import Report

STYLES = ("text", "markdown", "json", "html", "sarif")


def tell(reports: "Sequence[Report]", style: str, output: Path | None) -> int:
    """Print the reports, or write them to a file; return the exit status, the gravest of all."""
    from rich.console import Console

    from safety_gate.report.several import gravest

    verdict = gravest(reports)
    if style == "text" and output is None:
        _print(reports, Console())
        return verdict.exit_code
    text = rendered(reports, style)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_whole(output, text)
        click.echo(f"{verdict.word}: the report is in {output}", err=True)
    return verdict.exit_code


def rendered(reports: "Sequence[Report]", style: str) -> str:
    """Return the reports in one of STYLES; a single one stands for itself."""
    from safety_gate.report import several

    only = reports[0] if len(reports) == 1 else None
    match style:
        case "json":
            from safety_gate.report.json_report import to_json

            return to_json(only) if only else several.several_json(reports)
        case "markdown":
            from safety_gate.report.markdown import render_markdown

            return render_markdown(only) if only else several.several_markdown(reports)
        case "html":
            from safety_gate.report.html import render_html

            return render_html(only) if only else several.several_html(reports)
        case "sarif":
            return several.several_sarif(reports)
        case _:
            from rich.console import Console

            buffer = io.StringIO()
            _print(reports, Console(file=buffer, width=100))
            return buffer.getvalue()


def _print(reports: "Sequence[Report]", console: "Console") -> None:
    from safety_gate.report.several import several_text
    from safety_gate.report.terminal import render_text

    if len(reports) == 1:
        render_text(reports[0], console)
    else:
        several_text(reports, console)
