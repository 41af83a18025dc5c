"""Hostile adapter_config.json files, and regular expressions that are meant to hang a reader."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safety_gate.records import Severity
from tests.hostile_adapters import Attack, write


def _config(name: str, rule: str, severity: Severity = "undecided", **values: Any) -> Attack:
    return Attack(f"config {name}", lambda folder: write(folder, config=values), rule, severity)


def _text(
    name: str, rule: str, edit: Callable[[str], str], severity: Severity = "undecided"
) -> Attack:
    def build(folder: Path) -> None:
        write(folder)
        path = folder / "adapter_config.json"
        before = path.read_text()
        after = edit(before)
        assert after != before
        path.write_text(after)

    return Attack(f"text {name}", build, rule, severity)


CONFIGS = [
    _text("twin key", "adapter-bad", lambda t: t.replace("{", '{"lora_alpha": 800,', 1)),
    _text(
        "twin key, escaped", "adapter-bad", lambda t: t.replace("{", '{"lora_\\u0061lpha": 8,', 1)
    ),
    _text("NaN", "adapter-bad", lambda t: t.replace('"lora_alpha": 8', '"lora_alpha": NaN')),
    _text(
        "Infinity", "adapter-bad", lambda t: t.replace('"lora_alpha": 8', '"lora_alpha": -Infinity')
    ),
    _text("1e400", "adapter-bad", lambda t: t.replace('"lora_alpha": 8', '"lora_alpha": 1e400')),
    _text("not JSON", "adapter-bad", lambda t: t[:-3]),
    _text("a list", "config-value", lambda t: f"[{t}]"),
    _config("string alpha", "config-value", lora_alpha="8"),
    _config("true as alpha", "config-value", lora_alpha=True),
    _config("list as alpha", "config-value", lora_alpha=[8]),
    _config("absurd alpha", "config-value", lora_alpha=10**30),
    _config("huge alpha", "scale-huge", lora_alpha=10**7),
    _config("zero alpha", "scale-zero", lora_alpha=0),
    _config("negative alpha", "scale-negative", "block", lora_alpha=-8),
    _config("negative alpha by pattern", "scale-negative", "block", alpha_pattern={"q_proj": -1}),
    _config("string rank", "config-value", r="4"),
    _config("float rank", "config-value", r=4.0),
    _config("zero rank", "config-value", r=0),
    _config("negative rank", "config-value", r=-4),
    _config("other rank", "rank-differs", r=8),
    _config("other rank by pattern", "rank-differs", rank_pattern={"q_proj": 8}),
    _config("rank pattern of strings", "config-value", rank_pattern={"q_proj": "4"}),
    _config("null rank pattern", "config-value", rank_pattern=None),
    _config("number as flag", "config-value", use_rslora=1),
    _config("string as flag", "config-value", use_rslora="false"),
    _config("unknown key", "config-key-unknown", lora_gamma=2),
    _config("unknown kind", "kind-unknown", peft_type="lora"),
    _config("no kind", "kind-unknown", peft_type=None),
    _config("other kind", "config-key-unknown", peft_type="LOHA"),
    _config("kind that is not scored", "kind-not-scored", peft_type="ADAMSS"),
    _config("kind without an update", "kind-without-update", peft_type="PREFIX_TUNING"),
    _config("kind that routes", "kind-routed", peft_type="XLORA"),
    *(
        _config(f"init {init}", "variant-not-scored", init_lora_weights=init)
        for init in ("pissa_niter_2", "pissa_niter_99999999", "OLoRA", "corda", "loftq", "x")
    ),
    _config("DoRA", "factor-missing", use_dora=True),
    _config("layer replication", "variant-not-scored", layer_replication=[[0, 2], [0, 2]]),
    _config("aLoRA", "variant-routed", "warn", alora_invocation_tokens=[1]),
    _config("aLoRA, empty", "variant-routed", "warn", alora_invocation_tokens=[]),
    _config("BD-LoRA", "variant-not-scored", use_bdlora={}),
    _config("Arrow", "variant-routed", arrow_config={}),
    _config("KaSA", "factor-missing", kasa_config={"beta": 1}),
    _config("MonteCLoRA", "factor-missing", monteclora_config={"num_samples": 8}),
    _config("strange settings", "config-value", kasa_config={"path": "/etc/passwd"}),
    _config("modules to save", "saved-without-tensors", modules_to_save=["lm_head"]),
    _config("trained tokens", "saved-without-tensors", trainable_token_indices=[5]),
    _config("target parameters", "parameter-not-there", target_parameters=["experts.down"]),
    _config("bias in B", "factor-missing", lora_bias=True),
    _config("tied", "variant-not-scored", ensure_weight_tying=True),
    _config("classifier", "variant-not-scored", task_type="SEQ_CLS"),
    _config("Megatron", "variant-not-scored", megatron_config={"hidden_size": 1}),
    _config("Megatron import", "config-imports-code", "block", megatron_core="os"),
    _config(
        "auto mapping",
        "config-imports-code",
        "block",
        auto_mapping={"base_model_class": "x", "parent_library": "evil"},
    ),
    _config(
        "auto mapping, look-alike",
        "config-imports-code",
        "block",
        auto_mapping={"base_model_class": "x", "parent_library": "transformers_modules.x"},
    ),
    _config("auto mapping, string", "config-imports-code", "block", auto_mapping="os"),
    _config(
        "auto mapping of another kind",
        "config-imports-code",
        "block",
        peft_type="LOHA",
        auto_mapping={"parent_library": "os"},
    ),
    _config(
        "layers and pattern",
        "config-contradiction",
        target_modules=".*_proj",
        layers_to_transform=[0],
    ),
    _config("layer pattern alone", "config-contradiction", layers_pattern="layers"),
    _config("targets of numbers", "config-value", target_modules=[1]),
    _config("targets of nothing", "config-value", target_modules=[""]),
    _config("a container", "target-not-linear", target_modules=["q_proj", "v_proj", "mlp"]),
    _config("the norm", "target-not-linear", target_modules=["q_proj", "v_proj", "norm"]),
    _config("everything", "target-not-linear", target_modules=".*"),
    _config(
        "more targets", "module-without-tensors", target_modules=["q_proj", "v_proj", "k_proj"]
    ),
    _config("fewer targets", "lora-not-loaded", "block", target_modules=["q_proj"]),
    _config("excluded", "lora-not-loaded", "block", exclude_modules=["v_proj"]),
    _config("one layer", "lora-not-loaded", "block", layers_to_transform=[0]),
    _config("no target", "lora-not-loaded", "block", target_modules="dummy-target-modules"),
]


# Python's re runs for hours on most of these, or regex takes gigabytes to compile them. Where regex
# finds the answer at once (it remembers where a repeat failed), that answer is used.
SLOW = "(?:(.*?)(.*?))*[89]"  # slow for both engines
EVIL = [
    SLOW,
    "(([a-z_]|[a-z._0-9])*)*\\d",
    "(.*)*[0-9]\\d\\d",
    "((.+)+)+[0-9]{5}",
    "(\\w+\\.?)*[0-9]{5}",
    "([^5]|[^6]|[^7])*[567]",
    "(.*.*.*.*.*.*.*.*.*.*.*.*.*.*)*[89]",
    "(?=(.*)*[89]).*",
    "([a-z]+|[a-z_]+|[a-z._]+)+[89]",
    "((((a{99}){99}){99}){99})",
    "(?:(?:(?:.{1,1000}){1,1000}){1,1000})",
    "(" * 250 + ".*" + ")*" * 100,
    ".*" * 200 + "[89]",
    "(a?){400}" * 3,
]
FIELDS: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "target_modules": lambda p: {"target_modules": p},
    "exclude_modules": lambda p: {"exclude_modules": p},
    "layers_pattern": lambda p: {"layers_pattern": [p], "layers_to_transform": [0]},
    "rank_pattern": lambda p: {"rank_pattern": {p: 4}},
    "alpha_pattern": lambda p: {"alpha_pattern": {p: 8}},
    "modules_to_save": lambda p: {"modules_to_save": [p]},
}
