"""The drift of the example adapters by plain dense formulas in float64.

A second road to the product's metrics: nothing here is clever, and nothing is shared with it.
Run as ``python -m benchmarks.zoo.drift_check examples/tiny``.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file

PREFIX: Final = "base_model.model."  # PEFT puts it before every module path


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How an adapter lies to the alignment step, summed over modules."""

    reversion: float  # -<dW, V> / (||dW|| ||V||), -1..1; above 0 walks back towards base
    undone: float  # -<dW, V> / ||V||**2; 1 for dW = -V
    size: float  # ||dW|| / ||V||
    cosine: float  # mean over modules of <C dW, dW> / (||C dW|| ||dW||), 0..1
    lowest: float  # of the modules' cosines
    flagged: int  # modules with a cosine below 0.35, SafeMERGE's default


def drift(base: Path, aligned: Path, adapter: Path) -> Drift:
    """Measure one adapter folder against the two checkpoints."""
    inner = moved = step = 0.0
    cosines = []
    for _, v, dw in steps(base, aligned, adapter):
        inner += float((dw * v).sum())
        moved += float((dw * dw).sum())
        step += float((v * v).sum())
        cosines.append(cosine(v, dw))
    return Drift(
        reversion=-inner / (moved * step) ** 0.5,
        undone=-inner / step,
        size=(moved / step) ** 0.5,
        cosine=sum(cosines) / len(cosines),
        lowest=min(cosines),
        flagged=sum(value < 0.35 for value in cosines),
    )


def steps(
    base: Path, aligned: Path, adapter: Path
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Yield each module that a LoRA adapter changes, its alignment step V and its update."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    scaling = config["lora_alpha"] / config["r"]
    factors = load_file(adapter / "adapter_model.safetensors")
    before = load_file(base / "model.safetensors")
    after = load_file(aligned / "model.safetensors")
    for name in sorted(name for name in factors if name.endswith(".lora_A.weight")):
        module = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        a = factors[name].double()  # (rank, in)
        b = factors[name.replace("lora_A", "lora_B")].double()  # (out, rank)
        weight = f"{module}.weight"
        yield module, after[weight].double() - before[weight].double(), scaling * b @ a


def cosine(v: torch.Tensor, dw: torch.Tensor) -> float:
    """Return SafeMERGE's criterion, with C formed as the paper writes it (2503.17239, eq. 3)."""
    projected = (v @ v.T / v.norm()) @ dw  # (out, in)
    return float((projected * dw).sum() / (projected.norm() * dw.norm()))


def main(root: Path) -> None:
    """Print the table of every adapter in the folder."""
    print("| adapter | reversion | undone | size | cosine mean | cosine min | below 0.35 |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for config in sorted(root.glob("*/adapter_config.json")):
        d = drift(root / "base", root / "aligned", config.parent)
        print(
            f"| {config.parent.name} | {d.reversion:+.3f} | {d.undone:+.3f} | {d.size:.2f} "
            f"| {d.cosine:.3f} | {d.lowest:.3f} | {d.flagged} |"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
