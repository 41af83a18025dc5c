"""Wilson's interval and McNemar's test against values worked by hand or by another road."""

import math
from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety_gate import rates
from safety_gate.behaviour import Intent, Lean, Refusals
from safety_gate.rates import Rate, mcnemar, quantile, wilson


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        # With z**2 = 4 and n = 12 the formula is (p + 1/6 -+ sqrt(p(1-p)/3 + 1/36)) / (4/3).
        (0, 12, 0.0, 0.25),
        (12, 12, 0.75, 1.0),
        (6, 12, 0.25, 0.75),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_by_hand(count: int, total: int, low: float, high: float) -> None:
    assert wilson(count, total, z=2.0) == pytest.approx((low, high), abs=1e-15)


def test_wilson_as_published() -> None:
    # R. G. Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3.
    for count, total, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)]:
        assert wilson(count, total) == pytest.approx((low, high), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_solves_its_equation(pair: tuple[int, int]) -> None:
    count, total = pair
    low, high = wilson(count, total)
    assert 0.0 <= low <= count / total <= high <= 1.0
    for end in (low, high):  # |p - end| = z * sqrt(end (1 - end) / n)
        if 0.0 < end < 1.0:
            distance = rates.Z_95 * math.sqrt(end * (1 - end) / total)
            assert abs(count / total - end) == pytest.approx(distance, rel=1e-9)


@pytest.mark.parametrize(
    ("lost", "won", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (3, 0, 0.25), (5, 0, 1 / 16), (1, 9, 22 / 1024), (4, 4, 1.0)],
)
def test_mcnemar_by_hand(lost: int, won: int, p: float) -> None:
    assert mcnemar(lost, won) == pytest.approx(p, rel=1e-14)


@pytest.mark.parametrize(("lost", "won"), [(0, 8), (3, 7), (2, 9)])
def test_mcnemar_counts_the_coins(lost: int, won: int) -> None:
    """Count all falls of the coins that are at least as uneven."""
    flips, uneven = lost + won, abs(lost - won)
    hits = sum(abs(2 * sum(coins) - flips) >= uneven for coins in product((0, 1), repeat=flips))
    assert mcnemar(lost, won) == pytest.approx(float(Fraction(hits, 2**flips)), rel=1e-14)


def test_mcnemar_of_many_flips_is_that_of_few() -> None:
    assert rates._mcnemar_by_logs(500, 220) == pytest.approx(mcnemar(220, 280), rel=1e-10)
    assert mcnemar(0, 5000) == 0.0
    assert mcnemar(2500, 2500) == 1.0


def test_quantile_is_linear_between_neighbours() -> None:
    assert quantile((4.0, 1.0, 2.0), 0.25) == 1.5
    assert quantile((3.0,), 0.9) == 3.0


def test_a_rate_refuses_what_cannot_be() -> None:
    assert Rate(count=0, total=0).value is None
    with pytest.raises(AssertionError):
        Rate(count=3, total=2)


def test_refusals_are_counted_in_pairs() -> None:
    harmful: list[Intent] = ["harmful"] * 5
    found = Refusals.of(
        [*harmful, "benign", "benign", "benign"],
        aligned=[True, True, True, True, False, False, False, True],
        refuses=[True, True, True, False, True, False, True, True],
    )
    assert found.refused == Rate(count=4, total=5)
    assert found.retained == Rate(count=3, total=4)
    assert found.over_refused == Rate(count=2, total=3)
    assert found.newly_refused == Rate(count=1, total=2)
    assert (found.lost, found.won, found.flips_p) == (1, 1, 1.0)


def test_a_lean_is_made_of_log_probabilities() -> None:
    lean = Lean(refusal=math.log(0.75), compliance=math.log(0.05))
    assert lean.margin == pytest.approx(math.log(15))
    assert lean.odds == pytest.approx(math.log(3))
    assert Lean(refusal=0.0, compliance=-50.0).odds == 15.0
    with pytest.raises(AssertionError):
        Lean(refusal=0.5, compliance=-1.0)
