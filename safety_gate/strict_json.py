"""JSON that means one thing only, for every reader.

Two readers of one file must see the same values: so duplicate keys, NaN, Infinity, numbers that
overflow, byte order marks and lone surrogates are refused, where Python's json takes them.
"""

import json
import math
import re
from collections import Counter
from typing import NoReturn

from safety_gate.errors import GateError

BOM = b"\xef\xbb\xbf"
MAX_NODES = 1_000_000  # values in one document; each costs about 100 bytes of memory
MAX_SHOWN = 120  # characters of a stranger's key or number that an error shows
SURROGATE = re.compile("[\ud800-\udfff]")
HINT = "Save this file again with the library that wrote it, as plain UTF-8 JSON."


class _Refused(Exception):
    """Carries a refusal out of json's callbacks."""

    def __init__(self, what: str, *, got: str = "", expected: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.got = SURROGATE.sub("?", got[:MAX_SHOWN])
        self.expected = expected


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build an object; escapes are resolved by now, so an escaped duplicate is one too."""
    whole = dict(pairs)
    if len(whole) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _Refused("a key stands twice in one JSON object", got=twice)
    return whole


def _constant(literal: str) -> NoReturn:
    raise _Refused("a number is not finite", got=literal, expected="finite numbers only")


def _float(literal: str) -> float:
    value = float(literal)
    if not math.isfinite(value):
        raise _Refused("a number is too large", got=literal, expected="a 64-bit float")
    return value


def _int(literal: str) -> int:
    # Python reads -0 as the integer 0, others read the float -0.0 or refuse.
    if literal == "-0":
        raise _Refused("an integer is written as -0", expected="0")
    try:
        return int(literal)
    except ValueError:  # more than 4300 digits: Python's guard against quadratic time
        raise _Refused("an integer has too many digits", got=literal) from None


def _decode(data: bytes, max_bytes: int, max_nodes: int) -> str:
    """Return the text; every cap that bounds memory is checked before json sees it."""
    if len(data) > max_bytes:
        raise _Refused(
            "the JSON is too large", got=f"{len(data)} bytes", expected=f"at most {max_bytes}"
        )
    if data.startswith(BOM):
        raise _Refused("the JSON begins with a byte order mark", expected="plain UTF-8")
    # Every value but the first stands behind one of these, so this bounds the values from above.
    if sum(map(data.count, (b",", b"[", b"{"))) >= max_nodes:
        raise _Refused("the JSON holds too many values", expected=f"at most {max_nodes}")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as err:
        raise _Refused("the JSON is not UTF-8", got=f"an invalid byte at {err.start}") from None


def _check_tree(root: object, max_depth: int, *, escapes: bool) -> None:
    """Refuse what is nested too deep, and strings that cannot be written as UTF-8 again."""
    level = [root]
    depth = 0
    while level:
        below: list[object] = []
        nested = False
        for value in level:
            if isinstance(value, dict):
                nested = True
                below.extend(value.values())
                if escapes:
                    below.extend(value)
            elif isinstance(value, list):
                nested = True
                below.extend(value)
            elif escapes and isinstance(value, str) and SURROGATE.search(value):
                raise _Refused("a string holds half a surrogate pair", got=value)
        depth += nested
        if depth > max_depth:
            raise _too_deep(max_depth)
        level = below


def _too_deep(max_depth: int) -> _Refused:
    return _Refused("the JSON is nested too deep", expected=f"at most {max_depth} levels")


def _parse(data: bytes, max_bytes: int, max_depth: int, max_nodes: int) -> object:
    text = _decode(data, max_bytes, max_nodes)
    try:
        root: object = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_int,
        )
    except json.JSONDecodeError as err:
        raise _Refused(
            "this is not JSON", got=f"an error at line {err.lineno} column {err.colno}"
        ) from None
    except RecursionError:
        raise _too_deep(max_depth) from None
    _check_tree(root, max_depth, escapes=b"\\u" in data)
    return root


def parse(
    data: bytes,
    *,
    where: str,
    error: type[GateError],
    max_bytes: int,
    max_depth: int,
    max_nodes: int = MAX_NODES,
) -> object:
    """Return the value of a JSON document: dict, list, str, int, float, bool or None.

    Args:
        data: the whole document.
        where: for the error: the file, as its owner called it.
        error: class of the error that a refusal becomes.
        max_bytes: of the document.
        max_depth: objects and lists within each other; 0 allows a bare number or string only.
        max_nodes: values; counted from above, by the commas and brackets.

    Raises:
        GateError: of the class ``error``. It names keys and numbers, never other contents.
    """
    try:
        return _parse(data, max_bytes, max_depth, max_nodes)
    except _Refused as refused:
        raise error(
            refused.what, where=where, got=refused.got, expected=refused.expected, hint=HINT
        ) from None
