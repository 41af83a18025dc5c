"""Every key of adapter_config.json that PEFT 0.21.2 knows for LoRA: its owner and its values.

``valid`` is the type and range that PEFT can use, ``plain`` the values under which the update is
scaling * B @ A of the listed modules and nothing else. Sources: peft/config.py and
peft/tuners/lora/config.py; what each initialisation does at loading: tuners/lora/layer.py.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Check: TypeAlias = Callable[[object], bool]
# How what is not plain LoRA is scored: "parts" by what the file holds, "shell" by PEFT's own merge,
# "routed" like plain LoRA, but a finding says that it depends on the input; "" not at all.
Road: TypeAlias = Literal["", "parts", "shell", "routed"]

MAX_RANK = 65536  # above the width of any layer
MAX_ALPHA = 1e9  # beyond, no product of two finite floats makes an honest update


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What is known about one config key."""

    owner: str
    valid: Check
    expected: str  # ``valid`` in words
    plain: Check = lambda _: True
    variant: str = ""  # what a value that is not plain means
    spoils: bool = False  # then the update of the listed modules is another than scaling * B @ A
    road: Callable[[object], Road] = lambda _: ""  # how a value that is not plain is scored


def number(value: object) -> bool:
    """Tell whether the value is a finite number of sane size; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -MAX_ALPHA <= value <= MAX_ALPHA


def rank(value: object) -> bool:
    """Tell whether the value can be a rank."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_RANK


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _text(value: object) -> bool:
    return isinstance(value, str)


def _index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < MAX_RANK


def _names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


