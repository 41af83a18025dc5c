"""Findings beside the files of a pull request."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never

from safety_gate.publish import limits
from safety_gate.publish.publication import Judged, Publication
from safety_gate.records import Finding, Severity
from safety_gate.report.inert import plain_prose, shown
from safety_gate.report.location import file_of, place_of

Level: TypeAlias = Literal["failure", "warning", "notice"]

LEVELS: tuple[Level, ...] = ("failure", "warning", "notice")
LONGEST_MESSAGE = 2000  # bytes; what is longer is read in the report


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One finding, for a reader of the diff; every text is inert."""

    level: Level
    path: str  # relative to the top of the repository; may hold a stranger's text
    title: str
    message: str


def level_of(severity: Severity) -> Level:
    """Return how loudly a severity speaks; what was not judged is as loud as what blocks."""
    match severity:
        case "block" | "undecided":
            return "failure"
        case "warn":
            return "warning"
        case "info":
            return "notice"
        case _:
            assert_never(severity)


def annotations(publication: Publication, *, policy: str = "") -> tuple[Annotation, ...]:
    """Return every finding as an annotation, gravest first.

    Args:
        publication: the reports.
        policy: path of the policy file in the repository, where it has one.
    """
    found = [
        _annotation(judged, finding, policy)
        for judged in publication.gravest_first
        for finding in judged.report.findings
    ]
    return tuple(sorted(found, key=lambda annotation: LEVELS.index(annotation.level)))


def _annotation(judged: Judged, finding: Finding, policy: str) -> Annotation:
    what = plain_prose(finding.what)
    value = f", got {shown(finding.got)}" if finding.got else ""
    wanted = f", expected {plain_prose(finding.expected)}" if finding.expected else ""
    lifted = f" (waived by {shown(finding.waiver)})" if finding.waiver else ""
    message = f"{what[:1].upper()}{what[1:]}{lifted}: {place_of(finding)}{value}{wanted}."
    return Annotation(
        level=level_of(finding.severity),
        path=file_of(finding, judged.report, folder=judged.name, policy=policy),
        title=limits.clipped(f"Safety Gate: {shown(finding.rule)}", limits.CHECK_TITLE),
        message=limits.clipped(f"{message} {plain_prose(finding.hint)}", LONGEST_MESSAGE),
    )
