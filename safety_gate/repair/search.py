"""The smallest repair that passes the policy, by the figures that its files would have.

Looks at every method over a range of strengths. A forecast opens no file and decides nothing: the
caller writes the candidates, smallest change first, and judges them from their files.
"""

import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from safety_gate import drift
from safety_gate.drift import ModuleSums
from safety_gate.policy import builtin
from safety_gate.policy.file import LoadedPolicy
from safety_gate.policy.verdict import decide
from safety_gate.records import AdapterScore, Finding, ModuleScore, Passed, Report
from safety_gate.repair import forecast
from safety_gate.repair.factors import distance
from safety_gate.repair.forecast import Frame
from safety_gate.repair.forms import Merge
from safety_gate.repair.methods import (
    Attenuate,
    Drop,
    Method,
    SafeLora,
    SafeMerge,
    Scale,
    Unrevert,
    apply,
    described,
)
from safety_gate.repair.selection import Every, Flagged, Selection, selected, worded
from safety_gate.repair.sight import full_pull

HALVINGS = 6  # of the range of strengths: the smallest that passes is found to 1/64 of it
STRONGEST = 0.98  # of a scale or an attenuation: a module with nothing left is what "drop" is for

Family = Callable[[float], Method]  # strength, above 0 and at most 1, to method


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One repair as the forecast sees it."""

    method: Method
    selection: Selection
    change: float  # |dW' - dW| over all modules
    passes: bool

    @property
    def words(self) -> tuple[str, str]:
        """Return method and selection in our own words."""
        return described(self.method), worded(self.selection)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the first judgment left behind."""

    before: Report
    total: AdapterScore
    frames: Mapping[str, Frame]  # by module, of every scored one
    sums: Mapping[str, ModuleSums]
    policy: LoadedPolicy
    today: datetime.date
    workers: int


def incurable(before: Report, policy: LoadedPolicy) -> tuple[Finding, ...]:
    """Return the findings against passing that no change of the factors can lift.

    What is said of single files is not among them: a repaired folder holds only known ones.
    """
    curable = {rule.id for rule in policy.policy.rules} | {builtin.ABSURD_SCALE}
    return tuple(
        finding
        for finding in before.findings
        if finding.severity in ("block", "undecided")
        and finding.rule not in curable
        and finding.place.kind != "file"
    )


def candidates(known: Known, *, safety: bool) -> tuple[Candidate, ...]:
    """Return every repair that was looked at, in order; the caller sorts by change."""
    flagged = selected(Flagged(), known.before)
    whole = selected(Every(), known.before)
    choices: list[Selection] = [Every()]
    if flagged and flagged != whole:
        choices.insert(0, Flagged())
    found: list[Candidate] = []
    for choice in choices:
        modules = flagged if isinstance(choice, Flagged) else whole
        for family in _families(known, safety=safety):
            found += _weakest(known, family, choice, modules)
        found += [_look(known, method, choice, modules) for method in (SafeLora(), Drop())]
    return tuple(found)


def _families(known: Known, *, safety: bool) -> list[Family]:
    """Return the methods that have a strength."""
    pulls = [full_pull(f.subject.sight) for f in known.frames.values() if f.subject.sight]
    most = max(pulls, default=0.0)
    families: list[Family] = [
        lambda t: Unrevert(keep=1.0 - t),
        lambda t: Scale(factor=1.0 - STRONGEST * t),
        lambda t: Attenuate(strength=STRONGEST * t / (1.0 - STRONGEST * t)),
    ]
    if most > 0.0:
        families.insert(0, lambda t: Unrevert(most=most * t))
    if safety:
        families.append(lambda t: SafeMerge(merge=Merge(form="svd", weights=(1.0 - t, t))))
        families.append(lambda t: SafeMerge(merge=Merge(form="cat", weights=(1.0 - t, t))))
    return families


def _weakest(
    known: Known, family: Family, choice: Selection, modules: Sequence[str]
) -> list[Candidate]:
    """Look for the weakest strength that passes; passing is taken to grow with the strength."""
    strong, seen = 1.0, [_look(known, family(1.0), choice, modules)]
    if not seen[0].passes:
        seen.append(_look(known, family(0.5), choice, modules))
        if not seen[1].passes:
            return seen
        strong = 0.5
    weak = 0.0
    for _ in range(HALVINGS):
        middle = (weak + strong) / 2.0
        seen.append(_look(known, family(middle), choice, modules))
        if seen[-1].passes:
            strong = middle
        else:
            weak = middle
    return seen


def _look(known: Known, method: Method, choice: Selection, modules: Sequence[str]) -> Candidate:
    """Forecast the verdict of one repair."""
    import torch

    def one(module: str) -> tuple[ModuleSums | None, float]:
        torch.set_num_threads(1)  # this thread's own setting
        seen = known.frames[module]
        new = apply(method, seen.subject)
        if new is None:
            return known.sums[module], 0.0
        return forecast.sums(seen, new), distance(new, seen.subject.factors)

    with ThreadPoolExecutor(max_workers=known.workers) as pool:
        looks = dict(zip(modules, pool.map(one, modules), strict=True))
    sums = {name: looks[name][0] if name in looks else own for name, own in known.sums.items()}
    return Candidate(
        method=method,
        selection=choice,
        change=math.sqrt(sum(change**2 for _, change in looks.values())),
        passes=_passes(known, sums),
    )


def _passes(known: Known, sums: Mapping[str, ModuleSums | None]) -> bool:
    """Tell whether the policy would pass these figures."""
    scores = [
        _score(known, score, own)
        for score in known.before.modules
        if (own := sums[score.module]) is not None
    ]
    there = [sums[score.module] for score in scores]
    added = drift.added(own for own in there if own is not None)
    if added is None:
        return False
    gone = sum(s.shape[0] * s.shape[1] for s in known.before.modules if sums[s.module] is None)
    total = AdapterScore(
        drift=drift.drift(added),
        modules=len(scores),
        changed_parameters=known.total.changed_parameters - gone,
        scored_parameters=known.total.scored_parameters - gone,
        unchanged_modules=known.total.unchanged_modules,
    )
    verdict, _ = decide(
        known.policy,
        modules=scores,
        total=total,
        findings=(),
        adapter_ids=("", ""),
        today=known.today,
    )
    return isinstance(verdict, Passed)


def _score(known: Known, before: ModuleScore, own: ModuleSums) -> ModuleScore:
    """Return the module's figures from its sums."""
    return ModuleScore(
        module=before.module,
        shape=before.shape,
        rank=before.rank,
        scaling=before.scaling,
        drift=drift.drift(own),
        delta_norm=math.sqrt(own.norm),
        step_norm=before.step_norm,
        weight_norm=before.weight_norm,
    )
