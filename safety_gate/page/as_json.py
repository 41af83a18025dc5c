"""The pages as JSON, for programs."""

from typing import Any, TypeAlias

from safety_gate.jobs.facts import Brief, Counts, Standing
from safety_gate.page.facts import Head, Listed
from safety_gate.page.links import Link, report_link
from safety_gate.page.render import moment

Json: TypeAlias = dict[str, Any]


def brief(one: Brief) -> Json:
    """Return one verdict of a list."""
    return {
        "repo": one.repo,
        "ref": one.ref,
        "sha": one.sha,
        "verdict": one.word,
        "decided": moment(one.decided),
        "page": report_link(one.repo, one.sha).text,
    }


def standing(one: Standing) -> Json:
    """Return one job."""
    return {
        "repo": one.repo,
        "ref": one.ref,
        "sha": one.sha,
        "state": one.state,
        "tries": one.tries,
        "created": moment(one.created),
    }


def listed(found: Listed, following: Link | None) -> Json:
    """Return verdicts, and where the next are."""
    return {
        "verdicts": [brief(one) for one in found.briefs],
        "next": following.text if following else None,
    }


def overview(counts: Counts, line: list[Standing], recent: Listed) -> Json:
    """Return the first page."""
    return {
        "jobs": dict(counts.jobs),
        "verdicts": {w: counts.verdicts.get(w, 0) for w in ("passed", "blocked", "undecided")},
        "queue": [standing(one) for one in line],
        "recent": [brief(one) for one in recent.briefs],
    }


def head(one: Head) -> Json:
    """Return what is known about the head of a repository."""
    known = standing(one.standing) if one.standing else None
    return {"verdict": one.word, "job": known}
