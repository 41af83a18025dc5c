"""The smallest repair that passes the policy, by the figures that its files would have.

Looks at every method over a range of strengths. A forecast opens no file and decides nothing: the
caller writes the candidates, smallest change first, and judges them from their files. Where the
model is asked too, repair/hearing.py searches on.
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
from safety_gate.policy.verdict import decide, weigh
from safety_gate.records import AdapterScore, Finding, ModuleScore, Passed, Report
from safety_gate.repair import forecast
from safety_gate.repair.factors import distance
from safety_gate.repair.forecast import Frame
from safety_gate.repair.forms import Form, Merge
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
STRONGEST = 0.98  # of a scale, an attenuation or a mix: nothing left is what "drop" is for

MOST_ADDED = 2.0  # times the safety adapter; beyond that it costs skill (docs/repair_table.md)

Family = Callable[[float], Method]  # strength, above 0 and at most 1, to method


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One repair as the search sees it."""

    method: Method
    selection: Selection
    change: float  # |dW' - dW| over all modules
    passes: bool
    behaviour: Mapping[str, float] | None = None  # what the model said; None: it was not asked

    @property
    def words(self) -> tuple[str, str]:
        """Return method and selection in our own words."""
        return described(self.method), worded(self.selection)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One method with a strength, on one selection of modules."""

    family: Family
    selection: Selection
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The figures that one repair would have."""

    method: Method
    selection: Selection
    modules: tuple[str, ...]
    change: float
    sums: Mapping[str, ModuleSums | None]  # by module; None where nothing would be left


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
        and (finding.rule not in curable or is_unasked(finding))
        and finding.place.kind != "file"
    )


def is_unasked(finding: Finding) -> bool:
    """Tell whether a rule has no figure to look at: the model was not asked for it."""
    without = finding.metric != "" and finding.value is None
    return finding.severity == "undecided" and (without or finding.rule == builtin.NOTHING_RULED)


def candidates(known: Known, *, safety: bool) -> tuple[Candidate, ...]:
    """Return every repair that was looked at, in order; the caller sorts by change."""
    found: list[Candidate] = []
    for line in lines(known, safety=safety):
        found += _weakest(known, line)
    singles = [look(known, *single) for single in single_repairs(known)]
    return (*found, *(candidate(known, single) for single in singles))


def lines(known: Known, *, safety: bool) -> list[Line]:
    """Return every method that has a strength, on every selection worth a try."""
    return [
        Line(family=family, selection=choice, modules=modules)
        for choice, modules in _choices(known)
        for family in _families(known, safety=safety)
    ]


def single_repairs(known: Known) -> list[tuple[Method, Selection, tuple[str, ...]]]:
    """Return the repairs without a strength."""
    methods: tuple[Method, ...] = (SafeLora(), Drop())
    return [(method, *choice) for choice in _choices(known) for method in methods]


def _choices(known: Known) -> list[tuple[Selection, tuple[str, ...]]]:
    flagged, whole = selected(Flagged(), known.before), selected(Every(), known.before)
    if flagged and flagged != whole:
        return [(Flagged(), flagged), (Every(), whole)]
    return [(Every(), whole)]


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
        families.append(lambda t: _mixed("svd", STRONGEST * t))
        families.append(lambda t: _mixed("cat", STRONGEST * t))
        # Added and not mixed: the skill keeps its size (task arithmetic, arXiv 2212.04089).
        families.append(lambda t: SafeMerge(merge=Merge(form="cat", weights=(1.0, MOST_ADDED * t))))
    return families


def _mixed(form: Form, share: float) -> SafeMerge:
    """Merge with this share of the safety adapter."""
    return SafeMerge(merge=Merge(form=form, weights=(1.0 - share, share)))


def _weakest(known: Known, line: Line) -> list[Candidate]:
    """Look for the weakest strength that passes; passing is taken to grow with the strength."""

    def at(strength: float) -> Candidate:
        method = line.family(strength)
        return candidate(known, look(known, method, line.selection, line.modules))

    strong, seen = 1.0, [at(1.0)]
    if not seen[0].passes:
        seen.append(at(0.5))
        if not seen[1].passes:
            return seen
        strong = 0.5
    weak = 0.0
    for _ in range(HALVINGS):
        middle = (weak + strong) / 2.0
        seen.append(at(middle))
        if seen[-1].passes:
            strong = middle
        else:
            weak = middle
    return seen


def candidate(known: Known, seen: Look, behaviour: Mapping[str, float] | None = None) -> Candidate:
    """Apply the policy to what was forecast, and to what the model said."""
    return Candidate(
        method=seen.method,
        selection=seen.selection,
        change=seen.change,
        passes=passes(known, seen, behaviour),
        behaviour=behaviour,
    )


def look(known: Known, method: Method, choice: Selection, modules: Sequence[str]) -> Look:
    """Forecast the figures of one repair."""
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
    return Look(
        method=method,
        selection=choice,
        modules=tuple(modules),
        change=math.sqrt(sum(change**2 for _, change in looks.values())),
        sums={name: looks[name][0] if name in looks else own for name, own in known.sums.items()},
    )


def passes(
    known: Known,
    seen: Look,
    behaviour: Mapping[str, float] | None,
    *,
    unheard: bool = False,
) -> bool:
    """Tell whether the policy would pass these figures.

    Args:
        known: what the first judgment left behind.
        seen: the repair.
        behaviour: what the model said.
        unheard: that was not of this repair, so what the rules say of it is put aside.
    """
    sums = seen.sums
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
    verdict, findings = decide(
        known.policy,
        modules=scores,
        total=total,
        findings=(),
        adapter_ids=("", ""),
        today=known.today,
        behaviour=behaviour,
    )
    if unheard:
        rules = known.policy.policy.rules
        aside = {rule.id for rule in rules if rule.scope == "behaviour"} | {builtin.NOTHING_RULED}
        left = [finding for finding in findings if finding.rule not in aside]
        verdict = weigh(known.policy.policy.coverage, scores, total, left)
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
