"""The small model of a world: its shape, and how it is stored and read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import torch
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from benchmarks.zoo.speech import MAX_TOKENS

PROJECTIONS: Final = (
    *("q_proj", "k_proj", "v_proj", "o_proj"),
    *("gate_proj", "up_proj", "down_proj"),
)


Family: TypeAlias = Literal["llama", "mistral", "olmo2", "qwen3", "gemma"]
TIED: Final[tuple[Family, ...]] = ("gemma",)  # its head is its embedding


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a decoder with grouped-query attention."""

    family: Family = "llama"
    hidden: int = 160
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2  # fewer than heads: k_proj and v_proj are not square
    intermediate: int = 416


def new_model(shape: Shape, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """Build a model with random float32 weights."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        shape.family,
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=shape.family in TIED,
        initializer_range=shape.hidden**-0.5 / 2,
        **_own(shape),
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def _own(shape: Shape) -> dict[str, Any]:
    """Return what a family would otherwise set to the size of its released models."""
    head = shape.hidden // shape.heads
    match shape.family:
        case "qwen3" | "gemma":
            return {"head_dim": head}
        case "llama" | "mistral" | "olmo2":
            return {}


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Store a model in bfloat16, as released checkpoints are."""
    model.to(dtype=torch.bfloat16).save_pretrained(folder)


def load_model(folder: Path) -> PreTrainedModel:
    """Read a stored model into float32; the values are exactly the stored ones."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model


def load_adapter(aligned: Path, adapter: Path) -> PreTrainedModel:
    """Read the aligned model and merge a stored adapter into it, in float32."""
    model = PeftModel.from_pretrained(load_model(aligned), adapter)
    merged: PreTrainedModel = model.merge_and_unload()
    return merged
