"""Makes one repair: applies the method, writes the folder, and tells what was done."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from safety_gate.records import Report
from safety_gate.repair.bench import Bench, shared
from safety_gate.repair.card import card
from safety_gate.repair.factors import Factors
from safety_gate.repair.forms import EXACT, SPARSE
from safety_gate.repair.guard import Guard
from safety_gate.repair.manifest import manifest
from safety_gate.repair.mending import Mended, Mender
from safety_gate.repair.methods import Method, SafeMerge, described
from safety_gate.repair.plan import Plan
from safety_gate.repair.record import Inputs, Made, ModuleRepair
from safety_gate.repair.selection import worded
from safety_gate.repair.sight import Sight
from safety_gate.repair.writing import (
    Documents,
    Layout,
    left_out,
    stored_dtypes,
    write_repaired,
)

GRAVE_CHANGE = 0.5  # of |dW|; above it little of the skill was left on tiny models
GRAVE_ROUNDING = 1e-6  # above it the storage dtype is told in a note: float32 stays below


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """What repairs are made with."""

    bench: Bench
    sights: Mapping[str, Sight]  # by module; empty where the method needs none
    mended: Mapping[str, Mended | None]  # by module: what was repaired during the pass over V
    before: Report
    layout: Layout
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A repair that is computed and not yet written."""

    changed: Mapping[str, Factors]
    made: Made
    inputs: Inputs
    versions: Mapping[str, str]
    taught: bool = False  # made with every second question: judged by the others


def work_out(shop: Shop, plan: Plan, modules: Sequence[str], notes: Sequence[str]) -> Work:
    """Compute the new factors of the modules; none where the method changes none of them.

    Raises:
        CannotRepair: the method cannot take these factors, or gives numbers that are not finite.
    """
    import torch

    def one(module: str) -> Mended | None:
        if module in shop.mended:
            return shop.mended[module]
        torch.set_num_threads(1)  # this thread's own setting, as in the pass over V
        old = shop.bench.factors(module)
        return mender.mend(module, old, shop.sights.get(module))

    mender = mender_for(shop.bench, plan.method, shop.layout)
    with ThreadPoolExecutor(max_workers=shop.workers, thread_name_prefix="repair") as pool:
        done = [found for found in pool.map(one, modules) if found is not None]
    facts = tuple(mended.fact for mended in done)
    made = _made(
        shop,
        words=(described(plan.method), worded(plan.selection)),
        facts=facts,
        notes=(*notes, *(_notes(shop, plan.method, facts) if facts else ())),
        seed=plan.method.merge.seed if isinstance(plan.method, SafeMerge) else 0,
    )
    return Work(
        changed={mended.fact.module: mended.factors for mended in done},
        made=made,
        inputs=_inputs(shop, plan.method),
        versions=shop.before.versions,
        taught=isinstance(plan.method, Guard),
    )


def mender_for(bench: Bench, method: Method, layout: Layout) -> Mender:
    """Return what repairs single modules of the bench's adapter."""
    tensors = bench.adapter.tensors
    if tensors is None:
        raise AssertionError("an adapter without tensors has no modules")
    own = bench.modules()
    return Mender(
        method=method,
        own=own.__getitem__,
        safety=bench.safety_factors,
        dtypes=lambda module: stored_dtypes(module, tensors, layout.dtype),
        guarded=(bench.guarded.factors.get(method, {}) if isinstance(method, Guard) else {}).get,
    )


def untouched(shop: Shop) -> Work:
    """Return the repair that changes nothing, for an adapter that passes as it is."""
    return Work(
        changed={},
        made=_made(shop, words=("auto", "no module"), facts=(), notes=(), seed=0),
        inputs=_inputs(shop, None),
        versions=shop.before.versions,
    )


