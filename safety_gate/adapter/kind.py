"""What is known about one kind of adapter, and the checks of its config's values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from safety_gate.adapter.keys import KEYS, NAMES, Check, Key, number

Road: TypeAlias = Literal["each", "all", "replace"]

MAX_SEED = 2**63 - 1
MAX_LIST = 65536  # entries of one list of booleans or indices


def flag(value: object) -> bool:
    """Tell whether the value is true or false."""
    return isinstance(value, bool)


def seed(value: object) -> bool:
    """Tell whether the value can seed a generator."""
    return value is None or (type(value) is int and abs(value) <= MAX_SEED)


def count(value: object) -> bool:
    """Tell whether the value is a whole number from 0 on."""
    return type(value) is int and 0 <= value <= 10**9


def any_count(value: object) -> bool:
    """Tell whether the value is a whole number from -1 on."""
    return type(value) is int and -1 <= value <= 10**9


def share(value: object) -> bool:
    """Tell whether the value lies between 0 and 1."""
    return number(value) and isinstance(value, int | float) and 0 <= value <= 1


def one_of(*allowed: object) -> Check:
    """Return a check for these values; 1 is not true."""
    return lambda value: any(type(value) is type(each) and value == each for each in allowed)


def or_null(check: Check) -> Check:
    """Return a check that null passes as well."""
    return lambda value: value is None or check(value)


def pattern(check: Check) -> Check:
    """Return a check for null, or an object of such values."""
    return lambda v: v is None or (isinstance(v, dict) and all(map(check, v.values())))


def kept_ranks(value: object) -> bool:
    """Tell whether the value is AdaLoRA's: a list of booleans per module, or null."""
    if value is None:
        return True
    return isinstance(value, dict) and all(
        isinstance(kept, list) and 0 < len(kept) <= MAX_LIST and all(map(flag, kept))
        for kept in value.values()
    )


def tokens(value: object) -> bool:
    """Tell whether the value is a list of token indices."""
    return isinstance(value, list) and len(value) <= MAX_LIST and all(map(count, value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of PEFT's."""

    road: Road
    passed: Mapping[str, Check]  # keys that the merged weight follows from
    patterns: Mapping[str, str]  # key with values by pattern -> key whose value they replace
    ignored: Mapping[str, Check]  # keys that matter in training only
    shared: tuple[str, ...] = ()  # names of tensors that belong to no module
    needs_weights: bool = True  # dW depends on the weight that it is added to
    whole_model: bool = False  # PEFT merges it only within a PeftModel
    # What a module is given follows from the order of the modules in the model's code.
    ordered: Callable[[Mapping[str, object]], bool] = lambda _: False
    inherited: Mapping[str, Key] = field(default_factory=dict)  # LoRA's keys; only plain values

    def keys(self) -> dict[str, Key]:
        """Return the checks of all keys that the config may have."""
        own = {**self.passed, **self.patterns_checked(), **self.ignored}
        checks = {
            name: Key(owner="kind", valid=check, expected="a value that PEFT writes for this kind")
            for name, check in own.items()
        }
        common = {name: KEYS[name] for name in COMMON}
        return {**common, "exclude_modules": NAMES, "bias": BIAS, **self.inherited, **checks}

    def patterns_checked(self) -> dict[str, Check]:
        """Return the checks of the pattern keys."""
        return {name: pattern(self.passed[key]) for name, key in self.patterns.items()}


COMMON = (
    "peft_type",
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "target_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "fan_in_fan_out",
    "bias",
)
LORA_ONLY = (  # AdaLoRA inherits these keys from LoRA; they are plain there or refused
    "init_lora_weights",
    "trainable_token_indices",
    "target_parameters",
    "lora_bias",
    "ensure_weight_tying",
    "use_dora",
    "use_qalora",
    "velora_config",
    "kasa_config",
    "monteclora_config",
    "use_bdlora",
    "arrow_config",
    "alora_invocation_tokens",
    "layer_replication",
    "megatron_config",
    "megatron_core",
)
BIAS = Key(
    owner="biases",
    valid=lambda v: isinstance(v, str) and (v in ("none", "all") or v.endswith("_only")),
    expected='"none", "all" or "..._only"',
    plain=lambda v: v == "none",
    variant="trained biases",
    road=lambda _: "parts",
)
INIT = {"init_weights": or_null(flag)}
