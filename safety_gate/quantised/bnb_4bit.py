"""bitsandbytes 4-bit: nf4 and fp4, in blocks of a flattened matrix, with plain or quantised scales.

Parts of ``X.weight`` (bitsandbytes 0.50.2, functional.py, QuantState.as_dict):
- ``X.weight``: two codes a byte, the first one in the high half, whatever dtype holds the bytes;
- ``.absmax``: the scale of each block, float32, or codes of 8 bits where ``.nested_absmax`` is;
- ``.quant_map``: the 16 values that codes stand for; kernels use their own, so it has to agree;
- ``.nested_absmax``, ``.nested_quant_map``: the same for the scales, to which an offset is added;
- ``.quant_state.bitsandbytes__nf4``: JSON with blocksize, dtype, shape and what is nested.

A value is table[code] * scale, rounded to the dtype that the matrix had: so do its kernels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safety_gate import strict_json
from safety_gate.errors import BadCheckpoint
from safety_gate.quantised.parts import (
    Made,
    Quantised,
    Tensors,
    all_codes,
    as_bytes,
    checked,
    codes,
    misfit,
)
from safety_gate.weights import Stored

if TYPE_CHECKING:
    import torch

STATE = ".quant_state.bitsandbytes__"
FLOATS = ("F32", "F16", "BF16")
MAX_STATE_BYTES = 2**16  # real ones have about 200
BLOCKSIZES = frozenset(2**power for power in range(5, 13))
DTYPES = ("float32", "float16", "bfloat16")
CLOSE = 1e-6  # of the stored table to ours: bitsandbytes' own comparison
# Quantiles of a normal distribution (QLoRA, arXiv 2305.14314, appendix E).
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
# One sign, two exponent and one mantissa bits, over the largest (functional.py, get_4bit_type).
_FP4 = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
FP4 = (*(value / 12.0 for value in _FP4), *(-value / 12.0 for value in _FP4))
TABLES: Mapping[str, tuple[float, ...]] = {"nf4": NF4, "fp4": FP4}


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What the JSON beside the codes says."""

    table: str
    blocksize: int
    dtype: str
    shape: tuple[int, int]
    nested_blocksize: int  # 0: scales are plain
    nested_offset: float


def find_4bit(tensors: Tensors) -> tuple[Made, frozenset[str]]:
    """Return the matrices that are stored so, and the names of all their parts.

    Raises:
        BadCheckpoint: parts are missing or do not fit together.
    """
    found: Made = {}
    used: set[str] = set()
    for name, stored in tensors.items():
        weight, mark, table = name.partition(STATE)
        if not mark:
            continue
        state = _state(stored, name, table)
        found[weight] = _matrix(tensors, weight, state)
        suffixes = ["", ".absmax", ".quant_map", f"{mark}{table}"]
        if state.nested_blocksize:
            suffixes += [".nested_absmax", ".nested_quant_map"]
        used |= {f"{weight}{suffix}" for suffix in suffixes}
    return found, frozenset(used)


def _state(stored: Stored, name: str, table: str) -> _State:
    """Read the JSON of one matrix."""
    if stored.entry.dtype != "U8" or math.prod(stored.shape) > MAX_STATE_BYTES:
        raise misfit(stored, name, "its description is no short text", got=stored.shape)
    value = strict_json.parse(
        bytes(all_codes(stored).flatten().tolist()),
        where=f"{stored.source.name}: {name}",
        error=BadCheckpoint,
        max_bytes=MAX_STATE_BYTES,
        max_depth=3,
    )
    known = {"quant_type", "blocksize", "dtype", "shape"}
    nested = {"nested_blocksize", "nested_dtype", "nested_offset"}
    if not isinstance(value, dict) or value.keys() not in (known, known | nested):
        raise misfit(stored, name, "its description has missing or unknown keys")
    shape, offset = value["shape"], value.get("nested_offset", 0.0)
    sizes = (value["blocksize"], value.get("nested_blocksize", 0))
    right = (
        value["quant_type"] == table
        and table in TABLES
        and value["blocksize"] in BLOCKSIZES
        and value["dtype"] in DTYPES
        and value.get("nested_dtype", "float32") == "float32"
        and isinstance(shape, list)
        and len(shape) == 2
        and all(type(size) is int and 0 < size < 2**40 for size in (*shape, sizes[0]))
        and type(sizes[1]) is int
        and (0 < sizes[1] < 2**20) == ("nested_offset" in value)
        and isinstance(offset, float | int)
        and math.isfinite(offset)
    )
    if not right:
        raise misfit(stored, name, "its description has a value that is not known", got=value)
    return _State(
        table=table,
        blocksize=sizes[0],
        dtype=value["dtype"],
        shape=(shape[0], shape[1]),
        nested_blocksize=sizes[1],
        nested_offset=float(offset),
    )


