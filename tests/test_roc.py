"""The ROC AUC against hand arithmetic, and where to cut."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety_gate.roc import auc, auc_interval, best_cut, roundest

SCORES = st.lists(st.integers(min_value=0, max_value=6).map(float), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("suspects", "innocents", "area"),
    [
        pytest.param([3.0, 4.0], [1.0, 2.0], 1.0, id="apart"),
        pytest.param([1.0, 2.0], [3.0, 4.0], 0.0, id="the-wrong-way"),
        pytest.param([1.0], [1.0], 0.5, id="a-tie-counts-half"),
        # pairs: 3>2, 3<4, 5>2, 5>4 -> 3 of 4
        pytest.param([3.0, 5.0], [2.0, 4.0], 3 / 4, id="three-of-four-pairs"),
        # 1<2, 1=1, 2=2, 2>1 -> 0 + 0.5 + 0.5 + 1
        pytest.param([1.0, 2.0], [2.0, 1.0], 2 / 4, id="ties-by-hand"),
    ],
)
def test_auc_by_hand(suspects: list[float], innocents: list[float], area: float) -> None:
    assert auc(suspects, innocents) == area


@given(suspects=SCORES, innocents=SCORES)
def test_auc_is_the_area_under_the_curve_itself(
    suspects: list[float], innocents: list[float]
) -> None:
    """The second road: draw the curve, threshold by threshold, and add up trapezoids."""
    cuts = [math.inf, *sorted({*suspects, *innocents}, reverse=True)]
    curve = [
        (
            sum(s >= cut for s in innocents) / len(innocents),
            sum(s >= cut for s in suspects) / len(suspects),
        )
        for cut in cuts
    ]
    area = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in itertools.pairwise(curve))
    assert auc(suspects, innocents) == pytest.approx(area, abs=1e-12)


def test_the_interval_is_the_bootstrap_that_draws_adapters_one_by_one() -> None:
    rng = np.random.default_rng(seed=5)
    suspects, innocents = rng.normal(0.8, 1, 30).tolist(), rng.normal(0, 1, 25).tolist()
    plain = [
        auc(
            rng.choice(suspects, size=30).tolist(),
            rng.choice(innocents, size=25).tolist(),
        )
        for _ in range(4000)
    ]
    found = auc_interval(suspects, innocents)
    low, high = np.quantile(plain, [0.025, 0.975])
    assert found.value == auc(suspects, innocents)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)
    assert found == auc_interval(suspects, innocents)  # seeded


def test_an_interval_of_groups_that_never_mix_has_no_width() -> None:
    found = auc_interval([2.0, 3.0], [0.0, 1.0])
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(AssertionError):
        auc([bad], [1.0])
    with pytest.raises(AssertionError):
        auc([], [1.0])


@pytest.mark.parametrize(
    ("suspects", "innocents", "most_false", "low", "high"),
    [
        # a gap from 2 to 10: a quarter of the way is 4, between an eighth and three eighths
        pytest.param([10.0, 11.0], [1.0, 2.0], 0.0, 3.0, 5.0, id="near-the-innocents"),
        # 3 cannot be caught without the innocent at 4
        pytest.param([3.0, 9.0], [1.0, 4.0], 0.0, 4.0, 9.0, id="no-false-alarm-allowed"),
        pytest.param([3.0, 9.0], [1.0, 4.0], 0.5, 1.0, 3.0, id="one-of-two-allowed"),
    ],
)
def test_where_to_cut_by_hand(
    suspects: list[float], innocents: list[float], most_false: float, low: float, high: float
) -> None:
    cut = best_cut(suspects, innocents, most_false)
    assert cut is not None
    assert low < cut < high


def test_there_is_no_cut_where_innocents_lie_on_top() -> None:
    assert best_cut([1.0, 2.0], [3.0, 4.0], 0.0) is None
    assert best_cut([1.0, 1.0], [1.0, 1.0], 0.05) is None


@given(suspects=SCORES, innocents=SCORES, most_false=st.sampled_from([0.0, 0.2, 0.5]))
def test_no_other_cut_catches_more(
    suspects: list[float], innocents: list[float], most_false: float
) -> None:
    """The second road: try a cut in every gap and count."""

    def caught(cut: float) -> int:
        alarms = sum(score > cut for score in innocents)
        allowed = alarms <= most_false * len(innocents)
        return sum(score > cut for score in suspects) if allowed else 0

    steps = [step + 0.5 for step in range(-1, 8) if min(suspects + innocents) <= step + 0.5]
    best = max((caught(step) for step in steps if step < max(suspects + innocents)), default=0)
    cut = best_cut(suspects, innocents, most_false)
    assert (0 if cut is None else caught(cut)) == best


@given(
    below=st.floats(min_value=-1e6, max_value=1e6),
    gap=st.floats(min_value=1e-6, max_value=1e6),
)
def test_the_round_number_lies_in_the_gap(below: float, gap: float) -> None:
    above = below + gap
    near = roundest(below, above)
    assert below < near < above
    assert abs(near - below) < abs(above - near)  # on the side of the innocents
