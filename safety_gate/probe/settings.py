"""What to ask, and how."""

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from safety_gate.probe.judges import Judge
from safety_gate.probe.openings import Openings
from safety_gate.probe.precision import Precision
from safety_gate.probe.prompts import PromptSet
from safety_gate.probe.utility import Sample

Residence: TypeAlias = Literal["auto", "whole", "streamed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """Ask for answers, and not only for how they would begin."""

    most: int = 64  # tokens of an answer; a refusal shows in the first sentence
    residence: Residence = "auto"  # "streamed" reads all weights once per token
    judges: tuple[Judge, ...] = ()  # besides the refusal matcher
    keep_text: bool = False  # put the answers' text into the facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One run of the probe."""

    prompts: PromptSet
    openings: Openings
    samples: tuple[Sample, ...] = ()  # of the user's own task
    precision: Precision = "auto"
    device: str = "cpu"
    generation: Generation | None = None  # None: openings only

    def half(self, number: int) -> "Settings":
        """Return every second question and sample: one half makes a repair, one judges it."""
        return replace(self, prompts=self.prompts.half(number), samples=self.samples[number::2])