def _matrix(tensors: Tensors, weight: str, state: _State) -> Quantised:
    """Check the parts of one matrix."""
    elements = math.prod(state.shape)
    stored = tensors.get(weight)
    if stored is None:
        raise misfit(next(iter(tensors.values())), weight, "its codes are missing")
    packed = as_bytes(stored)
    if packed.shape != (-(-elements // 2),):
        raise misfit(stored, weight, "the codes have another size", got=stored.shape)
    table = checked(tensors, f"{weight}.quant_map", dtypes=("F32",), shape=(16,))
    own = all_codes(table).tolist()
    if not all(abs(a - b) <= CLOSE for a, b in zip(own, TABLES[state.table], strict=True)):
        raise misfit(stored, weight, "its table of values is not that of its format", got=own)
    blocks = -(-elements // state.blocksize)
    scales: tuple[Stored, ...]
    if state.nested_blocksize:
        groups = -(-blocks // state.nested_blocksize)
        scales = (
            checked(tensors, f"{weight}.absmax", dtypes=("U8",), shape=(blocks,)),
            checked(tensors, f"{weight}.nested_absmax", dtypes=("F32",), shape=(groups,)),
            checked(tensors, f"{weight}.nested_quant_map", dtypes=("F32",), shape=(256,)),
        )
    else:
        scales = (checked(tensors, f"{weight}.absmax", dtypes=FLOATS, shape=(blocks,)),)

    def values(start: int, stop: int) -> "torch.Tensor":
        return _lines(packed, scales, state, (start, stop))

    def errors(start: int, stop: int) -> "torch.Tensor":
        return _errors(packed, scales, state, (start, stop))

    return Quantised(
        shape=state.shape,
        parts=(packed, *scales),
        format=f"bitsandbytes {state.table}",
        values=values,
        errors=errors,
    )


def _lines(
    packed: Stored, scales: tuple[Stored, ...], state: _State, rows: tuple[int, int]
) -> "torch.Tensor":
    """Return rows, in the dtype that the matrix had."""
    import torch

    table = torch.tensor(TABLES[state.table])
    found = _times_scales(_looked_up(table, packed, state, rows), scales, state, rows)
    return found.to(getattr(torch, state.dtype))


def _errors(
    packed: Stored, scales: tuple[Stored, ...], state: _State, rows: tuple[int, int]
) -> "torch.Tensor":
    """Return the expected square of the rounding error of every number in rows."""
    import torch

    table = _squares(torch.tensor(TABLES[state.table])).sqrt()
    found = _times_scales(_looked_up(table, packed, state, rows), scales, state, rows)
    return found.square()


def _looked_up(
    table: "torch.Tensor", packed: Stored, state: _State, rows: tuple[int, int]
) -> "torch.Tensor":
    """Return what a table says of every code in rows, as one vector."""
    import torch

    first, last = (row * state.shape[1] for row in rows)
    pairs = codes(packed, first // 2, (last + 1) // 2).flatten()
    four = torch.arange(256)
    both = torch.stack((table[four >> 4], table[four & 15]), dim=1)  # by byte: two at a time
    found = both.index_select(0, pairs.int()).flatten()
    return found[first % 2 : first % 2 + last - first]


def _times_scales(
    numbers: "torch.Tensor", scales: tuple[Stored, ...], state: _State, rows: tuple[int, int]
) -> "torch.Tensor":
    """Multiply the numbers of rows with the scales of their blocks, and return them as rows."""
    import torch

    width, size = state.shape[1], state.blocksize
    first, last = (row * width for row in rows)
    own = _scales(scales, state, first // size, -(-last // size))
    if first % size or last % size:
        block = torch.arange(first, last) // size - first // size
        return numbers.mul_(own[block]).view(-1, width)
    return numbers.view(-1, size).mul_(own[:, None]).view(-1, width)


def _scales(scales: tuple[Stored, ...], state: _State, low: int, high: int) -> "torch.Tensor":
    """Return the scales of some blocks, float32."""
    import torch

    own = codes(scales[0], low, high).flatten()
    if not state.nested_blocksize:
        return own.float()
    table = all_codes(scales[2])
    group = torch.arange(low, high) // state.nested_blocksize
    first = low // state.nested_blocksize
    outer = codes(scales[1], first, -(-high // state.nested_blocksize)).flatten()
    plain: torch.Tensor = table[own.long()] * outer[group - first]
    return plain.add_(state.nested_offset)


def _squares(table: "torch.Tensor") -> "torch.Tensor":
    """Return the mean square distance of what rounds to each value, were it spread evenly."""
    import torch

    ordered, order = torch.unique(table, return_inverse=True)
    middles = (ordered[1:] + ordered[:-1]) / 2
    low = torch.cat((ordered[:1], middles)) - ordered
    high = torch.cat((middles, ordered[-1:])) - ordered
    squares: torch.Tensor = (high**3 - low**3) / (3 * (high - low))
    return squares[order]
