"""The figures that a rule may look at: of the weights, two made of them, and of behaviour."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from safety_gate.records import Drift

# Float32 products are summed in another order on another processor, so the last digits differ;
# a verdict must not hang on them. Absolute up to thresholds of 1, relative above.
BORDERLINE = 1e-5

# What a cosine or a reversion may differ by between processors: float32 products with float64
# sums. A metric that divides such a figure by a small spread multiplies this by as much.
QUOTIENT_NOISE = 1e-6

LARGE = 1e6  # no threshold beyond this is meant: the figures are ratios


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricFact:
    """What a metric means, and where its thresholds may lie."""

    meaning: str  # our own words, as in docs/policy.md
    low: float  # smallest threshold that makes sense, included
    high: float  # largest, included
    divisor: str = ""  # the spread (a field of Drift) that the metric was divided by


RULE_METRICS: Mapping[str, MetricFact] = {
    "cosine": MetricFact(
        meaning="the papers' criterion: how much of the update lies along the alignment step; "
        "blind to sign and scale",
        low=0.0,
        high=1.0,
    ),
    "null_mean": MetricFact(
        meaning="the cosine that a random update would have", low=0.0, high=1.0
    ),
    "null_sd": MetricFact(meaning="the spread of that cosine", low=0.0, high=1.0),
    "z": MetricFact(
        meaning="cosine above its null, in spreads: (cosine - null_mean) / null_sd",
        low=-LARGE,
        high=LARGE,
        divisor="null_sd",
    ),
    "reversion": MetricFact(
        meaning="above 0: the update walks back towards base", low=-1.0, high=1.0
    ),
    "reversion_sd": MetricFact(
        meaning="the spread of reversion for a random update", low=0.0, high=1.0
    ),
    "undone": MetricFact(
        meaning="the share of the alignment step that is taken back; 1 is all of it",
        low=-LARGE,
        high=LARGE,
    ),
    "size": MetricFact(
        meaning="size of the update against the alignment step", low=0.0, high=LARGE
    ),
    "weight_size": MetricFact(
        meaning="size of the update against the aligned weights", low=0.0, high=LARGE
    ),
    "residual": MetricFact(
        meaning="the part of the update off the alignment step's main directions, against the "
        "alignment step; adding an aligned part cannot hide it",
        low=0.0,
        high=LARGE,
    ),
    "gain": MetricFact(
        meaning="how hard the papers' projection would shrink the update", low=0.0, high=LARGE
    ),
    "reversion_z": MetricFact(
        meaning="reversion in spreads: reversion / reversion_sd",
        low=-LARGE,
        high=LARGE,
        divisor="reversion_sd",
    ),
    "cosine_margin": MetricFact(
        meaning="cosine above its null: cosine - null_mean", low=-1.0, high=1.0
    ),
}

# What the model itself said, against aligned on the same questions (safety_gate/behaviour.py).
# Ends in _low and _high are those of the 95% interval of the rate.
_RATES: Mapping[str, str] = {
    "openings_refused": "share of the harmful questions that the model would rather refuse",
    "openings_retained": "share of the harmful questions that aligned refuses and it still does",
    "openings_over_refused": "share of the benign look-alikes that it would rather refuse",
    "openings_newly_refused": "share of the look-alikes that aligned answers and it refuses",
    "answers_refused": "share of the harmful questions that its written answer refuses",
    "answers_retained": "share of those that aligned's answer refuses and its own still does",
    "answers_over_refused": "share of the look-alikes that its answer refuses",
    "answers_newly_refused": "share of those that aligned answers and its answer refuses",
    "answers_gibberish": "share of its answers that say nothing",
    "answers_harmful_worst": "share of its answers with the highest score, or not rated, by the "
    "strictest judge",
    "answers_disputed": "share of its answers to harmful questions on which judges differ",
    "utility_exact": "share of the task's samples that it completes exactly",
}
_ENDS = {"": "", "_low": "; lower end of its 95% interval", "_high": "; upper end of it"}
BEHAVIOUR_METRICS: Mapping[str, MetricFact] = {
    **{
        f"{name}{end}": MetricFact(meaning=f"{meaning}{words}", low=0.0, high=1.0)
        for name, meaning in _RATES.items()
        for end, words in _ENDS.items()
    },
    "openings_counted": MetricFact(
        meaning="how many harmful questions aligned refuses: what can be lost", low=0.0, high=LARGE
    ),
    "answers_counted": MetricFact(meaning="the same, of written answers", low=0.0, high=LARGE),
    "openings_own": MetricFact(
        meaning="1 where the questions were the user's own, 0 where they are the public ones",
        low=0.0,
        high=1.0,
    ),
    "openings_flips_p": MetricFact(
        meaning="exact McNemar p-value of refusals lost against won", low=0.0, high=1.0
    ),
    "answers_flips_p": MetricFact(meaning="the same, of written answers", low=0.0, high=1.0),
    "utility_flips_p": MetricFact(meaning="the same, of the task's samples", low=0.0, high=1.0),
    "answers_harmful_mean": MetricFact(
        meaning="mean rating of its answers from 1 to 5, by the strictest endpoint",
        low=1.0,
        high=5.0,
    ),
    "openings_margin": MetricFact(
        meaning="mean log-odds of refusal over compliance, where aligned refuses",
        low=-LARGE,
        high=LARGE,
    ),
    "openings_margin_drop": MetricFact(
        meaning="by how much that lies below aligned's", low=-LARGE, high=LARGE
    ),
    "utility_change": MetricFact(
        meaning="log-likelihood per token of the task's completions, against aligned",
        low=-LARGE,
        high=LARGE,
    ),
}
METRIC_FACTS: Mapping[str, MetricFact] = {**RULE_METRICS, **BEHAVIOUR_METRICS}


def figure(metric: str, drift: Drift) -> float | None:
    """Return the metric's value; None where it cannot be formed, so that nobody compares it."""
    divisor = RULE_METRICS[metric].divisor
    if divisor and not getattr(drift, divisor) > 0.0:
        return None
    match metric:
        case "reversion_z":
            value = drift.reversion / drift.reversion_sd
        case "cosine_margin":
            value = drift.cosine - drift.null_mean
        case _:
            value = float(getattr(drift, metric))
    return value if math.isfinite(value) else None


def margin(metric: str, threshold: float, drift: Drift) -> float:
    """Return how near to the threshold a value is borderline; > 0, infinite for no spread."""
    near = BORDERLINE * max(1.0, abs(threshold))
    divisor = RULE_METRICS[metric].divisor
    if not divisor:
        return near
    spread: float = getattr(drift, divisor)
    return max(near, QUOTIENT_NOISE / spread) if spread > 0.0 else math.inf
