"""The metrics of an update that is no product of thin factors: the same sums, from whole Grams.

Notation as in drift.py. With s the shorter side of the matrix, two s x s matrices hold all that
the cosine and the gain need, and they add up over blocks of the longer side:

    s = out:  G = V V^T and N = dW dW^T   <C dW, dW> = <G, N> / |V|, |C dW|^2 = <G N, G> / |V|^2
    s = in:   H = V^T V and K = V^T dW    <C dW, dW> = |K|^2 / |V|,  |C dW|^2 = <K, H K> / |V|^2

So the cost is 4 * s^2 * (longer side) operations, and V is still read only twice. Two figures of
the null would cost another such product. They are estimated with the 64 Gaussian columns that the
null is made of anyway (Hutchinson): the variance of the reversion, and in place of dW's singular
values the number of equal ones that spreads as much, |dW|^4 / |dW dW^T|^2. Both describe a spread
that 64 columns know to about 9% only.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from safety_gate import drift
from safety_gate.drift import Block, ModuleSums, StepProducts
from safety_gate.errors import BadScore

if TYPE_CHECKING:
    import torch

ROW_ELEMENTS = 1 << 22  # of dW, normalised at a time: 16 MiB
MAX_HELD = 1 << 28  # elements of V, in float32 1 GiB, where its columns are needed block by block
MAX_SIDE = 1 << 14  # of the two Grams, 1 GiB each
MAX_EQUAL = 4096  # equal singular values of the null; more make no visible difference


@dataclass(frozen=True, slots=True)
class DenseUpdate:
    """One change of one weight matrix, as the checkpoint stores the weight."""

    stored: "torch.Tensor"  # float32, finite; (out, in), or (in, out) where stored so
    norm: float  # |dW|_F, > 0

    def rows(self, height: int) -> "Iterator[tuple[slice, torch.Tensor]]":
        """Yield blocks of rows of dW / |dW|."""
        for start in range(0, self.stored.shape[0], height):
            rows = slice(start, min(start + height, self.stored.shape[0]))
            yield rows, self.stored[rows] / self.norm

    @property
    def height(self) -> int:
        """Return the rows of a block."""
        return max(1, ROW_ELEMENTS // self.stored.shape[1])


def dense_norm(stored: "torch.Tensor") -> float:
    """Return |dW|_F, summed in float64; NaN or Inf where dW holds one."""
    import torch

    height = max(1, ROW_ELEMENTS // max(1, stored.shape[1]))
    squares = [
        float(torch.linalg.vector_norm(stored[start : start + height], dtype=torch.float64)) ** 2
        for start in range(0, stored.shape[0], height)
    ]
    return float(np.sqrt(sum(squares)))


def dense_sums(
    module: str,
    update: DenseUpdate,
    blocks: Callable[[], Iterable[Block]],
    *,
    transposed: bool,
) -> tuple[ModuleSums | None, StepProducts]:
    """Measure a dense update in two passes over V.

    Args:
        module: its path; seeds the null.
        update: dW as stored.
        blocks: starts one pass over the stored rows of V, float32.
        transposed: V and dW are stored as (in, out).

    Returns:
        The sums of drift.module_sums, None where V is zero or not finite, and the null's products.

    Raises:
        BadScore: the matrix is too large for this road.
    """
    watch = _Grams(module, update, transposed=transposed)
    out = update.stored.shape[1 if transposed else 0]
    null = drift.null_columns(out)
    products = drift.step_products(
        lambda: watch.first_pass(blocks()),
        null,
        _back(update, null, transposed),
        transposed=transposed,
    )
    v = products.step_norm
    if not 0.0 < v < float("inf"):
        return None, products
    size = update.norm
    spread = float(drift.column_squares(products.vq).mean()) / out
    inner, image = watch.sums()
    equal = _equal_values(update, products, transposed)
    sums = ModuleSums(
        inner=size**2 * inner / v,
        image=size**2 * image / v**2,
        norm=size**2,
        against=-size * watch.along,
        against_variance=size**2 * spread,
        off_range=size**2 * _off_range(update, products.u, transposed),
        step=v**2,
        weight=products.weight_norm**2,
        null=drift.null_draws(
            module, np.full(equal, 1.0 / equal), drift.null_figures(products), size
        ),
    )
    return sums, products


class _Grams:
    """Adds up the two small matrices while V goes by for the first time."""

    def __init__(self, module: str, update: DenseUpdate, *, transposed: bool) -> None:
        import torch

        height, width = update.stored.shape
        self._update = update
        self._tall = width <= height  # the stored rows are the longer side
        self._by_out = self._tall == transposed  # the shorter side is out
        side = min(height, width)
        if side > MAX_SIDE or (not self._tall and height * width > MAX_HELD):
            raise BadScore(
                "an update that is no product of thin factors is too large to be measured",
                where=module,
                got=f"{height} x {width}",
                expected=f"at most {MAX_SIDE} on the shorter side, and {MAX_HELD} elements",
                hint="Save the update of this module as LoRA factors.",
            )
        self._first = torch.zeros(side, side)  # G or H
        self._second = torch.zeros(side, side)  # N or K
        self.along = 0.0  # <dW, V> / |dW|
        self._seen = False
        self._held = None if self._tall else torch.empty(height, width)

    def first_pass(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Hand the blocks on; the first time, take from them what is needed."""
        for block in blocks:
            if not self._seen:
                self._take(block)
            yield block
        if not self._seen and self._held is not None:
            self._take_columns(self._held)
            self._held = None
        self._seen = True

    def _take(self, block: Block) -> None:
        """Add one block of stored rows."""
        import torch

        step = block.step
        move = self._update.stored[block.start : block.stop] / self._update.norm
        self.along += float((step * move).sum(dtype=torch.float64))
        if self._held is not None:
            self._held[block.start : block.stop] = step
            return
        self._first.addmm_(step.T, step)
        self._second.addmm_(move.T if self._by_out else step.T, move)

    def _take_columns(self, held: "torch.Tensor") -> None:
        """Add all of V by blocks of columns, where the rows are the shorter side."""
        stored, norm = self._update.stored, self._update.norm
        wide = max(1, ROW_ELEMENTS // held.shape[0])
        for start in range(0, held.shape[1], wide):
            step = held[:, start : start + wide]
            move = stored[:, start : start + wide] / norm
            self._first.addmm_(step, step.T)
            self._second.addmm_(move if self._by_out else step, move.T)

    def sums(self) -> tuple[float, float]:
        """Return |V| <C dW, dW> and |V|^2 |C dW|^2, both over |dW|^2."""
        import torch

        wide = torch.float64
        product = self._first @ self._second  # G N or H K
        if self._by_out:
            inner = (self._first * self._second).sum(dtype=wide)
            return float(inner), float((product * self._first).sum(dtype=wide))
        inner = self._second.square().sum(dtype=wide)
        return float(inner), float((product * self._second).sum(dtype=wide))


def _back(update: DenseUpdate, thin: "torch.Tensor", transposed: bool) -> "torch.Tensor":
    """Return dW^T @ thin / |dW|, (in, columns)."""
    import torch

    result = torch.zeros(update.stored.shape[0 if transposed else 1], thin.shape[1])
    for rows, move in update.rows(update.height):
        if transposed:
            torch.mm(move, thin, out=result[rows])
        else:
            result.addmm_(move.T, thin[rows])
    return result


def _forth(update: DenseUpdate, thin: "torch.Tensor", transposed: bool) -> "torch.Tensor":
    """Return dW @ thin / |dW|, (out, columns)."""
    import torch

    result = torch.zeros(update.stored.shape[1 if transposed else 0], thin.shape[1])
    for rows, move in update.rows(update.height):
        if transposed:
            result.addmm_(move.T, thin[rows])
        else:
            torch.mm(move, thin, out=result[rows])
    return result


def _equal_values(update: DenseUpdate, products: StepProducts, transposed: bool) -> int:
    """Return how many equal singular values spread as much as those of dW."""
    null = drift.null_columns(products.u.shape[0])
    there = _forth(update, _back(update, null, transposed), transposed)  # dW dW^T G / |dW|^2
    share = float(drift.column_squares(there).mean())  # |dW dW^T|^2 / |dW|^4, 1/rank .. 1
    most: int = min(*update.stored.shape, MAX_EQUAL)
    return max(1, min(most, round(1.0 / share) if share > 0.0 else most))


def _off_range(update: DenseUpdate, sketch: "torch.Tensor", transposed: bool) -> float:
    """Return |dW - P dW|^2 / |dW|^2, P the projector on V's top left singular directions."""
    import torch

    basis = drift.range_basis(sketch).float()  # (out, k)
    inside = None if transposed else _back(update, basis, transposed).T  # (k, in): Q^T dW
    total = 0.0
    for rows, move in update.rows(update.height):
        part = (move @ basis) @ basis.T if inside is None else basis[rows] @ inside
        total += float(torch.linalg.vector_norm(move - part, dtype=torch.float64)) ** 2
    return total
