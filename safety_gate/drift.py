"""How far an update moves a weight matrix, and in which direction: pure mathematics.

Notation, as in docs/metrics.md: V = W_aligned - W_base (out, in) is the alignment step,
dW = scaling * B @ A (out, in) the update, C = V V^T / |V| (out, out) the alignment matrix of
Safe LoRA (arXiv 2405.16833). C is never formed, and neither is dW: with A^T = Q R (thin QR) and
M = scaling * B @ R^T the update is dW = M @ Q^T with Q orthonormal, so every norm of dW is a norm
of M. One pass over V gives X = V^T [M | G], a second one U = V [X | Q], and all metrics are sums
over these thin matrices. G is 64 seeded Gaussian columns: the null, and V's range.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from safety_gate.products import Block, StepProducts, step_products
from safety_gate.records import Drift

if TYPE_CHECKING:
    import torch

__all__ = ["Block", "StepProducts", "step_products"]  # others take them from here

NULL_COLUMNS = 64  # the null's sd then has an error of about 1/sqrt(2*64) = 9%
NULL_DRAWS = 512  # resamplings of these columns; their own error is below that of the columns
RANGE_SHARE = 8  # P keeps at most out/8 directions: a projector on half the space tells nothing
RANGE_FLOOR = 1e-10  # eigenvalues of the Gram matrix below this share of the top are rounding

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Update:
    """One adapter's change of one weight matrix, dW = norm * left @ right.T."""

    left: "torch.Tensor"  # (out, k) float32, Frobenius norm 1; k = min(rank, in)
    right: "torch.Tensor"  # (in, k) float32, orthonormal columns
    norm: float  # |dW|_F
    mix: "torch.Tensor"  # (k, rank) float64: A^T = right @ mix
    a_squares: Floats  # (k,) squared singular values of A, summing to |A|^2


@dataclass(frozen=True, slots=True)
class NullDraws:
    """Sums of simulated random updates, so that modules can be added before the quotient."""

    inner: Floats  # (draws,) <C dW, dW>
    image: Floats  # (draws,) |C dW|^2
    norm: Floats  # (draws,) |dW|^2

    def cosines(self) -> Floats:
        """Return the cosine of each draw."""
        return self.inner / np.sqrt(self.image * self.norm)


@dataclass(frozen=True, slots=True)
class ColumnSums:
    """What each column of the products adds to the sums of the update that it belongs to."""

    inner: Floats  # (c,) |V^T m|^2 / |V|, for the columns m of all updates, then the Gaussian ones
    image: Floats  # (c,) |V V^T m|^2 / |V|^2
    lengths: Floats  # (64,) |g|^2 of the Gaussian columns
    along: Floats  # (c - 64,) <V^T m, q>, q the right column that belongs to m
    off_range: Floats  # (c - 64,) |m - P m|^2, P the projector on V's top left directions
    basis: "torch.Tensor"  # (out, directions) float32, P = basis @ basis.T


@dataclass(frozen=True, slots=True)
class ModuleSums:
    """Everything about one module that the metrics are quotients of; sums add over modules."""

    inner: float  # <C dW, dW>
    image: float  # |C dW|^2
    norm: float  # |dW|^2
    against: float  # -<dW, V>
    against_variance: float  # its variance for a Gaussian B of the same expected norm
    off_range: float  # |dW - P dW|^2
    step: float  # |V|^2
    weight: float  # |W_aligned|^2
    null: NullDraws


def factored(a: "torch.Tensor", b: "torch.Tensor", scaling: float) -> Update | None:
    """Bring scaling * b @ a into the form that keeps norms; None if it is exactly zero.

    Args:
        a: (rank, in), as stored in ``lora_A.weight``; float32 or float64, finite.
        b: (out, rank), as stored in ``lora_B.weight``.
        scaling: lora_alpha / r, or as rsLoRA and the patterns say.

    Norms come from this QR and never from tr((B^T B)(A A^T)): on nearly cancelling factors that
    sum is pure rounding error.
    """
    import torch

    right, mix = torch.linalg.qr(a.double().T)  # (in, k), (k, rank)
    left = scaling * (b.double() @ mix.T)  # (out, k)
    norm = float(torch.linalg.vector_norm(left))
    if norm == 0.0:
        return None
    squares = torch.linalg.svdvals(mix).square()
    return Update(
        left=(left / norm).float(),
        right=right.float(),
        norm=norm,
        mix=mix,
        a_squares=squares.numpy(),
    )


