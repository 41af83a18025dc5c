"""The sum of several adapters of one aligned model, as if all were active at the same time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from safety_gate.adapter.ledger import Adapter, factors
from safety_gate.adapter.remark import remark_on_all
from safety_gate.adapter.sorting import Change
from safety_gate.delta.roads import Delta
from safety_gate.records import Finding

if TYPE_CHECKING:
    import torch

    Pair = tuple[torch.Tensor, torch.Tensor]

ROWS = " rows "  # in the name of a part of an expert's matrix; see adapter/layout.py
MAX_RANK = 512  # of joined factors; beyond it their dense sum costs less to measure


def lora_deltas(adapter: Adapter) -> list[Delta]:
    """Return the adapter's plain LoRA modules in the form of everything else."""
    return [
        Delta(
            module=module.module,
            changes=module.weight,
            weight=module.weight,
            shape=(module.out_features, module.in_features),
            transposed=module.transposed,
            rank=module.rank,
            scaling=module.scaling,
            factors=partial(factors, adapter, module),
            dense=None,
        )
        for module in adapter.modules
    ]


def changed_together(adapters: Sequence[Adapter]) -> tuple[Change, ...]:
    """Return what the sum changes; scored is only what every adapter that changes it has scored."""
    together: dict[str, Change] = {}
    for adapter in adapters:
        for change in adapter.changed:
            before = together.get(change.name)
            scored = change.scored and (before is None or before.scored)
            together[change.name] = replace(change, scored=scored)
    return tuple(change for _, change in sorted(together.items()))


def compose_findings(adapters: Sequence[Adapter]) -> list[Finding]:
    """Name what one adapter changes as a whole and another one in parts: no sum is measured."""
    names = [change.name for change in changed_together(adapters)]
    parts = {name.partition(ROWS)[0] for name in names if ROWS in name}
    both = sorted(parts & set(names))
    return remark_on_all(
        "updates-collide",
        "undecided",
        ("module", both),
        "one adapter changes the whole of a matrix and another one rows of it",
        hint="Save both adapters with the same version of PEFT and transformers.",
    )


def compose(adapters: Sequence[Sequence[Delta]]) -> list[Delta]:
    """Add up the updates of several adapters, matrix by matrix.

    LoRA updates add up exactly by joining their factors: B1 A1 + B2 A2 = [B1 B2] [A1; A2]. What was
    computed against the aligned weight (DoRA, new values) is added the same way, as PEFT does not:
    it merges one after the other, and the second sees the weight that the first left behind.

    Args:
        adapters: the deltas of each adapter; those of one matrix have the same ``weight`` and the
            same ``module``. A head that is tied to the embedding is a matrix of its own.
    """
    together: dict[tuple[str, str], list[Delta]] = {}
    for deltas in adapters:
        for delta in deltas:
            together.setdefault((delta.weight, delta.module), []).append(delta)
    return [_sum(found) for _, found in sorted(together.items())]


def _sum(found: Sequence[Delta]) -> Delta:
    """Add the updates of one matrix."""
    first = found[0]
    if len(found) == 1:
        return first
    if any((one.shape, one.transposed) != (first.shape, first.transposed) for one in found):
        raise AssertionError(f"updates of {first.weight} differ in shape")
    rank = sum(one.rank for one in found)
    if rank <= MAX_RANK and all(one.factors is not None for one in found):
        return replace(first, rank=rank, scaling=1.0, factors=partial(_joined, found))
    return replace(first, rank=0, scaling=1.0, factors=None, dense=partial(_added, found))


def _joined(found: Sequence[Delta]) -> "Pair":
    """Return the joined factors, scaling included."""
    import torch

    pairs = [(one.scaling, *_factors(one)()) for one in found]
    a = torch.cat([a.double() for _, a, _ in pairs])
    b = torch.cat([scaling * b.double() for scaling, _, b in pairs], dim=1)
    return a, b


def _factors(one: Delta) -> "Callable[[], Pair]":
    if one.factors is None:
        raise AssertionError(f"{one.module} has no thin factors")
    return one.factors


def _added(found: Sequence[Delta]) -> "torch.Tensor":
    """Return the dense sum as stored, float32."""
    total: torch.Tensor | None = None
    for one in found:
        if one.dense is not None:
            update = one.dense()
        else:
            a, b = _factors(one)()
            dense = (one.scaling * (b.double() @ a.double())).float()
            update = dense.T.contiguous() if one.transposed else dense
        total = update.clone() if total is None else total.add_(update)
    if total is None:
        raise AssertionError("no updates to add")
    return total
