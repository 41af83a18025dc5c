"""Writes a safetensors file: new tensors, and tensors of another file byte for byte."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safety_gate.repair.factors import is_finite
from safety_gate.repair.refusal import CannotRepair
from safety_gate.sources.source import Source
from safety_gate.tensors import BITS, TensorEntry

if TYPE_CHECKING:
    import torch

ALIGNMENT = 8  # bytes; the library pads the header with blanks to this


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One tensor to write."""

    name: str
    dtype: str  # a key of tensors.BITS
    shape: tuple[int, ...]
    data: Callable[[], bytes | memoryview]  # its values, little endian, row by row

    @property
    def size(self) -> int:
        """Return its bytes."""
        return math.prod(self.shape) * BITS[self.dtype] // 8


def copied(source: Source, path: str, entry: TensorEntry) -> Piece:
    """Return a tensor with the very bytes that it has in ``path``."""

    def data() -> memoryview:
        buffer = bytearray(entry.stop - entry.start)
        source.read_into(path, entry.start, memoryview(buffer))
        return memoryview(buffer)

    return Piece(name=entry.name, dtype=entry.dtype, shape=entry.shape, data=data)


def cast_to(values: "torch.Tensor", dtype: str) -> "torch.Tensor":
    """Return the values rounded to a dtype of the format."""
    import torch

    kinds = {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
    }
    return values.to(kinds[dtype])


def stored(name: str, values: "torch.Tensor", dtype: str) -> Piece:
    """Return a new tensor in the dtype that it is stored with, rounded once.

    Raises:
        CannotRepair: a value does not fit into the dtype.
    """
    import torch

    rounded = cast_to(values, dtype).contiguous()
    if not is_finite(rounded):
        raise CannotRepair(
            "a repaired value does not fit into the dtype that the adapter is stored with",
            where=name,
            got=dtype,
            hint="Write the repaired modules with --dtype float32.",
        )
    return Piece(
        name=name,
        dtype=dtype,
        shape=tuple(rounded.shape),
        data=lambda: rounded.view(torch.uint8).numpy().reshape(-1).data,
    )


def write_tensors(path: Path, pieces: Iterable[Piece]) -> None:
    """Write the file, tensors in the library's own order: wide dtypes first, then by name.

    What was a tensor of the aligned elements before stays so; the header's only metadata is the
    format, which transformers asks for.
    """
    ordered = sorted(pieces, key=lambda piece: (-BITS[piece.dtype], piece.name))
    header = _header(ordered)
    with path.open("xb") as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for piece in ordered:
            data = piece.data()
            if len(data) != piece.size:
                raise AssertionError(f"{piece.name}: {len(data)} bytes, not {piece.size}")
            file.write(data)


def _header(pieces: Sequence[Piece]) -> bytes:
    at = 0
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for piece in pieces:
        header[piece.name] = {
            "dtype": piece.dtype,
            "shape": list(piece.shape),
            "data_offsets": [at, at + piece.size],
        }
        at += piece.size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % ALIGNMENT)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file that was just written."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
