"""The pages as HTML."""

import json
from dataclasses import dataclass
from typing import Any, Final

from safety_gate import __version__
from safety_gate.action.report_reader import read_report
from safety_gate.jobs.facts import Counts, Search, Standing
from safety_gate.page.facts import MOST, Head, Listed, Sheet
from safety_gate.page.links import Link, list_link, repo_link, report_link
from safety_gate.page.render import Typed, fill
from safety_gate.report.html import report_values
from safety_gate.report.inert import Prose

WORDS: Final = ("passed", "blocked", "undecided")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One number of the first page."""

    name: Prose
    number: int
    meaning: Prose


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A link that narrows a list."""

    name: Prose
    link: Link
    chosen: bool


def home(counts: Counts, line: list[Standing], recent: Listed, now: float) -> str:
    """Return the first page."""
    tiles = [
        ("Judging", counts.jobs["running"], "right now"),
        ("Waiting", counts.jobs["queued"], "in the queue"),
        ("Passed", counts.verdicts.get("passed", 0), "verdicts"),
        ("Blocked", counts.verdicts.get("blocked", 0), "verdicts"),
        ("Undecided", counts.verdicts.get("undecided", 0), "not judged"),
    ]
    return _page(
        "page_home.html.j2",
        "Overview",
        Link("/json"),
        here="home",
        tiles=[Tile(name=Prose(n), number=k, meaning=Prose(m)) for n, k, m in tiles],
        line=line,
        now=now,
        briefs=recent.briefs,
        older=_older(recent, "/verdicts"),
    )


def queue(line: list[Standing], counts: Counts, now: float) -> str:
    """Return the page of the queue."""
    everything = counts.jobs["running"] + counts.jobs["queued"]
    more = max(0, everything - MOST) if len(line) == MOST else 0
    return _page(
        "page_queue.html.j2", "Queue", Link("/queue/json"), here="queue", line=line, now=now,
        more=more,
    )  # fmt: skip


def verdicts(found: Listed, search: Search) -> str:
    """Return a list of verdicts: those of an owner, or those that were searched for."""
    if search.owner:
        title, path, name = "Verdicts of", f"/o/{search.owner}", search.owner
        choices = []
    else:
        title, path, name = ("Found" if search.text else "Verdicts"), "/verdicts", ""
        choices = [_choice(word, search) for word in ("", *WORDS)]
    query = {"q": search.text, "word": search.word}
    return _page(
        "page_verdicts.html.j2",
        title,
        list_link(f"{path}/json", **query),
        here="verdicts",
        typed=Typed(search.text),
        name=name,
        choices=choices,
        briefs=found.briefs,
        older=_older(found, path, **query),
    )


def _choice(word: str, search: Search) -> Choice:
    return Choice(
        name=Prose(word.capitalize() or "All"),
        link=list_link("/verdicts", q=search.text, word=word),
        chosen=word == search.word,
    )


def repository(repo: str, head: Head, found: Listed) -> str:
    """Return the page of a repository."""
    here = repo_link(repo).text
    return _page(
        "page_repo.html.j2",
        "Repository",
        Link(f"{here}/json"),
        repo=repo,
        badge=Link(f"{here}/badge.svg"),
        word=head.word,
        head=head.standing,
        briefs=found.briefs,
        older=_older(found, here),
    )


def report(sheet: Sheet) -> str:
    """Return the page of a report, with the repaired copy beside it where there is one.

    Raises:
        BadReport: another version of Safety Gate wrote it.
    """
    stored = sheet.stored
    first = read_report(json.loads(stored.report), where="database")
    values, after = report_values(first), None
    if stored.repaired:
        after = read_report(json.loads(stored.repaired), where="database")
        both = report_values(after, first)
        values |= {key: both[key] for key in ("before", "compared", "pictures")}
    link = report_link(stored.repo, stored.sha)
    return _page(
        "page_report.html.j2",
        stored.word.capitalize(),
        Link(f"{link.text}/json"),
        stored=stored,
        newer=sheet.newer,
        repaired=after,
        **values,
    )


def problem(title: str, what: str) -> str:
    """Return a page that says what went wrong; both are our own words."""
    return _page("page_problem.html.j2", title, Link("/json"), what=Prose(what))


def _older(found: Listed, path: str, **query: str) -> Link | None:
    return None if found.before is None else list_link(path, **query, before=found.before)


def _page(template: str, title: str, json: Link, **values: Any) -> str:
    shown = {"here": "", "typed": Typed(""), "version": __version__} | values
    return fill(template, title=Prose(title), json=json, **shown)
