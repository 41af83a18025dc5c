"""What a variant's dense updates make of the model's parameters.

Mostly a parameter is a tensor of the checkpoint. Where transformers joins several (experts that are
stored one by one), the updates are joined in the same way: joining moves numbers and adds none, so
the sum of what was joined is what is joined of the sums.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safety_gate.naming.names import Recipe
from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.variants import Dense, LowRank, Update, product

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Change:
    """All dense updates of the parameters that one recipe makes, by one variant."""

    variant: int
    recipe: Recipe
    updates: Mapping[str, Sequence[Update]]  # by the tensor of the checkpoint
    shapes: Mapping[str, tuple[int, ...]]  # of the recipe's tensors

    def deltas(self, model: Any) -> "dict[str, torch.Tensor]":
        """Return what is added to each parameter, float32.

        Raises:
            CannotProbe: an update does not fit into its tensor.
            SourceError: the adapter's files cannot be read.
        """
        tensors = {
            name: summed(name, self.updates.get(name, ()), self.shapes[name])
            for _, name in self.recipe.sources
        }
        return self.recipe.made(tensors, model)


def summed(name: str, updates: Sequence[Update], shape: tuple[int, ...]) -> "torch.Tensor":
    """Return the sum of the updates of one stored tensor, float32.

    Raises:
        CannotProbe: an update does not fit into the tensor.
        SourceError: the adapter's files cannot be read.
    """
    import torch

    total = torch.zeros(shape)
    flat = total.view(-1)
    for update in updates:
        start, values = _placed(update)
        if start + values.numel() > flat.numel() or _is_other(update, values, shape):
            raise CannotProbe(
                "an update has another shape than its weight",
                where=name,
                got=str(tuple(values.shape)),
                expected=str(shape),
                hint="Judge this adapter by its weights alone, and report its kind.",
            )
        flat[start : start + values.numel()] += values.reshape(-1).float()
    return total


def _placed(update: Update) -> "tuple[int, torch.Tensor]":
    """Return an update as it is stored, and how many elements stand before it."""
    match update:
        case LowRank(scaling=scaling, factors=factors, transposed=transposed):
            return 0, product(scaling, factors(), transposed=transposed)
        case Dense(delta=delta, start=start):
            return start, delta()


def _is_other(update: Update, values: "torch.Tensor", shape: tuple[int, ...]) -> bool:
    """Tell whether the update of a whole weight has another shape; a vector may be a column."""
    if isinstance(update, Dense) and values.numel() != math.prod(shape):
        return False  # a part of it
    ours = tuple(values.shape)
    return ours != shape and not (ours == (*shape, 1) or len(shape) > 2)


def changes_of(
    variant: int,
    updates: Mapping[str, Sequence[Update]],
    recipes: Mapping[str, Recipe],
    shapes: Mapping[str, tuple[int, ...]],
) -> Iterator[Change]:
    """Gather updates by the recipe that their tensors belong to.

    Args:
        variant: its number.
        updates: by the tensor of the checkpoint.
        recipes: by the tensor of the checkpoint.
        shapes: of the checkpoint's tensors.
    """
    gathered: dict[int, list[str]] = {}
    for name in updates:
        gathered.setdefault(id(recipes[name]), []).append(name)
    for names in gathered.values():
        recipe = recipes[names[0]]
        yield Change(
            variant,
            recipe,
            {name: updates[name] for name in names},
            {name: shapes[name] for _, name in recipe.sources},
        )
