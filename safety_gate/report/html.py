"""The HTML report: one file for any browser, without a script and without a second request.

Jinja escapes every value, and before that ``inert`` turns it into harmless characters; no
attribute holds a word of a stranger. The content security policy of the page allows its own style
sheet, by digest, and nothing else: what slipped through could still not run, load or send.
"""

import base64
import hashlib
import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, assert_never

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Undefined
from markupsafe import Markup, escape

from safety_gate.records import Blocked, ModuleScore, Passed, Report, Undecided, Verdict
from safety_gate.report.behaviour import spoken
from safety_gate.report.comparison import comparison
from safety_gate.report.heat_ink import ink_of
from safety_gate.report.heatmap import HeatMap, Shade, heat_map
from safety_gate.report.inert import Name, Prose, markdown_prose, shown
from safety_gate.report.markdown import templates_folder
from safety_gate.report.summary import WHOLE_ADAPTER, facts, figure, percent, place_of, summarise
from safety_gate.report.tables import (
    GLOSSARY,
    owner_counts,
    short_revision,
    unaccounted,
    worst_modules,
)

# A page can hold more than a comment; the caps only keep a hostile repository from making one
# that no browser opens.
MOST_GROUPS = 50  # kinds of findings
MOST_OPEN = 5  # places of each that are shown at once
MOST_PER_GROUP = 200  # places of each that are there at all
MOST_FILES = 200
MOST_UNACCOUNTED = 200
MOST_OWNERS = 50
FEW_COLUMNS = 12  # a small model's squares are drawn wider

_TOKEN = re.compile("[A-Za-z0-9+/=#-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One heat map, and the figures behind its squares."""

    key: str  # sets its squares apart from those of another map
    title: Prose
    heat: HeatMap
    scores: Mapping[str, ModuleScore]  # by module


@dataclass(frozen=True, slots=True)
class Token:
    """A word of ours for an attribute, such as a class or a digest."""

    text: str

    def __post_init__(self) -> None:
        """Refuse what could end the attribute that it stands in."""
        if not _TOKEN.fullmatch(self.text):
            raise AssertionError(f"not a word for an attribute: {self.text!r}")


@dataclass(frozen=True, slots=True)
class Style:
    """The style sheet: finished, without any value of a report in it."""

    text: str

    @property
    def digest(self) -> Token:
        """Return the source expression by which the page allows it (CSP 3, hash-source)."""
        digest = hashlib.sha256(self.text.encode()).digest()
        return Token(f"sha256-{base64.b64encode(digest).decode()}")


def render_html(report: Report, before: Report | None = None) -> str:
    """Return the report as one HTML file; equal reports give equal text.

    Args:
        report: what was found.
        before: the report of the adapter that this one was repaired from; shown beside it.
    """
    return (
        environment()
        .get_template("report.html.j2")
        .render(style=Style(style_sheet()), **report_values(report, before))
    )


def style_sheet() -> str:
    """Return the style sheet of every page; no value of a report is in it."""
    inks = tuple(map(ink_of, Shade))
    return environment().get_template("report_style.html.j2").render(inks=inks)


def report_values(report: Report, before: Report | None = None) -> dict[str, Any]:
    """Return what the parts of the report's page are filled with."""
    return {
        "report": report,
        "before": before,
        "summary": summarise(report),
        "pictures": _pictures(report, before),
        "compared": comparison(before, report) if before else (),
        "spoken": spoken(report.behaviour),
        "worst": worst_modules(report),
        "owners": owner_counts(report.ledger),
        "unaccounted": unaccounted(report.ledger),
        "shades": tuple(Shade),
        "glossary": Prose(GLOSSARY),
    }


def inert(value: object) -> Markup:
    """Render any template value so that a stranger's text stays text.

    A bare string counts as a stranger's: whoever forgets to say whose words they are gets code.
    """
    match value:
        case Undefined():
            return escape(str(value))  # raises, for StrictUndefined
        case Prose(text=text):
            return html_prose(text)
        case Name(text=text) | str(text):
            return code(shown(text))
        case Token(text=text):
            return escape(text)
        case Shade():
            return escape(ink_of(value).mark)
        case Style(text=text):
            return Markup(text)  # noqa: S704 - our own template; only colours were filled in
        case bool():
            return escape("yes" if value else "no")
        case int():
            return escape(f"{value:,}")
        case float():
            return escape(figure(value))
        case _:
            raise TypeError(f"a template shows a {type(value).__name__}")


def html_prose(text: str) -> Markup:
    """Return our own words as HTML: the words and the code of the Markdown report."""
    # markdown_prose() gives plain words, the entities of three signs, and code between backticks.
    parts = markdown_prose(text).split("`")
    bare = [html.unescape(part) for part in parts]
    pieces = [code(part) if index % 2 else escape(part) for index, part in enumerate(bare)]
    return Markup().join(pieces)


def code(text: str) -> Markup:
    """Return harmless characters as code."""
    return Markup("<code>{}</code>").format(text)


def badge(verdict: Verdict) -> Token:
    """Return the class of a verdict; the word stands beside it, so colour never speaks alone."""
    match verdict:
        case Passed() | Blocked() | Undecided():
            return Token(verdict.word)
        case _:
            assert_never(verdict)


def _pictures(report: Report, before: Report | None) -> tuple[Picture, ...]:
    """Return the heat maps, that of the old adapter first."""
    both = [("before", "Before the repair", before)] if before else []
    both.append(("now", "After the repair" if before else "Heat map", report))
    return tuple(
        Picture(
            key=key,
            title=Prose(title),
            heat=heat_map(one),
            scores={score.module: score for score in one.modules},
        )
        for key, title, one in both
        if one is not None
    )


@cache
def environment() -> Environment:
    """Return what fills the templates of pages; every value goes through ``inert``."""
    env = Environment(
        loader=FileSystemLoader(templates_folder()),
        undefined=StrictUndefined,
        finalize=inert,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    limits: dict[str, Any] = {
        "MOST_GROUPS": MOST_GROUPS,
        "MOST_OPEN": MOST_OPEN,
        "MOST_PER_GROUP": MOST_PER_GROUP,
        "MOST_FILES": MOST_FILES,
        "MOST_UNACCOUNTED": MOST_UNACCOUNTED,
        "MOST_OWNERS": MOST_OWNERS,
        "FEW_COLUMNS": FEW_COLUMNS,
        "WHOLE_ADAPTER": WHOLE_ADAPTER,
    }
    env.globals.update(limits)
    env.filters.update(
        prose=Prose,
        token=Token,
        css=lambda shade: Token(ink_of(shade).name),
        badge=badge,
        percent=lambda share: Prose(percent(share)),
        short_revision=short_revision,
        facts=facts,
        place_of=place_of,
    )
    return env
