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

from safety_gate import __version__, engine
from safety_gate.adapter.ledger import Adapter, open_adapter
from safety_gate.asking import ADAPTER, Ask, ask, evidence
from safety_gate.behaviour import BehaviourFact
from safety_gate.checkpoint import Checkpoint, Role
from safety_gate.choosing import choose
from safety_gate.delta.roads import Deltas, open_deltas
from safety_gate.delta.views import with_views
from safety_gate.engine import ModuleTask, Outcome, Scored, Unscored
from safety_gate.errors import GateError
from safety_gate.outcomes import Memory
from safety_gate.pairing import claim_findings, pair_findings, step_findings, tied_findings
from safety_gate.places import Opener, Where, ignored_findings, plan_reads
from safety_gate.policy.file import LoadedPolicy, PolicyText, load_policy, load_policy_file
from safety_gate.policy.nearness import close_modules, is_total_close
from safety_gate.policy.presets import load_preset
from safety_gate.policy.verdict import decide
from safety_gate.records import (
    AdapterScore,
    Blocked,
    Finding,
    ModuleScore,
    PlaceKind,
    Report,
    Undecided,
    Verdict,
    finding_from,
    with_gravest_first,
)
from safety_gate.sources.pairs import Pairs
from safety_gate.sources.source import Source
from safety_gate.tasks import coverage_findings, tasks_of, total_of

WEIGHTS_ONLY = "weights only"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to judge, against what, by which rules."""

    adapter: Where
    base: Where | None = None  # None: looked up among the known pairs
    aligned: Where | None = None
    cache: Path | None = None  # folder for bytes of checkpoints on the Hub
    policy: Path | PolicyText | None = None  # the policy file; None: the preset decides
    preset: str = "default"
    hash_checkpoints: bool = False  # read every checkpoint file whole for its sha256
    workers: int = 2  # modules measured at the same time
    today: datetime.date  # waivers expire by it
    ask: Ask = Ask()  # whether the model itself is asked, and what


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
    behaviour: BehaviourFact | None = None


class Progress:
    """Hears what the gate is doing; this one stays silent."""

    def start(self, modules: int) -> None:
        """Hear how many modules will be measured."""

    def done(self, module: str) -> None:
        """Hear that one module is measured."""

    def asking(self) -> None:
        """Hear that the model is asked; that can take longer than the measuring."""


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
    case.policy = _noted(case, "policy", lambda: policy_of(request))
    source = _noted(case, "adapter", lambda: opener.open(request.adapter, whole=True))
    if source is None or not _are_open(case, request, opener, source):
        return
    if case.aligned is None:
        return
    aligned = case.aligned
    aligned_fact = aligned.fact(hash_files=False)
    case.adapter = _noted(
        case,
        "adapter",
        lambda: open_adapter(
            source,
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
    if not _are_measured(case, request, private, progress):
        return
    _ask(case, request, aligned, opener, progress)
    case.findings += ignored_findings(source)
    for each in opener.sources:
        _noted(case, "file", each.verify)


def policy_of(request: Request) -> LoadedPolicy:
    """Read the rules.

    Raises:
        BadPolicy: they cannot be followed.
    """
    match request.policy:
        case PolicyText(data=data, origin=origin):
            return load_policy(data, origin)
        case None:
            return load_preset(request.preset)
        case path:
            return load_policy_file(path)


def _are_open(case: _Case, request: Request, opener: Opener, adapter: Source) -> bool:
    """Open aligned and base, looked up where they are not named; False where they are unknown."""
    own = case.policy.policy.models if case.policy else ()
    models = {model.claim: (model.aligned, model.base) for model in own}
    pairs = Pairs.shipped().extended(models)
    chosen = _noted(case, "config", lambda: choose(request.base, request.aligned, adapter, pairs))
    if chosen is None:
        return False
    case.findings += chosen.findings

    def checkpoint(where: Where, role: Role) -> Checkpoint | None:
        return _noted(
            case,
            "checkpoint",
            lambda: Checkpoint.open(opener.open(where, whole=False), role),
        )

    case.aligned = checkpoint(chosen.aligned, "aligned")
    case.base = checkpoint(chosen.base, "base")
    return True


def _are_measured(case: _Case, request: Request, private: Path, progress: Progress) -> bool:
    """Measure every module; False where that is more than the budget."""
    if case.adapter is None or case.aligned is None or case.base is None:
        return False
    case.deltas = open_deltas(case.adapter, case.aligned, private / "merging")
    case.findings += case.deltas.findings
    case.base = with_views(case.base, case.deltas.views)
    case.aligned = with_views(case.aligned, case.deltas.views)
    tasks = tasks_of(case.adapter, case.deltas)
    if not _are_planned(case, tasks):
        return False
    progress.start(len(tasks))
    case.outcomes = engine.score_modules(
        tasks,
        case.base,
        case.aligned,
        workers=request.workers,
        on_done=progress.done,
        memory=case.memory,
        quick=True,
    )
    _measure_close_ones(case, tasks, request.workers)
    return True


def _ask(
    case: _Case, request: Request, aligned: Checkpoint, opener: Opener, progress: Progress
) -> None:
    """Ask the model itself, where that is wished; what is not told stays undecided."""
    adapter = case.adapter
    if adapter is None or request.ask.mode == "none":
        return
    progress.asking()
    answered = _noted(case, "checkpoint", lambda: ask(request.ask, aligned, adapter, opener))
    if answered is not None:
        case.behaviour = answered.behaviour
        case.findings += answered.findings


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


def _total(case: _Case) -> AdapterScore | None:
    return total_of(case.outcomes, case.adapter, case.deltas)


def _report(case: _Case, request: Request) -> Report:
    """Decide, and put together what was found."""
    modules: Sequence[ModuleScore] = [o.score for o in case.outcomes if isinstance(o, Scored)]
    total = _noted(case, "adapter", lambda: _total(case))
    findings = [
        *case.findings,
        *(case.adapter.findings if case.adapter else ()),
        *(o.finding for o in case.outcomes if isinstance(o, Unscored)),
        *coverage_findings(case.adapter, case.outcomes),
        *step_findings(case.outcomes),
    ]
    fact = case.adapter.fact if case.adapter else None
    verdict, decided = _decided(case, modules, total, findings, request.today)
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
        evidence=evidence(case.behaviour) if case.behaviour else WEIGHTS_ONLY,
        versions=_versions(),
        behaviour=case.behaviour,
    )


def _decided(
    case: _Case,
    modules: Sequence[ModuleScore],
    total: AdapterScore | None,
    findings: Sequence[Finding],
    today: datetime.date,
) -> tuple[Verdict, tuple[Finding, ...]]:
    """Apply the policy; without one nothing passes."""
    fact = case.adapter.fact if case.adapter else None
    if case.policy is None:
        blocked = any(finding.severity == "block" for finding in findings)
        return Blocked() if blocked else Undecided(), with_gravest_first(tuple(findings))
    return decide(
        case.policy,
        modules=modules,
        total=total,
        findings=findings,
        adapter_ids=(fact.digest, fact.revision) if fact else ("", ""),
        today=today,
        behaviour=case.behaviour.figures(ADAPTER) if case.behaviour else None,
    )


def _versions() -> dict[str, str]:
    """Return what a reader needs to repeat the run."""
    import torch

    return {
        "safety-gate": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
