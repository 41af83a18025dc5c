"""How long dequantisation takes, and what it holds: one matrix of Llama-2-7B, in blocks of rows.

    python benchmarks/dequantise.py

Each format runs in a process of its own, with one thread; memory is the peak above that of the
imports. The codes are random, which takes as long as real ones.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OUT, INPUTS, BLOCK = 11008, 4096, 256
MODULE = "model.layers.0.mlp.up_proj"
FORMATS = ("bf16", "nf4", "int8", "gptq", "awq", "fp8")


def write(kind: str, folder: Path) -> None:
    """Write a checkpoint of one matrix."""
    import torch
    from safetensors.torch import save_file

    def words(*shape: int) -> torch.Tensor:
        return torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int64).int()

    def scales(*shape: int) -> torch.Tensor:
        return torch.rand(*shape).half()

    groups = INPUTS // 128
    whole: dict[str, torch.Tensor]
    told: dict[str, object] | None
    match kind:
        case "nf4":
            from bitsandbytes.functional import quantize_4bit

            weight = torch.randn(OUT, INPUTS).bfloat16()
            codes, state = quantize_4bit(weight, compress_statistics=True, quant_type="nf4")
            whole = {f".weight.{key}": part for key, part in state.as_dict(packed=True).items()}
            whole[".weight"] = codes
            told = {"quant_method": "bitsandbytes", "load_in_4bit": True}
        case "int8":
            whole = {".weight": words(OUT, INPUTS).to(torch.int8), ".SCB": torch.rand(OUT)}
            told = {"quant_method": "bitsandbytes", "load_in_8bit": True}
        case "gptq":
            whole = {
                ".qweight": words(INPUTS // 8, OUT),
                ".qzeros": torch.full((groups, OUT // 8), 0x77777777, dtype=torch.int32),
                ".scales": scales(groups, OUT),
            }
            told = {"quant_method": "gptq", "bits": 4, "group_size": 128}
        case "awq":
            whole = {
                ".qweight": words(INPUTS, OUT // 8),
                ".qzeros": words(groups, OUT // 8),
                ".scales": scales(groups, OUT),
            }
            told = {"quant_method": "awq", "bits": 4, "group_size": 128}
        case "fp8":
            whole = {
                ".weight": torch.randn(OUT, INPUTS).to(torch.float8_e4m3fn),
                ".weight_scale_inv": torch.rand(OUT // 128, groups),
            }
            told = {"quant_method": "fp8", "weight_block_size": [128, 128]}
        case _:
            whole, told = {".weight": torch.randn(OUT, INPUTS).bfloat16()}, None
    save_file({f"{MODULE}{end}": part for end, part in whole.items()}, folder / "model.safetensors")
    config = {"model_type": "llama", "quantization_config": told}
    (folder / "config.json").write_text(json.dumps(config))


def read(folder: Path) -> tuple[float, float]:
    """Read the matrix; return seconds and megabytes."""
    import torch

    from safety_gate.checkpoint import Checkpoint
    from safety_gate.sources.folder import FolderSource

    torch.set_num_threads(1)
    checkpoint = Checkpoint.open(FolderSource(folder), "aligned")
    name = f"{MODULE}.weight"
    scratch = torch.empty(checkpoint.scratch_bytes(name, BLOCK), dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    for start in range(0, OUT, BLOCK):
        checkpoint.rows(name, start, min(start + BLOCK, OUT), scratch).float()
    seconds = time.perf_counter() - began
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Print a table."""
    print("| format | s for 10^9 numbers | MB |\n| --- | ---: | ---: |")
    for kind in FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            for step in ("write", "read"):
                run = subprocess.run(
                    [sys.executable, __file__, step, kind, folder],
                    capture_output=True,
                    text=True,
                    check=True,
                )
            seconds, megabytes = json.loads(run.stdout)
            print(f"| {kind} | {seconds / (OUT * INPUTS) * 1e9:.1f} | {megabytes:.0f} |")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    if len(sys.argv) == 1:
        main()
    elif sys.argv[1] == "write":
        write(sys.argv[2], Path(sys.argv[3]))
    else:
        print(json.dumps(read(Path(sys.argv[3]))))
