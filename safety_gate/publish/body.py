"""The words of a comment, a job summary or a check run: whole where it fits, else shorter.

What is dropped first, until the rest fits: provenance, ledger, written answers, the table of worst
modules, parts that this file does not know, the heat map, the findings one by one, the table of
what the model says; each of them for passing adapters first. Verdict, reasons and next steps stay;
only where even these are too many, adapters become a row of a table, and at last a number.
Nothing is ever cut in the middle.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from safety_gate.publish import limits
from safety_gate.publish.marker import Said, marker, said
from safety_gate.publish.publication import Judged, Publication
from safety_gate.report.inert import Prose
from safety_gate.report.markdown import inert, render_markdown, templates_folder

# Name of a part: how its first line begins. A stranger's text never begins a line.
_PARTS = {
    "provenance": "<details><summary>Provenance",
    "ledger": "<details><summary>Ledger",
    "answers": "<details><summary>Answers",
    "worst modules": "### Worst modules",
    "other parts": "### ",
    "heat map": "### Heat map",
    "findings": "### Findings",
    "what the model says": "### What the model says",
}
DROPPED_FIRST = tuple(_PARTS)
_BEGINS_PART = re.compile(r"^(?=### |<details><summary>)", re.MULTILINE)
_ROWS = (100, 20, 5, 0)  # rows of the table of adapters, where all of them are too many
_ADDRESS = re.compile(r"https?://[A-Za-z0-9./:_-]+")


@dataclass(frozen=True, slots=True)
class Ready:
    """Markdown that is finished: rendered by the report's own template, or a line of ours."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a report's Markdown."""

    name: str  # of _PARTS; "" for the head, which always stays
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One adapter as it is shown."""

    name: str
    word: str
    text: Ready | None  # None: only a row of the table


def comment_body(
    publication: Publication, before: Said | None, *, limit: int = limits.COMMENT
) -> str:
    """Return the body of the sticky comment.

    Args:
        publication: what to tell.
        before: what the comment says so far; a lifted verdict is called resolved.
        limit: bytes.
    """
    lines = (Ready(marker(publication.gate_id)), Ready(said(publication)))
    return _fitted(publication, limit, hidden=lines, before=before, kind="comment")


def summary_text(publication: Publication, *, limit: int = limits.SUMMARY) -> str:
    """Return the job summary, or the text of a check run: the same words without a marker."""
    return _fitted(publication, limit, hidden=(), before=None, kind="summary")


def _fitted(publication: Publication, limit: int, **frame: Any) -> str:
    """Return the first of ever shorter texts that fits."""
    for adapters, dropped, hidden_rows in _ever_shorter(publication):
        text = _render(
            publication=publication,
            title=f"Safety Gate: {publication.word.replace('-', ' ')}",
            adapters=adapters,
            dropped=dropped,
            hidden_rows=hidden_rows,
            **frame,
        )
        if limits.fits(text, limit):
            return text
    raise AssertionError(f"no text is short enough for {limit} bytes")


def _ever_shorter(
    publication: Publication,
) -> Iterator[tuple[tuple[Shown, ...], tuple[str, ...], int]]:
    """Yield (adapters, names of the parts that were dropped, adapters left out of the table)."""
    judged = publication.gravest_first
    parts = [parts_of(render_markdown(one.report)) for one in judged]
    yield _shown(judged, parts, frozenset(), frozenset()), (), 0
    dropped: list[str] = []
    for name in DROPPED_FIRST:
        if not any(part.name == name for own in parts for part in own):
            continue
        earlier = frozenset(dropped)
        dropped.append(name)
        told = tuple(dropped)
        yield _shown(judged, parts, earlier, frozenset(dropped)), told, 0
        yield _shown(judged, parts, frozenset(dropped), frozenset(dropped)), told, 0
    rows = tuple(Shown(name=j.name, word=j.report.verdict.word, text=None) for j in judged)
    yield rows, (*dropped, "reasons"), 0
    for most in _ROWS:
        yield rows[:most], (*dropped, "reasons"), len(rows[most:])


def _shown(
    judged: Sequence[Judged],
    parts: Sequence[tuple[Part, ...]],
    drop: frozenset[str],
    drop_of_passed: frozenset[str],
) -> tuple[Shown, ...]:
    """Put the kept parts of every adapter together again."""
    adapters = []
    for one, own in zip(judged, parts, strict=True):
        word = one.report.verdict.word
        left_out = drop_of_passed if word == "passed" else drop
        text = "".join(part.text for part in own if part.name not in left_out)
        adapters.append(Shown(name=one.name, word=word, text=Ready(text.strip())))
    return tuple(adapters)


def parts_of(markdown: str) -> tuple[Part, ...]:
    """Split a report's Markdown at its own headings, without its first line, the headline."""
    _, _, body = markdown.partition("\n")
    head, *rest = _BEGINS_PART.split(body)
    return (Part(name="", text=head), *(Part(name=_name(text), text=text) for text in rest))


def _name(text: str) -> str:
    known = [name for name, start in _PARTS.items() if text.startswith(start)]
    exact = [name for name in known if name != "other parts"]
    return (exact or ["other parts"])[0]


def _finalize(value: object) -> str:
    """Let finished Markdown through, and make everything else inert."""
    return value.text if isinstance(value, Ready) else inert(value)


def _link(address: str) -> Ready:
    """Return the target of a link; ours alone are given, and only plain ones are taken."""
    if not _ADDRESS.fullmatch(address):
        raise AssertionError(f"not a plain address: {address!r}")
    return Ready(address)


@cache
def _environment(folder: Path) -> Environment:
    # As in report/markdown.py: finalize makes every value inert, and Markdown is no HTML.
    env = Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        finalize=_finalize,
        autoescape=False,  # noqa: S701
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(prose=Prose, link=_link)
    return env


def _render(**values: Any) -> str:
    return _environment(templates_folder()).get_template("comment.md.j2").render(**values)
