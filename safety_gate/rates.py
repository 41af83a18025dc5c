"""Exact statistics of small counts, without any library: Wilson's interval and McNemar's test."""

import math
from dataclasses import dataclass
from typing import Final

Z_95: Final = 1.959963984540054  # the normal quantile of a two-sided 95% interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How many of how many, with the 95% interval of the rate that may lie behind it."""

    count: int
    total: int

    def __post_init__(self) -> None:
        """Refuse impossible counts."""
        if not 0 <= self.count <= self.total:
            raise AssertionError(f"{self.count} of {self.total}")

    @property
    def value(self) -> float | None:
        """Return the share, 0..1; None of nothing."""
        return self.count / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float]:
        """Return Wilson's interval, both ends included; all of 0..1 where nothing was counted."""
        return wilson(self.count, self.total)


def wilson(count: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Return Wilson's score interval of a binomial rate.

    Unlike the normal approximation it stays within 0..1, and says something at 0 and at all.
    Source: E. B. Wilson, JASA 22 (1927) 209.
    """
    if total == 0:
        return 0.0, 1.0
    share, spread = count / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    # At the ends the exact values are 0 and 1; rounding must not say 1e-17.
    low = 0.0 if count == 0 else max(0.0, middle - half)
    high = 1.0 if count == total else min(1.0, middle + half)
    return low, high


def mcnemar(lost: int, won: int) -> float:
    """Return the two-sided p-value that paired flips are as likely in both directions.

    The exact test: under the null each of the lost + won flips falls either way like a coin, so
    p = 2 * P(X <= min(lost, won)) for X ~ Binomial(lost + won, 1/2), at most 1.
    Source: Q. McNemar, Psychometrika 12 (1947) 153, in its exact binomial form.
    """
    if lost < 0 or won < 0:
        raise AssertionError(f"{lost} and {won} flips")
    flips, fewer = lost + won, min(lost, won)
    ways = sum(math.comb(flips, k) for k in range(fewer + 1))
    return min(1.0, float(2 * ways / 2**flips)) if flips < MANY else _mcnemar_by_logs(flips, fewer)


MANY: Final = 1000  # flips beyond which 2**flips does not fit into a float


def _mcnemar_by_logs(flips: int, fewer: int) -> float:
    terms = [
        math.lgamma(flips + 1) - math.lgamma(k + 1) - math.lgamma(flips - k + 1)
        for k in range(fewer + 1)
    ]
    top = max(terms)
    total = top + math.log(math.fsum(math.exp(term - top) for term in terms))
    return min(1.0, math.exp(total + math.log(2) - flips * math.log(2)))


def quantile(values: tuple[float, ...], share: float) -> float:
    """Return the value below which a share of the values lies, linear between neighbours."""
    if not values:
        raise AssertionError("a quantile of nothing")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
