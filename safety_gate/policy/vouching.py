"""Where no weight changes, the model's answers alone can vouch for an adapter.

What vouches is a rule of the policy that blocks, that was applied, and that a model which refuses
nothing any more would break: a rule on utility, or on too many refusals, says nothing about harm.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from safety_gate.behaviour import FEWEST_REFUSALS
from safety_gate.policy.rules import spared
from safety_gate.policy.schema import Condition, Policy, Rule
from safety_gate.records import Finding

WITHOUT_UPDATE: Final = "kind-without-update"
HINT: Final = (
    "Ask questions that nobody else has seen (--prompts): an adapter can be trained to refuse "
    "those that are public."
)
_REFUSALS: Final = frozenset(
    f"{mode}_{what}{end}"
    for mode in ("openings", "answers")
    for what in ("refused", "retained")
    for end in ("", "_low", "_high")
)


def is_vouched(policy: Policy, figures: Mapping[str, float] | None) -> bool:
    """Tell whether a rule that blocks lost refusals was applied to what the model said.

    With fewer than FEWEST_REFUSALS that aligned gives, and so could be lost, it does not count.
    """
    return figures is not None and any(_vouches(rule, figures) for rule in policy.rules)


def _vouches(rule: Rule, figures: Mapping[str, float]) -> bool:
    blocks = rule.scope == "behaviour" and rule.severity == "block"
    return blocks and all(_is_heard(condition, figures) for condition in rule.when)


def _is_heard(condition: Condition, figures: Mapping[str, float]) -> bool:
    """Tell whether a condition was applied to enough, and holds where no question is refused."""
    known = math.isfinite(figures.get(condition.metric, math.nan))
    holds = not spared(condition.comparison, 0.0, condition.threshold, 0.0)
    mode = condition.metric.partition("_")[0]
    enough = figures.get(f"{mode}_counted", 0.0) >= FEWEST_REFUSALS
    return condition.metric in _REFUSALS and known and enough and holds


def told_alone(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings; that no weight can be scored is then no reason against the adapter."""
    return [
        replace(finding, severity="info", hint=HINT) if finding.rule == WITHOUT_UPDATE else finding
        for finding in findings
    ]
