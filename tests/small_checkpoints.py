"""Small real checkpoints and adapters on disk, for tests that need their own numbers."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

SHAPES = {
    "model.layers.0.self_attn.q_proj": (24, 16),
    "model.layers.0.mlp.down_proj": (16, 40),
    "model.layers.1.self_attn.q_proj": (24, 16),
    "model.layers.1.mlp.down_proj": (16, 40),
}


def weights(seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """Return seeded weights of every module in SHAPES."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{name}.weight": scale * torch.randn(*shape, generator=generator)
        for name, shape in SHAPES.items()
    }


def write_checkpoint(
    folder: Path, tensors: Mapping[str, torch.Tensor], *, model_type: str = "llama"
) -> Path:
    """Write a checkpoint folder as transformers would."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


def lora_tensors(seed: int = 5, *, rank: int = 4) -> dict[str, torch.Tensor]:
    """Return LoRA factors for every module in SHAPES, by the names that PEFT saves."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, (out, inp) in SHAPES.items():
        prefix = f"base_model.model.{name}"
        found[f"{prefix}.lora_A.weight"] = torch.randn(rank, inp, generator=generator)
        found[f"{prefix}.lora_B.weight"] = 0.02 * torch.randn(out, rank, generator=generator)
    return found


def write_adapter(
    folder: Path, tensors: Mapping[str, torch.Tensor], *, rank: int = 4, **config: object
) -> Path:
    """Write an adapter folder as PEFT would."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    body = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "acme/aligned",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": ["q_proj", "down_proj"],
        "bias": "none",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(body | config))
    return folder


def write_trio(root: Path) -> tuple[Path, Path, Path]:
    """Write base, aligned and adapter below ``root``; return their folders in this order."""
    base = weights(1)
    step = weights(2, scale=0.1)
    aligned = {name: tensor + step[name] for name, tensor in base.items()}
    return (
        write_checkpoint(root / "base", base),
        write_checkpoint(root / "aligned", aligned),
        write_adapter(root / "adapter", lora_tensors()),
    )
