"""The figures of a dense update, against those of its factors and against the plain formulas."""

import math
from collections.abc import Iterator

import pytest
import torch

from safety_gate import drift
from safety_gate.delta.dense import DenseUpdate, dense_norm, dense_sums

SHAPES = [(24, 40), (40, 24), (32, 32), (64, 1), (33, 7)]


def blocks_of(stored: torch.Tensor, height: int = 5) -> Iterator[drift.Block]:
    for start in range(0, stored.shape[0], height):
        part = stored[start : start + height]
        square = float(part.double().square().sum())
        yield drift.Block(start, start + len(part), part, square, 4 * square)


def measured(
    step: torch.Tensor, update: torch.Tensor, *, transposed: bool
) -> tuple[drift.ModuleSums, drift.StepProducts]:
    """Measure an update given as (out, in)."""
    stored, v = (update.T, step.T) if transposed else (update, step)
    stored, v = stored.contiguous(), v.contiguous()
    sums, products = dense_sums(
        "module",
        DenseUpdate(stored, dense_norm(stored)),
        lambda: blocks_of(v),
        transposed=transposed,
    )
    assert sums is not None
    return sums, products


def problem(shape: tuple[int, int], rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    step = torch.randn(*shape, generator=generator) * 0.01
    a = torch.randn(rank, shape[1], generator=generator)
    b = torch.randn(shape[0], rank, generator=generator)
    return step, a, b


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_figures_are_the_plain_formulas(shape: tuple[int, int], transposed: bool) -> None:
    step, a, b = problem(shape, 3)
    update = b @ a
    sums, products = measured(step, update, transposed=transposed)
    found = drift.drift(sums)
    v, d = step.double(), update.double()
    c = v @ v.T / v.norm()
    assert found.cosine == pytest.approx(
        float((c @ d * d).sum() / ((c @ d).norm() * d.norm())), rel=1e-5
    )
    assert found.gain == pytest.approx(float((c @ d).norm() / d.norm()), rel=1e-5)
    assert found.reversion == pytest.approx(float(-(d * v).sum() / (d.norm() * v.norm())), abs=1e-6)
    assert found.undone == pytest.approx(float(-(d * v).sum() / v.norm() ** 2), rel=1e-4)
    assert found.size == pytest.approx(float(d.norm() / v.norm()), rel=1e-6)
    basis = drift.range_basis(products.u)
    off = (d - basis @ (basis.T @ d)).norm() / v.norm()
    assert found.residual == pytest.approx(float(off), rel=1e-4, abs=1e-4 * found.size)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [(200, 120), (120, 200)])
def test_the_null_is_that_of_the_factors(shape: tuple[int, int], transposed: bool) -> None:
    step, a, b = problem(shape, 12)
    b = torch.linalg.qr(b).Q  # then the factors' null is defined by all of the update
    stored = step.T.contiguous() if transposed else step
    update = drift.factored(a, b, 1.0)
    assert update is not None
    columns = torch.cat((update.left, drift.null_columns(shape[0])), dim=1)
    products = drift.step_products(
        lambda: blocks_of(stored), columns, update.right, transposed=transposed
    )
    thin = drift.drift(drift.update_sums("module", update, products))
    wide = drift.drift(measured(step, b @ a, transposed=transposed)[0])
    assert wide.cosine == pytest.approx(thin.cosine, rel=1e-5)
    assert wide.null_mean == pytest.approx(thin.null_mean, rel=0.02)
    assert wide.null_sd == pytest.approx(thin.null_sd, rel=0.25)
    assert wide.reversion_sd == pytest.approx(thin.reversion_sd, rel=0.2)
    assert wide.residual == pytest.approx(thin.residual, rel=1e-4)


def test_a_vector_is_a_matrix_of_one_column() -> None:
    """C is then of rank one, and the cosine is that of dW and V without its sign."""
    step, update = torch.tensor([[3.0], [4.0], [0.0]]), torch.tensor([[-1.0], [0.0], [0.0]])
    found = drift.drift(measured(step, update, transposed=False)[0])
    assert found.cosine == pytest.approx(3 / 5)
    assert found.reversion == pytest.approx(3 / 5)
    assert found.undone == pytest.approx(3 / 25)
    assert found.size == pytest.approx(1 / 5)
    assert found.residual == pytest.approx(math.sqrt(1 - 9 / 25) / 5, rel=1e-5)


def test_a_step_of_zero_has_no_figures() -> None:
    stored = torch.ones(4, 3)
    sums, products = dense_sums(
        "m", DenseUpdate(stored, 1.0), lambda: blocks_of(torch.zeros(4, 3)), transposed=False
    )
    assert sums is None
    assert products.step_norm == 0.0
