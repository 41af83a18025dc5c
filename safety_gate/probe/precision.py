"""In which numbers the model is asked."""

from collections import Counter
from typing import TYPE_CHECKING, Literal, TypeAlias

from safety_gate.checkpoint import Checkpoint
from safety_gate.precision import has_bfloat16

if TYPE_CHECKING:
    import torch

Precision: TypeAlias = Literal["auto", "stored", "float32"]


def dtype_of(checkpoint: Checkpoint, precision: Precision, device: str) -> "torch.dtype":
    """Return the dtype to compute in.

    Args:
        checkpoint: the aligned model.
        precision: "stored": what most bytes of the weights have. "auto": that, but float32 on a
            processor that computes bfloat16 more slowly than float32, and for float16 on any
            processor. "float32": that, whatever is stored.
        device: "cpu" or a CUDA device.
    """
    import torch

    sizes: Counter[str] = Counter()
    for file in checkpoint.files:
        for entry in file.entries.values():
            sizes[entry.dtype] += entry.stop - entry.start
    most = sizes.most_common(1)[0][0] if sizes else "F32"
    stored = {"BF16": torch.bfloat16, "F16": torch.float16}.get(most, torch.float32)
    if precision == "float32" or stored == torch.float32:
        return torch.float32
    if precision == "stored" or device != "cpu":
        return stored
    return stored if stored == torch.bfloat16 and has_bfloat16() else torch.float32
