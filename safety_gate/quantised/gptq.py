"""GPTQ: integers of 2, 3, 4 or 8 bits along the inputs, with a scale and a zero for each group.

Parts of ``X.weight`` (out, in), as AutoGPTQ and GPTQModel write them:
- ``X.qweight``: int32 (in * bits / 32, out); each column is a stream of codes, input by input;
- ``X.qzeros``: int32 (groups, out * bits / 32); each row is a stream of zero points;
- ``X.scales``: (groups, out); ``X.g_idx``: int32 (in), the group of each input.

A value is scale * (code - zero), exact in float32 for scales of 16 bits. The format "gptq" stores
zero - 1, "gptq_v2" stores zero. A stored 2**bits - 1 under "gptq" means zero 0 to some readers and
2**bits to others (AutoGPTQ masks after adding 1, its exllama kernels do not), so it is refused.
Source: https://github.com/AutoGPTQ/AutoGPTQ, auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py, and
https://github.com/ModelCloud/GPTQModel, gptqmodel/utils/model.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safety_gate.quantised.bits import unpacked, words_for
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
FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True, kw_only=True)
class GptqSettings:
    """What the config says of all matrices."""

    bits: int
    group_size: int  # -1: one group
    zero_shift: int  # what is added to a stored zero: 1 for "gptq", 0 for "gptq_v2"


def find_gptq(tensors: Tensors, settings: GptqSettings) -> tuple[Made, frozenset[str]]:
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
        parts = _parts(tensors, module, settings)
        found[f"{module}.weight"] = _matrix(parts, module, settings, keeper)
        used |= {f"{module}.{part}" for part in parts}
    return found, frozenset(used)


def _parts(tensors: Tensors, module: str, settings: GptqSettings) -> Mapping[str, Stored]:
    """Return the parts of one matrix, by the ends of their names."""
    bits = settings.bits
    qweight = checked(tensors, f"{module}{CODES}", dtypes=("I32",))
    scales = checked(tensors, f"{module}.scales", dtypes=FLOATS)
    if len(qweight.shape) != 2 or len(scales.shape) != 2 or scales.shape[1] != qweight.shape[1]:
        raise misfit(qweight, module, "codes and scales disagree", got=scales.shape)
    out, groups = qweight.shape[1], scales.shape[0]
    parts = {"qweight": qweight, "scales": scales}
    parts["qzeros"] = checked(
        tensors, f"{module}.qzeros", dtypes=("I32",), shape=(groups, words_for(out, bits))
    )
    inputs = qweight.shape[0] * 32 // bits
    if words_for(inputs, bits) != qweight.shape[0]:
        raise misfit(qweight, module, f"its codes do not fill words of {bits} bits")
    if f"{module}.g_idx" in tensors:
        parts["g_idx"] = checked(tensors, f"{module}.g_idx", dtypes=("I32",), shape=(inputs,))
        return parts
    size = settings.group_size if settings.group_size > 0 else inputs
    if -(-inputs // size) != groups:
        raise misfit(qweight, module, "its groups are not those of the config", got=scales.shape)
    return parts


def _matrix(
    parts: Mapping[str, Stored], module: str, settings: GptqSettings, keeper: Keeper
) -> Quantised:
    """Put one matrix together."""
    bits = settings.bits
    qweight = parts["qweight"]
    out, inputs = qweight.shape[1], qweight.shape[0] * 32 // bits

    def read() -> "tuple[torch.Tensor, ...]":
        """Read everything that is small, and the codes with outputs first."""
        scales = all_codes(parts["scales"]).float()
        stored = unpacked(all_codes(parts["qzeros"]), bits, out)
        if settings.zero_shift and bool((stored == 2**bits - 1).any()):
            raise misfit(
                qweight,
                module,
                "a zero point is stored that readers of this format disagree about",
                got=2**bits - 1,
                expected="the format gptq_v2",
            )
        words = all_codes(qweight).T.contiguous()
        zeros = (stored + settings.zero_shift).T.contiguous()
        return words, scales.T.contiguous(), zeros, _groups(parts, settings, inputs)

    def values(start: int, stop: int) -> "torch.Tensor":
        words, scales, zeros, group = keeper.kept(module, read)
        number = unpacked(words[start:stop], bits, inputs)
        own, zero = scales[start:stop], zeros[start:stop]
        if group.numel():
            number -= zero.index_select(1, group)
            return own.index_select(1, group).mul_(number)
        blocks = number.view(stop - start, scales.shape[1], -1) - zero[:, :, None]
        return (own[:, :, None] * blocks).view(stop - start, inputs)

    def errors(start: int, stop: int) -> "torch.Tensor":
        _, scales, _, group = keeper.kept(module, read)
        own = scales[start:stop].square().div(12)
        if group.numel():
            return own.index_select(1, group)
        return own.repeat_interleave(inputs // scales.shape[1], dim=1)

    return Quantised(
        shape=(out, inputs),
        parts=tuple(parts.values()),
        format=f"GPTQ {bits}-bit",
        values=values,
        errors=errors,
    )


def _groups(parts: Mapping[str, Stored], settings: GptqSettings, inputs: int) -> "torch.Tensor":
    """Return the group of each input; nothing where groups are equal, and in the inputs' order."""
    import torch

    groups = parts["scales"].shape[0]
    even = torch.arange(inputs) // (inputs // groups) if inputs % groups == 0 else None
    if "g_idx" in parts:
        group = all_codes(parts["g_idx"]).long()
    else:
        group = torch.arange(inputs) // (settings.group_size if settings.group_size > 0 else inputs)
    if not bool(((group >= 0) & (group < groups)).all()):
        stored = parts.get("g_idx", parts["scales"])
        raise misfit(stored, stored.entry.name, "an input is in a group that is not there")
    return group[:0] if even is not None and torch.equal(group, even) else group
