"""Places of parameters in a checkpoint, against transformers' own conversion of its tensors."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.core_model_loading import (
    Chunk,
    Concatenate,
    Interleave,
    MergeModulelist,
    Split,
    Transpose,
    WeightConverter,
)

from safety_gate.adapter.blueprint import Place
from safety_gate.adapter.layout import Joined, expert_spot, ordered, places_of
from safety_gate.naming.names import Recipe

Tensors = dict[str, torch.Tensor]
NO_MODEL = SimpleNamespace(config=None)


def converted(
    sources: list[str], targets: list[str], operations: list[Any], stored: Tensors, model: Any
) -> tuple[Tensors, list[Joined]]:
    """Return what transformers makes of the tensors, and what we are told about it."""
    converter = WeightConverter(sources, targets, operations)
    patterns = {
        name: next(p for p in sources if p.split("*")[-1] in name and p.split("*")[0] in name)
        for name in stored
    }
    pairs = tuple((patterns[name], name) for name in stored)
    recipe = Recipe(targets=(f"m{targets[0]}",), sources=pairs, converter=converter)
    made = recipe.made(stored, model)
    parts = tuple(int(value.shape[0]) for value in made.values())
    joined = [
        Joined(
            parameter=name,
            shape=tuple(value.shape),
            sources=pairs,
            converter=converter,
            part=at,
            parts=parts,
        )
        for at, (name, value) in enumerate(made.items())
    ]
    return made, joined


def gathered(places: tuple[Place, ...], stored: Tensors, shape: torch.Size) -> torch.Tensor:
    """Put a parameter together from its places; what no place covers is NaN."""
    found = torch.full(shape, math.nan)
    for place in places:
        assert tuple(stored[place.tensor].shape) == place.whole
        flat = stored[place.tensor].reshape(-1)[place.start :]
        part = flat[: math.prod(place.shape)].view(place.shape)
        part = part.T if place.turned else part
        if len(shape) == 1:
            part = part.reshape(-1)
        room = found[place.expert] if len(shape) == 3 else found
        room[place.offset : place.offset + part.shape[0]] = part
    return found


def random(**shapes: tuple[int, ...]) -> Tensors:
    generator = torch.Generator().manual_seed(1)
    names = {name.replace("__", "."): shape for name, shape in shapes.items()}
    return {name: torch.randn(shape, generator=generator) for name, shape in names.items()}


EXPERTS = {f"m__e__{e}__{w}": (2, 3) for e in range(12) for w in ("w1", "w3")}
CASES = [
    pytest.param(
        [".e.*.w1", ".e.*.w3"],
        [".gate_up"],
        [MergeModulelist(dim=0), Concatenate(dim=1)],
        EXPERTS,
        id="experts-joined",
    ),
    pytest.param(
        [".e.*.w2"],
        [".down"],
        [MergeModulelist(dim=0)],
        {f"m__e__{e}__w2": (3, 2) for e in range(12)},
        id="experts",
    ),
    pytest.param(
        [".b", ".a"], [".ab"], [Concatenate(dim=0)], {"m__a": (2, 3), "m__b": (4, 3)}, id="rows"
    ),
    pytest.param([".b", ".a"], [".ab"], [Concatenate(dim=0)], {"m__a": (2,), "m__b": (4,)}, id="v"),
    pytest.param([".qkv"], [".q", ".k", ".v"], [Chunk(dim=0)], {"m__qkv": (6, 3)}, id="chunks"),
    pytest.param([".qkv"], [".q", ".k", ".v"], [Chunk(dim=0)], {"m__qkv": (6,)}, id="vectors"),
    pytest.param([".kv"], [".k", ".v"], [Split(dim=0)], {"m__kv": (6, 3)}, id="uneven"),
    pytest.param([".w"], [".x"], [Transpose(0, 1)], {"m__w": (2, 3)}, id="turned"),
    pytest.param([".w"], [".x"], [Transpose(1, 2)], {"m__w": (4, 2, 3)}, id="turned-stack"),
]


@pytest.mark.parametrize(("sources", "targets", "operations", "shapes"), CASES)
def test_places_hold_what_transformers_makes(
    sources: list[str],
    targets: list[str],
    operations: list[Any],
    shapes: dict[str, tuple[int, ...]],
) -> None:
    stored = random(**shapes)
    sizes = {"m.k": torch.empty(2, 3), "m.v": torch.empty(4, 3)}  # what Split is told
    model = SimpleNamespace(config=None, get_parameter=sizes.__getitem__)
    made, joins = converted(sources, targets, operations, stored, model)
    assert len(joins) == len(targets)
    for joined in joins:
        places = places_of(joined, {name: tuple(t.shape) for name, t in stored.items()})
        assert places is not None
        target = made[joined.parameter]
        assert torch.equal(gathered(places, stored, target.shape), target)


def test_what_is_no_plain_move_of_rows_has_no_places() -> None:
    stored = random(m__w=(4, 3))
    _, (joined,) = converted([".w"], [".x"], [Interleave(dim=0)], stored, NO_MODEL)
    assert places_of(joined, {"m.w": (4, 3)}) is None


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["l.1.e.10.w", "l.1.e.2.w"], None),  # not from 0 on
        ([f"l.1.e.{n}.w" for n in (10, 2, 0, 1, 3, 9, 5, 4, 8, 7, 6)], [*range(11)]),
        (["l.0.e.0.w", "l.1.e.1.w"], None),  # two numbers differ
        (["l.0.e.0.w", "l.0.e.00.w"], None),
        (["l.7.e.0.w"], [0]),
    ],
)
def test_experts_are_counted_by_number(names: list[str], expected: list[int] | None) -> None:
    found = ordered(names)
    numbers = None if found is None else [int(name.split(".")[3]) for name in found]
    assert numbers == expected


def test_an_older_layer_of_an_expert_is_rows_of_its_matrix() -> None:
    whole = Place(tensor="t", whole=(2, 4, 3), shape=(4, 3), name="p[1]", start=12, expert=1)
    spot = expert_spot(("p", 1, 1, 2), (whole,), (2, 4, 3))
    assert spot is not None
    assert spot.place is not None
    assert (spot.place.start, spot.place.shape) == (12 + 2 * 3, (2, 3))
    assert expert_spot(("p", 2, 0, 2), (whole,), (2, 4, 3)) is None  # there is no expert 2
    assert expert_spot(("p", 1, 0, 3), (whole,), (2, 4, 3)) is None  # 4 rows are not 3 layers
