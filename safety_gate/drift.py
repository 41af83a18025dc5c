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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from safety_gate.records import Drift

if TYPE_CHECKING:
    import torch

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
class StepProducts:
    """What two passes over V leave behind for ``columns`` (out, c) and ``rights`` (in, q)."""

    x: "torch.Tensor"  # (in, c) float32: V^T @ columns
    u: "torch.Tensor"  # (out, c) float32: V @ x
    vq: "torch.Tensor"  # (out, q) float32: V @ rights
    step_norm: float  # |V|_F
    weight_norm: float  # |W_aligned|_F


@dataclass(frozen=True, slots=True)
class Block:
    """Some stored rows of V, in float32, or in bfloat16 for quick products."""

    start: int
    stop: int
    step: "torch.Tensor"  # (stop - start, columns of the stored matrix)
    step_square: float  # sum of squares of ``step``, in float64
    weight_square: float  # the same of W_aligned


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


def step_products(
    blocks: Callable[[], Iterable[Block]],
    columns: "torch.Tensor",
    rights: "torch.Tensor",
    *,
    transposed: bool,
    quick: bool = False,
) -> StepProducts:
    """Multiply V with thin matrices, reading it twice in blocks of stored rows.

    Args:
        blocks: starts one pass over the stored rows, in order, without gaps.
        columns: (out, c) float32.
        rights: (in, q) float32.
        transposed: V is stored as (in, out), as Conv1D does.
        quick: the blocks are bfloat16, and so are the factors of each product; sums over blocks
            are float32.
    """
    import torch

    kind = torch.bfloat16 if quick else torch.float32
    thin = columns.to(kind)
    x = torch.zeros(rights.shape[0], columns.shape[1])
    step = weight = 0.0
    for block in blocks():
        step += block.step_square
        weight += block.weight_square
        _multiply(x, block, thin, across=not transposed)
    wide = torch.cat((x, rights), dim=1).to(kind)  # (in, c + q)
    u = torch.zeros(columns.shape[0], wide.shape[1])
    for block in blocks():
        _multiply(u, block, wide, across=transposed)
    cut = columns.shape[1]
    return StepProducts(
        x=x, u=u[:, :cut], vq=u[:, cut:], step_norm=math.sqrt(step), weight_norm=math.sqrt(weight)
    )


def _multiply(result: "torch.Tensor", block: Block, thin: "torch.Tensor", *, across: bool) -> None:
    """Add one block's part of V^T @ thin (across) or V @ thin to the float32 result."""
    import torch

    rows = slice(block.start, block.stop)
    if thin.dtype == torch.float32 and across:
        result.addmm_(block.step.T, thin[rows])
    elif thin.dtype == torch.float32:
        torch.mm(block.step, thin, out=result[rows])
    elif across:
        result.add_(torch.mm(block.step.T, thin[rows]))
    else:
        result[rows] = torch.mm(block.step, thin)


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
    inner, image, length = columns
    seed = int.from_bytes(hashlib.sha256(module.encode()).digest()[:16], "little")
    picks = np.random.Generator(np.random.Philox(key=seed)).integers(
        0, len(length), size=(NULL_DRAWS, len(a_squares))
    )
    flat = (np.arange(NULL_DRAWS)[:, None] * len(length) + picks).ravel()
    weights = np.bincount(
        flat, np.tile(a_squares, NULL_DRAWS), minlength=NULL_DRAWS * len(length)
    ).reshape(NULL_DRAWS, len(length))
    scale = norm**2 / (float(a_squares.sum()) * float(length.mean()))
    return NullDraws(
        inner=scale * (weights @ inner),
        image=scale * (weights @ image),
        norm=scale * (weights @ length),
    )


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


def off_range_square(left: "torch.Tensor", sketch: "torch.Tensor") -> float:
    """Return |M - P M|^2, P the projector on the top left singular directions of V.

    Args:
        left: (out, k), M.
        sketch: (out, 64), V V^T G; see ``range_basis``.
    """
    basis = range_basis(sketch).float()
    return _square(left - basis @ (basis.T @ left))


def null_figures(products: StepProducts) -> tuple[Floats, Floats, Floats]:
    """Return |V^T g|^2 / |V|, |V V^T g|^2 / |V|^2 and |g|^2 of each Gaussian column g."""
    v = products.step_norm
    null_x, null_u = products.x[:, -NULL_COLUMNS:], products.u[:, -NULL_COLUMNS:]
    lengths = column_squares(null_columns(products.u.shape[0]))
    return column_squares(null_x) / v, column_squares(null_u) / v**2, lengths


def module_sums(
    module: str, update: Update, products: StepProducts, at: slice, vq: "torch.Tensor"
) -> ModuleSums:
    """Reduce the products of one module to the sums that the metrics are made of.

    Args:
        module: its path; seeds the null.
        update: the adapter's change of it.
        products: of columns that end with the 64 Gaussian ones.
        at: where this update's columns stand in ``products``.
        vq: (out, k), V @ update.right.
    """
    v, size = products.step_norm, update.norm
    x, u = products.x[:, at], products.u[:, at]
    null_u = products.u[:, -NULL_COLUMNS:]
    out = products.u.shape[0]
    spread = _square(vq.double() @ update.mix) / (out * float(update.a_squares.sum()))
    columns = null_figures(products)
    return ModuleSums(
        inner=size**2 * _square(x) / v,
        image=size**2 * _square(u) / v**2,
        norm=size**2,
        against=-size * float((x.double() * update.right.double()).sum()),
        against_variance=size**2 * spread,
        off_range=size**2 * off_range_square(update.left, null_u),
        step=v**2,
        weight=products.weight_norm**2,
        null=null_draws(module, update.a_squares, columns, size),
    )


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
