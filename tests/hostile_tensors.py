"""Hostile safetensors files: one builder per attack, one expected refusal each.

Nothing here is malware; every file is built from these few lines when a test asks for it.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass

from safety_gate.tensors import BITS

Header = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One hostile file and a part of the message that must refuse it."""

    name: str
    build: Callable[[], bytes]
    says: str


ATTACKS: list[Attack] = []


def pack(header: bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    """Put a header before data; ``length`` lies about it."""
    count = len(header) if length is None else length
    return struct.pack("<Q", count % 2**64) + header + data


def tensor(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> Header:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def dump(header: object) -> bytes:
    return json.dumps(header, separators=(",", ":")).encode()


def one(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> bytes:
    """Return a file with one tensor "a" and 8 bytes of data."""
    return pack(dump({"a": tensor(dtype, shape, offsets)}), bytes(8))


def raw(text: str, data: bytes = bytes(8)) -> bytes:
    """Return a file with a header as written here."""
    return pack(text.encode(), data)


def attack(says: str) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    """Register a builder under its own name."""

    def register(build: Callable[[], bytes]) -> Callable[[], bytes]:
        ATTACKS.append(Attack(name=build.__name__, build=build, says=says))
        return build

    return register


def add(name: str, says: str, build: Callable[[], bytes]) -> None:
    ATTACKS.append(Attack(name=name, build=build, says=says))


GOOD = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
A = '"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'

# ---- length of the header
add("empty_file", "too short", lambda: b"")
add("one_byte", "too short", lambda: b"\0")
add("seven_bytes", "too short", lambda: bytes(7))
add("no_header", "does not begin with {", lambda: bytes(8))
add("no_header_but_data", "does not begin with {", lambda: bytes(64))
add("length_beyond_file", "longer than the file", lambda: pack(b"{}", length=3))
add("length_one_too_long", "longer than the file", lambda: pack(GOOD.encode(), length=55))
add("length_one_too_short", "not JSON", lambda: pack(GOOD.encode(), bytes(8), length=53))
add("length_into_data", "does not end with }", lambda: pack(GOOD.encode(), bytes(8), length=60))
add("length_2_63", "header is too large", lambda: pack(b"{}", length=2**63))
add("length_2_64_minus_1", "header is too large", lambda: pack(b"{}", length=2**64 - 1))
add("length_over_cap", "header is too large", lambda: pack(b"{}", length=16 * 2**20 + 1))
add("length_at_cap", "longer than the file", lambda: pack(b"{}", length=16 * 2**20))
add("big_endian_length", "header is too large", lambda: struct.pack(">Q", 2) + b"{}")
add("pickle", "header is too large", lambda: b"\x80\x04\x95\x0a\x00\x00\x00\x00\x00\x00\x00.")
add("zip_archive", "header is too large", lambda: b"PK\x03\x04" + bytes(3) + b"\x01" + bytes(60))

# ---- text of the header
add("leading_space", "does not begin with {", lambda: raw(" " + GOOD))
add("leading_newline", "does not begin with {", lambda: raw("\n" + GOOD))
add("byte_order_mark", "does not begin with {", lambda: raw("\ufeff" + GOOD))
add("trailing_newline", "does not end with }", lambda: raw(GOOD + "\n"))
add("trailing_tab", "does not end with }", lambda: raw(GOOD + " \t "))
add("trailing_nul", "does not end with }", lambda: raw(GOOD + "\0"))
add("trailing_object", "not JSON", lambda: raw(GOOD + "{}"))
add("trailing_comma", "not JSON", lambda: raw("{" + A + ",}"))
add("single_quotes", "not JSON", lambda: raw(GOOD.replace('"', "'")))
add("comment", "not JSON", lambda: raw("{/**/" + A + "}"))
add("not_utf8", "not UTF-8", lambda: pack(b'{"\xff":0}'))
add("overlong_utf8", "not UTF-8", lambda: pack(b'{"\xc0\xaf":0}'))
add("utf8_surrogate", "not UTF-8", lambda: pack(b'{"\xed\xa0\x80":0}'))
add("utf16", "does not end with }", lambda: pack(b"{\0}\0"))
add("escaped_surrogate", "surrogate", lambda: raw(GOOD.replace('"a"', '"\\ud800"')))
add("raw_control", "not JSON", lambda: raw(GOOD.replace('"a"', '"a\x01"')))
add("deep_lists", "nested too deep", lambda: raw('{"a":' + "[" * 5000 + "]" * 5000 + "}"))
add("deep_objects", "nested too deep", lambda: raw('{"a":' * 5000 + "1" + "}" * 5000))
add("unclosed_lists", "nested too deep", lambda: raw('{"a":' + "[" * 100_000 + "}"))
add("four_levels", "nested too deep", lambda: raw(GOOD.replace("[2]", "[[[2]]]")))
add("nan", "not finite", lambda: raw(GOOD.replace("[2]", "[NaN]")))
add("infinity", "not finite", lambda: raw(GOOD.replace("[2]", "[Infinity]")))
add("minus_infinity", "not finite", lambda: raw(GOOD.replace("[2]", "[-Infinity]")))
add("overflowing_float", "too large", lambda: raw(GOOD.replace("[2]", "[1e400]")))
add("endless_integer", "too many digits", lambda: raw(GOOD.replace("[2]", f"[{'9' * 5000}]")))
add("header_is_list", "does not begin with {", lambda: raw("[]"))
add("header_is_string", "does not begin with {", lambda: raw('"a"'))

# ---- the same name twice
add("dup_name", "stands twice", lambda: raw("{" + A + "," + A + "}"))
add(
    "dup_escaped_name",
    "stands twice",
    lambda: raw("{" + A + "," + A[0:1] + "\\u0061" + A[2:] + "}"),
)
add("dup_metadata", "stands twice", lambda: raw('{"__metadata__":{},"__metadata__":{},' + A + "}"))
add("dup_metadata_key", "stands twice", lambda: raw('{"__metadata__":{"k":"1","k":"2"},' + A + "}"))
add("dup_dtype", "stands twice", lambda: raw(GOOD.replace('"shape"', '"dtype":"F32","shape"')))
add("dup_shape", "stands twice", lambda: raw(GOOD.replace('"dtype"', '"shape":[1],"dtype"')))
add(
    "dup_offsets",
    "stands twice",
    lambda: raw(GOOD.replace('"dtype"', '"data_offsets":[0,4],"dtype"')),
)

# ---- fields of a tensor
add(
    "tensor_is_list", "not a JSON object", lambda: pack(dump({"a": ["F32", [2], [0, 8]]}), bytes(8))
)
add("tensor_is_null", "not a JSON object", lambda: pack(dump({"a": None}), bytes(8)))
add("no_dtype", "missing or unknown", lambda: raw('{"a":{"shape":[2],"data_offsets":[0,8]}}'))
add("no_shape", "missing or unknown", lambda: raw('{"a":{"dtype":"F32","data_offsets":[0,8]}}'))
add("no_offsets", "missing or unknown", lambda: raw('{"a":{"dtype":"F32","shape":[2]}}'))
add("empty_fields", "missing or unknown", lambda: raw('{"a":{}}'))
add("unknown_field", "missing or unknown", lambda: raw(GOOD.replace('"dtype"', '"x":1,"dtype"')))
add("dtype_case", "dtype is unknown", lambda: one("f32"))
add("dtype_torch", "dtype is unknown", lambda: one("torch.float32"))
add("dtype_number", "dtype is unknown", lambda: one(32))
add("dtype_list", "dtype is unknown", lambda: one(["F32"]))
add("dtype_null", "dtype is unknown", lambda: one(None))
add("dtype_complex128", "dtype is unknown", lambda: one("C128"))
add("shape_null", "shape is not a list", lambda: one(shape=None))
add("shape_number", "shape is not a list", lambda: one(shape=2))
add("shape_string", "shape is not a list", lambda: one(shape="2"))
add("shape_object", "shape is not a list", lambda: one(shape={"0": 2}))
add("shape_bool", "shape is not a list", lambda: one(shape=(True, 2)))
add("shape_float", "shape is not a list", lambda: one(shape=(2.0,)))
add("shape_exponent", "shape is not a list", lambda: raw(GOOD.replace("[2]", "[2e0]")))
add("shape_minus_zero", "written as -0", lambda: raw(GOOD.replace("[2]", "[2,-0]")))
add("shape_negative", "shape is not a list", lambda: one(shape=(-1, -2)))
add("shape_nested", "shape is not a list", lambda: raw(GOOD.replace("[2]", "[null]")))
add("shape_nine_dims", "too many dimensions", lambda: one(shape=(2,) + (1,) * 8))
add("shape_huge", "absurdly large", lambda: one(shape=(2**63,)))
add("shape_overflow", "absurdly large", lambda: one(shape=(2**32, 2**32)))
add("shape_wraps_to_8", "absurdly large", lambda: one("U8", (2**61 + 1, 8)))
add("shape_huge_but_empty", "absurdly large", lambda: one(shape=(2**41, 0), offsets=(0, 0)))
add("shape_empty_but_huge", "absurdly large", lambda: one(shape=(0, 2**41), offsets=(0, 0)))
add("offsets_null", "offsets are not two", lambda: one(offsets=None))
add("offsets_one", "offsets are not two", lambda: one(offsets=(8,)))
add("offsets_three", "offsets are not two", lambda: one(offsets=(0, 4, 8)))
add("offsets_bool", "offsets are not two", lambda: one("U8", (1,), (False, True)))
add("offsets_float", "offsets are not two", lambda: one(offsets=(0.0, 8.0)))
add("offsets_string", "offsets are not two", lambda: one(offsets=("0", "8")))
add("offsets_negative", "offsets are not two", lambda: one(offsets=(-8, 0)))
add("offsets_minus_zero", "written as -0", lambda: raw(GOOD.replace("[0,8]", "[-0,8]")))
add("offsets_backwards", "run backwards", lambda: one(offsets=(8, 0)))
add("offsets_2_64", "size disagrees", lambda: one(offsets=(0, 2**64)))
add("offsets_beyond_file", "is cut off", lambda: one(shape=(4,), offsets=(0, 16)))
add("offsets_shifted_beyond", "leaves a hole", lambda: one(offsets=(8, 16)))

# ---- size against dtype and shape
for _dtype in sorted(BITS):  # a tensor of 16 elements, one byte too large in its offsets
    _bytes = 16 * BITS[_dtype] // 8
    add(
        f"size_lie_{_dtype}",
        "size disagrees",
        lambda dtype=_dtype, count=_bytes: pack(  # type: ignore[misc]
            dump({"a": tensor(dtype, (16,), (0, count + 1))}), bytes(count + 1)
        ),
    )
add("size_half_a_byte", "size disagrees", lambda: one("F4", (15,), (0, 8)))
add("size_two_bits_missing", "size disagrees", lambda: one("F6_E2M3", (11,), (0, 8)))
add("scalar_with_two_values", "size disagrees", lambda: one(shape=(), offsets=(0, 8)))
add("empty_with_bytes", "size disagrees", lambda: one(shape=(0,), offsets=(0, 8)))

# ---- metadata
add("metadata_null", "not a JSON object", lambda: raw('{"__metadata__":null,' + A + "}"))
add("metadata_list", "not a JSON object", lambda: raw('{"__metadata__":[],' + A + "}"))
add("metadata_string", "not a JSON object", lambda: raw('{"__metadata__":"x",' + A + "}"))
add("metadata_number", "not a string", lambda: raw('{"__metadata__":{"k":1},' + A + "}"))
add("metadata_bool", "not a string", lambda: raw('{"__metadata__":{"k":true},' + A + "}"))
add("metadata_nested", "not a string", lambda: raw('{"__metadata__":{"k":{}},' + A + "}"))
add("metadata_tensor", "not a string", lambda: raw(GOOD.replace('"a"', '"__metadata__"')))

# ---- names
add("name_empty", "has no name", lambda: raw(GOOD.replace('"a"', '""')))
add("name_too_long", "too long", lambda: raw(GOOD.replace('"a"', f'"{"a" * 513}"')))
add("name_too_long_utf8", "too long", lambda: raw(GOOD.replace('"a"', f'"{"ä" * 257}"')))


# ---- cover of the data
def two(first: Header, second: Header, data: bytes) -> bytes:
    return pack(dump({"a": first, "b": second}), data)


@attack("leaves a hole")
def hole_at_the_start() -> bytes:
    return pack(dump({"a": tensor(offsets=(4, 12))}), bytes(12))


@attack("leaves a hole")
def hole_in_the_middle() -> bytes:
    return two(tensor(), tensor(offsets=(12, 20)), bytes(20))


@attack("bytes that belong to no tensor")
def tail() -> bytes:
    return one() + b"\0"


@attack("bytes that belong to no tensor")
def tail_without_tensors() -> bytes:
    return pack(b"{}", bytes(8))


@attack("bytes that belong to no tensor")
def polyglot_zip_in_the_tail() -> bytes:
    return one() + b"PK\x05\x06" + bytes(18)


@attack("is cut off")
def truncated() -> bytes:
    return one()[:-1]


@attack("is cut off")
def truncated_to_the_header() -> bytes:
    return one()[:-8]


@attack("overlaps")
def same_bytes_twice() -> bytes:
    return two(tensor(), tensor(), bytes(8))


@attack("overlaps")
def overlap_by_four() -> bytes:
    return two(tensor(), tensor(offsets=(4, 12)), bytes(12))


@attack("overlaps")
def one_inside_another() -> bytes:
    return two(tensor(shape=(4,), offsets=(0, 16)), tensor(offsets=(4, 12)), bytes(16))


@attack("overlaps")
def empty_tensor_inside_another() -> bytes:
    return two(tensor(), tensor(shape=(0,), offsets=(4, 4)), bytes(8))


@attack("leaves a hole")
def empty_tensor_behind_the_end() -> bytes:
    return two(tensor(), tensor(shape=(0,), offsets=(9, 9)), bytes(8))


@attack("overlaps")
def ten_thousand_on_the_same_bytes() -> bytes:
    return pack(dump({f"t{at}": tensor() for at in range(10_000)}), bytes(8))


# ---- bombs: within the header's cap, or so large that the cap must come first
@attack("too many tensors")
def hundred_thousand_and_one_tensors() -> bytes:
    empty = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    return raw("{" + ",".join(f'"{at}":{empty}' for at in range(100_001)) + "}", b"")


@attack("header is too large")
def a_million_empty_tensors() -> bytes:
    empty = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    return raw("{" + ",".join(f'"{at}":{empty}' for at in range(1_000_000)) + "}", b"")


@attack("too many dimensions")
def hundred_thousand_dims() -> bytes:
    return raw(GOOD.replace("[2]", "[2" + ",1" * 100_000 + "]"))


@attack("too many values")
def five_million_dims() -> bytes:
    return raw(GOOD.replace("[2]", "[2" + ",1" * 5_000_000 + "]"))


@attack("too many values")
def four_million_objects() -> bytes:
    return raw('{"a":[' + "{}," * 4_000_000 + "{}]}")


@attack("too long")
def name_of_ten_megabytes() -> bytes:
    return raw(GOOD.replace('"a"', '"' + "a" * 10_000_000 + '"'))


@attack("header is too large")
def metadata_of_ninety_megabytes() -> bytes:
    return raw('{"__metadata__":{"k":"' + "x" * 90_000_000 + '"},' + A + "}")


@attack("too large")
def endless_digits() -> bytes:
    return raw(GOOD.replace("[2]", "[1" + "0" * 1_000_000 + ".0e1]"))
