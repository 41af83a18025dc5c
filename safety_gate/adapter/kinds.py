"""The kinds of PEFT 0.21.2 beside LoRA: which keys each config may have, and how dW is found.

Three roads. "each": PEFT merges one module at a time in a shell (safety_gate/delta), "all": it
needs all targets at once, since they share state, "replace": the file holds new values of
parameters. A kind that is in keys.KINDS and not here has no road, and is refused by name. ROUTED
and PROMPTS say why for those that no single dW describes.

Only keys that change the merged weight reach PEFT, and only with values that are checked here. What
PEFT would take as a regular expression never does: modules are passed by name, and patterns as the
one value that they give. Sources: peft/tuners/*/config.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from safety_gate.adapter.keys import KEYS, NAMES, Check, Key, number, rank

Road: TypeAlias = Literal["each", "all", "replace"]

MAX_SEED = 2**63 - 1
MAX_LIST = 65536  # entries of one list of booleans or indices


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _seed(value: object) -> bool:
    return value is None or (type(value) is int and abs(value) <= MAX_SEED)


def _count(value: object) -> bool:
    return type(value) is int and 0 <= value <= 10**9


def _any_count(value: object) -> bool:
    return type(value) is int and -1 <= value <= 10**9


def _share(value: object) -> bool:
    return number(value) and isinstance(value, int | float) and 0 <= value <= 1


def _one_of(*allowed: object) -> Check:
    return lambda value: any(type(value) is type(each) and value == each for each in allowed)


def _or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _pattern(check: Check) -> Check:
    return lambda v: v is None or (isinstance(v, dict) and all(map(check, v.values())))


def _kept_ranks(value: object) -> bool:
    """Tell whether the value is AdaLoRA's: a list of booleans per module, or null."""
    if value is None:
        return True
    return isinstance(value, dict) and all(
        isinstance(kept, list) and 0 < len(kept) <= MAX_LIST and all(map(_flag, kept))
        for kept in value.values()
    )


def _tokens(value: object) -> bool:
    return isinstance(value, list) and len(value) <= MAX_LIST and all(map(_count, value))


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
        return {name: _pattern(self.passed[key]) for name, key in self.patterns.items()}


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
INIT = {"init_weights": _or_null(_flag)}
DROPOUTS = {"rank_dropout": _share, "module_dropout": _share}


def _each(
    passed: Mapping[str, Check] | None = None,
    patterns: Mapping[str, str] | None = None,
    ignored: Mapping[str, Check] | None = None,
    **more: object,
) -> Kind:
    return Kind(
        road="each",
        passed={**INIT, **(passed or {})},
        patterns=patterns or {},
        ignored=ignored or {},
        **more,  # type: ignore[arg-type]
    )


def _all(
    passed: Mapping[str, Check], *shared: str, needs_weights: bool = False, dropout: str
) -> Kind:
    return Kind(
        road="all",
        passed={**INIT, **passed},
        patterns={},
        ignored={dropout: _share},
        shared=shared,
        needs_weights=needs_weights,
        whole_model=True,
    )


R = {"r": rank}
VERA = {**R, "projection_prng_key": _seed, "save_projection": _flag, "d_initial": number}
CAYLEY = {"use_cayley_neumann": _flag, "num_cayley_neumann_terms": _count}
LYCORIS = {**R, "alpha": number, "use_effective_conv2d": _flag}
LYCORIS_PATTERNS = {"rank_pattern": "r", "alpha_pattern": "alpha"}

