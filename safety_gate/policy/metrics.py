"""The figures that a rule may look at: those of the report, and two that are made of them."""

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
