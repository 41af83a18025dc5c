"""Time and memory of guard's pass on two layers of a 7B shape, with 3,000 tokens of random text.

    python -m benchmarks.guard_memory FOLDER

Both follow from one block: more layers take longer and no more memory.
"""

import resource
import sys
import time
from pathlib import Path
from typing import Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from safety_gate.checkpoint import Checkpoint
from safety_gate.probe.moments import Heard, Side, Talk, listen
from safety_gate.probe.stream import Stream
from safety_gate.probe.variants import ALIGNED, Variant
from safety_gate.repair.guard import Guard, Solver
from safety_gate.sources.folder import FolderSource

VOCABULARY: Final = 1000
LAYERS: Final = 2
RANK: Final = 32
SIDES: Final[tuple[Side, ...]] = ("quiet", "kept")


def main(folder: Path) -> None:
    """Write the model once, then measure."""
    if not folder.exists():
        write(folder)
        return  # another process measures: this one's peak is that of writing
    before = peak()
    checkpoint = Checkpoint.open(FolderSource(folder), "aligned")
    layers = [name for name in checkpoint.names if "_proj" in name]
    variant = Variant(name="x", updates={name: () for name in layers})
    stream = Stream(checkpoint, [ALIGNED, variant], dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)

    def text(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, VOCABULARY, (count,), generator=generator).tolist())

    talks = [
        Talk(side=side, variant=0, prompt=text(20), answer=text(6))
        for side in SIDES
        for _ in range(60)
    ]
    solving = 0.0
    solver: Solver | None = None

    def hear(weight: str, heard: Heard) -> None:
        nonlocal solving, solver
        began = time.process_time()
        if solver is None or solver.heard is not heard:
            solver = Solver(heard)
        solver.guarded(torch.randn(RANK, checkpoint.shape(weight)[1]), Guard())
        solving += time.process_time() - began

    began = time.process_time()
    listen(stream, talks, 1, hear)
    whole = time.process_time() - began
    tokens = sum(talk.row.length for talk in talks)
    print(f"{tokens} tokens, {LAYERS} layers: {whole:.0f} CPU seconds, {solving:.0f} of it solving")
    print(f"peak {peak():.2f} GB, {before:.2f} GB of it before the first byte was read")


def write(folder: Path) -> None:
    """Write a random model."""
    config = AutoConfig.for_model(
        "llama",
        vocab_size=VOCABULARY,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=LAYERS,
        num_attention_heads=32,
        num_key_value_heads=32,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)


def peak() -> float:
    """Return the largest resident memory so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main(Path(sys.argv[1]))
