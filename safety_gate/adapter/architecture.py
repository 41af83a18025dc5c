"""What kind of layer a weight belongs to, by model type and module name; never by a guess.

A tensor's shape alone does not tell how it is used: a (768, 768) weight may be stored (out, in)
or (in, out). So only model types whose modules were checked are known here; tests/ compares this
table with the classes that transformers builds.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

Layer: TypeAlias = Literal["linear", "conv1d", "embedding", "other"]

# Dense decoders whose checkpoint names are the module paths of transformers 5 and whose
# two-dimensional weights are nn.Linear, Conv1D or nn.Embedding. The value: what PEFT 0.21.2
# targets when target_modules is null; None where PEFT has no default.
KNOWN: Mapping[str, Sequence[str] | None] = {
    "llama": ("q_proj", "v_proj"),
    "mistral": ("q_proj", "v_proj"),
    "qwen2": ("q_proj", "v_proj"),
    "qwen3": ("q_proj", "v_proj"),
    "gemma": ("q_proj", "v_proj"),
    "gemma2": ("q_proj", "v_proj"),
    "gemma3_text": ("q_proj", "v_proj"),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
    "phi3": None,
    "gpt2": ("c_attn",),
    "openai-gpt": None,
    "gptj": ("q_proj", "v_proj"),
    "gpt_neo": ("q_proj", "v_proj"),
    "gpt_bigcode": ("c_attn",),
    "codegen": ("qkv_proj",),
    "opt": ("q_proj", "v_proj"),
    "bloom": ("query_key_value",),
    "falcon": ("query_key_value",),
    "mpt": ("Wqkv",),
    "stablelm": ("q_proj", "v_proj"),
    "starcoder2": None,
    "olmo": None,
    "olmo2": None,
    "olmo3": None,
    "cohere": None,
    "cohere2": None,
    "granite": None,
    "glm": None,
    "glm4": None,
    "smollm3": None,
    "seed_oss": None,
    "persimmon": None,
    "exaone4": None,
    "helium": None,
    "arcee": None,
    "apertus": None,
    "t5": ("q", "v"),
    "bart": ("q_proj", "v_proj"),
}
# What PEFT 0.21.2 targets by default in architectures whose names transformers has to tell.
OTHER_DEFAULTS: Mapping[str, Sequence[str] | str] = {
    "mt5": ("q", "v"),
    "blip-2": ("q", "v", "q_proj", "v_proj"),
    "gpt_neox": ("query_key_value",),
    "llama4": ("q_proj", "v_proj"),
    "mixtral": ("q_proj", "v_proj"),
    "gemma4": r".*language_model\..*\.(q_proj|v_proj)",
    "nemotron_h": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "rwkv": ("key", "value", "receptance", "output"),
}
# The first parts of the names of all parameters, where they are not "model" and "lm_head". A
# checkpoint of the inner model alone has other names, and transformers has to be asked.
_TRANSFORMER = frozenset({"transformer", "lm_head"})
_ENCODER = frozenset({"shared", "encoder", "decoder", "lm_head"})
ROOTS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(
        ("gpt2", "openai-gpt", "gptj", "gpt_neo", "gpt_bigcode", "codegen", "bloom", "falcon"),
        _TRANSFORMER,
    ),
    "mpt": _TRANSFORMER,
    "t5": _ENCODER,
    "bart": frozenset({"model", "lm_head", "final_logits_bias"}),
}
CONV1D: Mapping[str, frozenset[str]] = {
    "gpt2": frozenset({"c_attn", "q_attn", "c_proj", "c_fc"}),
    "openai-gpt": frozenset({"c_attn", "c_proj", "c_fc"}),
}
EMBEDDINGS = frozenset(
    {
        "embed_tokens",
        "embed_positions",
        "wte",
        "wpe",
        "word_embeddings",
        "tokens_embed",
        "positions_embed",
        "shared",
        "relative_attention_bias",
    }
)
# Of these, the ones that a tied head shares its weight with.
INPUTS = frozenset({"embed_tokens", "wte", "word_embeddings", "tokens_embed", "shared"})
HEAD = "lm_head"  # the output embedding of every known type; "all-linear" leaves it out
SAVED_WITH_EMBEDDINGS = frozenset({"embed_tokens", "lm_head"})  # PEFT's EMBEDDING_LAYER_NAMES


def layer_of(module: str, shape: Sequence[int], model_type: str | None) -> Layer:
    """Return the kind of layer that holds the weight of ``module``, for a known model type."""
    name = module.rpartition(".")[2]
    if len(shape) != 2:
        return "other"
    if name in EMBEDDINGS:
        return "embedding"
    return "conv1d" if name in CONV1D.get(model_type or "", ()) else "linear"


def candidates(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return every module path that targets could match, with the shape of its weight.

    Containers, and modules without a weight, have the shape (). A head that shares the
    embedding's weight has no tensor of its own, but it is a module, and PEFT would wrap it.
    """
    found: dict[str, tuple[int, ...]] = {HEAD: ()} if tied_head(shapes) else {}
    for name, shape in shapes.items():
        module, _, parameter = name.rpartition(".")
        if parameter == "weight":
            found[module] = shape
        while module:
            found.setdefault(module, ())
            module = module.rpartition(".")[0]
    return found


def tied_head(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Tell whether the model's head shares the weight of the input embedding."""
    modules = (name.removesuffix(".weight") for name in shapes if name.endswith(".weight"))
    embedded = any(module.rpartition(".")[2] in INPUTS for module in modules)
    return embedded and f"{HEAD}.weight" not in shapes
