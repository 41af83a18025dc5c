"""The variants' updates, applied inside the model that all variants share."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.names import Names
from safety_gate.probe.places import owner, put
from safety_gate.probe.variants import Dense, LowRank, Update, Variant

if TYPE_CHECKING:
    import torch

HINT = "Judge this adapter by its weights alone, and report the model type."


class Applied:
    """Adds low-rank updates to the outputs of layers, and swaps weights for dense ones."""

    def __init__(
        self,
        model: Any,
        names: Names,
        variants: Sequence[Variant],
        stations: Sequence[str],
        where: str,
    ) -> None:
        """Find the place of every update.

        Raises:
            CannotProbe: a weight is not in a station, or is no layer that a low-rank update fits.
        """
        self._model = model
        self._where = where
        self._variant = 0
        self._plans: dict[str, list[tuple[int, str, Update]]] = {}  # by station
        self._low: dict[tuple[int, str], list[tuple[torch.Tensor, torch.Tensor, float]]] = {}
        self._dense: dict[tuple[int, str], torch.Tensor] = {}
        for index, variant in enumerate(variants):
            for weight, updates in variant.updates.items():
                target = self._target(weight, names)
                station = next((s for s in stations if target.startswith(f"{s}.")), None)
                if station is None:
                    raise self._refused(weight, "an update lies outside the blocks of the model")
                plan = self._plans.setdefault(station, [])
                plan += [(index, target, update) for update in updates]
        touched = {
            target
            for plan in self._plans.values()
            for _, target, update in plan
            if isinstance(update, LowRank)
        }
        for target in sorted(touched):
            self._wrap(target)

    def _target(self, weight: str, names: Names) -> str:
        if (target := names.by_source.get(weight)) is None:
            raise self._refused(weight, "the model joins this weight with others, or has none")
        return target

    def _refused(self, weight: str, what: str) -> CannotProbe:
        return CannotProbe(what, where=f"{self._where}: {weight}", hint=HINT)

    def _wrap(self, target: str) -> None:
        """Let a linear layer add the update of the variant that is asked."""
        import torch
        from transformers.pytorch_utils import Conv1D

        module: Any
        module, leaf = owner(self._model, target)
        if leaf != "weight" or type(module) not in (torch.nn.Linear, Conv1D):
            raise self._refused(target, "a low-rank update of what is no linear layer")
        plain = module.forward

        def forward(x: "torch.Tensor") -> "torch.Tensor":
            out: torch.Tensor = plain(x)
            for a, b, scaling in self._low.get((self._variant, target), ()):
                out = torch.add(out, (x @ a.T) @ b.T, alpha=scaling)
            return out

        module.forward = forward

    def enter(self, station: str, dtype: "torch.dtype", device: str) -> None:
        """Read the updates of a station; its own weights are there already.

        Raises:
            CannotProbe: an update is not finite, or has another shape than its weight.
            SourceError: the adapter's files cannot be read.
        """
        for index, target, update in self._plans.get(station, ()):
            module, leaf = owner(self._model, target)
            weight = getattr(module, leaf)
            match update:
                case LowRank(scaling=scaling):
                    a, b = (factor.to(device, dtype) for factor in update.factors())
                    self._check(target, a, b)
                    self._low.setdefault((index, target), []).append((a, b, scaling))
                case Dense():
                    delta = update.delta()
                    self._check(target, delta)
                    if delta.shape != weight.shape:
                        raise self._refused(target, "an update has another shape than its weight")
                    # Summed before rounding: a small update of a bfloat16 weight is not lost twice.
                    before = self._dense.get((index, target), weight)
                    summed = before.to(delta.dtype) + delta.to(device)
                    self._dense[index, target] = summed.to(weight.dtype)

    def _check(self, target: str, *values: "torch.Tensor") -> None:
        import torch

        if not all(bool(torch.isfinite(value).all()) for value in values):
            raise self._refused(target, "an update holds NaN or Inf in the dtype that is asked in")

    def leave(self) -> None:
        """Let go of the updates that were read."""
        self._low.clear()
        self._dense.clear()

    @contextmanager
    def variant(self, index: int) -> Iterator[None]:
        """Make the model the variant of this number while its rows are computed."""
        before: Mapping[str, torch.Tensor] = {
            target: getattr(*owner(self._model, target)).data
            for variant, target in self._dense
            if variant == index
        }
        self._variant = index
        try:
            for target in before:
                put(self._model, target, self._dense[index, target])
            yield
        finally:
            for target, weight in before.items():
                put(self._model, target, weight)