@lru_cache(maxsize=8)
def null_columns(out: int) -> "torch.Tensor":
    """Return the (out, 64) Gaussian columns of every module with this number of outputs.

    The tensor is shared: never write to it. numpy's Philox is counter based and seeded by the
    number of outputs, so the null does not depend on torch's generators or on the order of work.
    """
    import torch

    generator = np.random.Generator(np.random.Philox(key=out))
    return torch.from_numpy(generator.standard_normal((out, NULL_COLUMNS), dtype=np.float32))


def _square(thin: "torch.Tensor") -> float:
    """Return the sum of squares, accumulated in float64."""
    import torch

    return float(torch.linalg.vector_norm(thin, dtype=torch.float64)) ** 2


def column_squares(thin: "torch.Tensor") -> Floats:
    """Return the sum of squares of each column, accumulated in float64."""
    import torch

    squares: Floats = torch.linalg.vector_norm(thin, dim=0, dtype=torch.float64).square().numpy()
    return squares


def null_draws(
    module: str, a_squares: Floats, columns: tuple[Floats, Floats, Floats], norm: float
) -> NullDraws:
    """Simulate updates with the adapter's own A and a Gaussian B, scaled to its norm.

    A random B turns A's i-th singular direction into a Gaussian column, so a draw is rank many
    columns picked with replacement and weighted by A's squared singular values.

    Args:
        module: seeds the picks, so that a module's figures do not depend on its neighbours.
        a_squares: (k,) squared singular values of A.
        columns: what ``null_figures`` returns.
        norm: |dW|, which every draw has in expectation.
    """
    import torch

    length = columns[2]
    seed = int.from_bytes(hashlib.sha256(module.encode()).digest()[:16], "little")
    picks = np.random.Generator(np.random.Philox(key=seed)).integers(
        0, len(length), size=(NULL_DRAWS, len(a_squares))
    )
    flat = (np.arange(NULL_DRAWS)[:, None] * len(length) + picks).ravel()
    weights = np.bincount(
        flat, np.tile(a_squares, NULL_DRAWS), minlength=NULL_DRAWS * len(length)
    ).reshape(NULL_DRAWS, len(length))
    scale = norm**2 / (float(a_squares.sum()) * float(length.mean()))
    # torch and not numpy: numpy's products start threads of their own, beside the workers.
    draws = torch.from_numpy(scale * np.stack(columns)) @ torch.from_numpy(weights).T
    inner, image, norms = draws.numpy()
    return NullDraws(inner=inner, image=image, norm=norms)


