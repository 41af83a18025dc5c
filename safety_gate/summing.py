"""Several adapters as one: the sum of their updates, as if all were active at the same time."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from safety_gate.adapter.ledger import Adapter
from safety_gate.case import Case
from safety_gate.checkpoint import Checkpoint
from safety_gate.delta.compose import changed_together, compose, compose_findings, lora_deltas
from safety_gate.delta.roads import Deltas
from safety_gate.delta.views import with_views
from safety_gate.errors import BadAdapter
from safety_gate.naming.layouts import in_layout_of
from safety_gate.records import AdapterFact, Finding
from safety_gate.tasks import needed_weights, tasks_of
from safety_gate.vocabulary import on_shared_rows


def sum_of(parts: Sequence[Case]) -> Case:
    """Return the case of the sum; the parts stay open as long as it is looked at.

    Where a part could not be understood, its findings are there and nothing is measured.
    """
    first = parts[0]
    sources = tuple(dict.fromkeys(source for part in parts for source in part.sources))
    case = Case(sources=sources, policy=first.policy, pair=first.pair)
    case.base = case.first_base = first.first_base
    case.aligned = case.first_aligned = first.first_aligned
    case.findings = _all_findings(parts)
    case.noted("adapter", lambda: _fill(case, parts))
    return case


def _fill(case: Case, parts: Sequence[Case]) -> None:
    """Add up what the parts change.

    Raises:
        BadAdapter: the parts belong to different models.
    """
    if any(part.pair != parts[0].pair for part in parts):
        raise BadAdapter(
            "these adapters belong to different models, so they have no sum",
            where=" + ".join(_name(part) for part in parts),
            expected="adapters of one pair of base and aligned",
            hint="Compose only adapters that were trained on the same model.",
        )
    adapters = [part.adapter for part in parts if part.adapter is not None]
    deltas = [part.deltas for part in parts if part.deltas is not None]
    base, aligned = case.base, case.first_aligned
    if base is None or aligned is None or not all(part.ready for part in parts):
        return
    case.adapter = _together(adapters)
    case.deltas = Deltas(
        items=tuple(
            compose(
                [
                    [*lora_deltas(adapter), *own.items]
                    for adapter, own in zip(adapters, deltas, strict=True)
                ]
            )
        ),
        views={name: view for own in deltas for name, view in own.views.items()},
        findings=tuple(compose_findings(adapters)),
        merger=deltas[0].merger,
    )
    case.findings += case.deltas.findings
    _list_tasks(case, adapters, base, aligned)


def _list_tasks(
    case: Case, adapters: Sequence[Adapter], base: Checkpoint, aligned: Checkpoint
) -> None:
    """List what is measured of the sum."""
    if case.adapter is None or case.deltas is None:
        raise AssertionError("a sum without its adapter")
    needed = tuple(dict.fromkeys(name for each in adapters for name in needed_weights(each)))
    laid = case.noted("checkpoint", lambda: in_layout_of(base, aligned, needed)) or base
    case.shared = on_shared_rows(
        tasks_of(case.adapter, case.deltas),
        with_views(laid, case.deltas.views),
        with_views(aligned, case.deltas.views),
    )
    case.tasks, case.base = case.shared.tasks, case.shared.base
    case.aligned = case.shared.aligned
    case.ready = True


def _all_findings(parts: Sequence[Case]) -> list[Finding]:
    """Return what was found of the parts, once each."""
    return list(dict.fromkeys(finding for part in parts for finding in part.findings))


def _name(part: Case) -> str:
    return part.adapter.fact.name if part.adapter else "?"


def _together(adapters: Sequence[Adapter]) -> Adapter:
    """Return what stands for all of them in the report; every file and tensor keeps its owner."""
    numbered = list(enumerate(adapters, start=1))
    return replace(
        adapters[0],
        fact=_fact([adapter.fact for adapter in adapters]),
        findings=tuple(
            dict.fromkeys(finding for adapter in adapters for finding in adapter.findings)
        ),
        ledger=tuple(
            replace(entry, name=f"{number}/{entry.name}")
            for number, adapter in numbered
            for entry in adapter.ledger
        ),
        modules=(),  # their updates stand among the deltas of the sum
        pieces=(),
        changed=changed_together(adapters),
        prompted=False,  # nobody has asked the model with several of them
    )


def _fact(facts: Sequence[AdapterFact]) -> AdapterFact:
    """Say what the sum is made of; a waiver of the sum names the digest of all digests."""
    digest = hashlib.sha256(json.dumps([fact.digest for fact in facts]).encode()).hexdigest()
    claims = dict.fromkeys(fact.claimed_base for fact in facts)
    return AdapterFact(
        name=" + ".join(fact.name for fact in facts),
        revision=f"sha256:{digest}",
        digest=digest,
        claimed_base=", ".join(claims),
        kind="sum of " + " and ".join(fact.kind for fact in facts),
        files=tuple(
            replace(file, path=f"{number}/{file.path}")
            for number, fact in enumerate(facts, start=1)
            for file in fact.files
        ),
    )
