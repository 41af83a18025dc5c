"""AWQ in the order of its "gemm" kernels: integers of 4 bits along the outputs.

Parts of ``X.weight`` (out, in), as AutoAWQ writes them:
- ``X.qweight``: int32 (in, out / 8); a word holds outputs 0, 2, 4, 6, 1, 3, 5, 7 from its low bits;
- ``X.qzeros``: int32 (groups, out / 8), in the same order; ``X.scales``: (groups, out).

A value is scale * (code - zero), exact in float32. Source: https://github.com/casper-hansen/AutoAWQ,
awq/utils/packing_utils.py (AWQ_ORDER) and awq/modules/linear/gemm.py.
"""

from typing import TYPE_CHECKING

from safety_gate.quantised.parts import (
    Keeper,
    Made,
    Quantised,
    Tensors,
    all_codes,
    checked,
    misfit,
)
from safety_gate.weights import Stored

if TYPE_CHECKING:
    import torch

CODES = ".qweight"
BITS = 4
PACKED = 8  # integers in a word
PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # where in its word each of 8 outputs is
FLOATS = ("F32", "F16", "BF16")


def find_awq(tensors: Tensors, group_size: int) -> tuple[Made, frozenset[str]]:
    """Return the matrices that are stored so, and the names of all their parts.

    Raises:
        BadCheckpoint: parts are missing or do not fit together.
    """
    found: Made = {}
    used: set[str] = set()
    keeper = Keeper()
    for name in tensors:
        module = name.removesuffix(CODES)
        if module == name:
            continue
        qweight = checked(tensors, name, dtypes=("I32",))
        if len(qweight.shape) != 2:
            raise misfit(qweight, name, "it is no matrix", got=qweight.shape)
        inputs, out = qweight.shape[0], qweight.shape[1] * PACKED
        size = group_size if group_size > 0 else inputs
        groups, rest = divmod(inputs, size)
        if rest:
            raise misfit(qweight, name, "its inputs do not fill groups", got=inputs)
        qzeros = checked(
            tensors, f"{module}.qzeros", dtypes=("I32",), shape=(groups, out // PACKED)
        )
        scales = checked(tensors, f"{module}.scales", dtypes=FLOATS, shape=(groups, out))
        found[f"{module}.weight"] = _matrix((qweight, qzeros, scales), module, keeper)
        used |= {name, f"{module}.qzeros", f"{module}.scales"}
    return found, frozenset(used)


def _matrix(parts: tuple[Stored, Stored, Stored], module: str, keeper: Keeper) -> Quantised:
    """Put one matrix together."""
    qweight, qzeros, scales = parts
    inputs, out = qweight.shape[0], scales.shape[1]
    size = inputs // scales.shape[0]

    def read() -> "tuple[torch.Tensor, ...]":
        words = all_codes(qweight).T.contiguous()  # (out / 8, in)
        zeros = _in_order(all_codes(qzeros).T.contiguous())  # (out, groups)
        return words, all_codes(scales).float().T.contiguous(), zeros

    def values(start: int, stop: int) -> "torch.Tensor":
        words, own, zeros = keeper.kept(module, read)
        first = start // PACKED
        number = _in_order(words[first : -(-stop // PACKED)])
        number = number[start - first * PACKED :][: stop - start].view(stop - start, -1, size)
        number = number - zeros[start:stop, :, None]
        return (own[start:stop, :, None] * number).view(stop - start, inputs)

    def errors(start: int, stop: int) -> "torch.Tensor":
        _, own, _ = keeper.kept(module, read)
        return own[start:stop].square().div(12).repeat_interleave(size, dim=1)

    return Quantised(
        shape=(out, inputs), parts=parts, format="AWQ 4-bit", values=values, errors=errors
    )


def _in_order(words: "torch.Tensor") -> "torch.Tensor":
    """Return (out, columns) codes of (out / 8, columns) words."""
    import torch

    shifts = torch.tensor(PLACES, dtype=torch.int32) * BITS
    codes = (words[:, None, :] >> shifts[:, None]).bitwise_and_(2**BITS - 1)
    return codes.view(-1, words.shape[1])
