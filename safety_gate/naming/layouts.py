"""Base by the names that aligned stores its weights under, where the two are stored differently.

Both are joined with the parameters of their models by transformers' own tables. How a conversion
moves lines is not written down here: it is run on line numbers instead of weights, once with one
and once with two numbers a line, so that only whole lines that are moved can be mistaken for such.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safety_gate.checkpoint import Checkpoint
from safety_gate.naming.failure import NamesUnknown
from safety_gate.naming.layers import check_layers
from safety_gate.naming.meta_model import build_model
from safety_gate.naming.names import Names, Recipe, join_names, some
from safety_gate.weights import Joined, Run, Weight, lines_of, width_of

if TYPE_CHECKING:
    import torch

HINT = "Give base and aligned in the same layout: load both and save_pretrained() both."


@dataclass(frozen=True, slots=True)
class _Move:
    """Consecutive lines of a stored weight that are consecutive lines of a parameter."""

    source: str
    start: int  # line of the source
    first: int  # line of the parameter
    count: int


def in_layout_of(base: Checkpoint, aligned: Checkpoint, needed: Collection[str]) -> Checkpoint:
    """Return base with weights under those of the needed names of aligned that it lacks.

    Args:
        base: whose weights are read.
        aligned: whose names and shapes are wanted.
        needed: names of weights of aligned.

    Raises:
        NamesUnknown: transformers cannot say which weights of base these are.
    """
    wanted = [name for name in needed if name in aligned.weights and name not in base.weights]
    if not wanted:
        return base
    try:
        ours, theirs = _Layout(aligned), _Layout(base)
        found = {name: _weight(name, ours, theirs) for name in wanted}
    except NamesUnknown as error:
        lacking = sorted(aligned.weights.keys() - base.weights.keys())
        beside = sorted(base.weights.keys() - aligned.weights.keys())
        raise NamesUnknown(
            f"base and aligned name their weights differently, and {error.what}",
            where=error.where,
            got=f"only in aligned {some(lacking)}; only in base {some(beside)}"
            + (f"; {error.got}" if error.got else ""),
            hint=HINT,
        ) from error
    return base.with_weights({**base.weights, **found})


class _Layout:
    """How a checkpoint stores the parameters of its model."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        import torch

        self.checkpoint = checkpoint
        self.where = checkpoint.source.name
        check_layers(checkpoint.config, len(checkpoint.names), self.where)
        self._model = build_model(checkpoint.config, self.where, torch.float32)
        self._shapes = {name: tuple(v.shape) for name, v in self._model.state_dict().items()}
        self._names: Names = join_names(self._model, checkpoint.shapes, self.where)
        self._by_source = {
            name: recipe for recipe in self._names.recipes.values() for _, name in recipe.sources
        }

    def uses(self, source: str) -> Iterator[tuple[str, _Move]]:
        """Yield the parameters that a stored weight is in, and where."""
        recipe = self._by_source.get(source)
        for target in recipe.targets if recipe else ():
            for move in self.moves(target):
                if move.source == source:
                    yield target, move

    def moves(self, target: str) -> list[_Move]:
        """Return the stored lines that a parameter is made of, in its order."""
        if self._names.tied.get(target, target) not in self._names.recipes:
            raise NamesUnknown(
                "one of the models has a parameter that the other lacks",
                where=f"{self.where}: {target}",
                hint=HINT,
            )
        recipe = self._names.recipe(target)
        if recipe.converter is None:
            name = recipe.sources[0][1]
            return [_Move(name, 0, 0, lines_of(self.checkpoint.shape(name)))]
        return _moved(recipe, target, self._shapes[target], self.checkpoint, self._model)


def _weight(name: str, aligned: _Layout, base: _Layout) -> Weight:
    """Return the weight of base that aligned stores under this name."""
    shape = aligned.checkpoint.shape(name)
    runs: list[Run] = []
    for target, own in sorted(aligned.uses(name), key=lambda use: use[1].start):
        moves = base.moves(target)
        if len(moves) == 1 and aligned.moves(target) == [own]:
            return base.checkpoint.weight(moves[0].source)  # shapes are compared later
        for move in moves:
            low = max(own.first, move.first)
            high = min(own.first + own.count, move.first + move.count)
            if low < high:
                runs.append(
                    Run(
                        first=own.start + low - own.first,
                        weight=base.checkpoint.weight(move.source),
                        start=move.start + low - move.first,
                        count=high - low,
                    )
                )
    runs.sort(key=lambda run: run.first)
    at = 0
    for run in runs:
        if run.first != at or width_of(run.weight.shape) != width_of(shape):
            break
        at += run.count
    if at != lines_of(shape) or not runs:
        raise NamesUnknown(
            "transformers does not say where the other keeps all of this weight",
            where=f"{aligned.where}: {name}",
            hint=HINT,
        )
    return Joined(shape=shape, runs=tuple(runs))


def _moved(
    recipe: Recipe, target: str, shape: tuple[int, ...], checkpoint: Checkpoint, model: Any
) -> list[_Move]:
    """Run a conversion on line numbers, and return which lines came where."""
    import torch

    names = [name for _, name in recipe.sources]
    starts, total = {}, 0
    for name in names:
        starts[name] = total
        total += lines_of(checkpoint.shape(name))
    one = _run(recipe, target, _numbered(starts, checkpoint, 1), model)
    two = _run(recipe, target, _numbered(starts, checkpoint, 2), model)
    lines = one.flatten()
    doubled = torch.stack((2 * lines, 2 * lines + 1), dim=1).flatten()
    widths = {width_of(checkpoint.shape(name)) for name in names} | {width_of(shape)}
    whole = len(widths) == 1 and torch.equal(two.flatten(), doubled)
    if not whole or len(lines) != lines_of(shape):
        raise NamesUnknown(
            "a conversion between them does not move whole rows",
            where=f"{checkpoint.source.name}: {target}",
            hint=HINT,
        )
    edges = torch.tensor(sorted(starts.values()))
    owner = torch.searchsorted(edges, lines, right=True)
    cut = (lines[1:] - lines[:-1] != 1) | (owner[1:] != owner[:-1])
    firsts = [0, *(torch.nonzero(cut).flatten() + 1).tolist(), len(lines)]
    by_owner = sorted(starts, key=lambda name: starts[name])
    return [
        _Move(
            by_owner[int(owner[first]) - 1],
            int(lines[first]) - starts[by_owner[int(owner[first]) - 1]],
            first,
            after - first,
        )
        for first, after in zip(firsts, firsts[1:], strict=False)
        if after > first
    ]


def _numbered(
    starts: Mapping[str, int], checkpoint: Checkpoint, width: int
) -> "dict[str, torch.Tensor]":
    """Return tensors like the stored ones, of numbers that tell the line and the place in it."""
    import torch

    found = {}
    for name, start in starts.items():
        shape = checkpoint.shape(name)
        count = lines_of(shape)
        numbers = torch.arange(width * start, width * (start + count))
        found[name] = numbers.view(*shape[:-1], width) if len(shape) > 1 else numbers
    return found


def _run(
    recipe: Recipe, target: str, tensors: "dict[str, torch.Tensor]", model: Any
) -> "torch.Tensor":
    """Run a conversion of transformers on stand-ins."""
    try:
        return recipe.made(tensors, model)[target]
    except (RuntimeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise NamesUnknown(
            "a conversion between them cannot be followed",
            where=target,
            got=type(error).__name__,
            hint=HINT,
        ) from error
