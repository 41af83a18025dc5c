"""The hidden lines by which our own comment is known again.

The first line of a comment names the gate, the second what it said last. Nobody is believed for
a marker alone: the author counts as well (see comment.py).
"""

import re
from dataclasses import dataclass

from safety_gate.publish.publication import WORDS, Publication, Word

_STATE = re.compile(
    rf"<!-- safety-gate:said v1 ({'|'.join(WORDS)}) ([0-9a-f]{{40}}) ([0-9a-f]{{64}}) -->"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a comment of ours said last."""

    word: Word
    commit: str
    digest: str  # Publication.digest


def marker(gate_id: str) -> str:
    """Return the line that every comment of this gate begins with."""
    return f"<!-- safety-gate:comment {gate_id} -->"


def said(publication: Publication) -> str:
    """Return the line that keeps what is said."""
    facts = f"{publication.word} {publication.commit} {publication.digest}"
    return f"<!-- safety-gate:said v1 {facts} -->"


def is_marked(body: str, gate_id: str) -> bool:
    """Tell whether a comment begins with the gate's marker; a quoted one does not count."""
    return body.partition("\n")[0].rstrip("\r") == marker(gate_id)


def read_said(body: str) -> Said | None:
    """Return what a comment of ours said; None where a person has edited it away."""
    lines = body.splitlines()[1:2]
    match = _STATE.fullmatch(lines[0]) if lines else None
    if match is None:
        return None
    word = next(word for word in WORDS if word == match[1])
    return Said(word=word, commit=match[2], digest=match[3])
