"""Parts of stored tensors under names of their own: a vector as a column, one expert of many."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from safety_gate.adapter.parts import View
from safety_gate.checkpoint import Checkpoint
from safety_gate.tensors import BITS, TensorEntry
from safety_gate.weights import Stored, Weight, part_of, width_of

if TYPE_CHECKING:
    import torch

PIECE_ELEMENTS = 1 << 22  # read at a time


def with_views(checkpoint: Checkpoint, views: Mapping[str, View]) -> Checkpoint:
    """Return the checkpoint with these matrices beside its own tensors.

    A view of a tensor that is not there stays missing; one of a tensor of another shape gets that
    shape, so that whoever compares shapes refuses it.
    """
    weights = dict(checkpoint.weights)
    for name, view in views.items():
        weight = checkpoint.weights.get(view.tensor)
        if weight is None:
            weights.pop(name, None)
        else:
            weights[name] = _part(name, weight, view)
    return checkpoint.with_weights(weights)


def _part(name: str, whole: Weight, view: View) -> Weight:
    """Return the lines of a view."""
    if whole.shape != view.whole:
        return whole
    if isinstance(whole, Stored):
        width = BITS[whole.entry.dtype]
        start = whole.entry.start + view.start * width // 8
        stop = start + math.prod(view.shape) * width // 8
        dtype = whole.entry.dtype
        entry = TensorEntry(name=name, dtype=dtype, shape=view.shape, start=start, stop=stop)
        return replace(whole, entry=entry)
    return part_of(whole, view.start // width_of(whole.shape), view.shape)


def read_matrix(checkpoint: Checkpoint, name: str) -> "torch.Tensor":
    """Read a whole matrix in float32, a block of rows at a time."""
    import torch

    rows, columns = checkpoint.shape(name)
    height = max(1, PIECE_ELEMENTS // max(1, columns))
    scratch = torch.empty(checkpoint.scratch_bytes(name, height), dtype=torch.uint8)
    values = torch.empty(rows, columns)
    for start in range(0, rows, height):
        stop = min(start + height, rows)
        values[start:stop] = checkpoint.rows(name, start, stop, scratch)
    return values
