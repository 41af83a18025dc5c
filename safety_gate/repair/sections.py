"""What a repair did, for Markdown and JSON reports."""

import json
from dataclasses import asdict
from functools import cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from safety_gate.repair.manifest import made_json
from safety_gate.repair.record import UNSETTLED, Repaired
from safety_gate.report.comparison import comparison
from safety_gate.report.inert import Prose
from safety_gate.report.json_report import to_json
from safety_gate.report.markdown import inert, render_markdown, templates_folder

MOST_TRIED = 12  # rows; the JSON report has them all


def render_repair_markdown(repaired: Repaired) -> str:
    """Return the section about the repair, then the report on the new files."""
    report = repaired.after or repaired.before
    return f"{repair_section(repaired)}\n{render_markdown(report)}"


def repair_section(repaired: Repaired) -> str:
    """Return what was done, and both judgments side by side, as Markdown."""
    tried = sorted(repaired.tried, key=lambda attempt: (not attempt.forecast, attempt.change))
    text = (
        _environment()
        .get_template("repair.md.j2")
        .render(
            repaired=repaired,
            title=f"Repair: {repaired.headline}",
            rows=comparison(repaired.before, repaired.after) if repaired.after else (),
            shortlist=tried[:MOST_TRIED],
            unsettled=UNSETTLED[0].upper() + UNSETTLED[1:] if repaired.unsettled else "",
        )
    )
    return text.strip() + "\n"


def repair_json(repaired: Repaired) -> str:
    """Return report/v1 of the new files with one key more, ``repair``.

    Where nothing was written, the report is the one on the adapter as it came.
    """
    body: dict[str, Any] = json.loads(to_json(repaired.after or repaired.before))
    body["repair"] = {
        "ending": repaired.ending,
        "why": repaired.why,
        "exit_code": repaired.exit_code,
        "unsettled": repaired.unsettled,
        "output": None if repaired.output is None else repaired.output.name,
        "before": json.loads(to_json(repaired.before)),
        "made": None if repaired.made is None else made_json(repaired.made),
        "tried": [asdict(attempt) for attempt in repaired.tried],
    }
    text = json.dumps(body, indent=2, ensure_ascii=True, allow_nan=False)
    # As in report/json_report.py: nothing in a log may read as a command, no control character.
    return text.replace("##[", "#\\u0023[").replace("\x7f", "\\u007f") + "\n"


@cache
def _environment() -> Environment:
    env = Environment(
        loader=FileSystemLoader(templates_folder()),
        undefined=StrictUndefined,
        finalize=inert,
        autoescape=False,  # noqa: S701  finalize sees every value, and Markdown is no HTML
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(prose=Prose)
    return env
