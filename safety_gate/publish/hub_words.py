"""The words for the Hub: a section of a model card, a discussion, a comment, a pull request."""

import re
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from safety_gate.publish.body import Ready, summary_text
from safety_gate.publish.marker import marker, said
from safety_gate.publish.publication import Judged, Publication
from safety_gate.records import FileFact, Report
from safety_gate.report.comparison import comparison
from safety_gate.report.inert import Prose
from safety_gate.report.markdown import inert, templates_folder
from safety_gate.report.summary import percent, summarise
from safety_gate.report.tables import short_revision

Kind: TypeAlias = Literal["discussion", "comment"]

# The Hub does not say how long a comment may be; 65,536 is what other forges take, and the frame
# around the report has under 2,000.
LARGEST_REPORT = 60_000
MOST_FILES = 20  # named in a section or a description; the report has them all
_WEIGHTS = ("adapter_config.json", "adapter_model.safetensors")
_ADDRESS = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?/[A-Za-z0-9._/-]{1,400}")


def publication_of(
    report: Report, repo_id: str, sha: str, *, gate_id: str, run_url: str
) -> Publication:
    """Return the report of one repository as every publisher takes it."""
    judged = (Judged(name=repo_id, report=report),)
    return Publication(gate_id=gate_id, commit=sha, judged=judged, note="", run_url=run_url)


def card_section(report: Report, sha: str, *, repaired: bool = False) -> str:
    """Return our section of a model card, without its markers.

    Args:
        report: of the adapter that the section speaks of.
        sha: the judged commit; for a repaired adapter the one that it was made from.
        repaired: the adapter was made from that commit by us.
    """
    files = report.adapter.files if report.adapter else ()
    return _render(
        "hub_card.md.j2",
        report=report,
        summary=summarise(report),
        sha=sha,
        repaired=repaired,
        files=_told(files),
    )


def letter(  # noqa: PLR0913
    publication: Publication, kind: Kind, *, account: str, picture: str = "", contact: str = ""
) -> str:
    """Return the text of a discussion, or of a comment.

    Args:
        publication: what to tell.
        kind: where it is told.
        account: who writes.
        picture: finished Markdown of a picture, from ``picture_of``.
        contact: our own words: where people can be asked.
    """
    return _render(
        "hub_words.md.j2",
        hidden=(Ready(marker(publication.gate_id)), Ready(said(publication))),
        body=Ready(summary_text(publication, limit=LARGEST_REPORT).strip()),
        picture=Ready(picture) if picture else None,
        kind=kind,
        account=account,
        contact=Prose(contact) if contact else None,
    )


def picture_of(address: str, alt: str) -> str:
    """Return a picture as Markdown; empty where the address is not a plain one.

    Args:
        address: as the Hub gave it for the upload: a stranger's text.
        alt: our own words.
    """
    if not _ADDRESS.fullmatch(address):
        return ""
    words = re.sub(r"[^A-Za-z0-9 .,:;%-]", " ", alt)
    return f"![{words}]({address})"


def variant_text(  # noqa: PLR0913
    before: Report,
    after: Report,
    sha: str,
    *,
    method: str,
    account: str,
    removed: tuple[str, ...],
    kind: str,
) -> str:
    """Return the description of a commit that holds a repaired adapter."""
    return _render(
        "hub_variant.md.j2",
        before=before,
        after=after,
        compared=comparison(before, after),
        sha=sha,
        method=method,
        account=account,
        removed=removed,
        kind=kind,
    )


def _told(files: tuple[FileFact, ...]) -> tuple[FileFact, ...]:
    """Return the files that a reader compares: those that a loader reads, or all that are few."""
    known = [file for file in files if file.sha256 and file.path in _WEIGHTS]
    others = [f for f in files if f.sha256 and f.path.endswith(".safetensors") and f not in known]
    return tuple([*known, *others][:MOST_FILES])


def _finalize(value: object) -> str:
    return value.text if isinstance(value, Ready) else inert(value)


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
    env.globals.update(MOST_FILES=MOST_FILES)
    env.filters.update(
        prose=Prose,
        percent=lambda share: Prose(percent(share)),
        short_revision=short_revision,
    )
    return env


def _render(name: str, **values: Any) -> str:
    text = _environment(templates_folder()).get_template(name).render(**values)
    return re.sub("\n{3,}", "\n\n", text).strip() + "\n"
