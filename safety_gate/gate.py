"""The one place where the steps meet: read, measure, decide.

Rooms raise; here a GateError becomes a finding that makes the verdict Undecided, with a reason and
a next step, so that a report exists even then.
"""

import datetime
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from safety_gate import __version__, drift, engine
from safety_gate.adapter.ledger import Adapter, factors, open_adapter
from safety_gate.checkpoint import Checkpoint, Role
from safety_gate.delta.roads import Deltas, no_factors, open_deltas
from safety_gate.delta.views import with_views
from safety_gate.engine import ModuleTask, Outcome, Scored, Unchanged, Unscored
from safety_gate.errors import GateError
from safety_gate.outcomes import Memory
from safety_gate.pairing import claim_findings, pair_findings, step_findings, tied_findings
from safety_gate.places import Opener, Where, ignored_findings, plan_reads
from safety_gate.policy.file import LoadedPolicy, load_policy_file
from safety_gate.policy.nearness import close_modules, is_total_close
from safety_gate.policy.presets import load_preset
from safety_gate.policy.verdict import decide
from safety_gate.records import (
    AdapterFact,
    AdapterScore,
    Blocked,
    Finding,
    ModuleScore,
    Place,
    PlaceKind,
    Report,
    Undecided,
    Verdict,
    finding_from,
    with_gravest_first,
)

