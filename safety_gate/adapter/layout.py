"""Where the checkpoint stores a parameter that transformers makes of other tensors.

transformers describes it by operations on whole tensors (core_model_loading.py). Those that only
move rows about are followed backwards here, to the stored matrices; all others are not.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from safety_gate.adapter.blueprint import Place, Spot, stack_places


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """One parameter, and the tensors that transformers makes it of."""

    parameter: str
    shape: tuple[int, ...]  # in the model
    sources: tuple[tuple[str, str], ...]  # (pattern of transformers, tensor)
    converter: Any  # of transformers
    part: int = 0  # of several parameters that one tensor is cut into
    parts: tuple[int, ...] = ()  # rows of each of these

    @property
    def operations(self) -> tuple[tuple[str, ...], ...]:
        """Return the operations by name, each with the dimensions that it works on."""
        return tuple(_operation(each) for each in self.converter.operations)


def _operation(operation: Any) -> tuple[str, ...]:
    name = type(operation).__name__
    dims = [getattr(operation, key) for key in ("dim", "dim0", "dim1") if hasattr(operation, key)]
    return (name, *map(str, dims))


MERGE = ("MergeModulelist", "0")
STACKS = ((MERGE,), (MERGE, ("Concatenate", "1")))
ROWS = (("Concatenate", "0"),)
CUTS = ((("Chunk", "0"),), (("Split", "0"),))
TURNS = ((("Transpose", "1", "2"),), (("Transpose", "0", "1"),))


def places_of(joined: Joined, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Place, ...] | None:
    """Return the stored matrices of a parameter; None where they cannot be told exactly.

    Args:
        joined: the parameter.
        shapes: of the checkpoint's tensors.
    """
    operations = joined.operations
    if operations in STACKS:
        return _stack(joined, shapes)
    if operations == ROWS:
        return _rows(joined, shapes)
    if operations in CUTS and len(joined.sources) == 1:
        return _cut(joined, shapes)
    if operations in TURNS and len(joined.sources) == 1:
        return _turned(joined, shapes)
    return None


def _stack(joined: Joined, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Place, ...] | None:
    """Follow one layer per expert, or several whose rows are joined."""
    found = []
    offset = 0
    for pattern in joined.converter.source_patterns:
        names = ordered([name for source, name in joined.sources if source == pattern])
        if names is None or len(names) != joined.shape[0]:
            return None
        heights = {shapes[name] for name in names}
        if len(heights) != 1 or len(height := heights.pop()) != 2:
            return None
        for expert, name in enumerate(names):
            found.append(_whole(name, shapes[name], expert=expert, offset=offset))
        offset += height[0]
    return tuple(found) if offset == joined.shape[1] else None


def ordered(names: Sequence[str]) -> list[str] | None:
    """Sort names by the one number in which they differ; None unless it counts from 0 on."""
    keys = {tuple(map(int, re.findall(r"\d+", name))): name for name in names}
    lengths = {len(key) for key in keys}
    if len(keys) != len(names) or len(lengths) != 1:
        return None
    columns = list(zip(*keys, strict=True))
    varying = [column for column in columns if len(set(column)) > 1]
    if len(varying) > 1:
        return None
    last = varying[0] if varying else columns[-1]
    if sorted(last) != list(range(len(names))):
        return None
    return [name for _, name in sorted(keys.items())]


def _rows(joined: Joined, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Place, ...] | None:
    """Follow tensors whose rows are joined."""
    found = []
    offset = 0
    by_pattern = dict(joined.sources)
    if len(by_pattern) != len(joined.sources):
        return None
    for pattern in joined.converter.source_patterns:
        if pattern not in by_pattern:
            return None
        name = by_pattern[pattern]
        found.append(_whole(name, shapes[name], offset=offset))
        offset += shapes[name][0]
    return tuple(found) if offset == joined.shape[0] else None


def _whole(
    name: str, shape: tuple[int, ...], *, expert: int = 0, offset: int = 0, turned: bool = False
) -> Place:
    """Return the place of a whole tensor."""
    columns = shape[-1] if len(shape) > 1 else 1
    return Place(
        tensor=name,
        whole=shape,
        shape=(prod(shape) // max(1, columns), columns),
        name=name.removesuffix(".weight"),
        expert=expert,
        offset=offset,
        turned=turned,
    )


def _cut(joined: Joined, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Place, ...] | None:
    """Follow a tensor whose rows are shared out."""
    name = joined.sources[0][1]
    whole = shapes[name]
    if sum(joined.parts) != whole[0] or joined.parts[joined.part] != joined.shape[0]:
        return None
    each = prod(whole[1:])
    start = sum(joined.parts[: joined.part]) * each
    columns = whole[-1] if len(whole) > 1 else 1
    return (
        Place(
            tensor=name,
            whole=whole,
            shape=(joined.shape[0] * each // max(1, columns), columns),
            name=joined.parameter.removesuffix(".weight"),
            start=start,
        ),
    )


def _turned(joined: Joined, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Place, ...] | None:
    """Follow a matrix, or a stack of matrices, that is stored with inputs and outputs swapped."""
    name = joined.sources[0][1]
    shape = shapes[name]
    checked = bool(getattr(joined.converter.operations[0], "check_dims", False))
    turned = not (checked and shape == joined.shape)
    expected = (*joined.shape[:-2], joined.shape[-1], joined.shape[-2]) if turned else joined.shape
    if shape != expected:
        return None
    if len(shape) == 2:
        return (_whole(name, shape, turned=turned),)
    return stack_places(joined.parameter, name, shape, turned=turned)


def expert_spot(
    joined_as: tuple[str, int, int, int], places: Sequence[Place], shape: tuple[int, ...]
) -> Spot | None:
    """Return the part of a stack that one expert's own layer became.

    Args:
        joined_as: the parameter, the expert, which of the joined layers, and of how many.
        places: of the parameter.
        shape: of the parameter.
    """
    parameter, expert, layer, layers = joined_as
    if len(shape) != 3 or shape[1] % layers or not 0 <= expert < shape[0]:
        return None
    height = shape[1] // layers
    offset = layer * height
    for place in places:
        if place.expert != expert or place.turned:
            continue
        if place.offset == offset and place.shape[0] == height:
            return Spot(parameter=parameter, place=place, layers=layers)
        if place.offset == 0 and place.shape[0] == shape[1]:
            part = Place(
                tensor=place.tensor,
                whole=place.whole,
                shape=(height, shape[2]),
                name=f"{parameter}[{expert}] rows {offset} to {offset + height - 1}",
                start=place.start + offset * shape[2],
                expert=expert,
                offset=offset,
            )
            return Spot(parameter=parameter, place=part, layers=layers)
    return None
