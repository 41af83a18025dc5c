"""compressed-tensors "pack-quantized": integers of 4 or 8 bits along the inputs, in words.

Parts of ``X.weight`` (out, in): ``X.weight_packed``, int32 (out, in * bits / 32), each row a stream
of code + 2**(bits - 1); ``X.weight_scale``, (out, 1) or (out, groups); ``X.weight_zero_point``, of
the same shape with each column a stream, where there are zero points; ``X.weight_shape``. A value
is scale * (code - zero). Reordered inputs are refused.
Source: https://github.com/vllm-project/compressed-tensors, compressors/pack_quantized.
"""

from typing import TYPE_CHECKING

from safety_gate.quantised.bits import unpacked, words_for
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

CODES = ".weight_packed"
FLOATS = ("F32", "F16", "BF16")
ZEROS = ".weight_zero_point"
ORDER = ".weight_g_idx"


def find_packed(tensors: Tensors, bits: int) -> tuple[Made, frozenset[str]]:
    """Return the matrices that are stored so, and the names of all their parts.

    Raises:
        BadCheckpoint: parts are missing or do not fit together, or are not read.
    """
    found: Made = {}
    used: set[str] = set()
    for name in tensors:
        module = name.removesuffix(CODES)
        if module == name:
            continue
        packed = checked(tensors, name, dtypes=("I32",))
        if f"{module}{ORDER}" in tensors:
            raise misfit(packed, f"{module}{ORDER}", "its inputs are not in order")
        shape = checked(tensors, f"{module}.weight_shape", dtypes=("I64", "I32"), shape=(2,))
        out, inputs = (int(size) for size in all_codes(shape).tolist())
        if not (0 < out < 2**40 and 0 < inputs < 2**40):
            raise misfit(packed, name, "its shape is absurd")
        if packed.shape != (out, words_for(inputs, bits)):
            raise misfit(packed, name, "the codes have another size", got=packed.shape)
        scale = checked(tensors, f"{module}.weight_scale", dtypes=FLOATS)
        groups = scale.shape[1] if len(scale.shape) == 2 else 0
        if scale.shape != (out, groups) or not groups or inputs % groups:
            raise misfit(packed, name, "codes and scales disagree", got=scale.shape)
        parts: tuple[Stored, ...] = (packed, scale)
        used |= {name, f"{module}.weight_shape", f"{module}.weight_scale"}
        if f"{module}{ZEROS}" in tensors:
            size = (words_for(out, bits), groups)
            parts += (checked(tensors, f"{module}{ZEROS}", dtypes=("I32",), shape=size),)
            used.add(f"{module}{ZEROS}")
        found[f"{module}.weight"] = _matrix(parts, (out, inputs), bits)
    return found, frozenset(used)


def _matrix(parts: tuple[Stored, ...], shape: tuple[int, int], bits: int) -> Quantised:
    """Put one matrix together."""
    out, inputs = shape
    packed, scale, *zeros = parts
    size = inputs // scale.shape[1]

    def values(start: int, stop: int) -> "torch.Tensor":
        number = unpacked(codes(packed, start, stop), bits, inputs).view(stop - start, -1, size)
        own = codes(scale, start, stop).float()
        if zeros:  # both with the same 2**(bits - 1) added
            zero = unpacked(all_codes(zeros[0]).T.contiguous(), bits, out).T[start:stop]
            number -= zero[:, :, None]
        else:
            number -= 2 ** (bits - 1)
        return (own[:, :, None] * number).view(stop - start, inputs)

    def errors(start: int, stop: int) -> "torch.Tensor":
        own = codes(scale, start, stop).float()
        return own.square().div(12).repeat_interleave(size, dim=1)

    return Quantised(
        shape=shape, parts=parts, format=f"packed {bits}-bit", values=values, errors=errors
    )
