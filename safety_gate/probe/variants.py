"""What is asked besides the aligned model: updates of its weights, applied by our own code."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from safety_gate.adapter.ledger import Adapter, factors
from safety_gate.delta.roads import Delta, Deltas, tensor_of
from safety_gate.probe.failure import CannotProbe

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """An update scaling * B @ A of a whole weight; of a linear layer it is added to the output."""

    scaling: float
    factors: "Callable[[], tuple[torch.Tensor, torch.Tensor]]"  # A (rank, in), B (out, rank)
    transposed: bool = False  # the weight is stored (in, out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """An update of any weight, as it is stored, or of a run of its elements."""

    delta: "Callable[[], torch.Tensor]"
    start: int = 0  # elements of the weight before the first that changes


Update: TypeAlias = LowRank | Dense


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """Virtual tokens that stand before every text, as vectors and not as words."""

    tokens: int
    width: int
    vectors: "Callable[[], torch.Tensor]"  # (tokens, width), in place of their embeddings


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The aligned model with some updates; without any it is the aligned model."""

    name: str  # our own word, such as "aligned", "adapter" or "repaired"
    updates: Mapping[str, tuple[Update, ...]]  # by the weight's name in the aligned checkpoint
    prefix: Prefix | None = None


HINT: Final = "Merge the adapter and have the merged model judged, or judge by weights alone."
# Kinds that only put vectors before the text. P-tuning saves what its encoder makes of them.
PROMPT_KINDS: Final = ("prompt tuning", "P-tuning")
VECTORS: Final = "prompt_embeddings"
MOST_VIRTUAL: Final = 4096  # tokens; PEFT's examples have 8 to 100
ALIGNED: Final = Variant(name="aligned", updates=MappingProxyType({}))


def variant_of(name: str, adapter: Adapter, deltas: Deltas | None = None) -> Variant:
    """Return the aligned model with an adapter that is open, by the factors in its own files.

    Args:
        name: our own word for it.
        adapter: open.
        deltas: of the same adapter, open as well: what it changes beside plain LoRA.

    Raises:
        CannotProbe: the adapter changes more than is applied here, so that the answers would be
            those of another model than the one that is released.
    """
    if adapter.fact.kind in PROMPT_KINDS:
        return Variant(name=name, updates=MappingProxyType({}), prefix=_prefix(adapter))
    beside = deltas.items if deltas is not None else ()
    unread = [e.name for e in adapter.ledger if e.kind == "tensor" and not e.accounted]
    if unread or not (adapter.modules or beside):
        raise CannotProbe(
            "the adapter holds what the probe cannot apply",
            where=adapter.fact.name,
            got=f"{adapter.fact.kind}: {len(unread)} tensors without an owner",
            hint=HINT,
        )
    covered = {module.weight for module in adapter.modules} | {item.changes for item in beside}
    left = sorted({change.name for change in adapter.changed} - covered)
    if left:
        raise CannotProbe(
            "the adapter changes weights that the probe cannot apply",
            where=adapter.fact.name,
            got=f"{len(left)}: {left[0]}",
            hint=HINT,
        )
    updates: dict[str, tuple[Update, ...]] = {}
    for module in adapter.modules:
        plain = LowRank(
            scaling=module.scaling,
            factors=partial(factors, adapter, module),
            transposed=module.transposed,
        )
        updates[module.weight] = (*updates.get(module.weight, ()), plain)
    for item in beside:
        weight, update = _placed(item, deltas)
        updates[weight] = (*updates.get(weight, ()), update)
    return Variant(name=name, updates=updates)


def _prefix(adapter: Adapter) -> Prefix:
    """Return the vectors of an adapter that changes no weight.

    Raises:
        CannotProbe: its file holds anything else.
    """
    entries = adapter.tensors.entries if adapter.tensors is not None else {}
    shape = entries[VECTORS].shape if VECTORS in entries else ()
    if len(entries) != 1 or len(shape) != 2 or not 1 <= shape[0] <= MOST_VIRTUAL or not prod(shape):
        raise CannotProbe(
            "the adapter holds something else than vectors before the text",
            where=adapter.fact.name,
            got=f"{len(entries)} tensors, {VECTORS} of the shape {shape}",
            expected=f"one tensor, {VECTORS}, of at most {MOST_VIRTUAL} tokens",
            hint=HINT,
        )
    return Prefix(tokens=shape[0], width=shape[1], vectors=partial(tensor_of, adapter, VECTORS))


def _placed(item: Delta, deltas: Deltas | None) -> tuple[str, Update]:
    """Return the stored weight that a change is of, and the change as its update."""
    view = deltas.views.get(item.weight) if deltas is not None else None
    weight = item.weight if view is None else view.tensor
    if item.factors is not None and (view is None or view.whole == view.shape):
        return weight, LowRank(
            scaling=item.scaling, factors=item.factors, transposed=item.transposed
        )
    start = 0 if view is None else view.start
    return weight, Dense(delta=partial(_stored, item), start=start)


def _stored(item: Delta) -> "torch.Tensor":
    """Return a change as the checkpoint stores the weight, float32."""
    if item.dense is not None:
        return item.dense()
    if item.factors is None:
        raise AssertionError(f"{item.module} has neither factors nor a dense change")
    return product(item.scaling, item.factors(), transposed=item.transposed)


def product(
    scaling: float, factors: "tuple[torch.Tensor, torch.Tensor]", *, transposed: bool
) -> "torch.Tensor":
    """Return scaling * B @ A as a weight is stored, float32; the sum is formed in float64."""
    a, b = factors
    update = scaling * (b.double() @ a.double())
    return (update.T if transposed else update).float().contiguous()
