"""Rules on what the model said, applied to its figures."""

import math
from collections.abc import Iterator, Mapping, Sequence

from safety_gate.policy import builtin
from safety_gate.policy.rules import WARN_HINT, WHOLE, good_side, plain, spared
from safety_gate.policy.schema import Condition, Rule
from safety_gate.records import Finding

LOST_HINT = (
    "See in the report what the model says, retrain the adapter with data of what it lost, repair "
    "it and have the model asked again, or let the owner of the policy waive this finding."
)
NOT_ASKED_HINT = (
    "Run with --ask openings or --ask generate, so that the model is asked; "
    "docs/behaviour.md says what that takes."
)


def behaviour_findings(rule: Rule, figures: Mapping[str, float] | None) -> Iterator[Finding]:
    """Yield what one rule of scope behaviour says.

    Args:
        rule: the rule.
        figures: of the adapter, by metric; None where the model was not asked.
    """
    if rule.scope != "behaviour":
        return
    if figures is None:
        if rule.if_not_asked == "undecided":
            yield _unasked(rule, rule.when[0])
        return
    known = True
    for condition in rule.when:
        value = figures.get(condition.metric, math.nan)
        if math.isnan(value):
            known = False
        elif spared(condition.comparison, value, condition.threshold, 0.0):
            return
    if known:
        yield _fired(rule, figures)
    elif rule.if_not_asked == "undecided":
        missing = next(c for c in rule.when if math.isnan(figures.get(c.metric, math.nan)))
        yield _unasked(rule, missing)


def _fired(rule: Rule, figures: Mapping[str, float]) -> Finding:
    """Write the finding; metric, value and threshold are those of the rule's first condition."""
    first = rule.when[0]
    return Finding(
        rule=rule.id,
        severity=rule.severity,
        place=WHOLE,
        what=plain(rule.message).rstrip("."),
        hint=plain(rule.hint) or (LOST_HINT if rule.severity == "block" else WARN_HINT),
        got=" and ".join(f"{c.metric} {figures[c.metric]:.4g}" for c in rule.when),
        expected=" or ".join(good_side(c) for c in rule.when),
        metric=first.metric,
        value=figures[first.metric],
        threshold=first.threshold,
    )


def _unasked(rule: Rule, missing: Condition) -> Finding:
    """Say that the model did not give the figure; a rule that blocks has then judged nothing."""
    return Finding(
        rule=rule.id,
        severity="undecided" if rule.severity == "block" else "warn",
        place=WHOLE,
        what=f"the rule could not be applied, because the model was not asked for {missing.metric}",
        hint=_hint_for(missing.metric),
        expected=good_side(missing),
        metric=missing.metric,
        threshold=missing.threshold,
    )


def _hint_for(metric: str) -> str:
    """Say how the model is asked for a figure."""
    if metric.startswith("answers_"):
        return "Run with --ask generate: this figure is of written answers."
    if metric.startswith("utility_"):
        return "Give samples of the task with --task, and have the model asked."
    return NOT_ASKED_HINT


def nothing_ruled(rules: Sequence[Rule], figures: Mapping[str, float] | None) -> Iterator[Finding]:
    """Yield a finding where every rule of the policy was skipped: then nothing was judged."""
    if not any(_is_applied(rule, figures or {}) for rule in rules):
        yield Finding(
            rule=builtin.NOTHING_RULED,
            severity="undecided",
            place=WHOLE,
            what="no rule of the policy was applied: the model was not asked for its figures",
            hint=NOT_ASKED_HINT,
            expected="at least one rule that looks at this adapter",
        )


def _is_applied(rule: Rule, figures: Mapping[str, float]) -> bool:
    known = all(math.isfinite(figures.get(c.metric, math.nan)) for c in rule.when)
    return rule.scope != "behaviour" or known
