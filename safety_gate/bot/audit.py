"""An audit: many adapters through the same jobs as the bot's, and a table at the end."""

import csv
import io
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from safety_gate.bot.audit_targets import Target
from safety_gate.jobs.facts import BATCH, Stored, Wanted
from safety_gate.jobs.store import JobStore
from safety_gate.worker.loop import Worker

CHUNK: Final = 256  # jobs of one transaction
POLL_S: Final = 0.5
LOOKED_AT: Final = 64  # targets after each job
FIGURES: Final = ("undone", "reversion", "cosine", "coverage")
COLUMNS: Final = (
    "repository", "ref", "commit", "verdict", "reason", "aligned", "base", *FIGURES
)  # fmt: skip

Word: TypeAlias = Literal["passed", "blocked", "undecided", "waiting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of one adapter."""

    target: Target
    sha: str  # that was judged: a newer one where the head has moved meanwhile
    word: Word
    reason: str = ""  # id of the gravest finding, or why there is no verdict: our own words
    aligned: str = ""
    base: str = ""
    figures: tuple[float | None, ...] = (None,) * len(FIGURES)


class Audit:
    """Queues targets and follows them to their ends."""

    def __init__(self, store: JobStore, targets: Sequence[Target], policy: str) -> None:
        """Queue what is not there yet; what was judged before stays judged."""
        self._store = store
        self._targets = tuple(dict.fromkeys(targets))  # twice in a list is one adapter
        self._policy = policy
        self._refused: dict[Target, str] = {}
        for start in range(0, len(self._targets), CHUNK):
            some = self._targets[start : start + CHUNK]
            answers = store.receive([self._wanted(target) for target in some])
            for target, answer in zip(some, answers, strict=True):
                if answer not in ("queued", "known"):
                    self._refused[target] = answer

    def _wanted(self, target: Target) -> Wanted:
        return Wanted(
            repo=target.repo,
            ref=target.ref,
            sha=target.sha,
            policy=self._policy,
            priority=BATCH,
        )

    def work(self, worker: Worker, tell: Callable[[Row], None]) -> list[Row]:
        """Work until every target has come to an end; others may work on the same database.

        Args:
            worker: of this process.
            tell: hears of every target that has come to its end, once.

        Returns:
            One row for each target, in their order.
        """
        ended: dict[Target, Row] = {}
        while True:
            for target in list(self._ended(ended)):
                ended[target] = self._row(target)
                tell(ended[target])
            if len(ended) == len(self._targets):
                return [ended[target] for target in self._targets]
            if not worker.once():
                time.sleep(POLL_S)  # someone else's job, or one that waits to be tried again

    def _ended(self, known: Mapping[Target, Row]) -> Iterator[Target]:
        """Yield targets that have come to their end, among the next ones in their order."""
        left = (target for target in self._targets if target not in known)
        for target in itertools.islice(left, LOOKED_AT):
            if self._row(target).word != "waiting":
                yield target

    def _row(self, target: Target) -> Row:
        standing = self._store.newest(target.repo, target.ref, self._policy)
        if standing is None:
            why = self._refused.get(target, "its job is gone")
            return Row(target=target, sha=target.sha, word="undecided", reason=why)
        if standing.state in ("queued", "running", "superseded"):
            word: Word = "undecided" if standing.state == "superseded" else "waiting"
            return Row(target=target, sha=standing.sha, word=word, reason=standing.why)
        stored = self._store.verdict(standing.job)
        if stored is None:
            return Row(target=target, sha=standing.sha, word="undecided", reason=standing.why)
        return judged_row(target, stored)


def judged_row(target: Target, stored: Stored) -> Row:
    """Return the row of a verdict."""
    report = json.loads(stored.report)
    total = report.get("total") or {}
    word: Word = (
        "passed"
        if stored.word == "passed"
        else "blocked"
        if stored.word == "blocked"
        else "undecided"
    )
    return Row(
        target=target,
        sha=stored.sha,
        word=word,
        reason=_reason(report, word),
        aligned=_name(report.get("aligned")),
        base=_name(report.get("base")),
        figures=tuple(total.get(name) for name in FIGURES),
    )


def _reason(report: dict[str, Any], word: Word) -> str:
    """Return the rule of the first finding that made the verdict; findings are gravest first."""
    grave = {"blocked": "block", "undecided": "undecided"}.get(word)
    return next((f["rule"] for f in report["findings"] if f["severity"] == grave), "")


def _name(checkpoint: dict[str, Any] | None) -> str:
    return str(checkpoint["name"]) if checkpoint else ""


def as_csv(rows: Sequence[Row]) -> str:
    """Return rows as CSV with a header (RFC 4180); no cell can act in a spreadsheet."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_still(cell) for cell in cells(row)])
    return out.getvalue()


def cells(row: Row) -> Iterator[str]:
    """Yield a row's texts, in the order of COLUMNS."""
    yield from (row.target.repo, row.target.ref, row.sha, row.word, row.reason)
    yield from (row.aligned, row.base)
    for figure in row.figures:
        yield "" if figure is None else f"{figure:.6g}"


def _still(cell: str) -> str:
    """Return a cell that a spreadsheet takes for text, unless it is a number."""
    try:
        float(cell)
    except ValueError:
        return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
    return cell


def gravest(rows: Sequence[Row]) -> int:
    """Return the exit status: 1 where one is blocked, else 3 where one was not judged, else 0.

    Nothing at all is nothing judged: 3.
    """
    words = {row.word for row in rows}
    if "blocked" in words:
        return 1
    return 0 if words == {"passed"} else 3
