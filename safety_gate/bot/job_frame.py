"""A report as lines of a log: how a Job of the Hub hands its result back.

A Job has no other way to answer that needs no token to write. The report is packed, cut into lines
and closed by its digest; what was lost on the way is noticed. Every line begins with a mark that
only we know, so that no text of a stranger in the same log can pass for a line of the report.
"""

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from safety_gate.errors import GateError

LINE: Final = 3000  # characters; logs cut lines somewhere above 4,000
MOST: Final = 64 * 2**20  # bytes of an unpacked report
MARK: Final = re.compile(r"[0-9a-f]{32}")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/=]+")


def second(mark: str) -> str:
    """Return the mark of the second report in one log: of the repaired copy, or ``null``."""
    return hashlib.sha256(mark.encode()).hexdigest()[:32]


class BadFrame(GateError):
    """A report did not come back whole."""

    rule = "job-report-lost"


def framed(text: str, mark: str) -> Iterator[str]:
    """Yield the lines of a report.

    Args:
        text: the report as JSON.
        mark: 32 hex digits, chosen for this Job.
    """
    if not MARK.fullmatch(mark):
        raise AssertionError("a mark is 32 hex digits")
    raw = text.encode()
    packed = base64.b64encode(zlib.compress(raw, 9)).decode()
    pieces = [packed[at : at + LINE] for at in range(0, len(packed), LINE)]
    for number, piece in enumerate(pieces, 1):
        yield f"{mark} {number} {len(pieces)} {piece}"
    yield f"{mark} end {len(pieces)} {hashlib.sha256(raw).hexdigest()}"


def unframed(lines: Iterable[str], mark: str, *, where: str) -> str:
    """Return the report that stands in a log.

    Args:
        lines: of the log, in any order, some of them twice.
        mark: of this Job.
        where: what the log is called in messages.

    Raises:
        BadFrame: a line is missing, or the digest is another.
    """
    pieces: dict[int, str] = {}
    digest, total = "", 0
    for line in lines:
        match line.strip().split(" "):
            case [found, "end", count, last] if found == mark and count.isdecimal():
                digest, total = last, int(count[:9])
            case [found, number, _, piece] if found == mark and number.isdecimal():
                pieces[int(number[:9])] = piece
    if not total or sorted(pieces) != list(range(1, total + 1)):
        raise _lost(where, f"{len(pieces)} of {total or 'an unknown number of'} lines")
    return _unpacked("".join(pieces[number] for number in sorted(pieces)), digest, where)


def _unpacked(packed: str, digest: str, where: str) -> str:
    if not _BASE64.fullmatch(packed):
        raise _lost(where, "lines that are none of ours")
    try:
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(base64.b64decode(packed, validate=True), MOST)
    except (zlib.error, binascii.Error) as error:
        raise _lost(where, type(error).__name__) from None
    if unpacker.unconsumed_tail or hashlib.sha256(raw).hexdigest() != digest:
        raise _lost(where, "another digest")
    return raw.decode()


def _lost(where: str, got: str) -> BadFrame:
    return BadFrame(
        "the report of a Job did not come back whole",
        where=where,
        got=got,
        expected="all lines, and their digest",
        hint="It is run again by itself; look into the log of the Job where it does not end.",
    )
