"""What a repair did: facts for the card, the manifest and the report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, assert_never

from safety_gate.records import AdapterFact, CheckpointFact, Passed, Report
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
    forecast: bool  # the policy would pass it by the figures forecast
    judged: str = ""  # the verdict on its files, where it was written


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
        """Tell whether only the weights say that the repair worked.

        A repair changes the very figures that blocked the adapter, so that they pass says less
        than it did before. On examples/tiny a harmful adapter passes after an "unrevert" that is
        19% of its size, and still refuses nothing (docs/repair.md).
        """
        after = self.after
        if self.ending != "repaired" or after is None or not isinstance(after.verdict, Passed):
            return False
        figures = any(f.severity == "block" and f.metric for f in self.before.findings)
        return figures and after.evidence == WEIGHTS_ONLY

    @property
    def exit_code(self) -> int:
        """Return the verdict's own status; 1 where nothing passes, 3 where it is unsettled."""
        own = (self.after or self.before).verdict.exit_code
        match self.ending:
            case "repaired" | "nothing to repair":
                return 3 if self.unsettled else own
            case "beyond repair":
                return 1
            case "refused":
                return own or 3  # what was asked for was not done, whatever was there before
            case _:
                assert_never(self.ending)


UNSETTLED = (
    "The weights pass now, but they were changed until they did, and the model was not asked:"
    " its answers decide. Until then the exit status is 3, undecided"
)
