"""Writes aligned + dW as a checkpoint of its own, for programs that load whole models.

One shard is in memory at a time. The config is aligned's without any key that leads to code or
chooses an implementation, and the tokenizer's files are aligned's own: nothing of the adapter but
its numbers gets there. Sums are formed in float32 and rounded once, to the dtype of the weight.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safety_gate.checkpoint import CONFIG, Checkpoint
from safety_gate.naming.meta_model import plain_config
from safety_gate.probe.changes import summed
from safety_gate.probe.chat import GENERATION_CONFIG, copy_small_files
from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.variants import Variant

if TYPE_CHECKING:
    import torch

SHARD_BYTES: Final = 2**30
INDEX: Final = "model.safetensors.index.json"


def write_merged(checkpoint: Checkpoint, variant: Variant, folder: Path) -> None:
    """Write a variant as a model folder that transformers loads.

    Args:
        checkpoint: aligned, in no quantised format.
        variant: its updates.
        folder: empty.

    Raises:
        CannotProbe: the checkpoint is quantised or asks for code, or an update does not fit.
        SourceError: the weights cannot be read.
    """
    from safetensors.torch import save_file

    if checkpoint.quantised is not None:
        raise CannotProbe(
            "a quantised checkpoint cannot be written as a merged one",
            where=checkpoint.source.name,
            hint="Give the unquantised checkpoint of the aligned model.",
        )
    unknown = sorted(variant.updates.keys() - set(checkpoint.names))
    if unknown:
        raise CannotProbe(
            "the model has no such weight",
            where=f"{checkpoint.source.name}: {unknown[0]}",
            hint="Judge this adapter by its weights alone, and report its kind.",
        )
    places: dict[str, str] = {}
    for number, shard in enumerate(_shards(checkpoint, variant), 1):
        name = f"model-{number:05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(shard, name)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}, indent=1))
    copy_small_files(checkpoint, folder)
    config = plain_config(checkpoint.config)
    (folder / CONFIG).write_text(json.dumps(config))
    ends = config.get("eos_token_id")
    (folder / GENERATION_CONFIG).write_text(json.dumps({"eos_token_id": ends} if ends else {}))


def _shards(checkpoint: Checkpoint, variant: Variant) -> "Iterator[dict[str, torch.Tensor]]":
    """Yield tensors by name, about a gigabyte at a time."""
    shard: dict[str, torch.Tensor] = {}
    size = 0
    for name in checkpoint.names:
        tensor = _tensor(checkpoint, name)
        updates = variant.updates.get(name, ())
        if updates:
            moved = tensor.float() + summed(name, updates, checkpoint.shape(name))
            tensor = moved.to(tensor.dtype)
        if shard and size + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    if shard:
        yield shard


def _tensor(checkpoint: Checkpoint, name: str) -> "torch.Tensor":
    """Read one tensor whole, in the dtype of the file."""
    import torch

    shape = checkpoint.shape(name)
    rows = (*shape, 1)[0]
    scratch = torch.empty(checkpoint.scratch_bytes(name, rows), dtype=torch.uint8)
    return checkpoint.rows(name, 0, rows, scratch).reshape(shape).clone()
