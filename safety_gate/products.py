"""V = W_aligned - W_base times thin matrices, in two passes over blocks of its stored rows."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


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


def step_products(
    blocks: Callable[[], Iterable[Block]],
    columns: "torch.Tensor",
    rights: "torch.Tensor",
    *,
    transposed: bool,
    quick: bool = False,
) -> StepProducts:
    """Multiply V with thin matrices, passing over it twice in blocks of stored rows.

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
    x: torch.Tensor | None = None
    step = weight = 0.0
    for block in blocks():
        step += block.step_square
        weight += block.weight_square
        x = _multiply(x, block, thin, rows=rights.shape[0], across=not transposed)
    x = torch.zeros(rights.shape[0], columns.shape[1]) if x is None else x  # no rows, no blocks
    wide = torch.cat((x.to(kind), rights.to(kind)), dim=1)  # (in, c + q)
    u: torch.Tensor | None = None
    for block in blocks():
        u = _multiply(u, block, wide, rows=columns.shape[0], across=transposed)
    u = torch.zeros(columns.shape[0], wide.shape[1]) if u is None else u.float()
    cut = columns.shape[1]
    return StepProducts(
        x=x.float(),
        u=u[:, :cut],
        vq=u[:, cut:],
        step_norm=math.sqrt(step),
        weight_norm=math.sqrt(weight),
    )


def _multiply(
    result: "torch.Tensor | None", block: Block, thin: "torch.Tensor", *, rows: int, across: bool
) -> "torch.Tensor":
    """Return the result with one block's part of V^T @ thin (across) or V @ thin.

    A block that is all of V is one product, in the type of ``thin``; parts are summed in float32.
    ``rows`` are those of the result.
    """
    import torch

    at = slice(block.start, block.stop)
    if block.stop - block.start == (thin.shape[0] if across else rows):
        return torch.mm(block.step.T if across else block.step, thin)
    if result is None:
        result = torch.zeros(rows, thin.shape[1])
    if not across:
        result[at] = torch.mm(block.step, thin)
    elif thin.dtype == torch.float32:
        result.addmm_(block.step.T, thin[at])
    else:
        result.add_(torch.mm(block.step.T, thin[at]))
    return result
