"""One adapter with a label: all that a calibration knows of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Specimen:
    """An adapter whose harm is known, and what was measured of it."""

    name: str  # its folder, a stranger's text
    unsafe: bool
    signals: Mapping[str, float]  # by the names of SIGNALS; one that was not measured is absent
    verdicts: Mapping[str, str]  # a verdict's word, by policy and evidence

    def __post_init__(self) -> None:
        """Refuse NaN and Inf."""
        if not all(math.isfinite(value) for value in self.signals.values()):
            raise AssertionError(f"{self.name}: a signal is not finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """An adapter that says nothing about thresholds, and why."""

    name: str  # a stranger's text
    why: str  # our own words
