"""From the ledger's pieces to what the engine measures: factors where it can be, else dense dW."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from safety_gate.adapter.ledger import Adapter
from safety_gate.adapter.parts import (
    Addition,
    Merged,
    NewRows,
    Part,
    Piece,
    Product,
    Replacement,
    View,
)
from safety_gate.adapter.remark import remark
from safety_gate.checkpoint import Checkpoint
from safety_gate.delta.merging import Asked, Merger
from safety_gate.delta.stacks import Stacks
from safety_gate.delta.views import with_views
from safety_gate.delta.worker import Worker
from safety_gate.errors import GateError
from safety_gate.records import Finding, finding_from
from safety_gate.tensors import BITS, TensorEntry, read_rows, read_tensor

if TYPE_CHECKING:
    import torch

    Pair = tuple[torch.Tensor, torch.Tensor]

MAX_TOKENS = 64  # trained tokens whose rows are taken as factors; more are measured as dense dW
EQUAL_ROWS = 1 << 20  # elements compared at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """One matrix to measure; exactly one of ``factors`` and ``dense`` is there."""

    module: str
    changes: str  # the entry of Adapter.changed that it covers
    weight: str  # in a checkpoint with ``Deltas.views``
    shape: tuple[int, int]  # (out, in)
    transposed: bool
    rank: int  # 0: no thin factors are known
    scaling: float
    factors: "Callable[[], Pair] | None"  # A (rank, in) and B (out, rank)
    dense: "Callable[[], torch.Tensor] | None"  # as stored, float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Deltas:
    """Everything that an adapter changes beside plain LoRA; close() ends the child process."""

    items: tuple[Delta, ...]
    views: Mapping[str, View]
    findings: tuple[Finding, ...]
    merger: Merger

    def close(self) -> None:
        """End the child process and remove its files."""
        self.merger.close()


@dataclass(frozen=True, slots=True)
class _Tools:
    """What the pieces of one adapter are computed with."""

    adapter: Adapter
    aligned: Checkpoint
    merger: Merger
    stacks: Stacks


def open_deltas(
    adapter: Adapter,
    aligned: Checkpoint,
    folder: Path,
    *,
    start: Callable[[Path, Path, int], Asked] = Worker,
) -> Deltas:
    """Decide how each piece of the adapter is measured; copies of weights are compared here.

    Args:
        adapter: open; its private copy is read until close().
        aligned: the checkpoint that the adapter applies to.
        folder: empty or missing; for the child process alone.
        start: of the process that merges.
    """
    views = {_name(piece): piece.view for piece in adapter.pieces}
    seen = with_views(aligned, views)
    merger = Merger(adapter, seen, folder, start=start)
    tools = _Tools(adapter, seen, merger, Stacks(partial(tensor_of, adapter)))
    items: list[Delta] = []
    findings: list[Finding] = []
    for piece in adapter.pieces:
        try:
            found = _settled(adapter, seen, piece)
        except GateError as error:
            findings.append(finding_from(error, "module"))
            continue
        if found is None:
            findings.append(_collision(piece))
        elif found.parts:
            items.append(_delta(tools, found))
    return Deltas(items=tuple(items), views=views, findings=tuple(findings), merger=merger)


def no_factors() -> "Pair":
    """Stand in for the factors of an update that has none; never called."""
    raise AssertionError("this update has no thin factors")


def _name(piece: Piece) -> str:
    """Return the name of the view: the tensor's own where it is a matrix of its own."""
    own = piece.view.whole == piece.view.shape and piece.view.start == 0
    return piece.view.tensor if own else f"{piece.view.tensor} as {piece.module}"


def _settled(adapter: Adapter, aligned: Checkpoint, piece: Piece) -> Piece | None:
    """Drop copies that equal the weight; None where what is left has no known sum."""
    if len(piece.parts) == 1:
        return piece
    parts = tuple(
        part
        for part in piece.parts
        if not (isinstance(part, Replacement) and _is_equal(adapter, aligned, piece, part))
    )
    copies = [part for part in parts if isinstance(part, Replacement)]
    if len(copies) > 1:
        if not _are_same(adapter, copies):
            return None
        parts = tuple(part for part in parts if part not in copies[1:])
    rows = [part for part in parts if isinstance(part, NewRows)]
    if len(rows) == len(parts) > 1 and _are_equal(adapter, rows):
        parts = parts[:1]
    alone = any(isinstance(part, Merged | NewRows) for part in parts)
    return None if alone and len(parts) > 1 else replace(piece, parts=parts)


def _is_equal(adapter: Adapter, aligned: Checkpoint, piece: Piece, part: Replacement) -> bool:
    """Tell whether the file's copy of a weight holds the weight's own values."""
    return not bool(_replaced(adapter, aligned, piece, part).any())


def _are_same(adapter: Adapter, copies: Sequence[Replacement]) -> bool:
    """Tell whether several new values of one parameter are the same ones."""
    import torch

    first = tensor_of(adapter, copies[0].tensor)
    return all(
        each.start == copies[0].start and torch.equal(tensor_of(adapter, each.tensor), first)
        for each in copies[1:]
    )


def _are_equal(adapter: Adapter, rows: Sequence[NewRows]) -> bool:
    """Tell whether tied modules hold the same rows: PEFT would load one over the other."""
    import torch

    first = tensor_of(adapter, rows[0].tensor)
    return all(
        each.indices == rows[0].indices and torch.equal(tensor_of(adapter, each.tensor), first)
        for each in rows[1:]
    )


def _collision(piece: Piece) -> Finding:
    return remark(
        "updates-collide",
        "undecided",
        ("module", piece.module),
        "the file replaces a weight and changes it in another way, and the sum is not known",
        hint="Save the adapter with save_embedding_layers=False.",
    )


