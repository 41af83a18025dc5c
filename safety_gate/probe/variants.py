"""What is asked besides the aligned model: updates of its weights, applied by our own code."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from safety_gate.adapter.ledger import Adapter, factors
from safety_gate.probe.failure import CannotProbe

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """An update scaling * B @ A of a linear layer; added to its output, never to its weight."""

    scaling: float
    factors: "Callable[[], tuple[torch.Tensor, torch.Tensor]]"  # A (rank, in), B (out, rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """An update of any weight of a block or the head, in the shape in which it is stored."""

    delta: "Callable[[], torch.Tensor]"


Update: TypeAlias = LowRank | Dense


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The aligned model with some updates; without any it is the aligned model."""

    name: str  # our own word, such as "aligned", "adapter" or "repaired"
    updates: Mapping[str, tuple[Update, ...]]  # by the weight's name in the aligned checkpoint


ALIGNED: Final = Variant(name="aligned", updates=MappingProxyType({}))


def variant_of(name: str, adapter: Adapter) -> Variant:
    """Return the aligned model with an adapter that is open, by the factors in its own files.

    Raises:
        CannotProbe: the adapter changes more than plain LoRA modules, so that the answers would be
            those of another model than the one that is released.
    """
    covered = {module.weight for module in adapter.modules}
    beside = sorted({change.name for change in adapter.changed} - covered)
    if beside:
        raise CannotProbe(
            "the adapter changes weights that the probe does not apply yet",
            where=adapter.fact.name,
            got=f"{len(beside)}: {beside[0]}",
            hint="Merge the adapter and have the merged model judged, or judge by weights alone.",
        )
    return Variant(
        name=name,
        updates={
            module.weight: (
                LowRank(scaling=module.scaling, factors=partial(factors, adapter, module)),
            )
            for module in adapter.modules
        },
    )
