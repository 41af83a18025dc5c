"""The rules of a policy applied to the scores."""

import fnmatch
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never

from safety_gate.policy import builtin
from safety_gate.policy.metrics import figure, margin
from safety_gate.policy.schema import Comparison, Condition, Limits, Rule
from safety_gate.records import AdapterScore, Drift, Finding, ModuleScore, Place

WHOLE = Place(kind="adapter", name="the whole adapter")
LONGEST_WORDS = 300  # characters of a policy owner's text in a finding

BLOCK_HINT = (
    "Compare these figures with the other modules of the report, retrain the adapter with "
    "alignment data mixed in, or let the owner of the policy waive this finding for this adapter."
)
WARN_HINT = "Look at these figures in the report before the release; this does not block it."
UNKNOWN_HINT = "Check the weights of this module, or write the rule on another metric."
SCALE_HINT = (
    "Check lora_alpha, alpha_pattern and use_rslora of the adapter, and that base and aligned "
    "are the pair it was trained on."
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether all conditions of a rule hold; None where a figure could not be formed."""

    holds: bool | None
    borderline: bool = False  # a figure is so near to its threshold that rounding could decide


def matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return a test whether a module's whole name matches any of the patterns, case and all."""
    compiled = [re.compile(fnmatch.translate(pattern)) for pattern in patterns]
    return lambda name: any(pattern.match(name) for pattern in compiled)


def plain(text: str) -> str:
    """Put a policy owner's text on one line of bounded length, without control characters."""
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return words if len(words) <= LONGEST_WORDS else words[: LONGEST_WORDS - 3] + "..."


def outcome(conditions: Sequence[Condition], drift: Drift, *, strict: bool) -> Outcome:
    """Tell whether all conditions hold.

    Args:
        conditions: at least one.
        drift: the figures.
        strict: a borderline figure counts as fulfilling its condition (for rules that block).
    """
    known = True
    borderline = False
    for condition in conditions:
        value = figure(condition.metric, drift)
        if value is None:
            known = False
            continue
        threshold = condition.threshold
        near = margin(condition.metric, threshold, drift)
        if spared(condition.comparison, value, threshold, near if strict else 0.0):
            return Outcome(holds=False)
        borderline |= strict and abs(value - threshold) <= near
    return Outcome(holds=True if known else None, borderline=borderline)


def spared(comparison: Comparison, value: float, threshold: float, near: float) -> bool:
    """Tell whether the value is on the good side by more than ``near``; NaN never is."""
    match comparison:
        case "above":
            return value < threshold - near if near else value <= threshold
        case "at-least":
            return value < threshold - near
        case "below":
            return value > threshold + near if near else value >= threshold
        case "at-most":
            return value > threshold + near
        case _:
            assert_never(comparison)


def rule_findings(
    rule: Rule, modules: Sequence[ModuleScore], total: AdapterScore | None
) -> Iterator[Finding]:
    """Yield what one rule says; nothing about an adapter whose total is not there."""
    if rule.scope == "behaviour":
        return  # behaviour.py has these
    if rule.scope == "adapter":
        if total is not None:
            yield from _findings_at(rule, [(WHOLE, total.drift)])
        return
    for pattern in rule.modules:
        match = matcher([pattern])
        if modules and not any(match(score.module) for score in modules):
            yield _unmatched(rule, pattern)
    wanted = matcher(rule.modules)
    named = [
        (Place(kind="module", name=score.module), score.drift)
        for score in modules
        if wanted(score.module)
    ]
    yield from _findings_at(rule, named)


def _findings_at(rule: Rule, places: Sequence[tuple[Place, Drift]]) -> Iterator[Finding]:
    """Yield a finding per place where the rule holds, or cannot be judged, if they are enough."""
    judged = [
        (place, drift, outcome(rule.when, drift, strict=rule.severity == "block"))
        for place, drift in places
    ]
    firing = [item for item in judged if item[2].holds]
    unknown = [item for item in judged if item[2].holds is None]
    if len(firing) >= rule.at_least_modules:
        for place, drift, found in firing:
            yield _fired(rule, place, drift, borderline=found.borderline)
    if len(firing) + len(unknown) >= rule.at_least_modules:
        for place, drift, _ in unknown:
            yield _unknown(rule, place, drift)


def _fired(rule: Rule, place: Place, drift: Drift, *, borderline: bool) -> Finding:
    """Write the finding; metric, value and threshold are those of the rule's first condition."""
    first = rule.when[0]
    near = " (borderline: a figure is within rounding of its threshold)" if borderline else ""
    return Finding(
        rule=rule.id,
        severity=rule.severity,
        place=place,
        what=plain(rule.message).rstrip(".") + near,
        hint=plain(rule.hint) or (BLOCK_HINT if rule.severity == "block" else WARN_HINT),
        got=" and ".join(f"{c.metric} {_shown(figure(c.metric, drift))}" for c in rule.when),
        expected=" or ".join(good_side(c) for c in rule.when),
        metric=first.metric,
        value=figure(first.metric, drift),
        threshold=first.threshold,
    )


def _unknown(rule: Rule, place: Place, drift: Drift) -> Finding:
    """Say that a rule could not be applied; that decides nothing only where the rule warns."""
    missing = next(c for c in rule.when if figure(c.metric, drift) is None)
    return Finding(
        rule=rule.id,
        severity="undecided" if rule.severity == "block" else "warn",
        place=place,
        what=f"the rule could not be applied, because {missing.metric} cannot be formed here",
        hint=UNKNOWN_HINT,
        expected=good_side(missing),
        metric=missing.metric,
        threshold=missing.threshold,
    )


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def good_side(condition: Condition) -> str:
    """Write what would not fulfil the condition."""
    opposite: dict[Comparison, str] = {
        "above": "at most",
        "at-least": "below",
        "below": "at least",
        "at-most": "above",
    }
    return f"{condition.metric} {opposite[condition.comparison]} {condition.threshold:.4g}"


def _unmatched(rule: Rule, pattern: str) -> Finding:
    return Finding(
        rule=builtin.PATTERN_UNMATCHED,
        # a rule that should block and checks nothing has judged nothing
        severity="undecided" if rule.severity == "block" else "warn",
        place=Place(kind="policy", name=f"{rule.id}: {pattern}"),
        what="a module pattern of this rule matches no scored module, so it checks nothing",
        hint="Compare the pattern with the module names of the report; * also crosses dots.",
        got=pattern,
        expected="a pattern that matches a scored module",
    )


def scale_findings(
    limits: Limits, modules: Sequence[ModuleScore], total: AdapterScore | None
) -> Iterator[Finding]:
    """Yield a block for every module, and for the adapter, whose update is absurdly large."""
    places = [(Place(kind="module", name=score.module), score.drift) for score in modules]
    if total is not None:
        places.append((WHOLE, total.drift))
    for place, drift in places:
        near = margin("size", limits.size, drift)
        if not drift.size < limits.size - near:
            yield Finding(
                rule=builtin.ABSURD_SCALE,
                severity="block",
                place=place,
                what="the update is many times larger than the whole alignment step",
                hint=SCALE_HINT,
                got=f"size {drift.size:.4g}",
                expected=f"size at most {limits.size:.4g}",
                metric="size",
                value=drift.size if math.isfinite(drift.size) else None,
                threshold=limits.size,
            )
