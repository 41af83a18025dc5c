"""Reads the tensors that a quantised weight is made of, and checks that they fit together."""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from safety_gate.errors import BadCheckpoint
from safety_gate.tensors import BITS, CODES, read_rows
from safety_gate.weights import Extent, Stored, Weight, lines_of, width_of

if TYPE_CHECKING:
    import torch

HINT = "Give the unquantised checkpoint, or report this one with the tool that wrote it."
KEPT = 3  # weights whose packed columns stay in memory: one of each worker, and one to come

Tensors = Mapping[str, Stored]


def misfit(
    stored: Stored, name: str, what: str, *, got: object = "", expected: str = ""
) -> BadCheckpoint:
    """Return the error that the parts of a quantised weight do not fit together."""
    return BadCheckpoint(
        f"a quantised weight cannot be read: {what}",
        where=f"{stored.source.name}: {name}",
        got=str(got)[:120],
        expected=expected,
        hint=HINT,
    )


def checked(
    tensors: Tensors, name: str, *, dtypes: Sequence[str], shape: tuple[int, ...] | None = None
) -> Stored:
    """Return a part by its name; BadCheckpoint where it is missing, or of another form."""
    found = tensors.get(name)
    if found is None:
        some = next(iter(tensors.values()))
        raise misfit(some, name, "a part of it is missing")
    if found.entry.dtype not in dtypes:
        raise misfit(
            found,
            name,
            "a part has another dtype",
            got=found.entry.dtype,
            expected=", ".join(dtypes),
        )
    if shape is not None and found.shape != shape:
        raise misfit(found, name, "a part has another shape", got=found.shape, expected=str(shape))
    return found


def codes(stored: Stored, start: int, stop: int) -> "torch.Tensor":
    """Read lines of a part as they are stored, into memory of their own."""
    import torch

    scratch = torch.empty(max(1, stored.scratch_bytes(stop - start)), dtype=torch.uint8)
    flat = replace(stored.entry, shape=(lines_of(stored.shape), width_of(stored.shape)))
    return read_rows(stored.source, stored.file, flat, start, stop, scratch, known=CODES)


def all_codes(stored: Stored) -> "torch.Tensor":
    """Read a whole part, in its shape."""
    return codes(stored, 0, lines_of(stored.shape)).view(stored.shape)


def as_bytes(stored: Stored) -> Stored:
    """Return the same bytes as a vector of uint8, whatever they were declared as."""
    size = math.prod(stored.shape) * BITS[stored.entry.dtype] // 8
    return replace(stored, entry=replace(stored.entry, dtype="U8", shape=(size,)))


class Keeper:
    """Keeps the last few things that were made, for the blocks of rows that are still to come."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[torch.Tensor, ...]] = OrderedDict()

    def kept(
        self, name: str, make: "Callable[[], tuple[torch.Tensor, ...]]"
    ) -> "tuple[torch.Tensor, ...]":
        """Return what was made under this name, or make it."""
        with self._lock:
            if name not in self._kept:
                self._kept[name] = make()
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(name)
            return self._kept[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantised:
    """What all quantised matrices have in common; ``values`` and ``errors`` are the format's."""

    shape: tuple[int, ...]  # of the weight that the codes stand for
    parts: tuple[Stored, ...]
    format: str
    values: "Callable[[int, int], torch.Tensor]"  # of rows start to stop
    errors: "Callable[[int, int], torch.Tensor]"  # the expected square of each one's rounding error

    @property
    def extents(self) -> tuple[Extent, ...]:
        """Return the bytes of all parts."""
        return tuple(extent for part in self.parts for extent in part.extents)

    @property
    def formats(self) -> frozenset[str]:
        """Return the name of the format."""
        return frozenset({self.format})

    def scratch_bytes(self, count: int) -> int:
        """Return 1: lines are made in memory of their own."""
        return 1

    def lines(self, start: int, stop: int, scratch: "torch.Tensor") -> "torch.Tensor":
        """Dequantise lines."""
        return self.values(start, stop)

    def rounding(self, start: int, stop: int) -> float:
        """Return the sum of squares that rounding is expected to have added to these lines."""
        return float(self.errors(start, stop).double().sum())


Made = dict[str, Weight]
