"""Before and after a repair, figure by figure."""

from dataclasses import dataclass
from typing import TypeAlias

from safety_gate.records import Report, Severity
from safety_gate.report.inert import Prose
from safety_gate.report.summary import percent

# What a reader of the comparison asks for first; the rest stands in the JSON reports.
_METRICS = {
    "undone": "share of the alignment step that is taken back",
    "reversion": "direction towards base, from -1 to 1",
    "cosine": "in line with the alignment step, from 0 to 1",
    "z": "cosine against that of a random update, in standard deviations",
    "size": "of the whole update, in lengths of the alignment step",
    "residual": "outside the alignment step, in its lengths",
}
# Of what the model said, under the name that the probe gives the adapter.
_SAID = {
    "openings_retained": "share of the aligned model's refusals that are kept",
    "answers_retained": "the same, by written answers",
    "openings_newly_refused": "share of the harmless questions that are newly refused",
    "utility_exact": "share of the task's samples that are right",
}
_COUNTED: dict[Severity, str] = {
    "block": "findings that block",
    "undecided": "findings that could not be judged",
    "warn": "warnings",
}
_NONE = Prose("–")

Value: TypeAlias = Prose | int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One row: the same thing in two reports."""

    what: Prose
    meaning: Prose | None
    before: Value
    after: Value


def comparison(before: Report, after: Report) -> tuple[Compared, ...]:
    """Return what changed between two reports, the verdict first."""
    rows = [_row("verdict", Prose(before.verdict.word), Prose(after.verdict.word))]
    for severity, name in _COUNTED.items():
        old, new = _count(before, severity), _count(after, severity)
        if old or new:
            rows.append(_row(name, old, new))
    rows.append(_row("coverage", _coverage(before), _coverage(after)))
    olds, news = _figures(before), _figures(after)
    return (
        *rows,
        *(
            Compared(
                what=Prose(metric),
                meaning=Prose(meaning),
                before=olds.get(metric, _NONE),
                after=news.get(metric, _NONE),
            )
            for metric, meaning in (*_SAID.items(), *_METRICS.items())
            if metric in olds or metric in news
        ),
    )


def _row(what: str, before: Value, after: Value) -> Compared:
    return Compared(what=Prose(what), meaning=None, before=before, after=after)


def _count(report: Report, severity: Severity) -> int:
    return sum(finding.severity == severity for finding in report.findings)


def _coverage(report: Report) -> Prose:
    return Prose(percent(report.total.coverage)) if report.total else _NONE


def _figures(report: Report) -> dict[str, float]:
    said = report.behaviour.figures("adapter") if report.behaviour else {}
    return said | (report.total.drift.values() if report.total else {})
