"""Random adapters of every kind that PEFT can save, on tiny models of several architectures."""

import copy
import functools
import random
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import peft
import torch
import transformers as tf

from tests.peft_adapters import HEADS, SIZES

GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16}
T5 = {"vocab_size": 64, "d_model": 32, "d_ff": 48, "num_layers": 2, "num_heads": 4, "d_kv": 8}
BART = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 16,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
MODELS: Mapping[str, Callable[[], Any]] = {
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SIZES, **HEADS)),
    "llama, tied": lambda: tf.LlamaForCausalLM(
        tf.LlamaConfig(**SIZES, **HEADS, tie_word_embeddings=True)
    ),
    "qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**SIZES, **HEADS)),
    "gemma": lambda: tf.GemmaForCausalLM(tf.GemmaConfig(**SIZES, **HEADS, head_dim=8)),
    "phi3": lambda: tf.Phi3ForCausalLM(tf.Phi3Config(**SIZES, **HEADS, **TOKENS)),
    "gpt2": lambda: tf.GPT2LMHeadModel(tf.GPT2Config(**GPT2, **TOKENS)),
    "t5": lambda: tf.T5ForConditionalGeneration(tf.T5Config(**T5)),
    "bart": lambda: tf.BartForConditionalGeneration(tf.BartConfig(**BART, **TOKENS)),
    "mixtral": lambda: tf.MixtralForCausalLM(
        tf.MixtralConfig(**SIZES, **HEADS, num_local_experts=3)
    ),
    "qwen3_moe": lambda: tf.Qwen3MoeForCausalLM(
        tf.Qwen3MoeConfig(
            **SIZES,
            **HEADS,
            num_experts=3,
            moe_intermediate_size=24,
            head_dim=8,
        )
    ),
    "gpt_oss": lambda: tf.GptOssForCausalLM(
        tf.GptOssConfig(**SIZES, **HEADS, num_local_experts=3, head_dim=8)
    ),
    "llava": lambda: tf.LlavaForConditionalGeneration(
        tf.LlavaConfig(text_config=tf.LlamaConfig(**SIZES, **HEADS), vision_config=_vision())
    ),
    "qwen2_vl": lambda: tf.Qwen2VLForConditionalGeneration(
        tf.Qwen2VLConfig(
            text_config={**SIZES, **HEADS, **TOKENS, "rope_parameters": MROPE},
            vision_config={"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 32},
        )
    ),
}
INITS = ("pissa", "olora", "mica", "gaussian", False, "orthogonal", "eva", "pissa_niter_4")
# What PEFT refuses beside target_parameters.
NOT_BARE = frozenset(
    {
        "use_dora",
        "init_lora_weights",
        "lora_bias",
        "kasa_config",
        "velora_config",
        "monteclora_config",
    }
)
EXPERTS = frozenset({"mixtral", "qwen3_moe", "gpt_oss"})  # stacks of experts, each its own layout


def _vision() -> Any:
    """Return the config of a tiny vision tower."""
    return tf.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )


@functools.cache
def narrowed(name: str) -> Any:
    """Return the model with values that bfloat16 holds exactly, in float32."""
    model = copy.deepcopy(model_of(name))
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    return model


TARGETS: Mapping[str, tuple[str, ...]] = {
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "t5": ("q", "k", "v", "o", "wi", "wo"),
    "bart": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "mixtral": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "qwen3_moe": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "gpt_oss": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "llava": ("q_proj", "v_proj", "o_proj", "up_proj", "fc1", "linear_1"),
    "qwen2_vl": ("q_proj", "v_proj", "o_proj", "up_proj", "qkv", "fc2"),
}
USUAL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
EMBEDDINGS = {"gpt2": "wte", "t5": "shared", "bart": "shared"}
NORMS = {"gpt2": "ln_1", "t5": "layer_norm", "bart": "self_attn_layer_norm"}


