"""The variants' updates, applied inside the model that all variants share."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safety_gate.naming.names import Names, Recipe
from safety_gate.probe.changes import Change, changes_of
from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.places import owner, put
from safety_gate.probe.variants import LowRank, Variant

if TYPE_CHECKING:
    import torch

HINT = "Judge this adapter by its weights alone, and report the model type."


@dataclass(frozen=True, slots=True)
class _Added:
    """A low-rank update that is added to the output of a linear layer."""

    variant: int
    target: str  # the layer's weight in the model
    update: LowRank


class Applied:
    """Adds low-rank updates to the outputs of layers, and swaps weights for dense ones."""

    def __init__(
        self,
        model: Any,
        names: Names,
        variants: Sequence[Variant],
        stations: Sequence[str],
        checkpoint: tuple[str, Mapping[str, tuple[int, ...]]],
    ) -> None:
        """Find the place of every update.

        Args:
            model: of transformers, without values.
            names: of its parameters.
            variants: what is asked.
            stations: parts whose weights come and go; everything else stays.
            checkpoint: its name, for errors, and the shapes of its tensors.

        Raises:
            CannotProbe: the model has no such weight, or two of its parts share it.
        """
        self._model = model
        self._where, self._shapes = checkpoint
        self._stations = tuple(stations)
        self._variant = 0
        self._layers: dict[tuple[int, str], str] = {}  # variant and weight: path of the layer
        self._added: dict[str, list[_Added]] = {}  # by station; "" stands for what stays
        self._changes: dict[str, list[Change]] = {}
        self._low: dict[tuple[int, str], list[tuple[torch.Tensor, torch.Tensor, float]]] = {}
        self._dense: dict[tuple[int, str], torch.Tensor] = {}
        self._lasting: dict[tuple[int, str], torch.Tensor] = {}  # of what stays
        recipes = {
            source: recipe for recipe in names.recipes.values() for _, source in recipe.sources
        }
        shared = {*names.tied, *names.tied.values()}
        for index, variant in enumerate(variants):
            self._place(index, variant, recipes, shared)
        for added in self._added.values():
            for target in sorted({one.target for one in added}):
                self._wrap(target)

    def _place(
        self, index: int, variant: Variant, recipes: Mapping[str, Recipe], shared: set[str]
    ) -> None:
        """Find the places of one variant's updates."""
        dense: dict[str, list[Any]] = {}
        for weight, updates in variant.updates.items():
            recipe = recipes.get(weight)
            if recipe is None:
                raise self._refused(weight, "the model has no such weight")
            target = recipe.targets[0]
            if not shared.isdisjoint(recipe.targets):
                raise self._refused(weight, "two parts of the model share this weight")
            self._layers[index, weight] = target.rpartition(".")[0]
            for update in updates:
                if isinstance(update, LowRank) and self._is_linear(target, recipe):
                    one = _Added(index, target, update)
                    self._added.setdefault(self._station(target), []).append(one)
                else:
                    dense.setdefault(weight, []).append(update)
        for change in changes_of(index, dense, recipes, self._shapes):
            self._changes.setdefault(self._station(change.recipe.targets[0]), []).append(change)

    def layers(self, variant: int) -> dict[str, str]:
        """Return the paths of the layers that a variant changes, by the names of their weights."""
        return {weight: path for (index, weight), path in self._layers.items() if index == variant}

    def lasting(self) -> tuple[str, ...]:
        """Return the parameters that variants change outside the stations."""
        found = [t for change in self._changes.get("", ()) for t in change.recipe.targets]
        return tuple(dict.fromkeys(found))

    def _station(self, target: str) -> str:
        return next((s for s in self._stations if target.startswith(f"{s}.")), "")

    def _is_linear(self, target: str, recipe: Recipe) -> bool:
        """Tell whether an update of this weight can be added to the output of its layer."""
        import torch
        from transformers.pytorch_utils import Conv1D

        module, leaf = owner(self._model, target)
        fits = leaf == "weight" and type(module) in (torch.nn.Linear, Conv1D)
        return fits and recipe.converter is None and self._station(target) != ""

    def _refused(self, weight: str, what: str) -> CannotProbe:
        return CannotProbe(what, where=f"{self._where}: {weight}", hint=HINT)

    def _wrap(self, target: str) -> None:
        """Let a linear layer add the update of the variant that is asked."""
        import torch

        module: Any
        module, _ = owner(self._model, target)
        plain = module.forward

        def forward(x: "torch.Tensor") -> "torch.Tensor":
            own: torch.Tensor = plain(x)
            out, wide = own, x.float()
            for a, b, scaling in self._low.get((self._variant, target), ()):
                out = torch.add(out, (wide @ a.T) @ b.T, alpha=scaling)
            return out.to(own.dtype)

        module.forward = forward

    def enter(self, station: str, dtype: "torch.dtype", device: str) -> None:
        """Read the updates of a station; its own weights are there already.

        Raises:
            CannotProbe: an update is not finite, or has another shape than its weight.
            SourceError: the adapter's files cannot be read.
        """
        import torch

        for one in self._added.get(station, ()):
            # Float32, as in PEFT: factors that cancel, or lie below bfloat16's range, would lose in
            # it what the released adapter does.
            a, b = (factor.to(device, torch.float32) for factor in one.update.factors())
            self._check(one.target, a, b)
            place = (one.variant, one.target)
            self._low.setdefault(place, []).append((a, b, one.update.scaling))
        for change in self._changes.get(station, ()):
            self._dense |= self._changed(change, None, "")

    def stay(self, table: str, wanted: "torch.Tensor | None") -> None:
        """Read the updates outside the stations; the weights there are in the model already.

        Args:
            table: the parameter of which only some rows are in the model.
            wanted: (n,) those rows; None: all.

        Raises:
            CannotProbe, SourceError: as ``enter``.
        """
        self._lasting.clear()
        for change in self._changes.get("", ()):
            self._lasting |= self._changed(change, wanted, table)

    def _changed(
        self, change: Change, wanted: "torch.Tensor | None", table: str
    ) -> "dict[tuple[int, str], torch.Tensor]":
        """Return what the weights of a change become; summed before they are rounded."""
        found = {}
        for target, delta in change.deltas(self._model).items():
            weight = getattr(*owner(self._model, target)).data
            rows = delta if wanted is None or target != table else delta[wanted]
            self._check(target, rows)
            if rows.numel() != weight.numel():
                raise self._refused(target, "an update has another shape than its weight")
            summed = weight.float() + rows.view(weight.shape).to(weight.device)
            found[change.variant, target] = summed.to(weight.dtype)
        return found

    def _check(self, target: str, *values: "torch.Tensor") -> None:
        import torch

        if not all(bool(torch.isfinite(value).all()) for value in values):
            raise self._refused(target, "an update holds NaN or Inf in the dtype that is asked in")

    def leave(self) -> None:
        """Let go of the updates that were read for a station."""
        self._low.clear()
        self._dense.clear()

    @contextmanager
    def variant(self, index: int) -> Iterator[None]:
        """Make the model the variant of this number while its rows are computed."""
        mine = {t: w for (v, t), w in (*self._lasting.items(), *self._dense.items()) if v == index}
        before: Mapping[str, torch.Tensor] = {
            target: getattr(*owner(self._model, target)).data for target in mine
        }
        self._variant = index
        try:
            for target, weight in mine.items():
                put(self._model, target, weight)
            yield
        finally:
            for target, weight in before.items():
                put(self._model, target, weight)
