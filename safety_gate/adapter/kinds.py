"""The kinds of PEFT 0.21.2 beside LoRA: which keys each config may have, and how dW is found.

Three roads. "each": PEFT merges one module at a time in a shell (safety_gate/delta), "all": it
needs all targets at once, since they share state, "replace": the file holds new values of
parameters. A kind that is in keys.KINDS and not here has no road, and is refused by name. ROUTED
and PROMPTS say why for those that no single dW describes.

Only keys that change the merged weight reach PEFT, and only with values that are checked here. What
PEFT would take as a regular expression never does: modules are passed by name, and patterns as the
one value that they give. Sources: peft/tuners/*/config.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from safety_gate.adapter.keys import KEYS, NAMES, Check, number, rank
from safety_gate.adapter.kind import (
    INIT,
    LORA_ONLY,
    Kind,
    any_count,
    count,
    flag,
    kept_ranks,
    one_of,
    or_null,
    seed,
    share,
    tokens,
)

DROPOUTS = {"rank_dropout": share, "module_dropout": share}


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
    passed: Mapping[str, Check],
    *shared: str,
    needs_weights: bool = False,
    dropout: str,
    ordered: Callable[[Mapping[str, object]], bool] = lambda _: False,
) -> Kind:
    return Kind(
        road="all",
        passed={**INIT, **passed},
        patterns={},
        ignored={dropout: share},
        shared=shared,
        needs_weights=needs_weights,
        whole_model=True,
        ordered=ordered,
    )


R = {"r": rank}
VERA = {**R, "projection_prng_key": seed, "save_projection": flag, "d_initial": number}
CAYLEY = {"use_cayley_neumann": flag, "num_cayley_neumann_terms": count}
LYCORIS = {**R, "alpha": number, "use_effective_conv2d": flag}
LYCORIS_PATTERNS = {"rank_pattern": "r", "alpha_pattern": "alpha"}

OTHER_KINDS: Mapping[str, Kind] = {
    "ADALORA": Kind(
        road="each",
        passed={
            "lora_alpha": number,
            "init_r": rank,
            "target_r": rank,
            "rank_pattern": kept_ranks,
            "use_rslora": flag,
        },
        patterns={},
        ignored={
            **R,
            "lora_dropout": share,
            "alpha_pattern": one_of(None, {}),
            **dict.fromkeys(("tinit", "tfinal", "deltaT"), count),
            "total_step": or_null(count),
            **dict.fromkeys(("beta1", "beta2", "orth_reg_weight"), number),
            "qalora_group_size": rank,
            "loftq_config": one_of(None, {}),
            **dict.fromkeys(("eva_config", "corda_config", "lora_ga_config"), one_of(None)),
            "runtime_config": lambda _: True,
        },
        whole_model=True,
        inherited={name: replace(KEYS[name], road=lambda _: "") for name in LORA_ONLY},
    ),
    "BEFT": _each(),
    "BOFT": _each(
        {
            "boft_block_size": count,
            "boft_block_num": count,
            "boft_n_butterfly_factor": count,
        },
        ignored={"boft_dropout": share},
    ),
    "C3A": _each(
        {
            "block_size": rank,
            "init_weights": or_null(
                one_of(True, False, "gaussian", "kaiming_uniform", "xavier_uniform")
            ),
        },
        {"block_size_pattern": "block_size"},
    ),
    "DEFT": _each(
        {
            **R,
            "decomposition_method": one_of("relu", "qr"),
            "init_scale": number,
            "alpha": or_null(number),
            "para": flag,
        },
        ignored={"deft_dropout": share},
    ),
    "DELORA": _each(
        {**R, "delora_lambda": number},
        {"rank_pattern": "r", "lambda_pattern": "delora_lambda"},
        {"module_dropout": share},
    ),
    "FOURIERFT": _each(
        {"n_frequency": rank, "scaling": number, "random_loc_seed": seed},
        {"n_frequency_pattern": "n_frequency"},
    ),
    "FROD": _all(
        {
            "projection_prng_key": seed,
            "save_projection": flag,
            "sparse_rate": share,
            "regularization_alpha": number,
            "runtime_offload_base_weight": one_of(False),
            "progressbar": flag,
        },
        "frod_V",
        "frod_s_indices",
        "frod_s_size",
        needs_weights=True,
        dropout="frod_dropout",
        ordered=lambda _: True,
    ),
    "GLORA": _each(
        {
            **R,
            "config_A_B": one_of("lora", "vector", "constant", "none"),
            "config_C": one_of("lora", "vector", "none"),
            "config_D_E": one_of("vector", "constant", "none"),
        }
    ),
    "GRALORA": _each(
        {**R, "hybrid_r": count, "alpha": number, "gralora_k": rank},
        ignored={"gralora_dropout": share},
    ),
    "HIRA": _each(
        {**R, "init_weights": or_null(one_of(True, False, "gaussian"))},
        {"rank_pattern": "r"},
        {"hira_dropout": share},
    ),
    "HRA": _each({**R, "apply_GS": flag}),
    "IA3": Kind(
        road="each",
        passed={"init_ia3_weights": flag, "feedforward_modules": NAMES.valid},
        patterns={},
        ignored={},
    ),
    "LN_TUNING": Kind(road="replace", passed={}, patterns={}, ignored={}),
    "LOHA": _each(LYCORIS, LYCORIS_PATTERNS, DROPOUTS),
    "LOKR": _each(
        {
            **LYCORIS,
            "decompose_both": flag,
            "decompose_factor": any_count,
            "init_weights": or_null(one_of(True, False, "lycoris")),
        },
        LYCORIS_PATTERNS,
        {**DROPOUTS, "rank_dropout_scale": flag},
    ),
    "MISS": _each(
        {**R, "mini_r": rank, "init_weights": or_null(one_of(True, False, "bat", "mini"))},
        ignored={"miss_dropout": share},
    ),
    "OFT": _each(
        {
            "r": count,
            "oft_block_size": count,
            "coft": flag,
            "eps": number,
            "block_share": flag,
            **CAYLEY,
        },
        ignored={"module_dropout": share},
    ),
    "OSF": _each(
        {
            "effective_rank": or_null(number),
            "rank_pattern": one_of(None, {}),
            "target_svd_config": one_of(None, {}),
        }
    ),
    "PEANUT": _each(
        {
            **R,
            "depth": count,
            "act_fn": one_of("relu", "gelu", "silu", "tanh", "sigmoid", "linear"),
            "scaling": number,
        }
    ),
    "PSOFT": _each(
        {
            **R,
            "psoft_alpha": number,
            "ab_svd_init": one_of("psoft_init", "pissa_init"),
            "psoft_svd": one_of("full"),  # "lowrank" draws at random, each time it is loaded
            "psoft_svd_lowrank_niter": count,
            "random_seed": seed,
            "psoft_orth": flag,
            "psoft_mag_b": flag,
            "psoft_mag_a": flag,
            **CAYLEY,
            "cayley_neumann_eps": or_null(number),
        },
        ignored={"psoft_dropout": share},
    ),
    "PVERA": _all(
        {**VERA, "sample_at_inference": one_of(False), "generator_seed": seed},
        "pvera_A",
        "pvera_B",
        dropout="pvera_dropout",
    ),
    "RANDLORA": _all(
        {
            **R,
            "projection_prng_key": seed,
            "save_projection": flag,
            "sparse": flag,
            "very_sparse": flag,
            "randlora_alpha": number,
        },
        "randlora_A",
        "randlora_B",
        dropout="randlora_dropout",
    ),
    "ROAD": _each({"variant": one_of("road_1", "road_2", "road_4"), "group_size": rank}),
    "SHIRA": _each({**R, "mask_type": one_of("random"), "random_seed": seed}),
    "SUPERTUNING": _each(
        {
            "sparsity": share,
            "select_top": flag,
            "r": or_null(rank),
            "lora_alpha": or_null(number),
            "save_precomputed_indices": flag,
        },
        ignored={"lora_dropout": share},
    ),
    "TINYLORA": _all(
        {
            **R,
            "u": rank,
            "weight_tying": share,
            "projection_seed": seed,
            "save_projection": flag,
            "init_v_bound": number,
            "init_weights": one_of(True, False, "uniform"),
        },
        "tinylora_v",
        needs_weights=True,
        dropout="tinylora_dropout",
        ordered=lambda _: True,
    ),
    "TRAINABLE_TOKENS": Kind(
        road="replace", passed={"token_indices": tokens}, patterns={}, ignored=INIT
    ),
    "UNILORA": _all(
        {
            **R,
            "proj_seed": seed,
            "theta_d_length": rank,
            "init_theta_d_bound": number,
            "save_indices": flag,
        },
        "unilora_theta_d",
        dropout="unilora_dropout",
        ordered=lambda values: values.get("save_indices") is not True,
    ),
    "VBLORA": _all(
        {
            **R,
            "num_vectors": rank,
            "vector_length": rank,
            "topk": rank,
            "save_only_topk_weights": flag,
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
            "wavelet_family": one_of("db1", "sym2", "coif1", "haar", "db2"),
            "use_idwt": flag,
            "random_loc_seed": seed,
            "proportional_parameters": one_of(False),
        },
        {"n_frequency_pattern": "n_frequency"},
    ),
}
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
