"""What a page shows, before it has a form: the same for HTML and for JSON."""

from dataclasses import dataclass
from typing import Final

from safety_gate.jobs.facts import Brief, Page, Search, Standing, Stored
from safety_gate.jobs.store import JobStore
from safety_gate.page.badge import Word

MAIN: Final = "refs/heads/main"
PER_PAGE: Final = 30  # verdicts
FEW: Final = 8  # jobs on the first page
MOST: Final = 500  # jobs on the page of the queue


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """Verdicts of one page."""

    briefs: tuple[Brief, ...]
    before: int | None  # the next page begins below this job; None: there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What is known about the head of a ref."""

    word: Word
    standing: Standing | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A verdict with its report, and whether it is still about the head."""

    stored: Stored
    newer: Standing | None  # a newer job of the same ref


def listed(store: JobStore, search: Search, before: int | None) -> Listed:
    """Return one page of verdicts, and where the next begins."""
    page = Page(limit=PER_PAGE + 1) if before is None else Page(limit=PER_PAGE + 1, before=before)
    found = store.browse(search, page)
    more = len(found) > PER_PAGE
    shown = tuple(found[:PER_PAGE])
    return Listed(briefs=shown, before=shown[-1].job if more else None)


def head_of(store: JobStore, repo: str, ref: str, policy: str) -> Head:
    """Return what is known about the head of a ref; never the verdict of an older commit."""
    standing = store.newest(repo, ref, policy)
    if standing is None:
        return Head(word="unknown", standing=None)
    if standing.state in ("queued", "running"):
        return Head(word="judging", standing=standing)
    stored = store.verdict(standing.job) if standing.state in ("done", "dead") else None
    return Head(word=_word(stored), standing=standing)


def _word(stored: Stored | None) -> Word:
    match stored.word if stored else "":
        case "passed":
            return "passed"
        case "blocked":
            return "blocked"
        case "undecided":
            return "undecided"
        case _:
            return "unknown"


def sheet_of(store: JobStore, repo: str, sha: str, policy: str) -> Sheet | None:
    """Return the verdict for a commit: by today's policy, else by the latest that judged it."""
    stored = store.verdict_for(repo, sha, policy) or store.verdict_for(repo, sha, "")
    if stored is None:
        return None
    newest = store.newest(repo, stored.ref, policy)
    newer = newest if newest and newest.sha != sha and newest.job > stored.job else None
    return Sheet(stored=stored, newer=newer)
