"""A small and strict subset of YAML 1.2: mappings, sequences and scalars, nothing else.

The values are built here from the parser's events and not by a YAML constructor, because a
constructor reads ``010`` as ten, ``1_000`` as a thousand, a commit of forty digits as a number
and ``2026-13-01`` as a crash.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from safety_gate.errors import BadPolicy

MAX_BYTES = 256 * 1024  # of a policy file; one of 500 rules has about 60 KB
MAX_DEPTH = 16  # nested brackets; a policy needs 5, and the parser is quadratic in them
MAX_NUMBER = 39  # characters; what is longer is a commit or a digest, and stays text

Scalar: TypeAlias = str | int | float | bool | None
Tree: TypeAlias = "Scalar | tuple[Tree, ...] | dict[str, Tree]"
Path: TypeAlias = tuple[str | int, ...]

NULLS = {"", "~", "null"}
BOOLS = {"true": True, "false": False}  # yes, no, on and off are words
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
REAL = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
ODD_REAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

HINT = "Write plain YAML: mappings, lists and values; docs/policy.md has a full example."


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a YAML file says, and on which line it says so."""

    tree: Tree
    lines: Mapping[Path, int]  # line of every key and list item, from 1


def shown(path: Path) -> str:
    """Write a path as in ``rules[0].when[1].above``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def read_yaml(data: bytes, origin: str) -> Document:
    """Read one YAML document.

    Raises:
        BadPolicy: it is not UTF-8 or not YAML, is larger than 256 KB, has more or less than one
            document, repeats a key, or uses directives, anchors, aliases or tags.
    """
    text = _decode(data, origin)
    reader = _Reader(origin)
    try:
        tree = reader.document(iter(YAML(typ="safe", pure=True).parse(text)))
    except MarkedYAMLError as err:
        mark = err.problem_mark
        where = f"{origin}, line {mark.line + 1}" if mark else origin
        raise BadPolicy(
            "this is not valid YAML", where=where, got=err.problem or "", hint=HINT
        ) from err
    except (YAMLError, ValueError, OverflowError) as err:
        # The parser lets int() and chr() raise on "%YAML 999...9.1" and on "\UFFFFFFFF".
        raise BadPolicy("this is not valid YAML", where=origin, hint=HINT) from err
    return Document(tree=tree, lines=reader.lines)


def _decode(data: bytes, origin: str) -> str:
    """Return the text, without a byte order mark."""
    if len(data) > MAX_BYTES:
        raise BadPolicy(
            "the policy file is too large",
            where=origin,
            got=f"more than {MAX_BYTES} bytes",
            expected=f"at most {MAX_BYTES} bytes",
            hint="Check that this is the policy file, or put patterns in place of long lists.",
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise BadPolicy(
            "the policy file is not UTF-8",
            where=origin,
            got=f"byte 0x{data[err.start]:02x} at {err.start}",
            expected="UTF-8 text",
            hint="Save the file as UTF-8.",
        ) from err


class _Reader:
    """Builds one tree from parser events and notes the lines."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.lines: dict[Path, int] = {}

    def document(self, events: Iterator[Event]) -> Tree:
        """Return the only document's tree; refuse none and more than one."""
        tree: Tree = None
        documents = 0
        for event in events:
            match event:
                case DocumentStartEvent():
                    documents += 1
                    if documents > 1 or event.version or event.tags:
                        raise self._refusal("a second document, or a directive", event)
                case NodeEvent():
                    tree = self._node(event, events, ())
                case DocumentEndEvent() | StreamEndEvent():
                    pass
        if documents == 0 or tree is None:
            raise BadPolicy(
                "the policy file is empty",
                where=self.origin,
                expected="version, name and rules",
                hint="Start from the example in docs/policy.md, or use a preset.",
            )
        return tree

    def _node(self, event: Event, events: Iterator[Event], path: Path) -> Tree:
        """Return the value that starts with ``event``."""
        self.lines.setdefault(path, event.start_mark.line + 1)
        if len(path) > MAX_DEPTH:
            raise self._refusal(f"more than {MAX_DEPTH} levels", event, path)
        if isinstance(event, AliasEvent):
            raise self._refusal("an alias (*name)", event, path)
        if getattr(event, "anchor", None) is not None:
            raise self._refusal("an anchor (&name)", event, path)
        if getattr(event, "tag", None) is not None:
            raise self._refusal("a tag (!name)", event, path)
        match event:
            case ScalarEvent():
                return _scalar(event.value) if event.implicit[0] else event.value
            case SequenceStartEvent():
                return self._sequence(events, path)
            case MappingStartEvent():
                return self._mapping(events, path)
        raise self._refusal("something that is no value", event, path)

    def _sequence(self, events: Iterator[Event], path: Path) -> tuple[Tree, ...]:
        items: list[Tree] = []
        while not isinstance(event := next(events), SequenceEndEvent):
            items.append(self._node(event, events, (*path, len(items))))
        return tuple(items)

    def _mapping(self, events: Iterator[Event], path: Path) -> dict[str, Tree]:
        items: dict[str, Tree] = {}
        while not isinstance(event := next(events), MappingEndEvent):
            if not isinstance(event, ScalarEvent) or event.anchor or event.tag is not None:
                raise self._refusal("a key that is not plain text", event, path)
            key = event.value
            self.lines[(*path, key)] = event.start_mark.line + 1
            if key in items:
                raise self._refusal("the same key twice", event, (*path, key))
            items[key] = self._node(next(events), events, (*path, key))
        return items

    def _refusal(self, got: str, event: Event, path: Path = ()) -> BadPolicy:
        where = f"{self.origin}, line {event.start_mark.line + 1}"
        return BadPolicy(
            "the policy file uses YAML that is not allowed here",
            where=f"{where}, {shown(path)}" if path else where,
            got=got,
            expected="one plain document",
            hint=HINT,
        )


def _scalar(text: str) -> Scalar:
    """Read a plain scalar by the core schema of YAML 1.2, decimal numbers only."""
    if text in NULLS:
        return None
    if text in BOOLS:
        return BOOLS[text]
    if len(text) > MAX_NUMBER:
        return text
    if INTEGER.fullmatch(text):
        return int(text)
    if REAL.fullmatch(text) or ODD_REAL.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text
