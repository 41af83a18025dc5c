"""SARIF 2.1.0, for code scanning: one rule per rule id, one result per finding.

Levels: block and undecided are "error", since what could not be judged must stop a merge as well
(each result says which of the two it is in ``properties.severity``); warn is "warning", info is
"note". A waived finding is a note with a suppression, so that it stays visible and closes nothing.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, assert_never

from safety_gate import __version__
from safety_gate.records import SEVERITIES, Finding, Report, Severity
from safety_gate.report.inert import plain_prose, shown
from safety_gate.report.location import address_of, file_of, place_of

Json: TypeAlias = dict[str, Any]
Level: TypeAlias = Literal["error", "warning", "note"]

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
MOST_RESULTS = 25_000  # of one run, on GitHub; the gravest are kept
FINGERPRINT = "safetyGate/v1"
GITHUB_FINGERPRINT = "primaryLocationLineHash"  # the one by which GitHub tells alerts apart


@dataclass(frozen=True, slots=True, kw_only=True)
class SarifSource:
    """The report of one adapter, and where its files are."""

    report: Report
    folder: str  # relative to the top of the repository, forward slashes; "" for the top


def to_sarif(
    sources: Sequence[SarifSource],
    *,
    gate_id: str = "safety-gate",
    policy: str = "",
    most: int = MOST_RESULTS,
) -> str:
    """Return one SARIF file for all reports; equal reports give equal bytes.

    Args:
        sources: the reports.
        gate_id: category of the analysis; a later run of the same category replaces it.
        policy: path of the policy file in the repository, where it has one.
        most: results kept, gravest first; how many were left out is said in the run.
    """
    found = sorted(
        ((source, finding) for source in sources for finding in source.report.findings),
        key=lambda pair: SEVERITIES.index(pair[1].severity),
    )
    rules = tuple(_rules([finding for _, finding in found[:most]]))
    index = {rule["id"]: place for place, rule in enumerate(rules)}
    numbers: Counter[str] = Counter()
    results = [
        _result(source, finding, index[shown(finding.rule)], policy, numbers)
        for source, finding in found[:most]
    ]
    run = {
        "tool": {"driver": _driver(rules)},
        # GitHub reads the category up to the last slash.
        "automationDetails": {"id": f"{gate_id}/"},
        "columnKind": "utf16CodeUnits",
        "invocations": [_invocation(len(found) - len(results))],
        "results": results,
    }
    whole = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(whole, indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def level_of(severity: Severity) -> Level:
    """Return SARIF's word for a severity."""
    match severity:
        case "block" | "undecided":
            return "error"
        case "warn":
            return "warning"
        case "info":
            return "note"
        case _:
            assert_never(severity)


def _driver(rules: Sequence[Json]) -> Json:
    return {
        "name": "Safety Gate",
        "semanticVersion": __version__,
        "version": __version__,
        "rules": list(rules),
    }


def _invocation(left_out: int) -> Json:
    if not left_out:
        return {"executionSuccessful": True}
    text = f"{left_out} results were left out; they are in the JSON report."
    note = {"level": "warning", "message": {"text": text}}
    return {"executionSuccessful": True, "toolExecutionNotifications": [note]}


def _rules(findings: Sequence[Finding]) -> Iterator[Json]:
    """Yield one rule per id, with the words and the gravest severity of its first finding."""
    first: dict[str, Finding] = {}
    for finding in findings:
        first.setdefault(shown(finding.rule), finding)
    for rule, finding in sorted(first.items()):
        what, hint = _sentence(finding.what), _sentence(finding.hint)
        yield {
            "id": rule,
            "name": "".join(word.capitalize() for word in rule.split("-")),
            "shortDescription": {"text": what},
            "fullDescription": {"text": f"{what} {hint}"},
            "help": {"text": hint},
            "defaultConfiguration": {"level": level_of(finding.severity)},
            "properties": {"tags": ["safety", "adapter"]},
        }


def _result(
    source: SarifSource, finding: Finding, rule: int, policy: str, numbers: Counter[str]
) -> Json:
    """Return one finding; ``numbers`` counts equal fingerprints, so that each is different."""
    path = file_of(finding, source.report, folder=source.folder, policy=policy)
    same = _fingerprint(source.folder, finding)
    numbers[same] += 1
    result = {
        "ruleId": shown(finding.rule),
        "ruleIndex": rule,
        "level": level_of(finding.severity),
        "message": {"text": _message(finding)},
        "locations": [_location(finding, path)],
        "partialFingerprints": {
            FINGERPRINT: f"{same}:{numbers[same]}",
            GITHUB_FINGERPRINT: f"{same[:16]}:{numbers[same]}",
        },
        "properties": _properties(finding),
    }
    if finding.waiver:
        why = f"waiver {shown(finding.waiver)} of the policy"
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": why}]
    return result


def _location(finding: Finding, path: str) -> Json:
    """Name the file, and within it what the finding is about; weights have no lines."""
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": address_of(path)},
            "region": {"startLine": 1},
        },
        "logicalLocations": [
            {"fullyQualifiedName": shown(finding.place.name), "kind": finding.place.kind}
        ],
    }


def _message(finding: Finding) -> str:
    got = f", got {shown(finding.got)}" if finding.got else ""
    expected = f", expected {_text(finding.expected)}" if finding.expected else ""
    lifted = f" Waived by {shown(finding.waiver)}." if finding.waiver else ""
    what, hint = _sentence(finding.what).rstrip("."), _sentence(finding.hint)
    return f"{what}: {place_of(finding)}{got}{expected}.{lifted} {hint}"


def _sentence(text: str) -> str:
    """Return a sentence of our own words, with its capital and its full stop."""
    words = _text(text).rstrip(".")
    return f"{words[:1].upper()}{words[1:]}."


def _text(text: str) -> str:
    """Return our own words as SARIF's plain text, in which [text](address) would be a link."""
    return plain_prose(text).replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")


def _properties(finding: Finding) -> Json:
    figures = {"value": finding.value, "threshold": finding.threshold}
    known = {name: value for name, value in figures.items() if value is not None}
    return {"severity": finding.severity, **known}


def _fingerprint(folder: str, finding: Finding) -> str:
    """Return what stays the same from run to run while the finding does; never a figure."""
    parts = [folder, finding.rule, finding.place.kind, finding.place.name, finding.metric]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
