"""The metrics against a second road: dense float64 formulas, hand arithmetic, real draws."""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
import torch

from safety_gate import drift
from safety_gate.records import Drift

SEEDS = range(6)


def spectrum_matrix(out: int, inp: int, power: float, seed: int) -> torch.Tensor:
    """Return a random matrix whose k-th singular value is k**-power."""
    rng = np.random.default_rng(seed)
    k = min(out, inp)
    left = np.linalg.qr(rng.normal(size=(out, k)))[0]
    right = np.linalg.qr(rng.normal(size=(inp, k)))[0]
    values = np.arange(1, k + 1) ** -power
    return torch.from_numpy((left * values) @ right.T)


def one_block(
    step: torch.Tensor, weight: torch.Tensor, rows: int = 7
) -> Callable[[], Iterator[drift.Block]]:
    """Return a function that passes over V in blocks of ``rows``, as the engine does."""

    def blocks() -> Iterator[drift.Block]:
        for start in range(0, step.shape[0], rows):
            part = step[start : start + rows]
            yield drift.Block(
                start=start,
                stop=start + part.shape[0],
                step=part.float().contiguous(),
                step_square=float(part.square().sum()),
                weight_square=float(weight[start : start + rows].square().sum()),
            )

    return blocks


def measured(
    v: torch.Tensor,
    w: torch.Tensor,
    factors: tuple[torch.Tensor, torch.Tensor],
    scaling: float = 1.0,
    *,
    transposed: bool = False,
    module: str = "m",
) -> drift.ModuleSums:
    """Run the product's own road for one module."""
    a, b = factors
    update = drift.factored(a, b, scaling)
    assert update is not None
    columns = torch.cat((update.left, drift.null_columns(b.shape[0])), dim=1)
    stored = (v.T, w.T) if transposed else (v, w)
    products = drift.step_products(one_block(*stored), columns, update.right, transposed=transposed)
    return drift.update_sums(module, update, products)


def dense(v: torch.Tensor, w: torch.Tensor, delta: torch.Tensor) -> dict[str, float]:
    """Write the formulas of design.md out, C and dW formed, in float64."""
    c = v @ v.T / v.norm()
    image = c @ delta
    inner = (delta * v).sum()
    return {
        "cosine": float((image * delta).sum() / (image.norm() * delta.norm())),
        "reversion": float(-inner / (delta.norm() * v.norm())),
        "undone": float(-inner / v.norm() ** 2),
        "size": float(delta.norm() / v.norm()),
        "weight_size": float(delta.norm() / w.norm()),
        "gain": float(image.norm() / delta.norm()),
    }


Example = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def example(seed: int, *, out: int = 48, inp: int = 40, rank: int = 4) -> Example:
    """Return V, W_aligned, A and B."""
    gen = torch.Generator().manual_seed(seed)
    v = spectrum_matrix(out, inp, (0.5, 1.0, 2.0)[seed % 3], seed)
    w = torch.randn(out, inp, generator=gen, dtype=torch.float64)
    a = torch.randn(rank, inp, generator=gen, dtype=torch.float64).float()
    b = torch.randn(out, rank, generator=gen, dtype=torch.float64).float()
    return v, w, a, b


@pytest.mark.parametrize("transposed", [False, True], ids=["linear", "conv1d"])
@pytest.mark.parametrize("seed", SEEDS)
def test_metrics_agree_with_the_dense_formulas(seed: int, transposed: bool) -> None:
    v, w, a, b = example(seed)
    found = drift.drift(measured(v, w, (a, b), 1.7, transposed=transposed))
    for name, value in dense(v, w, 1.7 * b.double() @ a.double()).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("seed", SEEDS)
