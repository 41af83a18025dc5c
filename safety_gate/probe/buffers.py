"""Buffers that a checkpoint does not hold: filled as transformers fills them, or refused."""

import math
from collections.abc import Container
from typing import TYPE_CHECKING, Any

from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.places import owner

if TYPE_CHECKING:
    pass


def fill_buffers(model: Any, stored: Container[str], where: str) -> None:
    """Give the buffers that the checkpoint does not hold (rotary frequencies, masks) their values.

    transformers computes them from the config in the model's own initialisation.

    Each is first filled with a value that cannot be right, so that one which the model's own
    initialisation leaves alone is found out and refused.

    Raises:
        CannotProbe: transformers does not say how a buffer is filled.
    """
    import torch

    lacking = [n for n, buffer in model.named_buffers() if buffer.is_meta and n not in stored]
    seen: list[dict[str, torch.Tensor]] = []
    for odd in (0, 1):  # two fillings: what differs afterwards was never written
        for name in lacking:
            module, leaf = owner(model, name)
            old = module._buffers[leaf]
            wrong = math.nan if old.is_floating_point() else odd
            module._buffers[leaf] = torch.full_like(old, wrong, device="cpu")
        with torch.no_grad():
            for module in dict.fromkeys(owner(model, name)[0] for name in lacking):
                model._init_weights(module)
        filled = dict(model.named_buffers())
        seen.append({name: filled[name].clone() for name in lacking})
    for name in lacking:
        if not torch.equal(seen[0][name], seen[1][name]):  # NaN differs from itself
            raise CannotProbe(
                "transformers does not tell how a buffer of this model is filled",
                where=f"{where}: {name}",
                hint="Judge this adapter by its weights alone, and report the model type.",
            )
