"""The search where the model itself is asked: many repairs side by side, in one pass over it.

What the model says does not grow with the strength as the figures do: a little of a safety adapter
can win refusals that more of it loses again. So every method is asked at some strengths first, and
then between the weakest that passes and the next one below it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from safety_gate.repair.methods import Method
from safety_gate.repair.search import (
    Candidate,
    Known,
    Line,
    Look,
    candidate,
    lines,
    look,
    passes,
    single_repairs,
)

LADDER = (0.125, 0.25, 0.5, 1.0)  # strengths that are asked first
ROUNDS = 3  # of halving: the weakest that passes is then found to 1/8 of a step of the ladder

Trial: TypeAlias = tuple[Method, tuple[str, ...]]  # a method and its modules
# Returns what the model says of each, by metric; every call is one pass over the weights.
Hear: TypeAlias = Callable[[Sequence[Trial]], Sequence[Mapping[str, float]]]


@dataclass(slots=True)
class _Rung:
    """What is known of one method's strengths."""

    line: Line
    heard: dict[float, Candidate] = field(default_factory=dict)  # by strength

    def weakest(self) -> float | None:
        """Return the weakest strength that passes."""
        return min((t for t, seen in self.heard.items() if seen.passes), default=None)

    def next(self, best: float) -> float | None:
        """Return the next strength to ask; None where nothing smaller than ``best`` can come."""
        strong = self.weakest()
        if strong is None:
            return None
        weak = max((t for t in self.heard if t < strong), default=0.0)
        if weak in self.heard and self.heard[weak].change >= best:
            return None
        return (weak + strong) / 2.0


def heard_candidates(known: Known, hear: Hear, *, safety: bool) -> tuple[Candidate, ...]:
    """Return every repair that was looked at, in order; the caller sorts by change.

    Only repairs that the policy would pass by their figures alone are asked.
    """
    ladder = [_Rung(line=line) for line in lines(known, safety=safety)]
    singles = [look(known, *single) for single in single_repairs(known)]
    steps = [(rung, strength) for rung in ladder for strength in LADDER]
    looks = [_at(known, rung, strength) for rung, strength in steps]
    found = _heard(known, hear, [*looks, *singles])
    for (rung, strength), seen in zip(steps, found[: len(steps)], strict=True):
        rung.heard[strength] = seen
    for _ in range(ROUNDS):
        best = min((seen.change for seen in found if seen.passes), default=0.0)
        steps = [(rung, t) for rung in ladder if (t := rung.next(best)) is not None]
        new = _heard(known, hear, [_at(known, rung, strength) for rung, strength in steps])
        for (rung, strength), seen in zip(steps, new, strict=True):
            rung.heard[strength] = seen
        found += new
    return tuple(found)


def _at(known: Known, rung: _Rung, strength: float) -> Look:
    line = rung.line
    return look(known, line.family(strength), line.selection, line.modules)


def _heard(known: Known, hear: Hear, looks: Sequence[Look]) -> list[Candidate]:
    """Ask what would pass by its figures; the rest is known to fail."""
    before = known.before.behaviour
    # Rules on figures may leave the last word to the model: that it is asked is enough here.
    heard = before.figures("adapter") if before else None
    asked = [i for i, seen in enumerate(looks) if passes(known, seen, heard, unheard=True)]
    said = hear([(looks[i].method, looks[i].modules) for i in asked]) if asked else ()
    by_place = dict(zip(asked, said, strict=True))
    return [
        candidate(known, seen, by_place[i])
        if i in by_place
        else Candidate(
            method=seen.method, selection=seen.selection, change=seen.change, passes=False
        )
        for i, seen in enumerate(looks)
    ]