@functools.cache
def model_of(name: str) -> Any:
    """Build a tiny random model once; copy before changing it."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MODELS[name]()


def lora(rng: random.Random, name: str) -> dict[str, Any]:
    """Draw the options of a LoRA config."""
    targets = list(TARGETS.get(name, USUAL))
    chosen: Any = rng.sample(targets, rng.randint(1, len(targets)))
    values: dict[str, Any] = {
        "r": rng.choice([1, 2, 4]),
        "lora_alpha": rng.choice([1, 4, 16, 0.5]),
        "use_rslora": rng.random() < 0.3,
        "target_modules": chosen,
    }
    options: list[tuple[float, str, Any]] = [
        (0.2, "rank_pattern", {chosen[0]: 2}),
        (0.2, "alpha_pattern", {rf".*\.{chosen[-1]}": 3}),
        (0.2, "use_dora", True),
        (0.15, "init_lora_weights", rng.choice(INITS)),
        (0.15, "bias", rng.choice(["all", "lora_only"])),
        (0.15, "modules_to_save", [rng.choice([EMBEDDINGS.get(name, "embed_tokens"), "lm_head"])]),
        (0.1, "modules_to_save", [NORMS.get(name, "input_layernorm")]),
        (0.15, "trainable_token_indices", sorted(rng.sample(range(64), 3))),
        (0.1, "lora_bias", True),
        (0.1, "exclude_modules", [targets[0]]),
        (0.1, "layers_to_transform", [0]),
        (0.05, "kasa_config", peft.tuners.lora.config.KasaConfig()),
        (0.05, "velora_config", peft.tuners.lora.config.VeloraConfig(4)),
        (0.05, "monteclora_config", peft.tuners.lora.config.MontecloraConfig()),
    ]
    for share, key, value in options:
        if rng.random() < share:
            values[key] = value
    if name in EXPERTS and rng.random() < 0.7:
        values = {key: value for key, value in values.items() if key not in NOT_BARE}
        values |= bare(rng, name, chosen)
    if rng.random() < 0.15:
        values["target_modules"] = [*chosen, EMBEDDINGS.get(name, "embed_tokens")]
    if rng.random() < 0.1:
        values["target_modules"] = [*chosen, "lm_head"]
    if rng.random() < 0.1:
        values["target_modules"] = "all-linear"
    return values


def older(rng: random.Random) -> Any:
    """Draw a config of plain LoRA, as older files have it."""
    rslora = rng.random() < 0.3
    targets = rng.sample(USUAL, 3)
    return peft.LoraConfig(r=2, lora_alpha=3, use_rslora=rslora, target_modules=targets)


def bare(rng: random.Random, name: str, chosen: list[str]) -> dict[str, Any]:
    """Draw updates of experts: as parameters, or, as before transformers 5, as layers."""
    old = {"mixtral": ["w1", "w2", "w3"], "qwen3_moe": ["gate_proj", "up_proj", "down_proj"]}
    if name in old and rng.random() < 0.3:
        return {"target_modules": rng.choice([[*chosen, *old[name]], [*chosen, old[name][1]]])}
    targets = rng.choice([["gate_up_proj"], ["down_proj"], ["gate_up_proj", "down_proj"]])
    targets = [f"experts.{target}" for target in targets]
    if name != "gpt_oss" and rng.random() < 0.3:
        targets.append("gate.weight")
    return {"target_parameters": targets, "target_modules": rng.choice([[], chosen, chosen])}


def other(rng: random.Random, name: str, kind: str) -> dict[str, Any]:
    """Draw the options of another kind's config."""
    targets = list(TARGETS.get(name, USUAL))
    values: dict[str, Any] = {"target_modules": rng.sample(targets, rng.randint(1, 3))}
    rank = rng.choice([2, 4])
    match kind:
        case "ADALORA":
            values |= {"init_r": rank, "total_step": 10, "lora_alpha": 3}
        case "BOFT":
            values |= {"boft_block_size": 4, "boft_n_butterfly_factor": rng.choice([1, 2])}
        case "C3A":
            values |= {"block_size": rng.choice([4, 8])}
        case "DEFT":
            values |= {"r": rank, "decomposition_method": rng.choice(["relu", "qr"])}
        case "FOURIERFT" | "WAVEFT":
            values |= {"n_frequency": rng.choice([10, 20]), "scaling": rng.choice([5.0, 25.0])}
        case "GRALORA":
            values |= {"r": 4, "hybrid_r": rng.choice([0, 2]), "gralora_k": 2}
        case "HRA":
            values |= {"r": rank, "apply_GS": rng.random() < 0.5}
        case "IA3":
            values["feedforward_modules"] = values["target_modules"][: rng.randint(0, 1)]
        case "LN_TUNING":
            values["target_modules"] = [NORMS.get(name, "input_layernorm")]
        case "LOHA":
            values |= {"r": rank, "alpha": 3, "rank_pattern": {values["target_modules"][0]: 1}}
        case "LOKR":
            values |= {"r": rank, "decompose_both": rng.random() < 0.5, "decompose_factor": 4}
        case "MISS":
            values |= {"r": rank, "init_weights": rng.choice([True, "bat", "mini"]), "mini_r": 2}
        case "OFT":
            values |= {"oft_block_size": 4, "coft": rng.random() < 0.5}
            values["block_share"] = rng.random() < 0.5
        case "OSF":
            values |= {"effective_rank": rng.choice([4, None])}
        case "RANDLORA" | "VERA":
            values |= {"r": rank, "save_projection": rng.random() < 0.5}
        case "ROAD":
            values |= {"group_size": 4, "variant": rng.choice(["road_1", "road_2", "road_4"])}
        case "SUPERTUNING":
            values |= {"sparsity": 0.9, "r": rng.choice([None, 2])}
        case "TRAINABLE_TOKENS":
            values = {"token_indices": sorted(rng.sample(range(64), 3))}
        case "UNILORA":
            values |= {"r": rank, "save_indices": rng.random() < 0.7}
        case "VBLORA":
            values |= {"r": rank, "num_vectors": 8, "vector_length": 8, "topk": 2}
            values["save_only_topk_weights"] = False
        case "BEFT":
            pass
        case "FROD":
            values["progressbar"] = False
        case "TINYLORA":
            values |= {"u": 8, "weight_tying": rng.choice([0.0, 0.5, 1.0])}
        case _:
            values["r"] = rank
    if kind not in ("BEFT", "LN_TUNING", "TRAINABLE_TOKENS") and rng.random() < 0.1:
        values["modules_to_save"] = ["lm_head"]
    return values


KINDS = (
    "LORA",
    "ADALORA",
    "BEFT",
    "BOFT",
    "C3A",
    "DEFT",
    "DELORA",
    "FOURIERFT",
    "FROD",
    "GLORA",
    "GRALORA",
    "HIRA",
    "HRA",
    "IA3",
    "LN_TUNING",
    "LOHA",
    "LOKR",
    "MISS",
    "OFT",
    "OSF",
    "PEANUT",
    "PSOFT",
    "PVERA",
    "RANDLORA",
    "ROAD",
    "SHIRA",
    "SUPERTUNING",
    "TINYLORA",
    "TRAINABLE_TOKENS",
    "UNILORA",
    "VBLORA",
    "VERA",
    "WAVEFT",
)


def config_of(rng: random.Random, name: str, kind: str) -> Any:
    """Draw a config; PEFT may refuse it."""
    values = lora(rng, name) if kind == "LORA" else other(rng, name, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[kind](**values)