def test_the_residual_agrees_with_a_dense_projector(seed: int) -> None:
    v, w, a, b = example(seed)
    found = drift.drift(measured(v, w, (a, b)))
    # the second road: the same 64 columns, but a singular value decomposition in float64
    sketch = v @ v.T @ drift.null_columns(48).double()
    left, values, _ = torch.linalg.svd(sketch, full_matrices=False)
    basis = left[:, : 48 // drift.RANGE_SHARE]
    assert values[5] > 1e-4 * values[0]
    delta = b.double() @ a.double()
    expected = (delta - basis @ (basis.T @ delta)).norm() / v.norm()
    assert found.residual == pytest.approx(float(expected), rel=1e-4)


def test_the_projector_finds_the_top_singular_directions() -> None:
    v = spectrum_matrix(256, 200, 2.0, 3)
    left, _, right = torch.linalg.svd(v, full_matrices=False)
    a, b = right[:1].float(), left[:, :1].float()  # dW is V's own top direction
    assert drift.drift(measured(v, v, (a, b))).residual < 1e-3
    b = left[:, 199:200].float()  # the weakest one lies outside
    assert drift.drift(measured(v, v, (a, b))).residual == pytest.approx(
        1 / float(v.norm()), rel=1e-3
    )


@pytest.mark.parametrize(
    ("power", "rank", "flat"), [(0.5, 8, False), (1.0, 8, False), (2.0, 4, False), (1.0, 16, True)]
)
def test_the_null_is_what_drawn_updates_have(power: float, rank: int, flat: bool) -> None:
    """Mean and sd of the simulated null against 400 updates that are really drawn."""
    out, inp = 192, 160
    v = spectrum_matrix(out, inp, power, 11)
    rng = np.random.default_rng(5)
    a = rng.normal(size=(rank, inp)) * (1.0 if flat else (np.arange(1, rank + 1) ** -1.0)[:, None])
    found = drift.drift(
        measured(v, v, (torch.from_numpy(a), torch.from_numpy(rng.normal(size=(out, rank)))))
    )
    dense_v = v.numpy()
    cosines, reversions = [], []
    for _ in range(400):
        delta = rng.normal(size=(out, rank)) @ a
        image = dense_v @ (dense_v.T @ delta)
        cosines.append((image * delta).sum() / np.linalg.norm(image) / np.linalg.norm(delta))
        norm = np.linalg.norm(delta) * np.linalg.norm(dense_v)
        reversions.append(-(delta * dense_v).sum() / norm)
    # 64 columns know the mean to about sd * sqrt(rank / 64), the sd to about 9%; three of these
    spread = float(np.std(cosines, ddof=1))
    assert abs(found.null_mean - np.mean(cosines)) < 3 * spread * math.sqrt(rank / 64) + 0.002
    assert found.null_sd == pytest.approx(spread, rel=0.4)
    assert found.reversion_sd == pytest.approx(float(np.std(reversions, ddof=1)), rel=0.15)
    assert found.z == pytest.approx((found.cosine - found.null_mean) / found.null_sd)


def test_walking_back_by_hand() -> None:
    """V is 3 at one place, 4 at another; dW takes back exactly half of the first."""
    v = torch.zeros(8, 8, dtype=torch.float64)
    v[0, 0], v[1, 1] = 3.0, 4.0
    a, b = torch.zeros(1, 8), torch.zeros(8, 1)
    a[0, 0], b[0, 0] = 1.5, -0.5
    sums = measured(v, v, (a, b), 2.0)  # dW[0, 0] = 2 * -0.5 * 1.5 = -1.5
    assert sums.norm == pytest.approx(2.25)
    assert sums.against == pytest.approx(4.5)  # -(-1.5 * 3)
    found = drift.drift(sums)
    assert found.reversion == pytest.approx(4.5 / (1.5 * 5), rel=1e-6)
    assert found.undone == pytest.approx(4.5 / 25, rel=1e-6)
    assert found.size == pytest.approx(1.5 / 5, rel=1e-6)
    assert found.cosine == pytest.approx(1.0, rel=1e-6)  # C only scales this direction
    assert found.gain == pytest.approx(9 / 5, rel=1e-6)


def test_the_cosine_is_blind_to_sign_and_the_reversion_is_not() -> None:
    v = spectrum_matrix(40, 40, 1.0, 1)
    left, values, right = torch.linalg.svd(v)
    a, b = right[:4].float(), (left[:, :4] * values[:4]).float()
    forth, back = (drift.drift(measured(v, v, (a, sign * b))) for sign in (1, -1))
    assert forth.cosine == pytest.approx(back.cosine, rel=1e-6)
    assert forth.reversion == pytest.approx(-back.reversion, rel=1e-6)
    assert back.undone == pytest.approx(float((values[:4] ** 2).sum() / v.norm() ** 2), rel=1e-5)


def test_norms_survive_nearly_cancelling_factors() -> None:
    """Two columns that cancel to 1e-6: the Gram sum would be pure rounding error."""
    gen = torch.Generator().manual_seed(0)
    row = torch.randn(1, 30, generator=gen, dtype=torch.float64)
    column = torch.randn(20, 1, generator=gen, dtype=torch.float64)
    small = torch.randn(1, 30, generator=gen, dtype=torch.float64)
    a = torch.cat((row, row + 1e-6 * small))
    b = torch.cat((column, -column), dim=1)
    update = drift.factored(a, b, 1.0)
    assert update is not None
    assert update.norm == pytest.approx(1e-6 * float(column.norm() * small.norm()), rel=1e-8)


@pytest.mark.parametrize(("a_scale", "b_scale"), [(1e6, 1e-8), (1e-12, 1e12), (1e15, 1e15)])
def test_extreme_factors_do_not_overflow(a_scale: float, b_scale: float) -> None:
    v, w, a, b = example(1)
    plain = drift.drift(measured(v, w, (a, b)))
    scaled = drift.drift(measured(v, w, (a * a_scale, b * b_scale)))
    assert scaled.cosine == pytest.approx(plain.cosine, rel=1e-5)
    assert scaled.reversion == pytest.approx(plain.reversion, rel=1e-5)
    assert scaled.size == pytest.approx(plain.size * a_scale * b_scale, rel=1e-5)


def test_a_zero_update_has_no_figures() -> None:
    assert drift.factored(torch.randn(4, 8), torch.zeros(8, 4), 2.0) is None
    assert drift.factored(torch.randn(4, 8), torch.randn(8, 4), 0.0) is None


def test_rank_above_the_inputs_is_exact() -> None:
    v, w, a, b = example(2, rank=64)
    found = drift.drift(measured(v, w, (a, b)))
    assert found.cosine == pytest.approx(dense(v, w, b.double() @ a.double())["cosine"], rel=1e-5)


def side_by_side(matrices: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return all elements in one column: norms and inner products see nothing else."""
    return torch.cat([matrix.flatten() for matrix in matrices])


def test_the_total_adds_before_it_divides() -> None:
    parts = [example(seed) for seed in (0, 1)]
    total = drift.added(
        measured(v, w, (a, b), module=str(i)) for i, (v, w, a, b) in enumerate(parts)
    )
    assert total is not None
    v = side_by_side(p[0] for p in parts)
    delta = side_by_side(p[3].double() @ p[2].double() for p in parts)
    found = drift.drift(total)
    assert found.reversion == pytest.approx(
        float(-(delta * v).sum() / (delta.norm() * v.norm())), rel=1e-5
    )
    assert found.undone == pytest.approx(float(-(delta * v).sum() / v.norm() ** 2), rel=1e-5)
    assert found.size == pytest.approx(float(delta.norm() / v.norm()), rel=1e-6)


def test_the_totals_null_is_what_drawn_updates_have() -> None:
    parts = [example(seed, out=96, inp=80) for seed in (0, 1, 2)]
    sums = drift.added(
        measured(v, w, (a, b), module=str(i)) for i, (v, w, a, b) in enumerate(parts)
    )
    assert sums is not None
    found = drift.drift(sums)
    rng = np.random.default_rng(9)
    cosines, reversions = [], []
    for _ in range(400):
        inner = image2 = norm2 = against = steps = 0.0
        for v, _w, a, b in parts:
            vn, an = v.numpy(), a.double().numpy()
            delta = rng.normal(size=(96, 4)) @ an
            delta *= np.linalg.norm(b.double().numpy() @ an) / (math.sqrt(96) * np.linalg.norm(an))
            image = vn @ (vn.T @ delta) / np.linalg.norm(vn)
            inner += (image * delta).sum()
            image2 += (image**2).sum()
            norm2 += (delta**2).sum()
            against -= (delta * vn).sum()
            steps += (vn**2).sum()
        cosines.append(inner / math.sqrt(image2 * norm2))
        reversions.append(against / math.sqrt(norm2 * steps))
    assert found.null_mean == pytest.approx(np.mean(cosines), rel=0.1)
    assert found.null_sd == pytest.approx(np.std(cosines, ddof=1), rel=0.4)
    assert found.reversion_sd == pytest.approx(np.std(reversions, ddof=1), rel=0.15)


def test_the_null_does_not_depend_on_global_generators() -> None:
    v, w, a, b = example(4)
    first = drift.drift(measured(v, w, (a, b)))
    torch.manual_seed(123)
    np.random.default_rng(3)
    torch.randn(10)
    second = drift.drift(measured(v, w, (a, b)))
    assert isinstance(first, Drift)
    assert first == second
