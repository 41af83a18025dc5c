"""Asks transformers what a model is made of, and how its checkpoint names and stores that.

What transformers cannot tell stays unknown, and is refused by name.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from safety_gate.adapter.architecture import HEAD, Layer
from safety_gate.adapter.blueprint import Blueprint, Place, Spot, stack_places
from safety_gate.adapter.layout import Joined, expert_spot, places_of
from safety_gate.naming.layers import check_layers
from safety_gate.naming.meta_model import build_model
from safety_gate.naming.names import Names, Recipe, join_names

if TYPE_CHECKING:
    import torch

Shapes = Mapping[str, tuple[int, ...]]
WHERE = "config.json"


def asked_blueprint(config: Mapping[str, object], shapes: Shapes) -> Blueprint:
    """Return what transformers says about a model.

    Args:
        config: config.json of the checkpoint.
        shapes: of the checkpoint's tensors, by name, in natural order.

    Raises:
        NamesUnknown: transformers is not installed, cannot build the model, or the checkpoint
            does not hold its parameters.
    """
    check_layers(config, len(shapes), WHERE)
    model = _built(config)
    names = join_names(model, shapes, WHERE)
    return _blueprint(model, names, _Table(model), shapes)


def _built(config: Mapping[str, object]) -> Any:
    """Build the model; torch comes with it, and takes its time to be loaded."""
    import torch

    return build_model(config, WHERE, torch.float32)


class _Table:
    """transformers' own rules of how names in checkpoints become names in the model."""

    def __init__(self, model: Any) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, rename_source_key

        table = get_model_conversion_mapping(model)
        self._rename = rename_source_key
        self._converters = [entry for entry in table if isinstance(entry, WeightConverter)]
        self._renamings = [entry for entry in table if not isinstance(entry, WeightConverter)]
        self._prefix = model.base_model_prefix
        # What this rule does to one name depends on the names before it.
        self.stateful = any(type(entry).__name__ == "GroupWeightRename" for entry in table)
        self.wanted: dict[str, torch.Tensor] = dict(model.state_dict())
        self.by_pattern = {p: c for c in self._converters for p in c.source_patterns}

    def target(self, name: str) -> tuple[str, str | None]:
        """Return the parameter that a tensor goes to, and the pattern of a conversion, if any."""
        target, pattern = self._rename(
            name, self._renamings, self._converters, self._prefix, self.wanted
        )
        return (
            (name, None) if target not in self.wanted and name in self.wanted else (target, pattern)
        )


def _blueprint(model: Any, names: Names, table: _Table, shapes: Shapes) -> Blueprint:
    """Join the model's parameters with the checkpoint's tensors."""
    stored, places = _resolved(names, table, shapes)
    parameters = {
        name: tuple(value.shape)
        for name, value in table.wanted.items()
        if name in stored or name in places
    }
    layers, stacks, turned = _layers(model)
    head = model.get_output_embeddings()
    model_type = model.config.model_type
    return Blueprint(
        model_type=model_type,
        shapes=parameters,
        modules={
            name: parameters.get(f"{name}.weight", ()) for name, _ in model.named_modules() if name
        },
        layers=layers,
        stored={name: tensor for name, tensor in stored.items() if name != tensor},
        places=places,
        tied=names.tied,
        head=next((name for name, module in model.named_modules() if module is head), HEAD),
        stacks=stacks,
        turned=turned,
        converts=_converts(model_type),
        ordered=True,
        renames=_renames(model_type),
        find=lambda name: _spot(name, table, parameters, places, stored),
    )


def _resolved(
    names: Names, table: _Table, shapes: Shapes
) -> tuple[dict[str, str], dict[str, tuple[Place, ...]]]:
    """Return the parameters that are one tensor each, and those in places of their own.

    A parameter that is neither is left out: what changes it is refused.
    """
    stored: dict[str, str] = {}
    places: dict[str, tuple[Place, ...]] = {}
    for recipe in {id(recipe): recipe for recipe in names.recipes.values()}.values():
        if recipe.converter is None:
            if len(recipe.sources) == 1:
                stored[recipe.targets[0]] = recipe.sources[0][1]
            continue
        for joined in _joins(recipe, table):
            found = places_of(joined, shapes)
            if found is not None:
                places[joined.parameter] = found
    return stored, places


def _joins(recipe: Recipe, table: _Table) -> list[Joined]:
    """Return every parameter that one conversion makes."""
    if not all(name in table.wanted for name in recipe.targets):
        return []
    parts = tuple(int(table.wanted[name].shape[0]) for name in recipe.targets)
    return [
        Joined(
            parameter=name,
            shape=tuple(table.wanted[name].shape),
            sources=recipe.sources,
            converter=recipe.converter,
            part=at,
            parts=parts,
        )
        for at, name in enumerate(recipe.targets)
    ]


def _layers(model: Any) -> tuple[dict[str, Layer], frozenset[str], frozenset[str]]:
    """Return the kind of every layer, the modules with stacks, and those (experts, in, out)."""
    import torch
    from transformers.pytorch_utils import Conv1D

    layers: dict[str, Layer] = {}
    stacks, turned = set(), set()
    for name, module in model.named_modules():
        match module:
            case torch.nn.Linear():
                layers[name] = "linear"
            case Conv1D():
                layers[name] = "conv1d"
            case torch.nn.Embedding():
                layers[name] = "embedding"
            case _:
                layers[name] = "other"
        convolution = type(module).__name__.startswith("Conv")
        own = module.named_parameters(recurse=False)
        if not convolution and any(parameter.dim() == 3 for _, parameter in own):
            stacks.add(name)
            if getattr(module, "is_transposed", False):
                turned.add(name)
    return layers, frozenset(stacks), frozenset(turned)


def _converts(model_type: str) -> str:
    """Return the name of the rules by which PEFT converts the targets of older adapters."""
    from transformers.conversion_mapping import _MODEL_TO_CONVERSION_PATTERN as PATTERNS

    base = {**PATTERNS, "mixtral": "mixtral"}.get(model_type, "")
    return base if _renames(model_type) else ""


def _renames(model_type: str) -> bool:
    """Tell whether PEFT renames the factors of older adapters; it asks by model_type only."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    return get_checkpoint_conversion_mapping(model_type) is not None


def _spot(
    module: str,
    table: _Table,
    parameters: Shapes,
    places: Mapping[str, tuple[Place, ...]],
    stored: Mapping[str, str],
) -> Spot | None:
    """Return where an older name of a module leads; None: nowhere, or to the same name."""
    if table.stateful:
        return None
    target, pattern = table.target(f"{module}.weight")
    if target not in parameters or target == f"{module}.weight":
        return None
    if pattern is None:
        return Spot(module=target.removesuffix(".weight"))
    converter = table.by_pattern[pattern]
    names = {type(operation).__name__ for operation in converter.operations}
    numbers = re.findall(r"\.(\d+)\.", f"{module}.".replace(".", ".."))
    if not names <= {"MergeModulelist", "Concatenate"} or not numbers:
        return None
    patterns = list(converter.source_patterns)
    shape = parameters[target]
    found = places.get(target)
    if found is None:
        found = stack_places(target, stored.get(target, target), shape) if len(shape) == 3 else ()
    joined_as = target, int(numbers[-1]), patterns.index(pattern), len(patterns)
    return expert_spot(joined_as, found, shape)
