"""The tables of a report, as facts: worst modules, ledger, revisions."""

from collections import Counter
from dataclasses import dataclass

from safety_gate.records import AdapterFact, CheckpointFact, LedgerEntry, ModuleScore, Report
from safety_gate.report.inert import LONGEST_NAME, Name, Prose, shown

GLOSSARY = (
    "undone: the share of the alignment step that is taken back. random: the cosine that a random "
    "update would have. size and residual: in lengths of the alignment step."
)
WORST_MODULES = 10
_SHORT_DIGEST = 12  # hex digits; enough to tell commits apart, the whole digest stands below


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerCount:
    """How many entries of the ledger one owner answers for."""

    owner: Prose
    kind: str  # "file", "tensor" or "config key"
    entries: int
    scored: int


def worst_modules(report: Report, most: int = WORST_MODULES) -> tuple[ModuleScore, ...]:
    """Return the modules that take back most of the alignment step, the worst first."""
    return tuple(sorted(report.modules, key=lambda s: -s.drift.undone)[:most])


def owner_counts(ledger: tuple[LedgerEntry, ...]) -> tuple[OwnerCount, ...]:
    """Count the ledger by kind and owner, in the order in which they first appear."""
    entries = Counter((entry.kind, entry.owner) for entry in ledger)
    scored = Counter((entry.kind, entry.owner) for entry in ledger if entry.scored)
    return tuple(
        OwnerCount(
            owner=Prose(owner),
            kind="config key" if kind == "config" else kind,
            entries=count,
            scored=scored[kind, owner],
        )
        for (kind, owner), count in entries.items()
    )


def unaccounted(ledger: tuple[LedgerEntry, ...]) -> tuple[LedgerEntry, ...]:
    """Return the entries that nothing vouches for."""
    return tuple(entry for entry in ledger if not entry.accounted)


def short_revision(fact: AdapterFact | CheckpointFact) -> Name:
    """Return enough of a revision to recognise it."""
    kind, colon, digest = fact.revision.rpartition(":")
    return Name(kind + colon + digest[:_SHORT_DIGEST])


def shared_prefix(modules: tuple[ModuleScore, ...]) -> str:
    """Return the dotted start that all module paths share, to leave out where room is short."""
    paths = [score.module.split(".")[:-1] for score in modules]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    prefix = "".join(f"{part}." for part in shared)
    # A prefix that is cut in the middle would tell less than the whole names.
    return prefix if len(shown(prefix)) < LONGEST_NAME else ""
