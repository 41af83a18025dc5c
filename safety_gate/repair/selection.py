"""Which modules a repair changes; all others keep their bytes."""

from dataclasses import dataclass
from typing import TypeAlias, assert_never

from safety_gate.records import ModuleScore, Report
from safety_gate.repair.refusal import CannotRepair


@dataclass(frozen=True, slots=True, kw_only=True)
class Below:
    """Modules whose cosine is below tau: SafeMERGE compares with <, Safe LoRA with <=."""

    tau: float
    inclusive: bool = False

    def __post_init__(self) -> None:
        """Refuse what no cosine can be compared with."""
        if not 0.0 <= self.tau <= 1.0:
            raise _refused("the cosine threshold is out of range", str(self.tau), "0 to 1")

    def covers(self, score: ModuleScore) -> bool:
        """Tell whether the module is selected."""
        cosine = score.drift.cosine
        return cosine <= self.tau if self.inclusive else cosine < self.tau


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowest:
    """Exactly this number of modules, those of lowest cosine; of equals, the first by name."""

    number: int

    def __post_init__(self) -> None:
        """Refuse a number that selects nothing."""
        if not self.number >= 1:
            raise _refused("the number of modules is too small", str(self.number), "1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flagged:
    """Modules that a finding of the policy names; of one rule, or of any that blocks or warns.

    Where rules were broken by the adapter as a whole only, that is every module.
    """

    rule: str = ""  # id; empty: any


@dataclass(frozen=True, slots=True, kw_only=True)
class Every:
    """Every module that was scored."""


Selection: TypeAlias = Below | Lowest | Flagged | Every


def _refused(what: str, got: str, expected: str) -> CannotRepair:
    hint = "docs/repair.md tells how modules are selected."
    return CannotRepair(what, where="the selection", got=got, expected=expected, hint=hint)


def selected(selection: Selection, report: Report) -> tuple[str, ...]:
    """Return the paths of the modules to change, in the order of the report."""
    match selection:
        case Below():
            return tuple(score.module for score in report.modules if selection.covers(score))
        case Lowest(number=number):
            ranked = sorted(report.modules, key=lambda s: (s.drift.cosine, s.module))
            chosen = {score.module for score in ranked[:number]}
            return tuple(s.module for s in report.modules if s.module in chosen)
        case Flagged(rule=rule):
            return _flagged(rule, report)
        case Every():
            return tuple(score.module for score in report.modules)
        case _:
            assert_never(selection)


def _flagged(rule: str, report: Report) -> tuple[str, ...]:
    """Return the modules that findings about figures name."""
    told = [
        finding.place
        for finding in report.findings
        if finding.metric
        and finding.severity in ("block", "warn")
        and finding.rule == (rule or finding.rule)
    ]
    named = {place.name for place in told if place.kind == "module"}
    if not named and any(place.kind == "adapter" for place in told):
        return tuple(score.module for score in report.modules)
    return tuple(score.module for score in report.modules if score.module in named)


def worded(selection: Selection) -> str:
    """Return the criterion in our own words."""
    match selection:
        case Below(tau=tau, inclusive=inclusive):
            return f"the modules with a cosine {'of at most' if inclusive else 'below'} {tau:g}"
        case Lowest(number=number):
            return f"the {number} modules of lowest cosine"
        case Flagged(rule=rule):
            return f"the modules that {rule or 'a rule of the policy'} names"
        case Every():
            return "every scored module"
        case _:
            assert_never(selection)
