"""Which tensors of the checkpoint a parameter of the model is made of.

Mostly the names are equal. Where transformers itself renames or joins tensors on loading (a missing
``model.`` in front, experts that are stored one by one), its own table is asked; what stays
unresolved is an error, never a guess.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safety_gate.naming.failure import NamesUnknown

if TYPE_CHECKING:
    import torch

SHOWN = 3  # names in one message


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How parameters are made of tensors of the checkpoint."""

    targets: tuple[str, ...]  # parameters or persistent buffers of the model
    sources: tuple[tuple[str, str], ...]  # (pattern of transformers, name in the checkpoint)
    converter: Any = None  # transformers' own, that joins or cuts; None: the tensor as it is

    def made(self, tensors: Mapping[str, "torch.Tensor"], model: Any) -> "dict[str, torch.Tensor]":
        """Return the values of the targets, made of the tensors of the sources by name."""
        if self.converter is None:
            return {self.targets[0]: tensors[self.sources[0][1]]}
        converter = deepcopy(self.converter)
        for pattern, name in self.sources:
            converter.add_tensor(self.targets[0], name, pattern, lambda n=name: tensors[n])
        found = converter.convert(self.targets[0], model=model, config=model.config)
        return {
            name: value[0] if isinstance(value, list) else value for name, value in found.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The names of a model's parameters, joined with those of its checkpoint."""

    recipes: Mapping[str, Recipe]  # by target
    tied: Mapping[str, str]  # parameter -> the parameter whose values it shares
    by_source: Mapping[str, str]  # checkpoint name -> parameter, where the tensor is taken as it is

    def recipe(self, target: str) -> Recipe:
        """Return how a parameter is made, tied ones included."""
        return self.recipes[self.tied.get(target, target)]


def join_names(model: Any, shapes: Mapping[str, tuple[int, ...]], where: str) -> Names:
    """Find for every parameter of the model its tensors in the checkpoint.

    Args:
        model: of transformers, without values.
        shapes: of the checkpoint's weights, by name, in natural order.
        where: the checkpoint's name, for errors.

    Raises:
        NamesUnknown: a parameter has no tensor, or one of another shape; or the installed
            transformers has no table of names that we know how to ask.
    """
    wanted = model.state_dict()
    found = _collected(model, shapes, wanted, where)
    recipes = {target: recipe for recipe in found for target in recipe.targets}
    tied = _tied(model.all_tied_weights_keys, recipes)
    buffers = {name for name, _ in model.named_buffers()}
    missing = sorted(name for name in wanted if name not in {*recipes, *tied, *buffers})
    if missing:
        unused = sorted(shapes.keys() - {n for recipe in found for _, n in recipe.sources})
        raise NamesUnknown(
            "parameters of the model have no tensor in the checkpoint",
            where=where,
            got=f"{some(missing)}; tensors without a parameter: {some(unused)}",
            hint="Check that config.json and the weights belong to the same model.",
        )
    plain = {r.sources[0][1]: t for t, r in recipes.items() if r.converter is None}
    for name, target in plain.items():
        if shapes[name] != tuple(wanted[target].shape):
            raise NamesUnknown(
                "a weight has another shape than config.json says",
                where=f"{where}: {name}",
                got=str(shapes[name]),
                expected=str(tuple(wanted[target].shape)),
                hint="Check that config.json and the weights belong to the same model.",
            )
    return Names(recipes=recipes, tied=tied, by_source=plain)


def some(names: Sequence[str]) -> str:
    """Return how many names there are, and the first of them."""
    return f"{len(names)}: {', '.join(name[:120] for name in names[:SHOWN])}" if names else "none"


def _collected(
    model: Any, shapes: Iterable[str], wanted: Mapping[str, Any], where: str
) -> list[Recipe]:
    """Ask transformers' table for every tensor of the checkpoint."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, rename_source_key
    except ImportError as error:
        raise NamesUnknown(
            "this version of transformers keeps its table of names elsewhere",
            where=where,
            hint="Install the version of transformers that Safety Gate names.",
        ) from error
    table = get_model_conversion_mapping(model)
    converters = [entry for entry in table if isinstance(entry, WeightConverter)]
    renamings = [entry for entry in table if not isinstance(entry, WeightConverter)]
    by_pattern = {p: converter for converter in converters for p in converter.source_patterns}
    prefix = model.base_model_prefix
    gathered: dict[str, tuple[Any, list[tuple[str, str]]]] = {}
    for name in shapes:
        target, pattern = rename_source_key(name, renamings, converters, prefix, wanted)
        if target not in wanted and name in wanted:
            target, pattern = name, None
        if target in wanted:
            converter = by_pattern[pattern] if pattern is not None else None
            gathered.setdefault(target, (converter, []))[1].append((pattern or name, name))
    return [
        Recipe(targets=_targets(target, converter), sources=tuple(sources), converter=converter)
        for target, (converter, sources) in gathered.items()
    ]


def _targets(first: str, converter: Any) -> tuple[str, ...]:
    """Return all parameters that a conversion makes, the first of which is known."""
    if converter is None:
        return (first,)
    head, *rest = converter.target_patterns
    return (first, *(first.replace(head, other) for other in rest))


def _tied(pairs: Mapping[str, str], recipes: Mapping[str, Recipe]) -> dict[str, str]:
    """Point every tied parameter without a tensor at one of its group that has one.

    Where both are stored, each keeps its own: so does transformers, unless they are equal.
    """
    groups: dict[str, list[str]] = {}
    for target, source in pairs.items():
        groups.setdefault(source, [source]).append(target)
    tied: dict[str, str] = {}
    for names in groups.values():
        stored = next((name for name in names if name in recipes), None)
        tied |= {name: stored for name in names if stored and name not in recipes}
    return tied
