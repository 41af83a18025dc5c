"""Tiny models, the adapters that PEFT writes for them, and what PEFT makes of them."""

import copy
import functools
import json
import warnings
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from safety_gate.adapter.ledger import Adapter, factors, open_adapter
from safety_gate.sources.folder import FolderSource

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@functools.cache
def model_of(name: str) -> Any:
    """Build a tiny random model once; copy before changing it."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        match name:
            case "llama":
                return LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS))
            case "llama-tied":
                return LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS, tie_word_embeddings=True))
            case "qwen2":
                return Qwen2ForCausalLM(Qwen2Config(**SIZES, **HEADS))
            case "gpt2":
                config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=16)
                return GPT2LMHeadModel(config)
    raise AssertionError(name)


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes as a checkpoint has them: a tied head is not saved."""
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight")
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def save(name: str, config: Any, folder: Path, *, seed: int = 1) -> None:
    """Let PEFT write an adapter with random, not zero, values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(copy.deepcopy(model_of(name)), config)
        generator = torch.Generator().manual_seed(seed)
        for key, parameter in model.named_parameters():
            if ".lora_B." in key or parameter.requires_grad:
                parameter.data.normal_(generator=generator)
        model.save_pretrained(folder)


def merged(name: str, folder: Path) -> dict[str, torch.Tensor]:
    """Return what PEFT adds to each parameter, where it adds anything."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = model_of(name).state_dict()
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model_of(name)), folder)
        after = loaded.merge_and_unload().state_dict()
    return {
        key: after[key] - before[key] for key in before if not torch.equal(after[key], before[key])
    }


def opened(name: str, folder: Path, private: Path, *, asked: bool = True) -> Adapter:
    model = model_of(name)
    config = json.loads(model.config.to_json_string(use_diff=False))
    config["architectures"] = [type(model).__name__]
    return open_adapter(
        FolderSource(folder),
        shapes=shapes_of(model),
        model_type=model.config.model_type,
        config=config if asked else None,
        snapshot_dir=private,
    )


def updates(adapter: Adapter) -> dict[str, torch.Tensor]:
    """Return scaling * B @ A of every module, as the checkpoint stores the weight."""
    found = {}
    for module in adapter.modules:
        a, b = factors(adapter, module)
        update = module.scaling * (b @ a)
        assert update.shape == (module.out_features, module.in_features)
        found[module.weight] = update.T if module.transposed else update
    return found


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, update in theirs.items():
        assert (ours[key] - update).norm() <= 1e-5 * update.norm(), key


def lora(**values: Any) -> Any:
    values.setdefault("r", 4)
    values.setdefault("lora_alpha", 16)
    return peft.LoraConfig(**{"target_modules": ALL, **values})