def _or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _either(first: Check, second: Check) -> Check:
    return lambda value: first(value) or second(value)


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _map_to(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _anything(_: object) -> bool:
    return True


def _absent(value: object) -> bool:
    return value is None


def _off(value: object) -> bool:
    return not value


def _is(*allowed: object) -> Check:
    # 1 == True in Python, but not in a config.
    return lambda value: any(type(value) is type(each) and value == each for each in allowed)


def _imports_nothing_strange(value: object) -> bool:
    """Tell whether an auto_mapping names transformers only; PEFT imports what it names.

    PEFT reads base_model_class and parent_library (auto.py). Unsloth adds "unsloth_fixed": true.
    """
    if value is None:
        return True
    known = {"base_model_class", "parent_library", "unsloth_fixed"}
    if not isinstance(value, dict) or not value.keys() <= known:
        return False
    library = value.get("parent_library")
    parts = library.split(".") if isinstance(library, str) else []
    return parts[:1] == ["transformers"] and all(part.isidentifier() for part in parts)


def _claims(owner: str = "claim") -> Key:
    return Key(owner=owner, valid=_or_null(_text), expected="a string or null")


def _variant(  # noqa: PLR0913
    words: str,
    *,
    spoils: bool,
    valid: Check = _anything,
    plain: Check = _absent,
    road: Road = "",
) -> Key:
    return Key(
        owner="variant",
        valid=valid,
        expected="a value of the type that PEFT writes",
        plain=plain,
        variant=words,
        spoils=spoils,
        road=lambda _: road,
    )


def _switch(words: str, *, spoils: bool, road: Road = "") -> Key:
    return _variant(words, spoils=spoils, valid=_flag, plain=_off, road=road)


def _settings_object(**checks: Check) -> Check:
    """Tell whether the value is null, or an object with exactly these keys at most."""

    def check(value: object) -> bool:
        if value is None:
            return True
        return isinstance(value, dict) and all(
            name in checks and checks[name](each) for name, each in value.items()
        )

    return check


def _tokens(value: object) -> bool:
    """Tell whether the value is a list of token indices, or one list per module."""
    lists = list(value.values()) if isinstance(value, dict) else [value]
    return all(
        isinstance(each, list) and all(type(i) is int and 0 <= i < 2**31 for i in each)
        for each in lists
    )


def _initial(words: str = "settings of an initialisation, used before training only") -> Key:
    return Key(owner=words, valid=_or_null(lambda v: isinstance(v, dict)), expected="an object")


NAMES = Key(owner="targets", valid=_or_null(_either(_text, _names)), expected="a string or a list")
# Loading sets A and B to something and then overwrites both from the file; the base weight stays.
# eva: zeros B (layer.py). False and null: leave what torch made. orthogonal and mica set A and B
# only; lora_ga falls back to the default where no gradients are at hand. All tensors must be there,
# which adapter/lora.py holds. Every other value changes the base weight.
INERT_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica", "lora_ga")
# These subtract their own first factors from the base weight when the adapter is loaded: dW is
# B @ A - B0 @ A0, and PEFT finds B0 and A0 again from the base weight, without chance.
RESIDUAL_INITS = ("pissa", "olora")

KEYS: Mapping[str, Key] = {
    "peft_type": Key(owner="kind", valid=_text, expected="a string"),
    "task_type": Key(
        owner="claim",
        valid=_or_null(_text),
        expected="a string or null",
        plain=_is(None, "CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION", "QUESTION_ANS"),
        variant="a task that adds a head of its own",
    ),
    "auto_mapping": Key(
        owner="claim",
        valid=_imports_nothing_strange,
        expected="null, or a class of transformers",
    ),
    "peft_version": _claims("provenance"),
    "base_model_name_or_path": _claims(),
    "revision": _claims(),
    "inference_mode": Key(owner="training only", valid=_flag, expected="true or false"),
    "r": Key(owner="scale", valid=rank, expected=f"an integer from 1 to {MAX_RANK}"),
    "lora_alpha": Key(owner="scale", valid=number, expected="a finite number"),
    "use_rslora": Key(owner="scale", valid=_flag, expected="true or false"),
    "rank_pattern": Key(owner="scale", valid=_map_to(rank), expected="an object of ranks"),
    "alpha_pattern": Key(owner="scale", valid=_map_to(number), expected="an object of numbers"),
    "target_modules": NAMES,
    "exclude_modules": NAMES,
    "layers_to_transform": Key(
        owner="targets",
        valid=_or_null(_either(_index, _list_of(_index))),
        expected="an integer, a list of them, or null",
    ),
    "layers_pattern": Key(
        owner="targets",
        valid=_or_null(_either(_text, _list_of(_text))),
        expected="a string, a list of them, or null",
    ),
    "lora_dropout": Key(
        owner="training only",
        valid=lambda v: number(v) and isinstance(v, int | float) and 0 <= v <= 1,
        expected="a number from 0 to 1",
    ),
    "fan_in_fan_out": Key(owner="layout", valid=_flag, expected="true or false"),
    "bias": Key(
        owner="biases",
        valid=_is("none", "all", "lora_only"),
        expected='"none", "all" or "lora_only"',
        plain=_is("none"),
        variant="trained biases",
        road=lambda _: "parts",
    ),
    "init_lora_weights": Key(
        owner="initialisation",
        valid=_or_null(_either(_flag, _text)),
        expected="true, false or a string",
        plain=_is(*INERT_INITS),
        variant="an initialisation that changes the base weight or the meaning of the factors",
        spoils=True,
        road=lambda value: "shell" if value in RESIDUAL_INITS else "",
    ),
    "modules_to_save": _variant(
        "whole modules saved beside the factors",
        spoils=False,
        valid=_or_null(_names),
        plain=_off,
        road="parts",
    ),
    "trainable_token_indices": _variant(
        "trained tokens", spoils=False, valid=_or_null(_tokens), road="parts"
    ),
    "target_parameters": _variant(
        "updates of bare parameters",
        spoils=False,
        valid=_or_null(_names),
        plain=_off,
        road="parts",
    ),
    "lora_bias": _switch("a bias in B", spoils=False, road="parts"),
    "ensure_weight_tying": _switch("tied updates", spoils=False),
    "use_dora": _switch("DoRA", spoils=True, road="shell"),
    "use_qalora": _switch("QALoRA", spoils=True, road="shell"),
    "qalora_group_size": Key(owner="QALoRA only", valid=rank, expected="a positive integer"),
    "velora_config": _variant(
        "VeLoRA",
        spoils=True,
        valid=_settings_object(
            num_groups=rank,
            scale=number,
            init_type=_is("batch_average", "batch_average_once", "random"),
        ),
        road="shell",
    ),
    "kasa_config": _variant(
        "KaSA", spoils=True, valid=_settings_object(beta=number, gamma=number), road="shell"
    ),
    "monteclora_config": _variant(
        "MonteCLoRA",
        spoils=True,
        valid=_settings_object(
            num_samples=rank,
            use_entropy=_flag,
            dirichlet_prior=number,
            sample_scaler=number,
            kl_loss_weight=number,
            buffer_size=rank,
        ),
        road="shell",
    ),
    "use_bdlora": _variant("BD-LoRA", spoils=True),
    "arrow_config": _variant("Arrow routing", spoils=False, road="routed"),
    "alora_invocation_tokens": _variant(
        "aLoRA",
        spoils=False,
        valid=_or_null(_list_of(lambda v: type(v) is int)),
        road="routed",
    ),
    "layer_replication": _variant("replicated layers", spoils=True),
    "megatron_config": _variant("Megatron layers", spoils=True),
    "megatron_core": Key(
        owner="Megatron only", valid=_is(None, "megatron.core"), expected='"megatron.core"'
    ),
    "loftq_config": _initial(),
    "eva_config": _initial(),
    "corda_config": _initial(),
    "lora_ga_config": _initial(),
    # PEFT drops this key while it reads the file (config.py, from_json_file).
    "runtime_config": _initial("ignored by PEFT"),
    # Keys of PEFT 0.1 and 0.2, which 0.21.2 drops; these values asked for nothing then either.
    "enable_lora": Key(owner="obsolete", valid=_absent, expected="null"),
    "merge_weights": Key(owner="obsolete", valid=_is(None, False), expected="false"),
}
IMPORTING = frozenset({"auto_mapping", "megatron_core"})  # PEFT imports what these name

KINDS: Mapping[str, str] = {
    "ADALORA": "AdaLoRA",
    "ADAMSS": "AdaMSS",
    "ADAPTION_PROMPT": "LLaMA-Adapter",
    "BEFT": "BEFT",
    "BOFT": "BOFT",
    "C3A": "C3A",
    "CARTRIDGE": "Cartridge",
    "CPT": "CPT",
    "DEFT": "DEFT",
    "DELORA": "DeLoRA",
    "FOURIERFT": "FourierFT",
    "FROD": "FRoD",
    "GLORA": "GLoRA",
    "GRALORA": "GraLoRA",
    "HIRA": "HiRA",
    "HRA": "HRA",
    "IA3": "IA3",
    "LILY": "Lily",
    "LN_TUNING": "LayerNorm tuning",
    "LOHA": "LoHa",
    "LOKR": "LoKr",
    "MISS": "MiSS",
    "MULTITASK_PROMPT_TUNING": "multitask prompt tuning",
    "OFT": "OFT",
    "OSF": "OSF",
    "PEANUT": "PEANUT",
    "POLY": "Poly",
    "PREFIX_TUNING": "prefix tuning",
    "PROMPT_TUNING": "prompt tuning",
    "PSOFT": "PSOFT",
    "PVERA": "PVeRA",
    "P_TUNING": "P-tuning",
    "RANDLORA": "RandLoRA",
    "ROAD": "RoAd",
    "SHADOW": "Shadow",
    "SHIRA": "SHiRA",
    "SUPERTUNING": "Supertuning",
    "TINYLORA": "TinyLoRA",
    "TRAINABLE_TOKENS": "trainable tokens",
    "UNILORA": "UniLoRA",
    "VBLORA": "VB-LoRA",
    "VERA": "VeRA",
    "WAVEFT": "WaveFT",
    "XLORA": "X-LoRA",
}


def scale(alpha: float, r: int, *, rslora: bool) -> float:
    """Return the factor that PEFT multiplies B @ A with."""
    return alpha / math.sqrt(r) if rslora else alpha / r
