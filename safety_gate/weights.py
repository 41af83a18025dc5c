"""A parameter, however it is stored, as lines of numbers that can be read block by block.

A line is the last dimension: a matrix has one for every row, a stack of experts one for every row
of every expert, a vector one for every element.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from safety_gate.sources.source import Source
from safety_gate.tensors import BITS, TensorEntry, TensorFile, read_rows

if TYPE_CHECKING:
    import torch


def lines_of(shape: Sequence[int]) -> int:
    """Return the number of lines of a parameter."""
    return math.prod(shape[:-1]) if len(shape) > 1 else math.prod(shape)


def width_of(shape: Sequence[int]) -> int:
    """Return the numbers in a line."""
    return shape[-1] if len(shape) > 1 else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """Bytes of a file that a weight is made of."""

    path: str
    start: int
    stop: int


class Weight(Protocol):
    """The values of one parameter."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the parameter."""

    @property
    def extents(self) -> tuple[Extent, ...]:
        """Return what is read when all lines are."""

    @property
    def formats(self) -> frozenset[str]:
        """Return the quantised formats that it is stored in; empty: it is stored as it is."""

    def scratch_bytes(self, count: int) -> int:
        """Return the bytes of scratch that reading so many lines at once takes."""

    def lines(self, start: int, stop: int, scratch: "torch.Tensor") -> "torch.Tensor":
        """Return lines as a matrix of floats; it may lie in ``scratch``, until the next read."""

    def rounding(self, start: int, stop: int) -> float:
        """Return the sum of squares that rounding is expected to have added to these lines."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a file, or consecutive lines of one, as it is."""

    source: Source
    file: TensorFile
    entry: TensorEntry

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the parameter."""
        return self.entry.shape

    @property
    def extents(self) -> tuple[Extent, ...]:
        """Return the bytes of the tensor."""
        return (Extent(path=self.file.path, start=self.entry.start, stop=self.entry.stop),)

    @property
    def formats(self) -> frozenset[str]:
        """Return nothing: it is stored as it is."""
        return frozenset()

    def scratch_bytes(self, count: int) -> int:
        """Return the bytes of these lines."""
        return count * width_of(self.shape) * BITS[self.entry.dtype] // 8

    def lines(self, start: int, stop: int, scratch: "torch.Tensor") -> "torch.Tensor":
        """Read lines into ``scratch``; see ``tensors.read_rows``."""
        flat = replace(self.entry, shape=(lines_of(self.shape), width_of(self.shape)))
        return read_rows(self.source, self.file, flat, start, stop, scratch)

    def rounding(self, start: int, stop: int) -> float:
        """Return 0: bfloat16 rounds far below any alignment step."""
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Consecutive lines of a parameter that are consecutive lines of another weight."""

    first: int  # line of the parameter
    weight: Weight
    start: int  # line of the weight
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A parameter whose lines are lines of other weights: a stack, a part, another order."""

    shape: tuple[int, ...]
    runs: tuple[Run, ...]  # by ``first``, without holes

    def __post_init__(self) -> None:
        at = 0
        for run in self.runs:
            if run.first != at or not 0 <= run.start <= lines_of(run.weight.shape) - run.count:
                raise AssertionError(f"run of {run.count} lines at {run.first}, expected {at}")
            if width_of(run.weight.shape) != width_of(self.shape):
                raise AssertionError("a run of another width")
            at += run.count
        if at != lines_of(self.shape):
            raise AssertionError(f"{at} lines in runs, {lines_of(self.shape)} in the parameter")

    @property
    def extents(self) -> tuple[Extent, ...]:
        """Return the bytes of all weights it is made of."""
        return tuple(
            dict.fromkeys(each for run in self.runs for each in _run_extents(run))
        )  # in order, once each

    @property
    def formats(self) -> frozenset[str]:
        """Return the formats of all weights it is made of."""
        return frozenset(name for run in self.runs for name in run.weight.formats)

    def scratch_bytes(self, count: int) -> int:
        """Return what the widest of the weights takes, for reading and for putting together."""
        widest = max((run.weight.scratch_bytes(count) for run in self.runs), default=0)
        return max(widest, 1)

    def lines(self, start: int, stop: int, scratch: "torch.Tensor") -> "torch.Tensor":
        """Read the runs that these lines are made of; in ``scratch`` where it is one run."""
        import torch

        parts = self._parts(start, stop)
        if len(parts) == 1:
            weight, first, last = parts[0]
            return weight.lines(first, last, scratch)
        made: torch.Tensor | None = None
        at = 0
        for weight, first, last in parts:
            part = weight.lines(first, last, scratch)
            if made is None:
                made = torch.empty(stop - start, width_of(self.shape), dtype=part.dtype)
            elif made.dtype != part.dtype:  # bfloat16 beside float32, or a quantised expert
                made = made.to(torch.promote_types(made.dtype, part.dtype))
            made[at : at + last - first] = part
            at += last - first
        return torch.empty(0, width_of(self.shape)) if made is None else made

    def rounding(self, start: int, stop: int) -> float:
        """Return the sum over the runs."""
        return sum(weight.rounding(first, last) for weight, first, last in self._parts(start, stop))

    def _parts(self, start: int, stop: int) -> list[tuple[Weight, int, int]]:
        """Return (weight, first line, line behind the last) of what these lines are made of."""
        found = []
        for run in self.runs:
            low, high = max(start, run.first), min(stop, run.first + run.count)
            if low < high:
                shift = run.start - run.first
                found.append((run.weight, low + shift, high + shift))
        if not found and self.runs:  # no lines: the first weight still tells the dtype
            run = self.runs[0]
            return [(run.weight, run.start, run.start)]
        return found


def _run_extents(run: Run) -> tuple[Extent, ...]:
    """Return the bytes of a run: of stored lines just these, of a quantised weight all."""
    if not isinstance(run.weight, Stored):
        return run.weight.extents
    whole = run.weight.extents[0]
    first = whole.start + run.weight.scratch_bytes(run.start)
    last = first + run.weight.scratch_bytes(run.count)
    return (Extent(path=whole.path, start=first, stop=last),)


def part_of(weight: Weight, first: int, shape: tuple[int, ...]) -> Weight:
    """Return consecutive lines of a weight as a parameter of their own."""
    run = Run(first=0, weight=weight, start=first, count=lines_of(shape))
    return Joined(shape=shape, runs=(run,))
