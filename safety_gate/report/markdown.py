"""The Markdown report, for job summaries, pull requests and the Hub."""

import re
from functools import cache
from pathlib import Path
from typing import assert_never

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Undefined

from safety_gate.records import Report
from safety_gate.report.behaviour import spoken
from safety_gate.report.heatmap import Shade, heat_map
from safety_gate.report.inert import Name, Prose, code_span, markdown_prose
from safety_gate.report.summary import WHOLE_ADAPTER, facts, figure, percent, place_of, summarise
from safety_gate.report.tables import (
    GLOSSARY,
    owner_counts,
    short_revision,
    unaccounted,
    worst_modules,
)

SQUARES_PER_LINE = 32  # 32 squares fill, and do not overflow, a comment on GitHub
# The caps keep the longest report under the 65,536 characters of a comment on GitHub.
MOST_GROUPS = 8  # kinds of findings
MOST_PER_GROUP = 5  # places of each
MOST_FILES = 40  # an honest adapter repository has under 20
MOST_SHARDS = 20  # rows per checkpoint; a 70B model has 15 to 30 shards
MOST_UNACCOUNTED = 20
MOST_OWNERS = 20

_BLANKS = re.compile("\n{3,}")  # what conditions in the templates leave behind


def render_markdown(report: Report) -> str:
    """Return the report as Markdown; a name the template misspells is an error, not a blank."""
    env = _environment()
    text = env.get_template("report.md.j2").render(
        report=report,
        summary=summarise(report),
        heat=heat_map(report),
        spoken=spoken(report.behaviour),
        worst=worst_modules(report),
        owners=owner_counts(report.ledger),
        unaccounted=unaccounted(report.ledger),
        shades=tuple(Shade),
        glossary=Prose(GLOSSARY),
    )
    return _BLANKS.sub("\n\n", text).strip() + "\n"


def templates_folder() -> Path:
    """Return where the templates are: in the package when installed, else beside it."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "templates"
    return installed if installed.is_dir() else package.parent / "templates"


def inert(value: object) -> str:
    """Render any template value so that a stranger's text stays text.

    A bare string counts as a stranger's: whoever forgets to say whose words they are gets code.
    """
    match value:
        case Undefined():
            return str(value)  # raises, for StrictUndefined
        case Prose(text=text):
            return markdown_prose(text)
        case Name(text=text) | str(text):
            return code_span(text)
        case Shade():
            return square(value)
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return figure(value)
        case _:
            raise TypeError(f"a template shows a {type(value).__name__}")


def square(shade: Shade) -> str:
    """Return the coloured square that GitHub and the Hub both show."""
    match shade:
        case Shade.NOT_SCORED:
            return "⬛"
        case Shade.MUCH:
            return "🟥"
        case Shade.SOME:
            return "🟧"
        case Shade.LITTLE:
            return "🟨"
        case Shade.NONE:
            return "🟩"
        case Shade.FORWARD:
            return "🟦"
        case Shade.UNCHANGED:
            return "⬜"
        case _:
            assert_never(shade)


@cache
def _environment() -> Environment:
    # Autoescape would turn quotes inside code spans into entities; finalize sees every value.
    env = Environment(
        loader=FileSystemLoader(templates_folder()),
        undefined=StrictUndefined,
        finalize=inert,
        autoescape=False,  # noqa: S701
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.globals.update(
        MOST_GROUPS=MOST_GROUPS,
        MOST_PER_GROUP=MOST_PER_GROUP,
        MOST_FILES=MOST_FILES,
        MOST_SHARDS=MOST_SHARDS,
        MOST_UNACCOUNTED=MOST_UNACCOUNTED,
        MOST_OWNERS=MOST_OWNERS,
        SQUARES_PER_LINE=SQUARES_PER_LINE,
        WHOLE_ADAPTER=WHOLE_ADAPTER,
    )
    env.filters.update(
        prose=Prose,
        percent=lambda share: Prose(percent(share)),
        short_revision=short_revision,
        facts=facts,
        place_of=place_of,
    )
    return env
