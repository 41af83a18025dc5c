"""Answers about the parameters of the aligned model, by the names that PEFT gives them."""

import math
from collections.abc import Mapping

from safety_gate.adapter.architecture import INPUTS, KNOWN, OTHER_DEFAULTS, Layer, layer_of
from safety_gate.adapter.blueprint import Blueprint, Place, Spot, stack_places


class Model:
    """The aligned checkpoint as far as its names, shapes and layers are known."""

    def __init__(self, blueprint: Blueprint) -> None:
        """Take what is known; see blueprint.py."""
        self._blueprint = blueprint
        self.shapes = blueprint.shapes
        self.model_type = blueprint.model_type
        self.head = blueprint.head
        self.converts = blueprint.converts
        self.renames = blueprint.renames
        self.ordered = blueprint.ordered

    @property
    def modules(self) -> Mapping[str, tuple[int, ...]]:
        """Return the shape of every module's own weight; () where it has none."""
        return self._blueprint.modules

    @property
    def defaults(self) -> str | tuple[str, ...]:
        """Return what PEFT targets where target_modules is null; () where it has no default."""
        name = self.model_type or ""
        found = KNOWN.get(name) or OTHER_DEFAULTS.get(name) or ()
        return found if isinstance(found, str) else tuple(found)

    def owner(self, parameter: str) -> str:
        """Return the parameter whose values it has: of what is tied, the one that is stored."""
        if parameter in self.shapes:
            return parameter
        if parameter in self._blueprint.tied:
            return self._blueprint.tied[parameter]
        module, _, name = parameter.rpartition(".")
        tied = name == "weight" and (module == self.head or module.rpartition(".")[2] in INPUTS)
        return self._blueprint.embedding if tied else parameter

    def stored(self, parameter: str) -> str:
        """Return the tensor that holds a parameter, where one tensor does."""
        owner = self.owner(parameter)
        return self._blueprint.stored.get(owner, owner)

    def shape(self, parameter: str) -> tuple[int, ...] | None:
        """Return the shape of a parameter; None where the checkpoint does not have it."""
        return self.shapes.get(self.owner(parameter))

    def layer(self, module: str) -> Layer:
        """Return the kind of layer that a module is."""
        found = self._blueprint.layers.get(module)
        if found is not None:
            return found
        return layer_of(module, self.shape(f"{module}.weight") or (), self.model_type)

    def is_whole(self, parameter: str) -> bool:
        """Tell whether one tensor holds the parameter, and nothing else."""
        return self.owner(parameter) not in self._blueprint.places

    def is_stack(self, module: str) -> bool:
        """Tell whether a module holds its parameters as stacks, (experts, ...)."""
        return module in self._blueprint.stacks

    def is_whole_layer(self, module: str) -> bool:
        """Tell whether one tensor each holds the weight and the bias of a layer."""
        return self.is_whole(f"{module}.weight") and self.is_whole(f"{module}.bias")

    def is_turned(self, module: str) -> bool:
        """Tell whether a module keeps its experts as (experts, in, out)."""
        return module in self._blueprint.turned

    def places(self, parameter: str) -> tuple[Place, ...]:
        """Return the stored matrices that a parameter is made of; a vector is one column.

        What has more than two dimensions is taken as one matrix of its last dimension's rows; a
        stack of experts is taken as one matrix for each.
        """
        owner = self.owner(parameter)
        found = self._blueprint.places.get(owner)
        if found is not None:
            return found
        shape = self.shapes[owner]
        module, _, name = parameter.rpartition(".")
        tensor = self.stored(parameter)
        if len(shape) == 3 and module in self._blueprint.stacks:
            return stack_places(parameter, tensor, shape)
        columns = shape[-1] if len(shape) > 1 else 1
        rows = math.prod(shape) // max(1, columns)
        report = module if name == "weight" and len(shape) == 2 else parameter
        return (Place(tensor=tensor, whole=shape, shape=(rows, columns), name=report),)

    def parameters_of(self, targets: tuple[str, ...]) -> list[str]:
        """Return the parameters that target_parameters names; PEFT matches by endings."""
        names = [f".{target}" for target in targets]
        return [
            parameter
            for parameter in self.shapes
            if parameter in targets or any(parameter.endswith(name) for name in names)
        ]

    def find(self, module: str) -> Spot | None:
        """Return where a module's name of an older transformers leads; None: nowhere."""
        return self._blueprint.find(module)
