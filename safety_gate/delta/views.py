"""Parts of stored tensors under names of their own: a vector as a column, one expert of many."""

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from safety_gate.adapter.parts import View
from safety_gate.checkpoint import Checkpoint
from safety_gate.tensors import BITS, TensorEntry

if TYPE_CHECKING:
    import torch

PIECE_ELEMENTS = 1 << 22  # read at a time


def with_views(checkpoint: Checkpoint, views: Mapping[str, View]) -> Checkpoint:
    """Return the checkpoint with these matrices beside its own tensors.

    A view of a tensor that is not there stays missing; one of a tensor of another shape gets that
    shape, so that whoever compares shapes refuses it.
    """
    places, shapes = dict(checkpoint.places), dict(checkpoint.shapes)
    for name, view in views.items():
        file = checkpoint.places.get(view.tensor)
        if file is None:
            places.pop(name, None)
            shapes.pop(name, None)
            continue
        entry = _entry(name, file.entries[view.tensor], view)
        places[name] = replace(file, entries=MappingProxyType({**file.entries, name: entry}))
        shapes[name] = entry.shape
    return replace(checkpoint, places=MappingProxyType(places), shapes=MappingProxyType(shapes))


def _entry(name: str, whole: TensorEntry, view: View) -> TensorEntry:
    """Return the bytes of a view."""
    if whole.shape != view.whole:
        return replace(whole, name=name)
    width = BITS[whole.dtype]
    start = whole.start + view.start * width // 8
    stop = start + math.prod(view.shape) * width // 8
    return TensorEntry(name=name, dtype=whole.dtype, shape=view.shape, start=start, stop=stop)


def read_matrix(checkpoint: Checkpoint, name: str) -> "torch.Tensor":
    """Read a whole matrix in float32, a block of rows at a time."""
    import torch

    entry = checkpoint.entry(name)
    rows, columns = entry.shape
    height = max(1, PIECE_ELEMENTS // max(1, columns))
    scratch = torch.empty(height * columns * BITS[entry.dtype] // 8, dtype=torch.uint8)
    values = torch.empty(rows, columns)
    for start in range(0, rows, height):
        stop = min(start + height, rows)
        values[start:stop] = checkpoint.rows(name, start, stop, scratch)
    return values