OTHER_KINDS: Mapping[str, Kind] = {
    "ADALORA": Kind(
        road="each",
        passed={
            "lora_alpha": number,
            "init_r": rank,
            "target_r": rank,
            "rank_pattern": _kept_ranks,
            "use_rslora": _flag,
        },
        patterns={},
        ignored={
            **R,
            "lora_dropout": _share,
            "alpha_pattern": _one_of(None, {}),
            **dict.fromkeys(("tinit", "tfinal", "deltaT"), _count),
            "total_step": _or_null(_count),
            **dict.fromkeys(("beta1", "beta2", "orth_reg_weight"), number),
            "qalora_group_size": rank,
            "loftq_config": _one_of(None, {}),
            **dict.fromkeys(("eva_config", "corda_config", "lora_ga_config"), _one_of(None)),
            "runtime_config": lambda _: True,
        },
        whole_model=True,
        inherited={name: replace(KEYS[name], road=lambda _: "") for name in LORA_ONLY},
    ),
    "BEFT": _each(),
    "BOFT": _each(
        {
            "boft_block_size": _count,
            "boft_block_num": _count,
            "boft_n_butterfly_factor": _count,
        },
        ignored={"boft_dropout": _share},
    ),
    "C3A": _each(
        {
            "block_size": rank,
            "init_weights": _or_null(
                _one_of(True, False, "gaussian", "kaiming_uniform", "xavier_uniform")
            ),
        },
        {"block_size_pattern": "block_size"},
    ),
    "DEFT": _each(
        {
            **R,
            "decomposition_method": _one_of("relu", "qr"),
            "init_scale": number,
            "alpha": _or_null(number),
            "para": _flag,
        },
        ignored={"deft_dropout": _share},
    ),
    "DELORA": _each(
        {**R, "delora_lambda": number},
        {"rank_pattern": "r", "lambda_pattern": "delora_lambda"},
        {"module_dropout": _share},
    ),
    "FOURIERFT": _each(
        {"n_frequency": rank, "scaling": number, "random_loc_seed": _seed},
        {"n_frequency_pattern": "n_frequency"},
    ),
    "FROD": _all(
        {
            "projection_prng_key": _seed,
            "save_projection": _one_of(True),  # without it, all weights are decomposed jointly
            "sparse_rate": _share,
            "regularization_alpha": number,
            "runtime_offload_base_weight": _one_of(False),
            "progressbar": _flag,
        },
        "frod_V.",
        "frod_s_indices.",
        "frod_s_size.",
        needs_weights=True,
        dropout="frod_dropout",
    ),
    "GLORA": _each(
        {
            **R,
            "config_A_B": _one_of("lora", "vector", "constant", "none"),
            "config_C": _one_of("lora", "vector", "none"),
            "config_D_E": _one_of("vector", "constant", "none"),
        }
    ),
    "GRALORA": _each(
        {**R, "hybrid_r": _count, "alpha": number, "gralora_k": rank},
        ignored={"gralora_dropout": _share},
    ),
    "HIRA": _each(
        {**R, "init_weights": _or_null(_one_of(True, False, "gaussian"))},
        {"rank_pattern": "r"},
        {"hira_dropout": _share},
    ),
    "HRA": _each({**R, "apply_GS": _flag}),
    "IA3": Kind(
        road="each",
        passed={"init_ia3_weights": _flag, "feedforward_modules": NAMES.valid},
        patterns={},
        ignored={},
    ),
    "LN_TUNING": Kind(road="replace", passed={}, patterns={}, ignored={}),
    "LOHA": _each(LYCORIS, LYCORIS_PATTERNS, DROPOUTS),
    "LOKR": _each(
        {
            **LYCORIS,
            "decompose_both": _flag,
            "decompose_factor": _any_count,
            "init_weights": _or_null(_one_of(True, False, "lycoris")),
        },
        LYCORIS_PATTERNS,
        {**DROPOUTS, "rank_dropout_scale": _flag},
    ),
    "MISS": _each(
        {**R, "mini_r": rank, "init_weights": _or_null(_one_of(True, False, "bat", "mini"))},
        ignored={"miss_dropout": _share},
    ),
    "OFT": _each(
        {
            "r": _count,
            "oft_block_size": _count,
            "coft": _flag,
            "eps": number,
            "block_share": _flag,
            **CAYLEY,
        },
        ignored={"module_dropout": _share},
    ),
    "OSF": _each(
        {
            "effective_rank": _or_null(number),
            "rank_pattern": _one_of(None, {}),
            "target_svd_config": _one_of(None, {}),
        }
    ),
    "PEANUT": _each(
        {
            **R,
            "depth": _count,
            "act_fn": _one_of("relu", "gelu", "silu", "tanh", "sigmoid", "linear"),
            "scaling": number,
        }
    ),
    "PSOFT": _each(
        {
            **R,
            "psoft_alpha": number,
            "ab_svd_init": _one_of("psoft_init", "pissa_init"),
            "psoft_svd": _one_of("full"),  # "lowrank" draws at random, each time it is loaded
            "psoft_svd_lowrank_niter": _count,
            "random_seed": _seed,
            "psoft_orth": _flag,
            "psoft_mag_b": _flag,
            "psoft_mag_a": _flag,
            **CAYLEY,
            "cayley_neumann_eps": _or_null(number),
        },
        ignored={"psoft_dropout": _share},
    ),
    "PVERA": _all(
        {**VERA, "sample_at_inference": _one_of(False), "generator_seed": _seed},
        "pvera_A",
        "pvera_B",
        dropout="pvera_dropout",
    ),
    "RANDLORA": _all(
        {
            **R,
            "projection_prng_key": _seed,
            "save_projection": _flag,
            "sparse": _flag,
            "very_sparse": _flag,
            "randlora_alpha": number,
        },
        "randlora_A",
        "randlora_B",
        dropout="randlora_dropout",
    ),
    "ROAD": _each({"variant": _one_of("road_1", "road_2", "road_4"), "group_size": rank}),
    "SHIRA": _each({**R, "mask_type": _one_of("random"), "random_seed": _seed}),
    "SUPERTUNING": _each(
        {
            "sparsity": _share,
            "select_top": _flag,
            "r": _or_null(rank),
            "lora_alpha": _or_null(number),
            "save_precomputed_indices": _flag,
        },
        ignored={"lora_dropout": _share},
    ),
    "TRAINABLE_TOKENS": Kind(
        road="replace", passed={"token_indices": _tokens}, patterns={}, ignored=INIT
    ),
    "UNILORA": _all(
        {
            **R,
            "proj_seed": _seed,
            "theta_d_length": rank,
            "init_theta_d_bound": number,
            "save_indices": _one_of(True),  # else they follow from the order in the model's code
        },
        "unilora_theta_d",
        dropout="unilora_dropout",
    ),
    "VBLORA": _all(
        {
            **R,
            "num_vectors": rank,
            "vector_length": rank,
            "topk": rank,
            "save_only_topk_weights": _flag,
            "init_vector_bank_bound": number,
            "init_logits_std": number,
        },
        "vblora_vector_bank",
        dropout="vblora_dropout",
    ),
    "VERA": _all(VERA, "vera_A", "vera_B", dropout="vera_dropout"),
    "WAVEFT": _each(
        {
            "n_frequency": rank,
            "scaling": number,
            "wavelet_family": _one_of("db1", "sym2", "coif1", "haar", "db2"),
            "use_idwt": _flag,
            "random_loc_seed": _seed,
            "proportional_parameters": _one_of(False),
        },
        {"n_frequency_pattern": "n_frequency"},
    ),
}
# Which module uses which of the shared values follows from the order of the modules in the model's
# code, which no file tells.
ORDERED = frozenset({"TINYLORA"})
# No single dW: what is added depends on the input.
ROUTED = frozenset({"LILY", "POLY", "XLORA"})
# No dW: the model is given more to read, or another model runs beside it.
PROMPTS = frozenset(
    {
        "ADAPTION_PROMPT",
        "CARTRIDGE",
        "CPT",
        "MULTITASK_PROMPT_TUNING",
        "P_TUNING",
        "PREFIX_TUNING",
        "PROMPT_TUNING",
        "SHADOW",
    }
)