def range_basis(sketch: "torch.Tensor") -> "torch.Tensor":
    """Return an orthonormal basis (out, <= keep) of V's top left singular directions, float64.

    Args:
        sketch: (out, 64), V V^T G: one power iteration of a range finder (Halko, Martinsson and
            Tropp, arXiv 0909.4061). Its Gram matrix is taken in float64, so that directions down
            to 1e-5 of the top one are still orthogonal to about 1e-5.
    """
    import torch

    wide = sketch.double()
    values, vectors = torch.linalg.eigh(wide.T @ wide)  # ascending
    keep = min(NULL_COLUMNS, max(1, sketch.shape[0] // RANGE_SHARE))
    values, vectors = values[-keep:], vectors[:, -keep:]
    real = values > RANGE_FLOOR * values[-1]
    basis: torch.Tensor = wide @ (vectors[:, real] / values[real].sqrt())
    return basis


@lru_cache(maxsize=8)
def _null_lengths(out: int) -> Floats:
    """Return the squared length of each Gaussian column."""
    return column_squares(null_columns(out))


def null_figures(products: StepProducts) -> tuple[Floats, Floats, Floats]:
    """Return |V^T g|^2 / |V|, |V V^T g|^2 / |V|^2 and |g|^2 of each Gaussian column g."""
    v, null = products.step_norm, slice(-NULL_COLUMNS, None)
    inner, image = _squares(products.x[:, null], v), _squares(products.u[:, null], v)
    return inner * v, image, _null_lengths(products.u.shape[0])


def column_sums(
    products: StepProducts, updates: Sequence[Update], basis: "torch.Tensor | None" = None
) -> ColumnSums:
    """Reduce the products of all updates of one weight, a column at a time.

    Args:
        products: with V; their columns are those of the updates, then the 64 Gaussian ones.
        updates: in the order of their columns.
        basis: of P, where it is known already: it follows from V alone.
    """
    import torch

    v, own = products.step_norm, slice(0, -NULL_COLUMNS)
    left = torch.cat([update.left for update in updates], dim=1)
    right = torch.cat([update.right for update in updates], dim=1)
    if basis is None:
        basis = range_basis(products.u[:, -NULL_COLUMNS:]).float()
    along: Floats = (products.x[:, own] / v).mul_(right).sum(dim=0).double().numpy()
    return ColumnSums(
        inner=_squares(products.x, v) * v,
        image=_squares(products.u, v),
        lengths=_null_lengths(products.u.shape[0]),
        along=along * v,
        off_range=_squares(left.addmm_(basis, basis.T @ left, alpha=-1.0), 1.0),
        basis=basis,
    )


def _squares(thin: "torch.Tensor", scale: float) -> Floats:
    """Return the sum of squares of each column over scale**2.

    torch sums columns pairwise, so float32 has an error of 2e-7 here and is five times as fast.
    """
    squares: Floats = (thin / scale).square_().sum(dim=0).double().numpy()
    return squares


def module_sums(
    module: str, update: Update, products: StepProducts, at: slice, columns: ColumnSums
) -> ModuleSums:
    """Add up the columns of one update.

    Args:
        module: its path; seeds the null.
        update: the adapter's change of it.
        products: with V, of all updates that share it.
        at: where this update's columns stand in them; its right columns stand there in ``vq``.
        columns: what ``column_sums`` makes of these products.
    """
    v, size, null = products.step_norm, update.norm, slice(-NULL_COLUMNS, None)
    mix = update.mix / math.sqrt(float(update.a_squares.sum()))  # |mix| = |A|: now of norm 1
    spread = _square((products.vq[:, at] / v) @ mix.float()) * v**2 / products.u.shape[0]
    behind = (columns.inner[null], columns.image[null], columns.lengths)
    return ModuleSums(
        inner=size**2 * float(columns.inner[at].sum()),
        image=size**2 * float(columns.image[at].sum()),
        norm=size**2,
        against=-size * float(columns.along[at].sum()),
        against_variance=size**2 * spread,
        off_range=size**2 * float(columns.off_range[at].sum()),
        step=v**2,
        weight=products.weight_norm**2,
        null=null_draws(module, update.a_squares, behind, size),
    )


def update_sums(
    module: str, update: Update, products: StepProducts, basis: "torch.Tensor | None" = None
) -> ModuleSums:
    """Return the sums of one update, from products of its columns and the Gaussian ones."""
    at = slice(0, update.left.shape[1])
    return module_sums(module, update, products, at, column_sums(products, [update], basis))


def added(parts: Iterable[ModuleSums]) -> ModuleSums | None:
    """Add the sums of several modules, in the order given; None for no modules."""
    todo: Iterator[ModuleSums] = iter(parts)
    total = next(todo, None)
    if total is None:
        return None
    for part in todo:
        figures = {
            name: getattr(total, name) + getattr(part, name)
            for name in ModuleSums.__slots__
            if name != "null"
        }
        null = NullDraws(
            inner=total.null.inner + part.null.inner,
            image=total.null.image + part.null.image,
            norm=total.null.norm + part.null.norm,
        )
        total = ModuleSums(**figures, null=null)
    return total


def drift(sums: ModuleSums) -> Drift:
    """Return the metrics of design.md from the sums of one module, or of all.

    Raises:
        ZeroDivisionError: the null has no spread, or V or dW is zero; callers check first.
    """
    cosines = sums.null.cosines()
    cosine = sums.inner / math.sqrt(sums.image * sums.norm)
    mean, sd = float(cosines.mean()), float(cosines.std(ddof=1))
    move, step = math.sqrt(sums.norm), math.sqrt(sums.step)
    return Drift(
        cosine=cosine,
        null_mean=mean,
        null_sd=sd,
        z=(cosine - mean) / sd,
        reversion=sums.against / (move * step),
        reversion_sd=math.sqrt(sums.against_variance) / (move * step),
        undone=sums.against / sums.step,
        size=move / step,
        weight_size=move / math.sqrt(sums.weight),
        residual=math.sqrt(sums.off_range) / step,
        gain=math.sqrt(sums.image) / move,
    )