WEIGHTS_ONLY = "weights only"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to judge, against what, by which rules."""

    adapter: Where
    base: Where
    aligned: Where
    cache: Path | None = None  # folder for bytes of checkpoints on the Hub
    policy: Path | None = None  # the policy file; None: the preset decides
    preset: str = "default"
    hash_checkpoints: bool = False  # read every checkpoint file whole for its sha256
    workers: int = 2  # modules measured at the same time
    today: datetime.date  # waivers expire by it


@dataclass(slots=True)
class _Case:
    """What is known so far; a report can be made of it at any time."""

    findings: list[Finding] = field(default_factory=list)
    policy: LoadedPolicy | None = None
    base: Checkpoint | None = None
    aligned: Checkpoint | None = None
    adapter: Adapter | None = None
    deltas: Deltas | None = None  # what the adapter changes beside plain LoRA
    outcomes: tuple[Outcome, ...] = ()
    memory: Memory | None = None


class Progress:
    """Hears what the gate is doing; this one stays silent."""

    def start(self, modules: int) -> None:
        """Hear how many modules will be measured."""

    def done(self, module: str) -> None:
        """Hear that one module is measured."""


def judge(
    request: Request, progress: Progress | None = None, memory: Memory | None = None
) -> Report:
    """Judge one adapter; never raises GateError: what went wrong is in the report.

    Args:
        request: what to judge.
        progress: hears of every measured module.
        memory: watches the pass over the weights, for a repair.
    """
    case = _Case(memory=memory)
    opener = Opener(request.cache)
    with tempfile.TemporaryDirectory(prefix="safety-gate-") as private:
        try:
            _attempt(case, request, opener, Path(private), progress or Progress())
            return _report(case, request)
        finally:
            if case.deltas is not None:
                case.deltas.close()
            if case.adapter is not None:
                case.adapter.close()
            opener.close()


def _attempt(
    case: _Case, request: Request, opener: Opener, private: Path, progress: Progress
) -> None:
    """Take every step that can be taken; note what stops one."""
    case.policy = _noted(
        case,
        "policy",
        lambda: load_policy_file(request.policy) if request.policy else load_preset(request.preset),
    )

    def checkpoint(where: Where, role: Role) -> Checkpoint | None:
        return _noted(
            case,
            "checkpoint",
            lambda: Checkpoint.open(opener.open(where, whole=False), role),
        )

    case.aligned = checkpoint(request.aligned, "aligned")
    case.base = checkpoint(request.base, "base")
    if case.aligned is None:
        return
    aligned = case.aligned
    aligned_fact = aligned.fact(hash_files=False)
    case.adapter = _noted(
        case,
        "adapter",
        lambda: open_adapter(
            opener.open(request.adapter, whole=True),
            shapes=aligned.shapes,
            model_type=aligned.model_type,
            snapshot_dir=private / "adapter",
            aligned_files={f.path: f.sha256 for f in aligned_fact.files if f.sha256},
        ),
    )
    if case.base is None or case.adapter is None:
        return
    case.findings += pair_findings(case.base, aligned)
    case.findings += claim_findings(case.adapter, case.base, aligned)
    case.findings += tied_findings(case.adapter, aligned)
    case.deltas = open_deltas(case.adapter, aligned, private / "merging")
    case.findings += case.deltas.findings
    case.base = with_views(case.base, case.deltas.views)
    case.aligned = aligned = with_views(aligned, case.deltas.views)
    tasks = tasks_of(case.adapter, case.deltas)
    if not _are_planned(case, tasks):
        return
    progress.start(len(tasks))
    case.outcomes = engine.score_modules(
        tasks,
        case.base,
        aligned,
        workers=request.workers,
        on_done=progress.done,
        memory=case.memory,
        quick=True,
    )
    _measure_close_ones(case, tasks, request.workers)
    case.findings += ignored_findings(opener.sources[-1])  # the adapter was opened last
    for source in opener.sources:
        _noted(case, "file", source.verify)


def _are_planned(case: _Case, tasks: Sequence[ModuleTask]) -> bool:
    """Hold what will be read against the budgets; False where it is too much."""
    weights = [task.weight for task in tasks]
    before = len(case.findings)
    for checkpoint in (case.aligned, case.base):
        if checkpoint is not None:
            _noted(case, "checkpoint", partial(plan_reads, checkpoint, weights))
    return len(case.findings) == before


def _measure_close_ones(case: _Case, tasks: Sequence[ModuleTask], workers: int) -> None:
    """Measure again, in float32, what bfloat16 products left near a threshold of the policy.

    So the verdict does not depend on which products the processor is quick at.
    """
    if case.policy is None or case.base is None or case.aligned is None:
        return
    policy = case.policy.policy
    scores = [outcome.score for outcome in case.outcomes if isinstance(outcome, Scored)]
    close = close_modules(policy, scores)
    total = _noted(case, "adapter", lambda: _total(case))
    if total is not None and is_total_close(policy, total):
        close = frozenset(score.module for score in scores)
    again = [task for task in tasks if task.module in close]
    exact = engine.score_modules(again, case.base, case.aligned, workers=workers)
    by_module = {task.module: outcome for task, outcome in zip(again, exact, strict=True)}
    case.outcomes = tuple(
        by_module.get(task.module, outcome)
        for task, outcome in zip(tasks, case.outcomes, strict=True)
    )


def _noted(case: _Case, place: PlaceKind, step: Callable[[], T]) -> T | None:
    """Take a step; a GateError becomes a finding."""
    try:
        return step()
    except GateError as error:
        case.findings.append(finding_from(error, place))
        return None


def tasks_of(adapter: Adapter, deltas: Deltas | None = None) -> list[ModuleTask]:
    """Turn the adapter's modules, and what it changes beside them, into work for the engine."""
    beside = deltas.items if deltas is not None else ()
    return [
        ModuleTask(
            module=module.module,
            weight=module.weight,
            shape=(module.out_features, module.in_features),
            transposed=module.transposed,
            rank=module.rank,
            scaling=module.scaling,
            factors=partial(factors, adapter, module),
        )
        for module in adapter.modules
    ] + [
        ModuleTask(
            module=item.module,
            weight=item.weight,
            shape=item.shape,
            transposed=item.transposed,
            rank=item.rank,
            scaling=item.scaling,
            factors=item.factors or no_factors,
            dense=item.dense,
        )
        for item in beside
    ]


