"""Adapters as they were saved before transformers 5: other prefixes, and experts one by one."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.delta_oracle import save_random

PREFIX = "base_model.model."
PREFIXES = {  # of modules: new, old
    "llava": (
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.", "vision_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("lm_head.", "language_model.lm_head."),
    ),
    "qwen2_vl": (("model.language_model.", "model."), ("model.visual.", "visual.")),
}
EXPERTS = {  # the older layers of an expert, and where they stood
    "mixtral": ("block_sparse_moe", ("w1", "w2", "w3")),
    "qwen3_moe": ("mlp", ("gate_proj", "down_proj", "up_proj")),
}
OLDER = (*PREFIXES, *EXPERTS)


def save_older(model: Any, config: Any, folder: Path, *, seed: int) -> None:
    """Write an adapter of a model by the names that it had before transformers 5."""
    model_type = model.config.model_type
    if model_type in EXPERTS:
        _save_experts(model, config, folder, seed=seed)
        return
    save_random(model, config, folder, seed=seed)
    path = folder / "adapter_model.safetensors"
    tensors = {_older(name, model_type): tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def _older(name: str, model_type: str) -> str:
    """Return the older name of a tensor of an adapter."""
    stem = name.removeprefix(PREFIX)
    for new, old in PREFIXES[model_type]:
        if stem.startswith(new):
            return PREFIX + old + stem.removeprefix(new)
    return name


def _save_experts(model: Any, config: Any, folder: Path, *, seed: int) -> None:
    """Write factors for each layer of each expert, and for q_proj."""
    where, layers = EXPERTS[model.config.model_type]
    generator = torch.Generator().manual_seed(seed)
    r = config.r
    tensors: dict[str, torch.Tensor] = {}

    def factors(module: str, out: int, inputs: int) -> None:
        for name, shape in (("lora_A", (r, inputs)), ("lora_B", (out, r))):
            tensors[f"{PREFIX}{module}.{name}.weight"] = torch.randn(shape, generator=generator)

    for name, parameter in model.named_parameters():
        path, _, last = name.removesuffix(".weight").rpartition(".")
        if last == "q_proj":
            factors(f"{path}.{last}", *parameter.shape)
        elif path.endswith(".experts"):
            old = path.replace(".mlp.experts", f".{where}.experts")
            experts, out, inputs = parameter.shape
            for expert in range(experts):
                if last == "down_proj":
                    factors(f"{old}.{expert}.{layers[1]}", out, inputs)
                else:
                    factors(f"{old}.{expert}.{layers[0]}", out // 2, inputs)
                    factors(f"{old}.{expert}.{layers[2]}", out // 2, inputs)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    body = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": r,
        "lora_alpha": config.lora_alpha,
        "use_rslora": config.use_rslora,
        "target_modules": ["q_proj", *layers],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(body))
