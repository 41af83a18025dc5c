"""What happened, why, and what to do next: the same few sentences for every renderer."""

from dataclasses import dataclass
from typing import TypeAlias, assert_never

from safety_gate.records import (
    SEVERITIES,
    Blocked,
    Finding,
    Passed,
    PlaceKind,
    Report,
    Severity,
    Undecided,
)
from safety_gate.report.inert import Name, Prose

MOST_REASONS = 3  # more than three sentences are no longer a summary
MOST_STEPS = 5
WEIGHTS_ONLY = "weights only"
WHOLE_ADAPTER = "the whole adapter"  # the one place whose name is our own words

_PLURALS: dict[PlaceKind, str] = {
    "adapter": "adapters",
    "file": "files",
    "tensor": "tensors",
    "module": "modules",
    "config": "config keys",
    "checkpoint": "checkpoints",
    "policy": "policies",
}
_VERBS: dict[Severity, str] = {
    "block": "Blocks",
    "undecided": "Not judged",
    "warn": "Warning",
    "info": "Note",
}

Where: TypeAlias = Name | Prose


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One sentence of the answer to "why"."""

    what: Prose
    where: tuple[Where, ...]  # one name, or a count of places; empty where there is no place


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Findings that say the same thing about different places."""

    rule: str
    severity: Severity
    what: Prose  # starts with a capital, no full stop
    hint: Prose
    findings: tuple[Finding, ...]  # the furthest over its threshold first

    @property
    def waived(self) -> bool:
        """Tell whether all of these were lifted by a waiver."""
        return all(finding.waiver for finding in self.findings)

    @property
    def word(self) -> Prose:
        """Return what these findings do to the verdict."""
        return Prose("Waived" if self.waived else _VERBS[self.severity])

    @property
    def expected(self) -> Prose | None:
        """Return what all of several places should have had, to be said once."""
        wanted = {finding.expected for finding in self.findings}
        if len(self.findings) == 1 or len(wanted) > 1 or not (text := wanted.pop()):
            return None
        return Prose(text)

    @property
    def where(self) -> Where:
        """Return the one place, or how many there are."""
        if len(self.findings) == 1:
            return place_of(self.findings[0])
        kinds = {finding.place.kind for finding in self.findings}
        noun = _PLURALS[kinds.pop()] if len(kinds) == 1 else "places"
        return Prose(f"{len(self.findings):,} {noun}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The first screen of a report."""

    headline: str
    reasons: tuple[Reason, ...]
    more_reasons: int
    steps: tuple[Prose, ...]  # never empty
    more_steps: int
    evidence: tuple[Prose, ...]
    groups: tuple[Group, ...]  # every finding, gravest first


def summarise(report: Report) -> Summary:
    """Derive the first screen from the findings."""
    groups = grouped(report.findings)
    reasons = _reasons(report, groups)
    steps = _steps(report)
    return Summary(
        headline=f"Safety Gate: {report.verdict.word}",
        reasons=reasons[:MOST_REASONS],
        more_reasons=len(reasons[MOST_REASONS:]),
        steps=steps[:MOST_STEPS],
        more_steps=len(steps[MOST_STEPS:]),
        evidence=_evidence(report),
        groups=groups,
    )


def grouped(findings: tuple[Finding, ...]) -> tuple[Group, ...]:
    """Put findings of one rule that say the same together, gravest first, largest group first."""
    found: dict[tuple[Severity, str, str, str], list[Finding]] = {}
    for finding in findings:
        same = (finding.severity, finding.rule, finding.what, finding.hint)
        found.setdefault(same, []).append(finding)
    groups = [
        Group(
            rule=rule,
            severity=severity,
            what=_sentence(what),
            hint=Prose(hint),
            findings=tuple(sorted(members, key=_excess, reverse=True)),
        )
        for (severity, rule, what, hint), members in found.items()
    ]
    return tuple(sorted(groups, key=lambda g: (SEVERITIES.index(g.severity), -len(g.findings))))


def place_of(finding: Finding) -> Where:
    """Return the name of the place where a finding was made."""
    name = finding.place.name
    return Prose(name) if name == WHOLE_ADAPTER else Name(name)


def facts(finding: Finding, group: Group) -> tuple[tuple[Where, Where], ...]:
    """Return what was found at one place, and what only there was expected, as (label, value)."""
    told: list[tuple[Where, Where]] = []
    if finding.got:
        told.append((Prose("got"), Name(finding.got)))
    elif finding.value is not None:
        label = Name(finding.metric) if finding.metric else Prose("value")
        told.append((label, Prose(figure(finding.value))))
    if group.expected is None and finding.expected:
        told.append((Prose("expected"), Prose(finding.expected)))
    elif finding.threshold is not None and not finding.expected:
        told.append((Prose("threshold"), Prose(figure(finding.threshold))))
    if finding.waiver:
        told.append((Prose("waived by"), Name(finding.waiver)))
    return tuple(told)


def _excess(finding: Finding) -> float:
    """Return how far a figure lies from its threshold; 0 where there is no figure."""
    if finding.value is None or finding.threshold is None:
        return 0.0
    return abs(finding.value - finding.threshold)


def _sentence(text: str) -> Prose:
    """Return a sentence that starts with a capital and has no full stop."""
    text = text.strip().rstrip(".")
    return Prose(text[:1].upper() + text[1:])


def _reasons(report: Report, groups: tuple[Group, ...]) -> tuple[Reason, ...]:
    match report.verdict:
        case Passed():
            return _passed(report)
        case Blocked():
            gravest: Severity = "block"
        case Undecided():
            gravest = "undecided"
        case _:
            assert_never(report.verdict)
    reasons = tuple(
        Reason(what=group.what, where=() if group.where == Prose(WHOLE_ADAPTER) else (group.where,))
        for group in groups
        if group.severity == gravest
    )
    return reasons or (Reason(what=Prose("No finding says why"), where=()),)


def _passed(report: Report) -> tuple[Reason, ...]:
    """Say what was looked at, and what was let through."""
    policy = (Name(report.policy.name),) if report.policy else ()
    reasons = [Reason(what=Prose("No rule of the policy blocks"), where=policy)]
    if report.total is not None:
        covered = Prose(f"{percent(report.total.coverage)} of the changed parameters")
        scored = f"{_count(report.total.modules, 'module')} scored"
        reasons.append(Reason(what=Prose(scored), where=(covered,)))
    waived = sum(1 for finding in report.findings if finding.waiver)
    warned = sum(1 for finding in report.findings if finding.severity == "warn")
    noted = [_count(warned, "warning")] if warned else []
    noted += [f"{waived:,} waived"] if waived else []
    if noted:
        reasons.append(Reason(what=Prose(f"See below: {', '.join(noted)}"), where=()))
    return tuple(reasons)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def percent(share: float) -> str:
    """Return a share, 0..1, in percent; rounded down, so that only the whole reads as 100%."""
    hundredths = int(share * 10_000)
    return f"{hundredths // 100}.{hundredths % 100:02d}%".replace(".00%", "%")


def figure(value: float) -> str:
    """Return a figure with three significant digits."""
    return f"{value:.3g}"


def _steps(report: Report) -> tuple[Prose, ...]:
    """Return the unique hints of the findings that made the verdict, gravest first."""
    match report.verdict:
        case Passed():
            asking: tuple[Severity, ...] = ("warn",)
            otherwise = "Nothing needs to be done for this policy."
        case Blocked() | Undecided():
            asking = ("block", "undecided")
            otherwise = "Report this as a bug of Safety Gate."
        case _:
            assert_never(report.verdict)
    hints = [f.hint for severity in asking for f in report.findings if f.severity == severity]
    return tuple(map(Prose, dict.fromkeys(hints))) or (Prose(otherwise),)


def _evidence(report: Report) -> tuple[Prose, ...]:
    """Say what the verdict rests on, and what it does not show."""
    if report.evidence != WEIGHTS_ONLY:
        return (Prose(report.evidence),)
    if report.total is None:
        return (Prose("none: no weights were scored, and the model itself was not asked."),)
    return (
        Prose("weights only: the model itself was not asked."),
        Prose("Weights show drift from the alignment; they cannot show that an adapter is safe."),
    )
