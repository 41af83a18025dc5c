"""From an adapter to the engine's work, and from its outcomes to the figures of the whole."""

from collections.abc import Sequence
from functools import partial

from safety_gate import drift
from safety_gate.adapter.ledger import Adapter, factors
from safety_gate.delta.roads import Deltas, no_factors
from safety_gate.engine import ModuleTask, Outcome, Scored, Unchanged, Unscored
from safety_gate.records import AdapterScore, Finding, Place
from safety_gate.vocabulary import Shared


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


def needed_weights(adapter: Adapter) -> tuple[str, ...]:
    """Return the tensors of the aligned checkpoint that the adapter changes."""
    plain = (module.weight for module in adapter.modules)
    return tuple(dict.fromkeys((*plain, *(piece.view.tensor for piece in adapter.pieces))))


def total_of(
    outcomes: Sequence[Outcome],
    adapter: Adapter | None,
    deltas: Deltas | None,
    shared: Shared | None = None,
) -> AdapterScore | None:
    """Add up the scored modules; None where there are none.

    Raises:
        BadScore: the sums come out as nonsense.
    """
    scored = [outcome for outcome in outcomes if isinstance(outcome, Scored)]
    sums = drift.added(outcome.sums for outcome in scored)
    if sums is None or adapter is None:
        return None
    still = {outcome.module for outcome in outcomes if isinstance(outcome, Unchanged)}
    still_weights = {m.weight for m in adapter.modules if m.module in still}
    if deltas is not None:
        moving = {item.changes for item in deltas.items if item.module not in still}
        still_weights |= {i.changes for i in deltas.items if i.module in still} - moving
    return AdapterScore(
        drift=drift.drift(sums),
        modules=len(scored),
        changed_parameters=sum(
            change.elements for change in adapter.changed if change.name not in still_weights
        )
        + (shared.correction(still) if shared is not None else 0),
        scored_parameters=sum(o.score.shape[0] * o.score.shape[1] for o in scored),
        unchanged_modules=tuple(sorted(still)),
    )


def coverage_findings(adapter: Adapter | None, outcomes: Sequence[Outcome]) -> list[Finding]:
    """Name an adapter that changes nothing, and a pair without any alignment step."""
    if adapter is None or not outcomes:
        return []
    place = Place(kind="adapter", name=adapter.fact.name)
    if all(isinstance(outcome, Unchanged) for outcome in outcomes):
        return [
            Finding(
                rule="adapter-changes-nothing",
                severity="undecided",
                place=place,
                what="every update of this adapter is exactly zero",
                hint="Check that the trained weights were saved: PEFT starts with B = 0.",
            )
        ]
    rules = {o.finding.rule for o in outcomes if isinstance(o, Unscored)}
    measured = any(isinstance(outcome, Scored) for outcome in outcomes)
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
