"""bitsandbytes 8-bit (LLM.int8): one scale a row.

Parts of ``X.weight``: itself, int8 (out, in); ``X.SCB``, float32 (out): the largest size in each
row; ``X.weight_format``: 0 where rows are rows, which is all that is read here. A value is
code * SCB / 127, in float32 and in the order of ``int8_vectorwise_dequant`` (bitsandbytes 0.50.2).
"""

from typing import TYPE_CHECKING

from safety_gate.quantised.parts import (
    Made,
    Quantised,
    Tensors,
    all_codes,
    checked,
    codes,
    misfit,
)
from safety_gate.weights import Stored

if TYPE_CHECKING:
    import torch

SCALES = ".SCB"
FORMAT = ".weight_format"
STEP = 7.874015718698502e-3  # 1/127 as bitsandbytes writes it


def find_8bit(tensors: Tensors) -> tuple[Made, frozenset[str]]:
    """Return the matrices that are stored so, and the names of all their parts.

    Raises:
        BadCheckpoint: parts are missing, do not fit together, or lie in a processor's own order.
    """
    found: Made = {}
    used: set[str] = set()
    for name in tensors:
        module = name.removesuffix(SCALES)
        if module == name:
            continue
        weight = checked(tensors, f"{module}.weight", dtypes=("I8",))
        if len(weight.shape) != 2:
            raise misfit(weight, name, "it is no matrix", got=weight.shape)
        scales = checked(tensors, name, dtypes=("F32",), shape=weight.shape[:1])
        used |= {name, f"{module}.weight"}
        if f"{module}{FORMAT}" in tensors:
            layout = checked(tensors, f"{module}{FORMAT}", dtypes=("U8",))
            if set(all_codes(layout).flatten().tolist()) != {0}:
                raise misfit(weight, name, "its rows lie in the order of a processor")
            used.add(f"{module}{FORMAT}")
        found[f"{module}.weight"] = _matrix(weight, scales)
    return found, frozenset(used)


def _matrix(weight: Stored, scales: Stored) -> Quantised:
    def values(start: int, stop: int) -> "torch.Tensor":
        return codes(weight, start, stop).float().mul_(codes(scales, start, stop)).mul_(STEP)

    def errors(start: int, stop: int) -> "torch.Tensor":
        own = codes(scales, start, stop) * STEP
        return (own.square() / 12).expand(-1, weight.shape[1])

    return Quantised(
        shape=weight.shape,
        parts=(weight, scales),
        format="bitsandbytes int8",
        values=values,
        errors=errors,
    )
