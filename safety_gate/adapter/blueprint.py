"""The aligned model as PEFT sees it: modules, parameters, and where the checkpoint stores each.

For architectures that architecture.KNOWN lists, the checkpoint's names are the model's names and
this file is all that is needed. For all others transformers is asked (asking.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from safety_gate.adapter.architecture import (
    HEAD,
    INPUTS,
    KNOWN,
    ROOTS,
    Layer,
    candidates,
    layer_of,
    tied_head,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One stored matrix that is a parameter of the model, or one expert's share of it."""

    tensor: str  # in the checkpoint
    whole: tuple[int, ...]  # the shape of that tensor
    shape: tuple[int, int]  # rows and columns of the part, as stored
    name: str  # for the report
    start: int = 0  # elements of the tensor before the part
    expert: int = 0
    offset: int = 0  # rows of the expert's matrix before the part, as the model has it
    turned: bool = False  # the model's matrix is the transpose of the stored one


def stack_places(
    parameter: str, tensor: str, shape: tuple[int, ...], *, turned: bool = False
) -> tuple[Place, ...]:
    """Return the experts of a stack that one tensor holds, (experts, rows, columns)."""
    experts, rows, columns = shape
    return tuple(
        Place(
            tensor=tensor,
            whole=shape,
            shape=(rows, columns),
            name=f"{parameter}[{expert}]",
            start=expert * rows * columns,
            expert=expert,
            turned=turned,
        )
        for expert in range(experts)
    )


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a name of an older transformers leads: to a module, or to a part of a parameter."""

    module: str = ""
    parameter: str = ""
    place: Place | None = None
    layers: int = 1  # of an expert that are joined in the parameter


def _nowhere(_: str) -> Spot | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """What a config and the names in a checkpoint tell about a model."""

    model_type: str | None
    shapes: Mapping[str, tuple[int, ...]]  # by parameter; what shares a tensor is in ``tied``
    modules: Mapping[str, tuple[int, ...]]  # shape of the module's weight; () where it has none
    layers: Mapping[str, Layer]  # of modules with a weight
    stored: Mapping[str, str] = field(default_factory=dict)  # parameter -> tensor of another name
    places: Mapping[str, tuple[Place, ...]] = field(default_factory=dict)  # in more than one piece
    tied: Mapping[str, str] = field(default_factory=dict)  # parameter -> one that has a tensor
    embedding: str = ""  # the parameter that a head, and embeddings by their names, share
    head: str = HEAD
    stacks: frozenset[str] = frozenset()  # modules that hold (experts, ...) parameters
    turned: frozenset[str] = frozenset()  # of these, those that keep them (experts, in, out)
    converts: str = ""  # PEFT's name for the rules by which it converts old targets of experts
    ordered: bool = False  # the modules stand in the order of the model's code
    renames: bool = False  # PEFT takes the names of older transformers for LoRA's factors
    find: Callable[[str], Spot | None] = _nowhere  # a module's name in an older transformers


def is_plain(shapes: Mapping[str, tuple[int, ...]], model_type: str | None) -> bool:
    """Tell whether the names in a checkpoint are those of the model, without asking anybody."""
    roots = ROOTS.get(model_type or "", frozenset({"model", HEAD}))
    return model_type in KNOWN and all(name.partition(".")[0] in roots for name in shapes)


def plain_blueprint(shapes: Mapping[str, tuple[int, ...]], model_type: str | None) -> Blueprint:
    """Return the blueprint of a model whose parameters have the names of the tensors."""
    modules = candidates(shapes)
    layers = {name: layer_of(name, shape, model_type) for name, shape in modules.items()}
    embeddings = [
        name for name in shapes if name.endswith(".weight") and name.split(".")[-2] in INPUTS
    ]
    embedding = embeddings[0] if tied_head(shapes) and len(embeddings) == 1 else ""
    return Blueprint(
        model_type=model_type,
        shapes=shapes,
        modules=modules,
        layers=layers | ({HEAD: "linear"} if embedding else {}),
        embedding=embedding,
    )
