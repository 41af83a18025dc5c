"""How well a figure tells two groups apart: the ROC AUC, its interval, and where to cut.

All of it is counting: no model is fitted. A score here is any number; larger means more suspicious.
"""

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np

DRAWS: Final = 2000  # resamples of the bootstrap: its 2.5% point then rests on 50 of them
SEED: Final = 20240  # of the bootstrap: equal input gives equal output
SHARES: Final = (0.025, 0.975)


@dataclass(frozen=True, slots=True, kw_only=True)
class Auc:
    """The area under the ROC curve, with its 95% bootstrap interval."""

    value: float  # 0..1; 0.5 tells nothing, below 0.5 the figure points the other way
    low: float
    high: float


def auc(suspects: Sequence[float], innocents: Sequence[float]) -> float:
    """Return the chance that a suspect scores above an innocent one, ties counted half.

    This is the area under the ROC curve (Mann-Whitney's U over the number of pairs).

    Args:
        suspects: scores of those that should score high, at least one, finite.
        innocents: scores of the others, at least one, finite.
    """
    return float(_wins(suspects, innocents).mean())


def auc_interval(suspects: Sequence[float], innocents: Sequence[float]) -> Auc:
    """Return the AUC with the percentile interval of the bootstrap, drawn within each group.

    Where no resample mixes the groups both ends are 1: that is no certainty, only all that these
    scores can say. Source: B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), 13.3.
    """
    import numpy as np

    wins = _wins(suspects, innocents)
    rows, columns = wins.shape
    rng = np.random.default_rng(SEED)
    # How often each score is drawn; a resample's AUC is then a weighted mean of the same matrix.
    one = rng.multinomial(rows, np.full(rows, 1 / rows), size=DRAWS)
    other = rng.multinomial(columns, np.full(columns, 1 / columns), size=DRAWS)
    drawn = np.einsum("dr,rc,dc->d", one, wins, other, optimize=True) / (rows * columns)
    low, high = np.quantile(drawn, SHARES)
    return Auc(value=float(wins.mean()), low=float(low), high=float(high))


def best_cut(
    suspects: Sequence[float], innocents: Sequence[float], most_false: float
) -> float | None:
    """Return the score above which most suspects and at most a share of the innocents lie.

    Of the cuts that catch as many, the one with the fewest false alarms that lies nearest to the
    innocents: to let a suspect pass is the worse error. None where every cut that catches any
    suspect catches too many innocents.

    Args:
        suspects: scores that should lie above, finite.
        innocents: scores that should not, finite.
        most_false: share of the innocents that may lie above, 0..1.
    """
    guilty, clean = sorted(suspects), sorted(innocents)
    seen = sorted({*guilty, *clean})
    found: list[tuple[int, int, float, float]] = []  # caught, -false, -below, above
    for below, above in itertools.pairwise(seen):
        false = len(clean) - bisect.bisect_right(clean, below)
        if false <= most_false * len(clean):
            caught = len(guilty) - bisect.bisect_right(guilty, below)
            found.append((caught, -false, -below, above))
    if not found or max(found)[0] == 0:
        return None
    _, _, below, above = max(found)
    return roundest(-below, above)


def roundest(below: float, above: float) -> float:
    """Return the number with the fewest digits near a quarter of the way from one to the other.

    It lies between an eighth and three eighths, so that no score stands close to it.
    """
    aim, gap = below + (above - below) / 4, above - below
    if not gap > 0.0:
        raise AssertionError(f"no gap between {below} and {above}")
    places = -math.floor(math.log10(gap))
    for digits in range(places - 1, places + 17):
        near = round(aim, digits)
        if abs(near - aim) <= gap / 8:
            return near
    return aim


def _wins(suspects: Sequence[float], innocents: Sequence[float]) -> "np.ndarray":
    """Return, for every pair, 1 where the suspect scores above, 0.5 for a tie, else 0."""
    import numpy as np

    one, other = np.asarray(suspects, dtype=float), np.asarray(innocents, dtype=float)
    if not (one.size and other.size and np.isfinite(one).all() and np.isfinite(other).all()):
        raise AssertionError("an AUC needs finite scores of both groups")
    wins: np.ndarray = (one[:, None] > other) + 0.5 * (one[:, None] == other)
    return wins
