"""Waivers: what they lift, what they never lift, and when they speak up."""

from datetime import UTC, date, datetime

import pytest

from safety_gate.policy.verdict import decide
from safety_gate.records import Blocked, Finding, Passed, Severity, Undecided, Verdict
from tests.test_policy_builders import (
    COMMIT,
    DIGEST,
    RULE,
    TODAY,
    finding,
    module,
    policy,
    total,
)

OTHER = "cd" * 32


def waiver(
    adapter: str = DIGEST, rule: str = "low-cosine", expires: str = "2026-12-31", more: str = ""
) -> str:
    return (
        f"- {{id: w, adapter: {adapter}, rule: {rule}, reason: known, owner: Ann, "
        f"expires: {expires}{more}}}\n"
    )


def judged(
    waivers: str, *findings: Finding, cosine: float = 0.1, today: date = TODAY
) -> tuple[Verdict, dict[str, Severity]]:
    """Verdict and severity by rule (each rule fires once here)."""
    verdict, found = decide(
        policy(RULE + "waivers:\n" + waivers),
        modules=[module("l.q_proj", cosine=cosine)],
        total=total(1),
        findings=findings,
        adapter_ids=(DIGEST, COMMIT),
        today=today,
    )
    return verdict, {f.rule: f.severity for f in found}


@pytest.mark.parametrize("adapter", [DIGEST, f"sha256:{DIGEST}", DIGEST.upper(), COMMIT])
def test_a_waiver_lifts_a_rule_of_this_adapter(adapter: str) -> None:
    assert judged(waiver(adapter)) == (Passed(), {"low-cosine": "info"})


def test_the_lifted_finding_names_its_waiver() -> None:
    _, found = decide(
        policy(RULE + "waivers:\n" + waiver()),
        modules=[module(cosine=0.1)],
        total=total(1),
        findings=[],
        adapter_ids=(f"sha256:{DIGEST}", "sha256:" + OTHER),
        today=TODAY,
    )
    assert [(f.rule, f.severity, f.waiver) for f in found] == [("low-cosine", "info", "w")]


@pytest.mark.parametrize("adapter", [OTHER, "f" * 40])
@pytest.mark.parametrize("expires", ["2026-12-31", "2020-01-01"])
def test_a_waiver_of_another_adapter_is_silent(adapter: str, expires: str) -> None:
    assert judged(waiver(adapter, expires=expires)) == (Blocked(), {"low-cosine": "block"})


@pytest.mark.parametrize(
    ("expires", "verdict", "rules"),
    [
        ("2026-11-21", Passed(), {"low-cosine": "info"}),
        ("2026-11-20", Passed(), {"low-cosine": "info"}),
        ("2026-11-19", Blocked(), {"low-cosine": "block", "waiver-expired": "warn"}),
    ],
)
def test_a_waiver_counts_up_to_its_last_day(
    expires: str, verdict: Verdict, rules: dict[str, Severity]
) -> None:
    assert judged(waiver(expires=expires)) == (verdict, rules)


def test_a_datetime_for_today_is_taken_by_its_day() -> None:
    now = datetime(2026, 12, 31, 23, 59, tzinfo=UTC)
    assert judged(waiver(), today=now)[0] == Passed()


def test_a_waiver_of_another_rule_lifts_nothing_and_says_so() -> None:
    rules = {"low-cosine": "block", "waiver-unused": "warn"}
    assert judged(waiver(rule="low-cosin")) == (Blocked(), rules)


@pytest.mark.parametrize(("pattern", "lifts"), [("*.q_proj", True), ("*.k_proj", False)])
def test_a_waiver_may_name_modules(pattern: str, lifts: bool) -> None:
    verdict, _ = judged(waiver(more=f', modules: ["{pattern}"]'))
    assert verdict == (Passed() if lifts else Blocked())


@pytest.mark.parametrize("severity", ["block", "warn"])
def test_built_in_findings_can_be_waived(severity: Severity) -> None:
    verdict, rules = judged(
        waiver(rule="pickle-file"), finding("pickle-file", severity), cosine=0.5
    )
    assert (verdict, rules) == (Passed(), {"pickle-file": "info"})


def test_what_was_not_judged_cannot_be_waived() -> None:
    verdict, rules = judged(
        waiver(rule="odd-format"), finding("odd-format", "undecided"), cosine=0.5
    )
    assert verdict == Undecided()
    assert rules == {"odd-format": "undecided", "waiver-unused": "warn"}


def test_coverage_that_blocks_cannot_be_waived_either() -> None:
    text = RULE + "coverage: {severity: block}\nwaivers:\n" + waiver(rule="coverage-low")
    verdict, found = decide(
        policy(text),
        modules=[module()],
        total=total(1, 63),
        findings=[],
        adapter_ids=(DIGEST, COMMIT),
        today=TODAY,
    )
    assert verdict == Blocked()
    assert "not judged cannot be waived" in found[1].what


def test_a_waiver_cannot_lift_the_word_about_another_waiver() -> None:
    old = waiver(expires="2020-01-01")
    new = waiver(rule="waiver-expired").replace("id: w", "id: w-2")
    verdict, rules = judged(old + new, cosine=0.5)
    assert (verdict, rules) == (Passed(), {"waiver-expired": "warn", "waiver-unused": "warn"})


def test_of_two_waivers_the_first_lifts_and_both_are_used() -> None:
    two = waiver() + waiver(COMMIT).replace("id: w", "id: w-2")
    assert judged(two) == (Passed(), {"low-cosine": "info"})
