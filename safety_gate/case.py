"""What is known of one adapter while it is judged; a report can be made of it at any time."""

import datetime
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from safety_gate import __version__
from safety_gate.adapter.ledger import Adapter
from safety_gate.asking import ADAPTER, evidence
from safety_gate.behaviour import BehaviourFact
from safety_gate.checkpoint import Checkpoint
from safety_gate.delta.roads import Deltas
from safety_gate.engine import ModuleTask, Outcome, Scored, Unscored
from safety_gate.errors import GateError
from safety_gate.pairing import step_findings
from safety_gate.places import Where
from safety_gate.policy.file import LoadedPolicy
from safety_gate.policy.verdict import decide
from safety_gate.records import (
    AdapterScore,
    Blocked,
    CheckpointFact,
    Finding,
    ModuleScore,
    PlaceKind,
    Report,
    Undecided,
    Verdict,
    finding_from,
    with_gravest_first,
)
from safety_gate.sources.source import Source
from safety_gate.tasks import coverage_findings, total_of
from safety_gate.vocabulary import Shared

WEIGHTS_ONLY = "weights only"

T = TypeVar("T")


@dataclass(slots=True)
class Case:
    """One adapter, as far as it is understood."""

    sources: tuple[Source, ...] = ()  # of the adapter, or of all that a sum is made of
    root: str = ""  # folder of the adapter in it
    nested: bool = False  # the adapters in other folders of its source are judged as well
    findings: list[Finding] = field(default_factory=list)
    policy: LoadedPolicy | None = None
    base: Checkpoint | None = None
    aligned: Checkpoint | None = None
    first_aligned: Checkpoint | None = None  # aligned as it was opened
    first_base: Checkpoint | None = None  # base as it was opened
    adapter: Adapter | None = None
    deltas: Deltas | None = None  # what the adapter changes beside plain LoRA
    shared: Shared | None = None  # the rows of tokens that base and aligned both have
    tasks: Sequence[ModuleTask] = ()
    pair: tuple[Where, Where] | None = None  # places of aligned and base
    ready: bool = False  # its tasks can be measured
    measured: bool = False
    outcomes: tuple[Outcome, ...] = ()
    behaviour: BehaviourFact | None = None

    def noted(self, place: PlaceKind, step: Callable[[], T]) -> T | None:
        """Take a step; a GateError becomes a finding."""
        try:
            return step()
        except GateError as error:
            self.findings.append(finding_from(error, place))
            return None

    def total(self) -> AdapterScore | None:
        """Add up the scored modules; BadScore where the sums come out as nonsense."""
        return total_of(self.outcomes, self.adapter, self.deltas, shared=self.shared)

    def close(self) -> None:
        """Let go of the private copy and of the child processes."""
        if self.deltas is not None:
            self.deltas.close()
        if self.adapter is not None:
            self.adapter.close()


def report_of(
    case: Case, *, today: datetime.date, fact: Callable[[Checkpoint], CheckpointFact]
) -> Report:
    """Decide, and put together what was found.

    Args:
        case: as far as it came.
        today: waivers expire by it.
        fact: tells what was read of a checkpoint; may raise GateError.
    """
    modules: Sequence[ModuleScore] = [o.score for o in case.outcomes if isinstance(o, Scored)]
    total = case.noted("adapter", case.total)
    base, aligned = (
        case.noted("checkpoint", partial(fact, each)) if each else None
        for each in (case.base, case.aligned)
    )
    findings = [
        *case.findings,
        *(case.adapter.findings if case.adapter else ()),
        *(o.finding for o in case.outcomes if isinstance(o, Unscored)),
        *coverage_findings(case.adapter, case.outcomes),
        *step_findings(case.outcomes),
        *(case.shared.findings() if case.shared else ()),
    ]
    verdict, decided = _decided(case, modules, total, findings, today)
    return Report(
        verdict=verdict,
        findings=decided,
        adapter=case.adapter.fact if case.adapter else None,
        base=base,
        aligned=aligned,
        policy=case.policy.fact if case.policy else None,
        modules=tuple(modules),
        total=total,
        ledger=case.adapter.ledger if case.adapter else (),
        evidence=_evidence(case, scored=bool(modules)),
        versions=_versions(),
        behaviour=case.behaviour,
    )


def _decided(
    case: Case,
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
        weightless=_is_weightless(case),
    )


def _evidence(case: Case, *, scored: bool) -> str:
    """Say what the verdict rests on."""
    return evidence(case.behaviour, weights=scored) if case.behaviour else WEIGHTS_ONLY


def _is_weightless(case: Case) -> bool:
    """Tell whether the adapter only puts vectors before the text, so that nothing can be scored."""
    adapter = case.adapter
    if adapter is None or not adapter.prompted:
        return False
    return not (adapter.modules or adapter.pieces or adapter.changed or case.tasks or case.outcomes)


def _versions() -> dict[str, str]:
    """Return what a reader needs to repeat the run."""
    import torch

    return {
        "safety-gate": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
