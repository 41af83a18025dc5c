"""JSON that two readers could read differently is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety_gate.errors import BadAdapter, BadCheckpoint
from safety_gate.strict_json import parse


def read(data: bytes, *, max_bytes: int = 10_000, max_depth: int = 8) -> object:
    return parse(
        data, where="config.json", error=BadAdapter, max_bytes=max_bytes, max_depth=max_depth
    )


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"{} {}", "not JSON"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'"\xff"', "not UTF-8"),
        ('"ü"'.encode("utf-16"), "not UTF-8"),
        (b'{"lora_alpha": 8, "lora_alpha": 800}', "stands twice"),
        (b'{"r": 8, "\\u0072": 800}', "stands twice"),
        (b'{"x": {"r": 8, "r": 8}}', "stands twice"),
        (b"NaN", "not finite"),
        (b"[Infinity]", "not finite"),
        (b"[-Infinity]", "not finite"),
        (b"1e400", "too large"),
        (b"-1e400", "too large"),
        (b"-0", "written as -0"),
        (b"9" * 4301, "too many digits"),
        (b"[" * 9 + b"]" * 9, "nested too deep"),
        (b'{"a":' * 9 + b"1" + b"}" * 9, "nested too deep"),
        (b"[" * 4000 + b"]" * 4000, "nested too deep"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b'{"k": ["\\ud83dx"]}', "surrogate"),
        (b" " * 10_001, "too large"),
    ],
)
def test_refused(data: bytes, says: str) -> None:
    with pytest.raises(BadAdapter, match=says) as caught:
        read(data)
    assert caught.value.where == "config.json"
    str(caught.value).encode()  # whatever was found, the message can be written


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"9" * 4300, int("9" * 4300)),
        (b"-0.0", -0.0),
        (b"1e308", 1e308),
        (b"[" * 8 + b"]" * 8, [[[[[[[[]]]]]]]]),
        (b'"\\ud83d\\ude00 \\u00e4"', "😀 ä"),
        (b' {"a": {"k": 1}, "b": {"k": 1}}\n', {"a": {"k": 1}, "b": {"k": 1}}),
        (b"null", None),
    ],
)
def test_taken(data: bytes, value: object) -> None:
    assert read(data) == value


def test_depth_nought_is_a_bare_value() -> None:
    assert read(b"true", max_depth=0) is True
    with pytest.raises(BadAdapter, match="nested too deep"):
        read(b"[]", max_depth=0)


def test_values_are_counted_before_they_take_memory() -> None:
    data = b"[" + b"0," * 99 + b"0]"
    with pytest.raises(BadCheckpoint, match="too many values"):
        parse(data, where="x", error=BadCheckpoint, max_bytes=999, max_depth=9, max_nodes=100)
    whole = parse(data, where="x", error=BadCheckpoint, max_bytes=999, max_depth=9, max_nodes=101)
    assert whole == [0] * 100


def test_contents_are_not_quoted() -> None:
    with pytest.raises(BadAdapter) as caught:
        read(b"AWS_SECRET=canary-7f3a\0HOME=/root")
    assert "canary" not in str(caught.value)
    assert caught.value.__suppress_context__


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_whatever_json_writes_comes_back(value: object, ascii_only: bool) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert read(data, max_bytes=10**6, max_depth=30) == value


@given(st.binary(max_size=60))
def test_any_bytes_are_read_as_json_reads_them_or_refused(data: bytes) -> None:
    try:
        value = read(data)
    except BadAdapter:
        return
    assert value == json.loads(data)
