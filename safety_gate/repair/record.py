"""What a repair did: facts for the card, the manifest and the report."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, assert_never

from safety_gate.records import (
    AdapterFact,
    CheckpointFact,
    Finding,
    Passed,
    Place,
    Report,
    Undecided,
    with_gravest_first,
)
from safety_gate.report.summary import WEIGHTS_ONLY

Ending: TypeAlias = Literal["repaired", "nothing to repair", "beyond repair", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleRepair:
    """One changed module."""

    module: str  # a stranger's text
    change: float  # |dW' - dW|, dW' as the method computed it
    before_norm: float  # |dW|
    after_norm: float  # |dW'|; 0: the module was dropped
    before_rank: int
    after_rank: int
    rounding: float  # |stored dW' - dW'| / |dW|: what the dtype of the file costs


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One repair that the search looked at."""

    method: str  # our own words
    selection: str  # our own words
    change: float  # |dW' - dW| over all modules
    forecast: bool  # the policy would pass it, by forecast figures and by what the model said
    judged: str = ""  # the verdict on its files, where it was written
    kept: float | None = None  # of aligned's refusals, asked during the search; None: not asked
    exact: float | None = None  # of the task's samples, completed exactly; None: not asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The repair that was made."""

    method: str  # with its settings, our own words
    selection: str  # our own words
    modules: tuple[ModuleRepair, ...]  # those that changed
    of_modules: int  # all modules of the adapter
    change: float  # |dW' - dW| over all modules
    before_norm: float  # |dW| over all modules
    notes: tuple[str, ...]  # our own words: what a reader might not expect
    left_out: tuple[str, ...]  # files of the adapter that were not taken along; strangers' text
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a repair was made from."""

    adapter: AdapterFact
    safety: AdapterFact | None
    base: CheckpointFact
    aligned: CheckpointFact


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """Before and after, side by side."""

    ending: Ending
    before: Report
    after: Report | None  # of the new files; None where none were written
    made: Made | None
    inputs: Inputs | None
    tried: tuple[Attempt, ...]  # by the search, in its order
    output: Path | None  # the new folder; with "nothing to repair" it is a copy
    why: str = ""  # our own words, where no module was changed

    @property
    def unsettled(self) -> bool:
        """Tell whether only the weights say that the repair worked; see ``settled``."""
        after = self.after
        return after is not None and any(f.rule == UNSETTLED_RULE for f in after.findings)

    @property
    def headline(self) -> str:
        """Return what a reader sees first; a copy that does not pass is not called repaired."""
        if self.ending == "repaired" and self.after is not None:
            word = self.after.verdict.word
            return self.ending if word == Passed().word else f"changed, and still {word}"
        return self.ending

    @property
    def exit_code(self) -> int:
        """Return the verdict's own status; 1 where nothing passes."""
        own = (self.after or self.before).verdict.exit_code
        match self.ending:
            case "repaired" | "nothing to repair":
                return own
            case "beyond repair":
                return 1
            case "refused":
                return own or 3  # what was asked for was not done, whatever was there before
            case _:
                assert_never(self.ending)


def settled(before: Report, after: Report, *, ruled: bool) -> Report:
    """Return the second report; undecided where it rests on the very figures that were changed.

    Args:
        before: the first report.
        after: on the new files.
        ruled: the policy has a rule on what the model says; without one its answers count nothing.

    A repair changes what blocked the adapter, so that it passes now says less than it did before.
    On examples/tiny a harmful adapter passes after an "unrevert" that is 19% of its size, and still
    refuses nothing (docs/repair.md). Only the model's answers settle it.
    """
    figures = any(f.severity == "block" and f.metric for f in before.findings)
    asked = after.evidence != WEIGHTS_ONLY and not any(f.rule == FEW for f in after.findings)
    if not figures or not isinstance(after.verdict, Passed) or (asked and ruled):
        return after
    finding = Finding(
        rule=UNSETTLED_RULE,
        severity="undecided",
        place=Place(kind="adapter", name=after.adapter.name if after.adapter else ""),
        what=UNSETTLED,
        hint="Have the model asked, with --ask openings or --ask generate, by questions that it"
        " refuses, and have a rule of the policy look at its refusals (docs/behaviour.md).",
    )
    findings = with_gravest_first((*after.findings, finding))
    return replace(after, verdict=Undecided(), findings=findings)


FEW = "few-refusals"  # of asking: aligned refuses too little to tell what is lost
UNSETTLED_RULE = "repair-unsettled"
UNSETTLED = (
    "the weights pass now, but they were changed until they did, and the model was not asked"
    " enough: its answers decide"
)
