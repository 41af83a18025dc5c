"""The reports of several adapters as one document, in every form."""

import json
import re
import textwrap
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from safety_gate.records import Blocked, Passed, Report, Undecided, Verdict
from safety_gate.report.inert import Name, code_span, shown
from safety_gate.report.json_report import to_json
from safety_gate.report.location import is_safe
from safety_gate.report.sarif import SarifSource, to_sarif

if TYPE_CHECKING:
    from rich.console import Console

FORMAT = "safety-gate/reports/v1"
UNREAD = "an adapter that was not read"
_OWN_ID = re.compile(r' (id|aria-labelledby)="([a-z]+)"')


def gravest(reports: Sequence[Report]) -> Verdict:
    """Return the verdict over all: blocked, else undecided, else passed."""
    verdicts = [report.verdict for report in reports]
    for kind in (Blocked, Undecided):
        found = next((verdict for verdict in verdicts if isinstance(verdict, kind)), None)
        if found is not None:
            return found
    return Passed() if verdicts else Undecided()


def name_of(report: Report) -> str:
    """Return what the user called the adapter; a stranger's text."""
    return report.adapter.name if report.adapter else UNREAD


def several_json(reports: Sequence[Report]) -> str:
    """Return {"schema", "verdict", "exit_code", "reports"}: each report as it stands alone.

    Raises:
        BadScore: a figure is NaN or infinite.
    """
    verdict = gravest(reports)
    parts = [textwrap.indent(to_json(report).rstrip("\n"), "    ") for report in reports]
    head = f'{{\n  "schema": "{FORMAT}",\n  "verdict": "{verdict.word}",\n'
    return (
        f'{head}  "exit_code": {verdict.exit_code},\n  "reports": [\n'
        + ",\n".join(parts)
        + ("\n  ]\n}\n")
    )


def reports_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of several reports; it refers to that of one by its id."""
    file = resources.files("safety_gate") / "schemas" / "reports.schema.json"
    schema: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return schema


def several_markdown(reports: Sequence[Report]) -> str:
    """Return a list of the verdicts, then every report."""
    from safety_gate.report.markdown import render_markdown

    lines = [f"# Safety Gate: {gravest(reports).word}", "", f"{len(reports)} adapters:", ""]
    lines += [f"- **{r.verdict.word}** {code_span(shown(name_of(r)))}" for r in reports]
    return "\n\n---\n\n".join(["\n".join(lines), *map(render_markdown, reports)])


def several_html(reports: Sequence[Report]) -> str:
    """Return one page: a list of the verdicts, then every report in a part that unfolds."""
    from safety_gate.report.html import Style, Token, environment, report_values, style_sheet

    env = environment()
    rows = [(Token(str(at)), report, Name(name_of(report))) for at, report in enumerate(reports)]
    page = env.get_template("reports.html.j2").render(
        style=Style(style_sheet()), verdict=gravest(reports), count=len(reports), rows=rows
    )
    body = env.get_template("report_body.html.j2")
    for at, report in enumerate(reports):
        part = _OWN_ID.sub(rf' \1="\2-{at}"', body.render(**report_values(report)))
        page = page.replace(f"<!-- report {at} -->", part)
    return page


def several_sarif(reports: Sequence[Report]) -> str:
    """Return one SARIF file; an adapter of several stands in the folder that the user named."""
    policy = next((report.policy.origin for report in reports if report.policy), "")
    sources = [
        SarifSource(report=report, folder=_folder(report) if len(reports) > 1 else "")
        for report in reports
    ]
    return to_sarif(sources, gate_id="safety-gate", policy=policy)


def _folder(report: Report) -> str:
    """Return the folder of an adapter in the repository; "" where its name is no such path."""
    name = report.adapter.name if report.adapter else ""
    return name if name and is_safe(name) else ""


def several_text(reports: Sequence[Report], console: "Console") -> None:
    """Print every report, then a list of the verdicts."""
    from rich.text import Text

    from safety_gate.report.terminal import render_text

    for report in reports:
        render_text(report, console)
        console.print()
    counts = {word: sum(r.verdict.word == word for r in reports) for word in _WORDS}
    said = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    console.print(Text(f"{len(reports)} adapters: {said}", style="bold"))
    for report in reports:
        console.print(Text(f"  {report.verdict.word:9} {shown(name_of(report))}"))


_WORDS = ("blocked", "undecided", "passed")