def _delta(tools: _Tools, piece: Piece) -> Delta:
    """Choose the road of one piece."""
    factors: Callable[[], Pair] | None = None
    dense: Callable[[], torch.Tensor] | None = None
    rank, scaling = piece.rank, piece.scaling
    products = [part for part in piece.parts if isinstance(part, Product)]
    lock = threading.Lock()
    if len(products) == len(piece.parts) == 1:
        factors = partial(_product_factors, tools, products[0])
    elif piece.view.shape[1] == 1:
        factors = partial(_column, partial(_sum, tools, piece, lock))
        rank, scaling = 1, 1.0
    elif isinstance(piece.parts[0], NewRows) and len(piece.parts[0].indices) <= MAX_TOKENS:
        factors = partial(_token_factors, tools, piece, piece.parts[0])
        rank, scaling = len(piece.parts[0].indices), 1.0
    else:
        dense = partial(_sum, tools, piece, lock)
        rank, scaling = 0, 1.0
    return Delta(
        module=piece.module,
        changes=piece.changes,
        weight=_name(piece),
        shape=piece.shape,
        transposed=piece.transposed,
        rank=rank,
        scaling=scaling,
        factors=factors,
        dense=dense,
    )


def tensor_of(adapter: Adapter, name: str) -> "torch.Tensor":
    """Read one tensor of the adapter, in float32 or float64."""
    if adapter.tensors is None:
        raise AssertionError("a piece without a tensor file")
    return read_tensor(adapter.source, adapter.tensors, adapter.tensors.entries[name])


def _product_factors(tools: _Tools, part: Product) -> "Pair":
    """Return A (rank, in) and B (out, rank) of one product, or of one expert's share."""
    if part.experts > 1:
        a, b = tools.stacks.pair(part)
    else:
        a, b = tensor_of(tools.adapter, part.a_name), tensor_of(tools.adapter, part.b_name)
    if part.rows is not None:
        b = b[part.rows[0] : part.rows[1]].contiguous()
    if part.swapped:
        return b.T.contiguous(), a.T.contiguous()
    return a, b


def _token_factors(tools: _Tools, piece: Piece, part: NewRows) -> "Pair":
    """Return A (tokens, vocabulary), which picks them, and B (dim, tokens), what each gains."""
    import torch

    moved = _moved_rows(tools, piece, part)
    a = torch.zeros(len(part.indices), piece.view.shape[0])
    a[torch.arange(len(part.indices)), torch.tensor(part.indices)] = 1.0
    return a, moved.T.contiguous()


def _moved_rows(tools: _Tools, piece: Piece, part: NewRows) -> "torch.Tensor":
    """Return what the trained rows gain, (tokens, dim)."""
    import torch

    new = tensor_of(tools.adapter, part.tensor).float()
    scratch = torch.empty(8 * piece.view.shape[1], dtype=torch.uint8)
    for at, index in enumerate(part.indices):
        new[at] -= tools.aligned.rows(_name(piece), index, index + 1, scratch)[0]
    return new


def _column(values: "Callable[[], torch.Tensor]") -> "Pair":
    """Return a vector's change as factors of rank one."""
    import torch

    return torch.ones(1, 1), values()


def _replaced(
    adapter: Adapter, aligned: Checkpoint, piece: Piece, part: Replacement
) -> "torch.Tensor":
    """Return W' - W, block by block."""
    import torch

    if adapter.tensors is None:
        raise AssertionError("a piece without a tensor file")
    entry = _part_of(adapter.tensors.entries[part.tensor], part.start, piece.view.shape)
    rows, columns = piece.view.shape
    height = max(1, EQUAL_ROWS // max(1, columns))
    scratch = torch.empty(8 * height * columns, dtype=torch.uint8)
    found = torch.empty(rows, columns)
    for start in range(0, rows, height):
        stop = min(start + height, rows)
        own = read_rows(adapter.source, adapter.tensors, entry, start, stop, scratch)
        found[start:stop] = own
        found[start:stop] -= aligned.rows(_name(piece), start, stop, scratch)
    return found


def _part_of(entry: TensorEntry, start: int, shape: tuple[int, int]) -> TensorEntry:
    """Return the bytes of a matrix within a tensor."""
    width = BITS[entry.dtype]
    first = entry.start + start * width // 8
    return replace(entry, shape=shape, start=first, stop=first + shape[0] * shape[1] * width // 8)


def _sum(tools: _Tools, piece: Piece, lock: threading.Lock) -> "torch.Tensor":
    """Return dW as stored, float32."""
    with lock:
        total: torch.Tensor | None = None
        for part in piece.parts:
            found = _values(tools, piece, part)
            total = found if total is None else total.add_(found)
        if total is None:
            raise AssertionError("a piece without parts")
        return total


def _values(tools: _Tools, piece: Piece, part: Part) -> "torch.Tensor":
    """Return one part of dW as stored, float32."""
    import torch

    match part:
        case Product():
            a, b = _product_factors(tools, part)
            update = part.scaling * (b.double() @ a.double())
            return (update.T if piece.transposed else update).float().contiguous()
        case Replacement():
            return _replaced(tools.adapter, tools.aligned, piece, part)
        case Addition():
            return part.scaling * tensor_of(tools.adapter, part.tensor).float().view(
                piece.view.shape
            )
        case NewRows():
            found = torch.zeros(piece.view.shape)
            found[list(part.indices)] = _moved_rows(tools, piece, part)
            return found
        case Merged():
            return tools.merger.change(part, piece.view.shape)
