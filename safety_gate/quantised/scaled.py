"""Numbers of 8 bits with a scale for the whole matrix, for each row, or for each block.

Parts of ``X.weight`` (out, in): itself, float8 or int8, and its scale, by which it is multiplied:
- ``fp8`` (DeepSeek-V3, arXiv 2412.19437; transformers' FineGrainedFP8): ``X.weight_scale_inv``, one
  for the matrix, or one for each block, the last blocks of a row or column being cut off;
- ``fbgemm_fp8`` and ``compressed-tensors``: ``X.weight_scale``, one for the matrix or for each row.

In float32, as transformers' own dequantisation does it.
"""

import math
from collections.abc import Mapping, Sequence
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

FLOATS = ("F32", "F16", "BF16")
FLOAT8: Mapping[str, tuple[int, int]] = {  # bits behind the point, exponent of the smallest number
    "F8_E4M3": (3, -9),
    "F8_E5M2": (2, -16),
}


def find_scaled(
    tensors: Tensors,
    suffix: str,
    *,
    dtypes: Sequence[str],
    block: tuple[int, int] | None,
    other: Sequence[str] = (),
) -> tuple[Made, frozenset[str]]:
    """Return the matrices that are stored so, and the names of all their parts.

    Args:
        tensors: of the checkpoint.
        suffix: of the scale's name behind the module: ".weight_scale" or ".weight_scale_inv".
        dtypes: of the codes.
        block: rows and columns of a block; None where there are no blocks.
        other: ends of the names of parts that weights do not depend on, such as input scales.

    Raises:
        BadCheckpoint: parts are missing or do not fit together.
    """
    found: Made = {}
    used: set[str] = set()
    for name in tensors:
        module = name.removesuffix(suffix)
        if module == name:
            continue
        weight = checked(tensors, f"{module}.weight", dtypes=dtypes)
        scale = checked(tensors, name, dtypes=FLOATS)
        if len(weight.shape) != 2:
            raise misfit(weight, name, "it is no matrix", got=weight.shape)
        found[f"{module}.weight"] = _matrix(weight, scale, _grid(weight, scale, name, block))
        beside = {f"{module}{end}" for end in other} & tensors.keys()
        used |= {name, f"{module}.weight", *beside}
    return found, frozenset(used)


def _grid(
    weight: Stored, scale: Stored, name: str, block: tuple[int, int] | None
) -> tuple[int, int]:
    """Return the rows and columns that one scale is for."""
    rows, columns = weight.shape
    if math.prod(scale.shape) == 1:
        return rows, columns
    if block is not None:
        expected = (-(-rows // block[0]), -(-columns // block[1]))
        if scale.shape == expected:
            return block
    elif scale.shape in ((rows,), (rows, 1)):
        return 1, columns
    raise misfit(
        weight, name, "the scales are neither one, nor one a row or block", got=scale.shape
    )


def _matrix(weight: Stored, scale: Stored, grid: tuple[int, int]) -> Quantised:
    """Put one matrix together."""
    height, width = grid
    columns = weight.shape[1]
    across = -(-columns // width)

    def scaled(numbers: "torch.Tensor", start: int, stop: int) -> "torch.Tensor":
        """Multiply rows with their scales."""
        import torch

        own = all_codes(scale).float().view(-1, across)
        rows = own[torch.arange(start, stop) // height]
        if across * width == columns:
            blocks = numbers.view(stop - start, across, width)
            return blocks.mul_(rows[:, :, None]).view(stop - start, columns)
        return numbers.mul_(rows.repeat_interleave(width, dim=1)[:, :columns])

    def values(start: int, stop: int) -> "torch.Tensor":
        return scaled(_numbers(codes(weight, start, stop)), start, stop)

    def errors(start: int, stop: int) -> "torch.Tensor":
        gaps = _gaps(_numbers(codes(weight, start, stop)), weight.entry.dtype)
        return scaled(gaps, start, stop).square_().div_(12)

    return Quantised(
        shape=weight.shape,
        parts=(weight, scale),
        format="FP8" if weight.entry.dtype in FLOAT8 else "int8 with scales",
        values=values,
        errors=errors,
    )


def _numbers(stored: "torch.Tensor") -> "torch.Tensor":
    """Return codes as float32; float8 by a table of all 256, which is quicker than a cast."""
    import torch

    if stored.dtype == torch.int8:
        return stored.float()
    table = torch.arange(256).to(torch.uint8).view(stored.dtype).float()
    index = stored.view(torch.uint8).flatten().int()
    return table.index_select(0, index).view(stored.shape)


def _gaps(stored: "torch.Tensor", dtype: str) -> "torch.Tensor":
    """Return the distance of neighbouring numbers at each value."""
    import torch

    if dtype not in FLOAT8:
        return torch.ones_like(stored)
    digits, smallest = FLOAT8[dtype]
    exponent = (torch.frexp(stored).exponent - 1 - digits).clamp(min=smallest)
    return torch.exp2(exponent.masked_fill(stored == 0, smallest).float())