def _coverage_findings(case: _Case) -> list[Finding]:
    """Name an adapter that changes nothing, and a pair without any alignment step."""
    if case.adapter is None or not case.outcomes:
        return []
    place = Place(kind="adapter", name=case.adapter.fact.name)
    if all(isinstance(outcome, Unchanged) for outcome in case.outcomes):
        return [
            Finding(
                rule="adapter-changes-nothing",
                severity="undecided",
                place=place,
                what="every update of this adapter is exactly zero",
                hint="Check that the trained weights were saved: PEFT starts with B = 0.",
            )
        ]
    rules = {o.finding.rule for o in case.outcomes if isinstance(o, Unscored)}
    measured = any(isinstance(outcome, Scored) for outcome in case.outcomes)
    if rules == {"step-zero"} and not measured:
        return [
            Finding(
                rule="base-equals-aligned",
                severity="undecided",
                place=place,
                what="base and aligned are equal in every module that the adapter changes",
                hint="Give the checkpoint before alignment as --base.",
            )
        ]
    return []


def _total(case: _Case) -> AdapterScore | None:
    """Add up the scored modules; None where there are none."""
    scored = [outcome for outcome in case.outcomes if isinstance(outcome, Scored)]
    sums = drift.added(outcome.sums for outcome in scored)
    if sums is None or case.adapter is None:
        return None
    still = {outcome.module for outcome in case.outcomes if isinstance(outcome, Unchanged)}
    still_weights = {m.weight for m in case.adapter.modules if m.module in still}
    if case.deltas is not None:
        moving = {item.changes for item in case.deltas.items if item.module not in still}
        still_weights |= {i.changes for i in case.deltas.items if i.module in still} - moving
    return AdapterScore(
        drift=drift.drift(sums),
        modules=len(scored),
        changed_parameters=sum(
            change.elements for change in case.adapter.changed if change.name not in still_weights
        ),
        scored_parameters=sum(o.score.shape[0] * o.score.shape[1] for o in scored),
        unchanged_modules=tuple(sorted(still)),
    )


def _report(case: _Case, request: Request) -> Report:
    """Decide, and put together what was found."""
    modules: Sequence[ModuleScore] = [o.score for o in case.outcomes if isinstance(o, Scored)]
    total = _noted(case, "adapter", lambda: _total(case))
    findings = [
        *case.findings,
        *(case.adapter.findings if case.adapter else ()),
        *(o.finding for o in case.outcomes if isinstance(o, Unscored)),
        *_coverage_findings(case),
        *step_findings(case.outcomes),
    ]
    fact = case.adapter.fact if case.adapter else None
    verdict, decided = _decided(case.policy, modules, total, findings, fact, request.today)
    return Report(
        verdict=verdict,
        findings=decided,
        adapter=fact,
        base=case.base.fact(hash_files=request.hash_checkpoints) if case.base else None,
        aligned=case.aligned.fact(hash_files=request.hash_checkpoints) if case.aligned else None,
        policy=case.policy.fact if case.policy else None,
        modules=tuple(modules),
        total=total,
        ledger=case.adapter.ledger if case.adapter else (),
        evidence=WEIGHTS_ONLY,
        versions=_versions(),
    )


def _decided(  # noqa: PLR0913
    policy: LoadedPolicy | None,
    modules: Sequence[ModuleScore],
    total: AdapterScore | None,
    findings: Sequence[Finding],
    fact: AdapterFact | None,
    today: datetime.date,
) -> tuple[Verdict, tuple[Finding, ...]]:
    """Apply the policy; without one nothing passes."""
    if policy is None:
        blocked = any(finding.severity == "block" for finding in findings)
        return Blocked() if blocked else Undecided(), with_gravest_first(tuple(findings))
    return decide(
        policy,
        modules=modules,
        total=total,
        findings=findings,
        adapter_ids=(fact.digest, fact.revision) if fact else ("", ""),
        today=today,
    )


def _versions() -> dict[str, str]:
    """Return what a reader needs to repeat the run."""
    import torch

    return {
        "safety-gate": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
