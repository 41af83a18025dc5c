"""Our section of a model card, edited as text: every byte outside of it stays what it was.

The section stands between two marker lines. A marker counts where it is alone on its line, behind
the front matter, and not inside a code block. Only innermost pairs are looked at, and only what
looks like a section of ours is replaced or removed, so that somebody who wraps the owner's text
in our markers cannot make us delete it. Of several sections the first stays.

The front matter is never parsed, so nothing that stands in it can act.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

START = "<!-- safety-gate:start v1 -->"
END = "<!-- safety-gate:end -->"
OPT_OUT = "<!-- safety-gate:off -->"
TITLE = "## Safety Gate"  # how every section of ours begins
LARGEST_SECTION = 16 * 1024  # bytes; ours have about 2,000

_FENCE = re.compile(rb" {0,3}(`{3,}|~{3,})(.*)")
_HEADING = re.compile(rb" {0,3}#{1,6}(?:\s|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A card cut into lines, and what our markers are among them."""

    lines: tuple[bytes, ...]  # with their ends
    behind_front: int  # first line behind the front matter
    sections: tuple[range, ...]  # lines of each section of ours, markers included
    opted_out: bool
    cut_short: bool  # ends inside a code block or a comment, where added text would not show
    newline: bytes


def read_card(data: bytes) -> Card:
    """Find our markers in a README.md of any encoding that keeps ASCII."""
    lines = _lines(data)
    front = _behind_front_matter(lines)
    visible, fenced = _outside_code(lines, front)
    texts = {index: _mark(lines[index]) for index in visible}
    marks = [i for i in visible if texts[i] in (START.encode(), END.encode())]
    pairs = [
        range(first, last + 1)
        for first, last in zip(marks, marks[1:], strict=False)
        if texts[first] == START.encode() and texts[last] == END.encode()
    ]
    body = b"".join(lines[index] for index in visible)
    return Card(
        lines=lines,
        behind_front=front,
        sections=tuple(pair for pair in pairs if _is_ours(lines, pair)),
        opted_out=OPT_OUT.encode() in texts.values(),
        cut_short=fenced or body.rfind(b"<!--") > body.rfind(b"-->"),
        newline=b"\r\n" if data.count(b"\r\n") * 2 > data.count(b"\n") else b"\n",
    )


def with_section(data: bytes, section: str) -> bytes:
    """Return the card with our section in its place, and in no other.

    Args:
        data: README.md as it is; empty where there is none.
        section: Markdown that begins with TITLE, without the markers.
    """
    card = read_card(data)
    text = "\n".join((START, section.strip(), END))
    ours = text.encode().replace(b"\n", card.newline)
    if card.sections:
        return _replaced(card, ours)
    if card.cut_short:
        return _inserted(card, ours)
    before = data
    if before and not before.endswith((b"\n", b"\r")):
        before += card.newline
    if before and not before.endswith(card.newline * 2):
        before += card.newline
    return before + ours + card.newline


def section_of(data: bytes) -> str:
    """Return the section that stands in a card, without its markers; empty where there is none."""
    card = read_card(data)
    if not card.sections:
        return ""
    inside = b"".join(card.lines[index] for index in card.sections[0][1:-1])
    return inside.decode("utf-8", "replace").replace("\r\n", "\n").strip()


def opted_out(data: bytes) -> bool:
    """Tell whether the owner asks to be left alone."""
    return read_card(data).opted_out


def _replaced(card: Card, ours: bytes) -> bytes:
    """Put the section where the first one is; drop the others."""
    first, *others = card.sections
    dropped = {index for section in others for index in section}
    pieces = []
    for index, line in enumerate(card.lines):
        if index == first.start:
            pieces.append(ours + _end_of(card.lines[first[-1]]))
        elif index not in first and index not in dropped:
            pieces.append(line)
    return b"".join(pieces)


def _inserted(card: Card, ours: bytes) -> bytes:
    """Put the section on top of a card whose end would swallow it."""
    head = b"".join(card.lines[: card.behind_front])
    rest = b"".join(card.lines[card.behind_front :])
    return head + ours + card.newline * 2 + rest


def _lines(data: bytes) -> tuple[bytes, ...]:
    """Cut into lines at line feeds only, so that every other byte stays inside of a line."""
    return tuple(re.findall(rb"[^\n]*\n|[^\n]+$", data))


def _mark(line: bytes) -> bytes:
    """Return what may be a marker; a line indented further is code."""
    return b"" if line.startswith((b"    ", b"\t")) else line.strip()


def _end_of(line: bytes) -> bytes:
    return line[len(line.rstrip(b"\r\n")) :]


def _behind_front_matter(lines: Sequence[bytes]) -> int:
    """Return the number of the first line behind the front matter; 0 where there is none."""
    if not lines or lines[0].rstrip() not in (b"---", b"\xef\xbb\xbf---"):
        return 0
    for index, line in enumerate(lines[1:], start=1):
        if line.rstrip() == b"---":
            return index + 1
    return 0


def _outside_code(lines: Sequence[bytes], front: int) -> tuple[list[int], bool]:
    """Return the lines outside of fenced code, and whether the last block is left open."""
    outside, fence = [], b""
    for index in range(front, len(lines)):
        match = _FENCE.fullmatch(lines[index].rstrip(b"\r\n"))
        if fence:
            closes = match is not None and match[1].startswith(fence) and not match[2].strip()
            fence = b"" if closes else fence
        elif match is not None and not (match[1].startswith(b"`") and b"`" in match[2]):
            fence = match[1]
        else:
            outside.append(index)
    return outside, bool(fence)


def _is_ours(lines: Sequence[bytes], pair: range) -> bool:
    """Tell whether what stands between two markers looks like what we write."""
    inside = [lines[index] for index in pair[1:-1]]
    if sum(map(len, inside)) > LARGEST_SECTION:
        return False
    told = list(_told(inside))
    if not told:
        return True  # emptied by somebody: nothing can be lost
    headings = [line for line in told if _HEADING.match(line)]
    return told[0].startswith(TITLE.encode()) and headings == told[:1]


def _told(lines: Sequence[bytes]) -> Iterator[bytes]:
    return (line.strip() for line in lines if line.strip())
