"""Strict reader of the safetensors format: the header, then one tensor or a range of rows.

Stricter than the safetensors library, and never laxer: what is accepted here, the library
accepts with the same names, shapes and dtypes (a test holds that). Refused here and accepted
there: duplicate names, leading white space, unknown fields, absurd shapes, huge headers.

Format: 8 bytes, the length N of the header, little endian; N bytes of JSON, padded with spaces;
then the data, which the tensors must cover without holes, overlaps or a tail.
Source: https://github.com/huggingface/safetensors, README, "Format".
"""

import hashlib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from safety_gate import strict_json
from safety_gate.errors import BadTensorFile
from safety_gate.sources.source import Source

if TYPE_CHECKING:
    import torch

# Width in bits of every dtype of the format (safetensors 0.8.0), so that any file can be accounted.
BITS: Mapping[str, int] = MappingProxyType(
    {
        "F4": 4,
        "F6_E2M3": 6,
        "F6_E3M2": 6,
        "BOOL": 8,
        "U8": 8,
        "I8": 8,
        "F8_E5M2": 8,
        "F8_E4M3": 8,
        "F8_E8M0": 8,
        "F8_E4M3FNUZ": 8,
        "F8_E5M2FNUZ": 8,
        "I16": 16,
        "U16": 16,
        "F16": 16,
        "BF16": 16,
        "I32": 32,
        "U32": 32,
        "F32": 32,
        "C64": 64,
        "F64": 64,
        "I64": 64,
        "U64": 64,
    }
)
# The dtypes whose values can be asked for, and their names in torch.
DECODED: Mapping[str, str] = MappingProxyType(
    {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
)
# What quantised checkpoints are made of beside them; whoever asks knows what the numbers mean.
CODES: Mapping[str, str] = MappingProxyType(
    {
        **DECODED,
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
        "I8": "int8",
        "U8": "uint8",
        "I16": "int16",
        "I32": "int32",
        "I64": "int64",
    }
)
LENGTH_BYTES = 8  # of the length that stands before the header
FIELDS = frozenset({"dtype", "shape", "data_offsets"})
METADATA = "__metadata__"
MAX_DEPTH = 3  # file, tensor, shape
MAX_ELEMENTS = 2**40  # in one tensor, empty dimensions counted as 1: 2 TB in BF16
ALIGNMENT = 8  # bytes; the widest element that we decode
HINT = "Save the file again with the safetensors library, or get it again from where it came."


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How large a header may be; checked before memory is taken for it."""

    header_bytes: int
    tensors: int = 100_000  # 126 layers, all seven projections, LoRA: 1,764
    dims: int = 8  # convolutions have 5
    name_bytes: int = 512

    @property
    def json_nodes(self) -> int:
        """Return how many JSON values a header within these limits can hold."""
        metadata = 1_000_000
        return self.tensors * (self.dims + 6) + metadata


ADAPTER_LIMITS = Limits(header_bytes=16 * 2**20)  # an honest one of 1,764 tensors has 263 KB
CHECKPOINT_LIMITS = Limits(header_bytes=100_000_000)  # the library's own limit


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One tensor as the header describes it."""

    name: str  # a stranger's text
    dtype: str  # a key of BITS
    shape: tuple[int, ...]
    start: int  # offset in the file of the first byte
    stop: int  # offset in the file behind the last byte

    @property
    def rows(self) -> int:
        """Return the size of the first dimension; a scalar has one row."""
        return self.shape[0] if self.shape else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFile:
    """The header of one file, every byte of which has an owner."""

    path: str  # in its source
    size: int  # bytes
    header_sha256: str  # of the length and the header: the first 8 + N bytes of the file
    entries: Mapping[str, TensorEntry]  # by name, in the order of their bytes in the file
    metadata: Mapping[str, str]  # a stranger's text


def decodable(entry: TensorEntry) -> bool:
    """Tell whether read_rows and read_tensor know the values of this dtype."""
    return entry.dtype in DECODED


def _bad(where: str, what: str, *, got: object = "", expected: str = "") -> BadTensorFile:
    return BadTensorFile(what, where=where, got=str(got), expected=expected, hint=HINT)


def read_header(source: Source, path: str, size: int, *, limits: Limits) -> TensorFile:
    """Read and check the header of a safetensors file.

    Args:
        source: where the file is.
        path: of the file in its source.
        size: of the whole file in bytes, as the source lists it.
        limits: checked before memory is taken.

    Raises:
        BadTensorFile: the file breaks the format, or goes beyond our limits.
        SourceError: the bytes cannot be read.
    """
    header = _read_header_bytes(source, path, size, limits)
    root = strict_json.parse(
        header[LENGTH_BYTES:].rstrip(b" "),
        where=path,
        error=BadTensorFile,
        max_bytes=limits.header_bytes,
        max_depth=MAX_DEPTH,
        max_nodes=limits.json_nodes,
    )
    if not isinstance(root, dict):
        raise _bad(path, "the header is not a JSON object")
    metadata = _metadata(path, root.pop(METADATA)) if METADATA in root else {}
    if len(root) > limits.tensors:
        raise _bad(path, "too many tensors", got=len(root), expected=f"at most {limits.tensors}")
    first = len(header)
    entries = [_entry(path, name, value, first, limits) for name, value in root.items()]
    entries.sort(key=lambda entry: (entry.start, entry.stop))
    _check_cover(path, entries, first, size)
    return TensorFile(
        path=path,
        size=size,
        header_sha256=hashlib.sha256(header).hexdigest(),
        entries=MappingProxyType({entry.name: entry for entry in entries}),
        metadata=MappingProxyType(metadata),
    )


def _read_header_bytes(source: Source, path: str, size: int, limits: Limits) -> bytes:
    """Return the length and the header: the first 8 + N bytes of the file."""
    if size < LENGTH_BYTES:
        raise _bad(path, "the file is too short to hold a header", got=f"{size} bytes")
    length = bytearray(LENGTH_BYTES)
    source.read_into(path, 0, memoryview(length))
    count = int.from_bytes(length, "little")
    if count > limits.header_bytes:
        raise _bad(
            path,
            "the header is too large",
            got=f"{count} bytes",
            expected=f"at most {limits.header_bytes}",
        )
    if count > size - LENGTH_BYTES:
        raise _bad(
            path,
            "the header is longer than the file",
            got=f"{count} bytes",
            expected=f"at most {size - LENGTH_BYTES}",
        )
    header = bytearray(LENGTH_BYTES + count)
    source.read_into(path, 0, memoryview(header))
    if header[:LENGTH_BYTES] != length:
        raise _bad(path, "the length of the header changed between two reads")
    if header[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
        raise _bad(path, "the header does not begin with {")
    if not header.rstrip(b" ").endswith(b"}"):
        raise _bad(path, "the header does not end with } and spaces")
    return bytes(header)


def _metadata(path: str, value: object) -> dict[str, str]:
    where = f"{path}: {METADATA}"
    if not isinstance(value, dict):
        raise _bad(where, "the metadata are not a JSON object")
    for key, text in value.items():
        if not isinstance(text, str):
            raise _bad(where, "a value of the metadata is not a string", got=key[:120])
    return value


def _entry(path: str, name: str, value: object, first: int, limits: Limits) -> TensorEntry:
    """Check one tensor's description by itself; ``first`` is the offset of the data."""
    if len(name.encode()) > limits.name_bytes:
        raise _bad(
            f"{path}: {name[:64]}…",
            "the name of a tensor is too long",
            expected=f"at most {limits.name_bytes} bytes",
        )
    where = f"{path}: {name}"
    if not name:
        raise _bad(path, "a tensor has no name")
    if not isinstance(value, dict):
        raise _bad(where, "the tensor's description is not a JSON object")
    if value.keys() != FIELDS:
        raise _bad(
            where,
            "the tensor's description has missing or unknown fields",
            got=", ".join(sorted(value))[:120],
            expected="dtype, shape and data_offsets",
        )
    dtype = value["dtype"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _bad(where, "the dtype is unknown", got=str(dtype)[:120])
    shape = _shape(where, value["shape"], limits)
    start, stop = _offsets(where, value["data_offsets"])
    bits = math.prod(shape) * BITS[dtype]
    if bits != (stop - start) * 8:
        raise _bad(
            where,
            "the size disagrees with dtype and shape",
            got=f"{stop - start} bytes",
            expected=f"{bits} bits",
        )
    return TensorEntry(name=name, dtype=dtype, shape=shape, start=first + start, stop=first + stop)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0  # not isinstance: True is an int to Python


def _shape(where: str, value: object, limits: Limits) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(map(_is_count, value)):
        raise _bad(where, "the shape is not a list of integers from 0 on")
    if len(value) > limits.dims:
        raise _bad(where, "too many dimensions", got=len(value), expected=f"at most {limits.dims}")
    # Empty dimensions count as 1: a shape such as [2**40, 0] has no bytes and is still absurd.
    elements = 1
    for size in value:
        elements *= max(size, 1)
        if elements > MAX_ELEMENTS:  # inside the loop, so that no product grows beyond reason
            raise _bad(where, "the shape is absurdly large", expected=f"at most {MAX_ELEMENTS}")
    return tuple(value)


def _offsets(where: str, value: object) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2 or not all(map(_is_count, value)):
        raise _bad(where, "the data offsets are not two integers from 0 on")
    start, stop = value
    if start > stop:
        raise _bad(where, "the data offsets run backwards", got=f"{start} to {stop}")
    return start, stop


def _check_cover(path: str, entries: list[TensorEntry], first: int, size: int) -> None:
    """Refuse holes, overlaps, and a file that is longer or shorter than its tensors."""
    end = first
    for entry in entries:
        if entry.start != end:
            what = "overlaps the one before it" if entry.start < end else "leaves a hole before it"
            raise _bad(
                f"{path}: {entry.name}",
                f"the tensor {what}",
                got=f"byte {entry.start}",
                expected=f"byte {end}",
            )
        end = entry.stop
    if end != size:
        what = "is cut off" if end > size else "has bytes that belong to no tensor"
        raise _bad(path, f"the file {what}", got=f"{size} bytes", expected=f"{end} bytes")


def _torch_dtype(path: str, entry: TensorEntry, known: Mapping[str, str]) -> "torch.dtype":
    import torch

    if entry.dtype not in known:
        raise BadTensorFile(
            "the values of this dtype are not decoded",
            where=f"{path}: {entry.name}",
            got=entry.dtype,
            expected=", ".join(known),
            hint="Save the tensor in one of these dtypes.",
        )
    found = getattr(torch, known[entry.dtype])
    if not isinstance(found, torch.dtype):
        raise AssertionError(f"torch has no dtype {known[entry.dtype]}")
    return found


def _check_scratch(scratch: "torch.Tensor", count: int) -> None:
    """Refuse a buffer, or a machine, that would make a view of ``count`` bytes wrong."""
    import torch

    if scratch.dtype != torch.uint8 or scratch.ndim != 1 or not scratch.is_contiguous():
        raise AssertionError("scratch must be a flat uint8 tensor")
    if scratch.numel() < count or scratch.data_ptr() % ALIGNMENT:
        raise AssertionError(f"scratch of {scratch.numel()} bytes is too small or not aligned")
    if sys.byteorder != "little":
        raise AssertionError("safetensors data are little endian, this machine is not")


def read_rows(
    source: Source,
    file: TensorFile,
    entry: TensorEntry,
    start_row: int,
    stop_row: int,
    scratch: "torch.Tensor",
    *,
    known: Mapping[str, str] = DECODED,
) -> "torch.Tensor":
    """Read rows of a tensor into ``scratch`` and return a view of it; nothing is copied.

    Args:
        source: where the file is.
        file: the header that ``entry`` stands in.
        entry: the tensor.
        start_row: first row (index of the first dimension; a scalar has one row).
        stop_row: row behind the last.
        scratch: (bytes,) uint8, contiguous, on the CPU, at least as large as the rows.
            The bytes always go to its beginning, whatever their offset in the file, since torch
            refuses views of elements that are not aligned.
        known: the dtypes that the caller can use; CODES where it knows what codes mean.

    Returns:
        (stop_row - start_row, *shape[1:]) in the dtype of the file; valid until the next read.

    Raises:
        BadTensorFile: the dtype is not a known one.
        SourceError: the bytes cannot be read.
    """
    dtype = _torch_dtype(file.path, entry, known)
    rest = entry.shape[1:]
    row_bytes = math.prod(rest) * BITS[entry.dtype] // 8
    if not 0 <= start_row <= stop_row <= entry.rows:
        raise AssertionError(f"rows {start_row} to {stop_row} of {entry.rows}")
    count = (stop_row - start_row) * row_bytes
    _check_scratch(scratch, count)
    source.read_into(file.path, entry.start + start_row * row_bytes, scratch[:count].numpy().data)
    return scratch[:count].view(dtype).view(stop_row - start_row, *rest)


def read_tensor(source: Source, file: TensorFile, entry: TensorEntry) -> "torch.Tensor":
    """Return a whole tensor in its own memory: float64 for F64, else float32.

    Raises:
        BadTensorFile: the dtype is not one of DECODED.
        SourceError: the bytes cannot be read.
    """
    import torch

    _torch_dtype(file.path, entry, DECODED)  # refuses before memory is taken
    scratch = torch.empty(entry.stop - entry.start, dtype=torch.uint8)
    rows = read_rows(source, file, entry, 0, entry.rows, scratch).view(entry.shape)
    return rows if entry.dtype == "F64" else rows.to(torch.float32)
