"""The values of a model's parameters, read from the checkpoint when a part of it needs them."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from safety_gate.checkpoint import Checkpoint
from safety_gate.naming.names import Names, Recipe
from safety_gate.probe.places import owner, put

if TYPE_CHECKING:
    import torch

CACHE_LINE: Final = 64  # bytes; the alignment that matrix kernels are fastest with
PIECE: Final = 1 << 26  # bytes read at a time where values are converted or picked


def _aligned(size: int) -> int:
    return -(-size // CACHE_LINE) * CACHE_LINE


class Weights:
    """Reads parameters by their names in the model, in the dtype that the model has for them."""

    def __init__(self, model: Any, checkpoint: Checkpoint, names: Names, device: str) -> None:
        self._model = model
        self._checkpoint = checkpoint
        self._names = names
        self._device = device
        self._meta = dict(model.state_dict())  # the empty parameters, to put back

    def below(self, path: str) -> tuple[str, ...]:
        """Return the parameters, and the buffers that are stored, of a part of the model."""
        part = self._model.get_submodule(path)
        names = [f"{path}.{name}" if path else name for name in part.state_dict()]
        return tuple(n for n in names if n in self._names.tied or n in self._names.recipes)

    def bytes_of(self, targets: Iterable[str]) -> int:
        """Return the memory that these parameters take, each on its own cache lines."""
        return sum(_aligned(self._meta[name].nbytes) for name in targets)

    def read(
        self, targets: Sequence[str], arena: "torch.Tensor | None" = None
    ) -> "dict[str, torch.Tensor]":
        """Return the values of parameters; safe to call from another thread.

        Args:
            targets: names in the model.
            arena: (bytes,) uint8 on the CPU, large enough for ``bytes_of(targets)``: the values
                lie in it until it is used again. None: in memory of their own.
        """
        import torch

        values: dict[str, torch.Tensor] = {}
        free = 0
        for target in targets:
            if target in values:
                continue
            recipe = self._names.recipe(target)
            if recipe.converter is not None:
                values |= self._joined(recipe)
                continue
            meta = self._meta[target]
            if arena is None:
                room = torch.empty(meta.nbytes, dtype=torch.uint8)
            else:
                room = arena[free : free + meta.nbytes]
                free += _aligned(meta.nbytes)
            values[target] = self._plain(recipe.sources[0][1], meta.dtype, room)
        if self._device == "cpu":
            return values
        return {name: value.to(self._device) for name, value in values.items()}

    def rows_of(self, target: str, wanted: "torch.Tensor") -> "torch.Tensor":
        """Return some rows of a table, which is read piece by piece and never held whole.

        Args:
            target: the table, in the model.
            wanted: (n,) row numbers, ascending.
        """
        import torch

        recipe = self._names.recipe(target)
        meta = self._meta[target]
        if recipe.converter is not None:
            return self.read((target,))[target][wanted.to(self._device)]
        name = recipe.sources[0][1]
        rows = self._rows(name)
        height = max(1, PIECE // max(1, meta.nbytes // max(1, rows)))
        scratch = self._scratch(name, min(height, rows))
        found = torch.empty((len(wanted), *meta.shape[1:]), dtype=meta.dtype)
        for start in range(0, rows, height):
            stop = min(start + height, rows)
            first, last = (int(torch.searchsorted(wanted, edge)) for edge in (start, stop))
            if first < last:
                piece = self._checkpoint.rows(name, start, stop, scratch)
                found[first:last] = piece[wanted[first:last] - start].to(meta.dtype)
        return found.to(self._device)

    def attach(self, values: "dict[str, torch.Tensor]") -> None:
        """Put values into the model."""
        for name, value in values.items():
            put(self._model, name, value)

    def detach(self, targets: Iterable[str]) -> None:
        """Take the values out of the model again."""
        for name in targets:
            module, leaf = owner(self._model, name)
            holder = module._parameters if leaf in module._parameters else module._buffers
            holder[leaf] = self._meta[name]

    def _plain(self, name: str, dtype: "torch.dtype", room: "torch.Tensor") -> "torch.Tensor":
        """Read one tensor into ``room``; converted piece by piece where its dtype differs."""
        rows, shape = self._rows(name), self._checkpoint.shape(name)
        if self._checkpoint.scratch_bytes(name, rows) == len(room):  # as it is, or nearly
            probe = self._checkpoint.rows(name, 0, 0, room)  # no bytes: tells the stored dtype
            if probe.dtype == dtype:
                return self._checkpoint.rows(name, 0, rows, room).view(shape)
        made = room.view(dtype).view(shape)
        flat = made.view(rows, -1)
        height = max(1, PIECE // max(1, len(room) // max(1, rows)))
        scratch = self._scratch(name, min(height, rows))
        for start in range(0, rows, height):
            stop = min(start + height, rows)
            part = self._checkpoint.rows(name, start, stop, scratch)
            flat[start:stop].copy_(part.view(stop - start, -1))
        return made

    def _rows(self, name: str) -> int:
        """Return the size of the first dimension; a scalar has one row."""
        return (*self._checkpoint.shape(name), 1)[0]

    def _scratch(self, name: str, rows: int) -> "torch.Tensor":
        """Return memory to read so many rows into."""
        import torch

        return torch.empty(self._checkpoint.scratch_bytes(name, rows), dtype=torch.uint8)

    def _joined(self, recipe: Recipe) -> "dict[str, torch.Tensor]":
        """Make parameters of several tensors, as transformers does."""
        import torch

        dtype = self._meta[recipe.targets[0]].dtype
        item = dtype.itemsize
        sources = {}
        for _, name in recipe.sources:
            count = math.prod(self._checkpoint.shape(name))
            room = torch.empty(count * item, dtype=torch.uint8)
            sources[name] = self._plain(name, dtype, room)
        return {
            name: value.to(self._meta[name].dtype).contiguous()
            for name, value in recipe.made(sources, self._model).items()
        }