def _made(
    shop: Shop,
    *,
    words: tuple[str, str],
    facts: tuple[ModuleRepair, ...],
    notes: tuple[str, ...],
    seed: int,
) -> Made:
    return Made(
        method=words[0],
        selection=words[1],
        modules=facts,
        of_modules=len(shop.bench.adapter.modules),
        change=math.sqrt(sum(fact.change**2 for fact in facts)),
        before_norm=_size(shop.before),
        notes=notes,
        left_out=left_out(shop.bench.adapter),
        seed=seed,
    )


def write(shop: Shop, work: Work, output: Path) -> None:
    """Write the repaired adapter; the folder appears whole or not at all."""
    write_repaired(
        output,
        shop.bench.adapter,
        work.changed,
        shop.layout,
        Documents(
            card=partial(card, shop.bench.adapter, work.inputs, work.made),
            manifest=lambda facts: manifest(work.inputs, work.made, facts, dict(work.versions)),
        ),
    )


def _inputs(shop: Shop, method: Method | None) -> Inputs:
    base, aligned = shop.before.base, shop.before.aligned
    if base is None or aligned is None:
        raise AssertionError("modules were scored without checkpoints")
    safety = shop.bench.safety.fact if shop.bench.safety else None
    used = safety if isinstance(method, SafeMerge) else None
    own = shop.bench.adapter.fact
    return Inputs(
        adapter=replace(own, name=public_name(own.name)),
        safety=None if used is None else replace(used, name=public_name(used.name)),
        base=replace(base, name=public_name(base.name)),
        aligned=replace(aligned, name=public_name(aligned.name)),
    )


def public_name(name: str) -> str:
    """Return what a published file may say: of a folder, only its own name."""
    local = name.startswith(("/", ".", "~")) or name.count("/") != 1
    return Path(name).resolve().name if local else name


def _size(before: Report) -> float:
    """Return |dW| over all modules."""
    return math.sqrt(sum(score.delta_norm**2 for score in before.modules))


def _is_skill_asked(before: Report) -> bool:
    return before.behaviour is not None and bool(before.behaviour.utility)


def _notes(shop: Shop, method: Method, facts: Sequence[ModuleRepair]) -> list[str]:
    """Say what a reader might not expect."""
    notes = []
    worst = max(fact.rounding for fact in facts)
    if worst > GRAVE_ROUNDING:
        notes.append(
            f"The dtype that the adapter is stored with rounds the update by up to {worst:.1e} of"
            " its size; --dtype float32 avoids it"
        )
    change = math.sqrt(sum(fact.change**2 for fact in facts))
    if change > GRAVE_CHANGE * _size(shop.before) and not _is_skill_asked(shop.before):
        notes.append(
            "The change is larger than half of the update, and nobody asked whether what was"
            " learned is still there: give samples of the task with --task"
        )
    if dropped := sum(fact.after_norm == 0.0 for fact in facts):
        notes.append(f"The update of {dropped} modules is now zero")
    if shop.layout.uniform_rank:
        notes.append("Every module is padded with zeros to one rank, unchanged ones too")
    if isinstance(method, SafeMerge):
        notes += _merge_notes(shop, method, facts)
    if isinstance(method, Guard):
        notes.append(shop.bench.guarded.note)
    return notes


def _merge_notes(shop: Shop, method: SafeMerge, facts: Sequence[ModuleRepair]) -> list[str]:
    """Say where the two adapters differ, and what the form of merging does."""
    notes = []
    both = shared(shop.bench)
    if lone := sum(fact.module not in both for fact in facts):
        notes.append(
            f"The safety adapter has no update of {lone} of the changed modules: there the"
            " adapter's own update is scaled by its weight, which is the formula with a zero update"
        )
    if shop.bench.safety and (unused := len(shop.bench.safety.modules) - len(both)):
        notes.append(
            f"The safety adapter changes {unused} modules that the adapter does not: not used"
        )
    form = method.merge.form
    if form not in EXACT and not form.endswith("_svd"):
        notes.append(
            f"The form {form} adds A to A and B to B, as PEFT does: the result holds cross terms"
            " and is not the weighted sum of the two updates"
        )
    if method.merge.density is not None and form not in SPARSE:
        notes.append(f"The form {form} has no use for the density")
    return notes
