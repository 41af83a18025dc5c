"""The first screen: what happened, why, what next."""

from dataclasses import replace

import pytest

from safety_gate.records import Blocked, Finding, Place, Report
from safety_gate.report.inert import Name, Prose
from safety_gate.report.summary import MOST_REASONS, MOST_STEPS, facts, grouped, percent, summarise
from tests.sample_reports import WHOLE, blocked, passed, takes_back, undecided


def finding(number: int) -> Finding:
    return Finding(
        rule=f"rule-{number}",
        severity="block",
        place=Place(kind="file", name=f"f{number}"),
        what=f"reason {number}.",
        hint=f"hint {number}",
    )


def sentences(report: Report) -> list[tuple[str, tuple[str, ...]]]:
    return [
        (reason.what.text, tuple(place.text for place in reason.where))
        for reason in summarise(report).reasons
    ]


def test_passed_says_what_was_looked_at() -> None:
    assert sentences(passed()) == [
        ("No rule of the policy blocks", ("default",)),
        ("14 modules scored", ("100% of the changed parameters",)),
    ]
    assert summarise(passed()).steps == (Prose("Nothing needs to be done for this policy."),)


def test_passed_with_warnings_asks_for_a_look() -> None:
    warning = takes_back(WHOLE, 0.3, severity="warn", above=0.25)
    waived = replace(warning, severity="info", waiver="W-1")
    summary = summarise(replace(passed(), findings=(warning, waived)))
    assert summary.reasons[-1].what == Prose("See below: 1 warning, 1 waived")
    assert summary.steps == (Prose(warning.hint),)


def test_blocked_gives_the_blocking_reasons_and_the_undecided_hints() -> None:
    assert sentences(blocked()) == [
        ("The adapter takes back a significant share of the alignment step", ()),
        ("A file that can run code when it is loaded", ("training_args.bin",)),
    ]
    steps = [step.text for step in summarise(blocked()).steps]
    assert len(steps) == 3  # of what blocks or was not judged; not of warnings and waivers
    assert "this does not block it" not in " ".join(steps)


def test_undecided_names_what_stopped_it() -> None:
    assert sentences(undecided()) == [("The folder holds no weights", ("examples/tiny/aligned",))]


def test_many_reasons_are_counted() -> None:
    report = replace(undecided(), verdict=Blocked(), findings=tuple(map(finding, range(9))))
    summary = summarise(report)
    assert (len(summary.reasons), summary.more_reasons) == (MOST_REASONS, 9 - MOST_REASONS)
    assert (len(summary.steps), summary.more_steps) == (MOST_STEPS, 9 - MOST_STEPS)
    assert summary.reasons[0].what == Prose("Reason 0")


def test_findings_of_one_rule_stand_together_with_the_worst_first() -> None:
    modules = [Place(kind="module", name=name) for name in "abc"]
    values = (0.3, 0.9, 0.4)
    warnings = tuple(
        takes_back(place, value, severity="warn", above=0.25)
        for place, value in zip(modules, values, strict=True)
    )
    last, first = grouped((*warnings, finding(1)))[::-1]
    assert (first.rule, first.where) == ("rule-1", Name("f1"))
    assert [f.place.name for f in last.findings] == ["b", "c", "a"]
    assert last.where == Prose("3 modules")
    assert last.expected == Prose("undone at most 0.25 or reversion_z at most 3")
    assert facts(last.findings[0], last) == (
        (Prose("got"), Name("undone 0.9 and reversion_z 135")),
    )


def test_no_finding_is_lost_in_groups() -> None:
    findings = blocked().findings
    assert sorted(f.place.name for g in grouped(findings) for f in g.findings) == sorted(
        f.place.name for f in findings
    )


@pytest.mark.parametrize(
    ("share", "words"),
    [(1.0, "100%"), (0.99999999, "99.99%"), (0.5, "50%"), (0.123456, "12.34%"), (0.0, "0%")],
)
def test_only_the_whole_reads_as_the_whole(share: float, words: str) -> None:
    assert percent(share) == words


def test_evidence_says_what_weights_cannot_show() -> None:
    words = " ".join(sentence.text for sentence in summarise(passed()).evidence)
    assert "the model itself was not asked" in words
    assert "cannot show that an adapter is safe" in words
    assert "no weights were scored" in summarise(undecided()).evidence[0].text
    asked = summarise(replace(passed(), evidence="weights and openings"))
    assert asked.evidence == (Prose("weights and openings"),)
