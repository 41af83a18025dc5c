"""Which figures stand so near to a threshold that quick products must not decide."""

from collections.abc import Sequence

from safety_gate.policy.metrics import RULE_METRICS, figure
from safety_gate.policy.schema import Condition, Policy
from safety_gate.records import AdapterScore, Drift, ModuleScore

# How far bfloat16 products can move a figure, relative to its threshold where that is above 1. On
# the 1.1B-shaped benchmark cosines moved by up to 4e-5, reversions by 1e-5 and residuals by 5e-4
# (make bench prints them); these are five and ten times as wide.
QUICK_ERROR = 2e-4
QUICK_ERRORS = {"reversion": 5e-5, "reversion_z": 5e-5, "residual": 5e-3, "gain": 5e-3}


def close_modules(policy: Policy, modules: Sequence[ModuleScore]) -> frozenset[str]:
    """Return the modules where quick products could decide whether a rule fires."""
    rules = _rules(policy, "module")
    return frozenset(m.module for m in modules if _is_close(rules, m.drift))


def is_total_close(policy: Policy, total: AdapterScore) -> bool:
    """Tell whether they could decide it for a rule on the whole adapter."""
    return _is_close(_rules(policy, "adapter"), total.drift)


def _rules(policy: Policy, scope: str) -> list[Sequence[Condition]]:
    """Return the conditions of each rule of a scope, and of the limit of scale."""
    limit = Condition(metric="size", above=policy.limits.size)
    return [(limit,), *(rule.when for rule in policy.rules if rule.scope == scope)]


def _is_close(rules: Sequence[Sequence[Condition]], drift: Drift) -> bool:
    """Tell whether any rule depends on a figure that is near its threshold.

    All conditions of a rule must hold for it to fire: where one clearly fails, the others do not
    matter.
    """
    return any(
        any(_gap(c, drift) is None for c in conditions)
        and all((gap := _gap(c, drift)) is None or gap for c in conditions)
        for conditions in rules
    )


def _gap(condition: Condition, drift: Drift) -> bool | None:
    """Return whether the condition clearly holds; None where the figure is near or missing."""
    value = figure(condition.metric, drift)
    if value is None:
        return None
    divisor = RULE_METRICS[condition.metric].divisor
    spread = float(getattr(drift, divisor)) if divisor else 1.0
    error = QUICK_ERRORS.get(condition.metric, QUICK_ERROR)
    distance = value - condition.threshold
    if not abs(distance) > error * max(1.0, abs(condition.threshold)) / spread:
        return None
    wants_more = condition.comparison in ("above", "at-least")
    return (distance > 0) == wants_more
