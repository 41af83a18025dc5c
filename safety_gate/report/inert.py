"""Make text inert: nothing that a stranger typed can act where a report is shown.

There are two kinds of text in a report. A ``Name`` comes from people we do not know (files,
tensors, modules, repositories, config values): it is shown as code, in a short list of harmless
characters, everything else escaped visibly. ``Prose`` is our own: it reads as a sentence, and is
escaped as well, since a word of someone else (the owner of the policy) may stand in it. The exact
text is in the JSON report.
"""

import re
import string
from dataclasses import dataclass

LONGEST_NAME = 120  # characters shown; a row of a table stays readable
LONGEST_PROSE = 600  # our longest hint has under 300

# None of these can end a code span, open a tag, a link or a table cell, or steer a terminal.
_HARMLESS = frozenset(string.ascii_letters + string.digits + "._/-:@ ,()=+")
_ELISION = "{...}"  # braces are not harmless, so no stranger can fake these three
_EMPTY = "{empty}"

_NUMBER = r"[-+]?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?%?"
_LETTER = "[A-Za-z0-9À-ÖØ-öø-ÿΑ-Ωα-ω‖√²]"
_WORD = rf"{_LETTER}+(?:[-'’/]{_LETTER}+)*"
_STOP = "[(.,;!?)]+|:"
_PLAIN = re.compile(rf"[(\"']*(?:{_NUMBER}|{_WORD})[.,;:!?\"')]*|{_STOP}")
# GitHub links commits ("a1b2c3d") and issues ("GH-12") in bare text.
_REFERENCE = re.compile(r"(?i)(?=[a-f]*[0-9])[0-9a-f]{7,40}|gh-[0-9]+")
_AROUND = re.compile(r"([(\"']*)(.*?)([.,;:!?\"']*)", re.DOTALL)
_AROUND_CLOSING = re.compile(r"([\"']*)(.*?)([.,;:!?\"')]*)", re.DOTALL)
_SIGNS = {"<": "&lt;", "<=": "&lt;=", ">": "&gt;", ">=": "&gt;=", "&": "&amp;"} | {
    sign: sign for sign in ("=", "+", "-", "–", "—", "×", "±", "·", "→", "≤", "≥", "≠", "/")
}


@dataclass(frozen=True, slots=True)
class Name:
    """A stranger's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Prose:
    """Our own words."""

    text: str


def shown(text: str, limit: int = LONGEST_NAME) -> str:
    """Return a stranger's text in harmless characters, at most ``limit`` of them.

    ASCII is escaped as %41, all else as {U+0041}; the middle of what is too long becomes {...}.
    """
    if not text:
        return _EMPTY
    # Each character shows as at least one, so no more than these can ever be seen.
    seen = text if len(text) <= 2 * limit else text[:limit] + text[-limit:]
    neighbours = zip(("", *seen), seen, (*seen[1:], ""), strict=False)
    units = [_unit(before, char, after) for before, char, after in neighbours]
    if sum(map(len, units)) <= limit and seen is text:
        return "".join(units)
    room = limit - len(_ELISION)
    front = _fitting(units, room - room // 2)
    back = _fitting(units[::-1], room // 2)
    return "".join(front) + _ELISION + "".join(back[::-1])


def _unit(before: str, char: str, after: str) -> str:
    """Show one character; what it stands between decides about colons and blanks."""
    # Blanks at an edge would not be seen, and "::" starts a command in the log of a GitHub runner,
    # also where one of the colons belongs to the sentence around the name.
    edge_or_double = not before or not after or char in (before, after)
    if char in _HARMLESS and not (char in ": " and edge_or_double):
        return char
    return f"%{ord(char):02X}" if ord(char) < 0x80 else f"{{U+{ord(char):04X}}}"


def _fitting(units: list[str], room: int) -> list[str]:
    """Return the first units whose lengths add up to at most ``room``."""
    for index, unit in enumerate(units):
        room -= len(unit)
        if room < 0:
            return units[:index]
    return units


def code_span(text: str) -> str:
    """Return a stranger's text as Markdown code: no link, mention or tag opens in it."""
    return f"`{shown(text)}`"  # shown() never gives a backtick, so nothing ends the span early


def markdown_prose(text: str) -> str:
    """Return our own words as Markdown text.

    Words of letters and figures stay as they are; a word with anything else in it (a file name, an
    option, an address) becomes code, which also reads better. Text between backticks is code.
    """
    parts = text[:LONGEST_PROSE].split("`")
    if len(parts) % 2 == 0:  # an odd backtick: none of them means anything
        parts = [text[:LONGEST_PROSE]]
    pieces = [code_span(part) if index % 2 else _words(part) for index, part in enumerate(parts)]
    # Two spans that touch would read as one with a longer fence.
    return "".join(pieces).replace("``", "` `").strip()


def _words(text: str) -> str:
    """Return the words of one stretch of prose, keeping single blanks at its edges."""
    lead = " " if text[:1].isspace() else ""
    tail = " " if text[-1:].isspace() else ""
    return lead + " ".join(map(_word, text.split())) + tail


def _word(word: str) -> str:
    if word in _SIGNS:
        return _SIGNS[word]
    if _PLAIN.fullmatch(word) and not _REFERENCE.fullmatch(word.strip("(\"'.,;:!?)")):
        return word
    return _coded(word)


def _coded(word: str) -> str:
    """Return a word as code, with the punctuation of the sentence left outside."""
    inner = word.rstrip(".,;:!?")
    if len(inner) > 2 and inner[0] == "(" and inner[-1] == ")":
        return f"({_word(inner[1:-1])}){word[len(inner) :]}"
    # The bracket of "save_pretrained()" belongs to the word, that of "(see config.json)" does not.
    match = (_AROUND if "(" in word else _AROUND_CLOSING).fullmatch(word)
    before, core, after = match.groups() if match else ("", word, "")
    return f"{before}{code_span(core)}{after}" if core else code_span(word)


def plain_prose(text: str, *, ascii_only: bool = False) -> str:
    """Return our own words for a terminal or a log: one line, no control character, no command.

    Args:
        text: our own words, backticks around code left out.
        ascii_only: for an output whose encoding has no other characters.
    """
    line = " ".join(text[:LONGEST_PROSE].split()).replace("`", "")
    visible = "".join(
        c if c.isprintable() and (c.isascii() or not ascii_only) else f"{{U+{ord(c):04X}}}"
        for c in line
    )
    return visible.replace("::", ":%3A").replace("##[", "##%5B")
