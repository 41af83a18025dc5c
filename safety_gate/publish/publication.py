"""What a run has to say: the reports of its adapters, and the one verdict over them."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from safety_gate.records import Blocked, Finding, Passed, Report, Undecided, Verdict

Word: TypeAlias = Literal["passed", "blocked", "undecided", "nothing-to-judge"]

WORDS: tuple[Word, ...] = get_args(Word)
GATE_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")  # stands in markers, contexts and file names
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One adapter of a run, and what was found."""

    name: str  # folder in the repository, or Hub repository; a stranger's text
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What is to be told, and where it belongs."""

    gate_id: str  # tells the comments and statuses of several gates apart
    commit: str  # 40 hex: the head of the pull request, or the pushed commit
    judged: tuple[Judged, ...]  # empty: there was nothing to judge
    note: str  # our own words: how the adapters were found, or why there is none
    tolerated: frozenset[Word] = frozenset()  # verdicts that do not fail the job (fail-on)
    run_url: str = ""  # our own: the address of the run and its job summary
    caveats: tuple[str, ...] = ()  # our own words: what a reader must know before the verdict

    def __post_init__(self) -> None:
        """Refuse an id that could break out of a marker, and a commit that is not pinned."""
        if not GATE_ID.fullmatch(self.gate_id):
            raise AssertionError(f"not a gate id: {self.gate_id!r}")
        if not COMMIT.fullmatch(self.commit):
            raise AssertionError(f"not a pinned commit: {self.commit!r}")

    @property
    def verdict(self) -> Verdict | None:
        """The gravest verdict; None where there was nothing to judge."""
        return worst([judged.report.verdict for judged in self.judged])

    @property
    def word(self) -> Word:
        """The verdict in one word."""
        verdict = self.verdict
        return "nothing-to-judge" if verdict is None else verdict.word

    @property
    def fails(self) -> bool:
        """Whether the job fails by this."""
        return self.word in ("blocked", "undecided") and self.word not in self.tolerated

    @property
    def gravest_first(self) -> tuple[Judged, ...]:
        """The adapters, gravest verdict first, else in their order."""
        order = ("blocked", "undecided", "passed")
        return tuple(sorted(self.judged, key=lambda one: order.index(one.report.verdict.word)))

    @property
    def digest(self) -> str:
        """The sha256 of what a reader would act on; the commit alone does not change it."""
        substance = [
            [judged.name, judged.report.verdict.word, [_key(f) for f in judged.report.findings]]
            for judged in self.judged
        ]
        text = json.dumps([self.word, sorted(self.tolerated), list(self.caveats), substance])
        return hashlib.sha256(text.encode()).hexdigest()


def _key(finding: Finding) -> list[str]:
    place = finding.place
    return [finding.rule, finding.severity, place.kind, place.name, finding.waiver]


def worst(verdicts: Sequence[Verdict]) -> Verdict | None:
    """Return the gravest: Blocked before Undecided before Passed; None of none."""
    for grave in (Blocked(), Undecided(), Passed()):
        if grave in verdicts:
            return grave
    return None


def count(number: int, noun: str) -> str:
    """Return "1 adapter", "2 adapters"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def headline(publication: Publication) -> str:
    """Return the verdict in a few words of our own, for titles and statuses."""
    word = publication.word
    if word == "nothing-to-judge":
        return "nothing to judge"
    total = len(publication.judged)
    same = sum(judged.report.verdict.word == word for judged in publication.judged)
    of = count(total, "adapter") if same == total else f"{same:,} of {count(total, 'adapter')}"
    return f"{word}: {of}" if publication.fails or word == "passed" else f"{word}, tolerated: {of}"
