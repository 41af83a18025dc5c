"""A config may not have a model built that is far larger than its checkpoint."""

import re
from collections.abc import Iterator, Mapping

from safety_gate.naming.failure import NamesUnknown

LAYERS = re.compile(r"(num|n|encoder|decoder)_?(hidden_)?layers?|depth")
MIN_LAYERS = 512  # that any config may have; more must be in the checkpoint


def check_layers(config: Mapping[str, object], tensors: int, where: str) -> None:
    """Refuse a config that has more layers than the checkpoint has tensors.

    Each layer costs time and memory even without weights, and a number is quickly written.

    Raises:
        NamesUnknown: it has.
    """
    for key, value in _numbers(config):
        if LAYERS.fullmatch(key) and value > max(MIN_LAYERS, tensors):
            raise NamesUnknown(
                "the config has more layers than the checkpoint has tensors",
                where=where,
                got=f"{key} {value}",
                hint="Compare config.json with the one that the model's publisher released.",
            )


def _numbers(value: object) -> Iterator[tuple[str, int]]:
    """Yield every whole number of a config, at any depth, with its key."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, int):
                yield key, inner
            yield from _numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner)
