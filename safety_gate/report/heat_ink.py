"""Colours and letters of the heat map, for the formats that paint it themselves.

A square says the same twice: by its colour, and by its letter, for eyes that see no colours and
for paper. Text on each fill has a contrast of 4.5 or more (WCAG 2.2, 1.4.3).
"""

from dataclasses import dataclass
from typing import assert_never

from safety_gate.report.heatmap import Shade


@dataclass(frozen=True, slots=True, kw_only=True)
class Ink:
    """How one shade is painted."""

    name: str  # of its class in a style sheet
    mark: str  # one character
    fill: str  # "#rrggbb"
    text: str  # "#rrggbb", on the fill


def ink_of(shade: Shade) -> Ink:
    """Return how a shade is painted; the same letters as on a terminal."""
    match shade:
        case Shade.NOT_SCORED:
            return Ink(name="not-scored", mark="?", fill="#24292f", text="#ffffff")
        case Shade.MUCH:
            return Ink(name="much", mark="X", fill="#b3261e", text="#ffffff")
        case Shade.SOME:
            return Ink(name="some", mark="x", fill="#f08a4b", text="#1f1300")
        case Shade.LITTLE:
            return Ink(name="little", mark="+", fill="#fbdf7e", text="#3d3000")
        case Shade.NONE:
            return Ink(name="none", mark="·", fill="#bfe3c6", text="#12441f")
        case Shade.FORWARD:
            return Ink(name="forward", mark="-", fill="#a9cdf2", text="#0b3a6b")
        case Shade.UNCHANGED:
            return Ink(name="unchanged", mark="_", fill="#e4e8ec", text="#4d5661")
        case _:
            assert_never(shade)
