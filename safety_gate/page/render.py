"""Fills the templates of the page; what a stranger typed stays text, as in the HTML report."""

import datetime
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from jinja2 import Environment
from markupsafe import Markup, escape

from safety_gate.page.links import Link, hub_link, owner_link, repo_link, report_link
from safety_gate.report.html import Token, environment, inert, style_sheet
from safety_gate.report.inert import Prose

SHORT: Final = 8  # digits of a commit in a list


@dataclass(frozen=True, slots=True)
class Time:
    """A moment, in seconds since 1970."""

    at: float

    @property
    def iso(self) -> str:
        """Return it as RFC 3339, to the second."""
        return moment(self.at)


@dataclass(frozen=True, slots=True)
class Typed:
    """What the reader typed; stands in a quoted attribute only."""

    text: str


def moment(at: float) -> str:
    """Return a time as RFC 3339 in UTC, to the second."""
    when = datetime.datetime.fromtimestamp(at, tz=datetime.UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def shown(value: object) -> Markup:
    """Render a template value: links and times are ours, all else as in the report."""
    match value:
        case Link(text=text) | Typed(text=text):
            return escape(text)
        case Time():
            text = value.iso
            return Markup('<time datetime="{}">{} {}</time>').format(
                text, text[:10], text[11:16] + " UTC"
            )
        case _:
            return inert(value)


def waited(seconds: float) -> Prose:
    """Return a span of time in words, with one unit."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return Prose(f"{int(seconds // size)} {unit}")
    return Prose(f"{int(max(0.0, seconds))} s")


def ref_words(ref: str) -> object:
    """Return what a reader calls a ref; a branch has a stranger's name."""
    if ref == "refs/heads/main":
        return Prose("main")
    number = ref.removeprefix("refs/pr/")
    if number.isdecimal():
        return Prose(f"pull request {number}")
    return ref.removeprefix("refs/heads/")


@cache
def pages() -> Environment:
    """Return what fills the templates of the page."""
    env = environment().overlay(finalize=shown)
    env.filters = {
        **env.filters,
        "time": Time,
        "waited": waited,
        "ref_words": ref_words,
        "to_owner": owner_link,
        "to_repo": repo_link,
        "to_hub": hub_link,
        "short": lambda sha: sha[:SHORT],
        "word": lambda text: Token(text),
    }
    env.globals = {**env.globals, "report_link": report_link, "hub_link": hub_link}
    return env


@cache
def stylesheet() -> str:
    """Return the one style sheet: that of the report, and what pages have besides."""
    return style_sheet() + pages().get_template("page_style.css.j2").render()


def fill(template: str, **values: Any) -> str:
    """Return a page."""
    return pages().get_template(template).render(**values)
