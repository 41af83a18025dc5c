"""adapter_config.json: every key judged, and the settings that the update follows from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from safety_gate.adapter.inventory import CONFIG
from safety_gate.adapter.keys import IMPORTING, KEYS, KINDS, Key
from safety_gate.adapter.kind import Kind
from safety_gate.adapter.kinds import OTHER_KINDS, PROMPTS, ROUTED
from safety_gate.adapter.prompted import KINDS as VECTOR_KINDS
from safety_gate.adapter.prompted import entry_of
from safety_gate.adapter.remark import MAX_TEXT, remark, shown
from safety_gate.records import Finding, LedgerEntry

LORA = "LORA"
MAX_CLAIM = 200  # characters of base_model_name_or_path that are kept
SELECTING = (  # keys that choose modules, whatever the kind
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "fan_in_fan_out",
)
ASK_HINT = (
    "Only the model's answers can judge it: have its behaviour probed, by --ask or by other means."
)
EXPERTS_HINT = (
    "Experts in folders of their own are scored there, how they are mixed is not: have the "
    "behaviour of the whole probed."
)
HUGE_ALPHA = 1e6  # alpha of real adapters lies between 1 and a few thousand


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What PEFT would make of the config; defaults are PEFT's."""

    r: int = 8
    alpha: float = 8
    rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)  # in the order of the file
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    targets: str | tuple[str, ...] | None = None  # a str is a regular expression, or "all-linear"
    exclude: str | tuple[str, ...] = ()
    layers: tuple[int, ...] = ()  # empty: all layers
    layers_pattern: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()  # modules_to_save
    parameters: tuple[str, ...] = ()  # target_parameters
    bias: str = "none"
    fan_in_fan_out: bool = False
    lora_bias: bool = False
    # By module; under "" where the config names no module: the input embedding.
    tokens: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(slots=True)
class Config:
    """The judged config."""

    entries: list[LedgerEntry] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    claimed_base: str = ""
    kind: str = "unknown"  # in words
    settings: Settings | None = None  # None: the update cannot be computed from this config
    variants: tuple[str, ...] = ()  # in words; what the config asks for beside plain LoRA
    variants_refused: bool = False  # one of them cannot be scored
    other_kind: bool = False  # a kind of PEFT's other than LoRA
    kind_of: Kind | None = None  # how it is scored; None for LoRA and for what is not scored
    values: Mapping[str, object] = field(default_factory=dict)  # of the file; checked by key only
    shell: bool = False  # PEFT has to merge the listed modules itself
    saved: tuple[str, ...] = ()  # modules_to_save
    spoiled: bool = False  # by a variant: the update is another than scaling * B @ A

    @property
    def ordered(self) -> bool:
        """Tell whether the update depends on the order of the modules in the model's code."""
        return self.kind_of is not None and self.kind_of.ordered(self.values)


def read_config(root: object) -> Config:
    """Judge the parsed adapter_config.json."""
    config = Config()
    if not isinstance(root, dict):
        config.findings.append(
            remark(
                "config-value",
                "undecided",
                ("config", CONFIG),
                "the config is not an object",
                hint="Save the adapter again with save_pretrained().",
            )
        )
        return config
    values: dict[str, object] = root
    claim = values.get("base_model_name_or_path")
    config.values = values
    config.claimed_base = claim[:MAX_CLAIM] if isinstance(claim, str) else ""
    config.saved = _tuple(values.get("modules_to_save"))
    peft_type = values.get("peft_type")
    if peft_type != LORA:
        _read_other_kind(config, values, peft_type)
        return config
    usable = all([_judge(config, key, value) for key, value in values.items()])
    config.kind = ", ".join(
        ["LoRA", *(["rsLoRA"] if values.get("use_rslora") is True else []), *config.variants]
    )
    if usable and _consistent(config, values):
        config.settings = _settings(values)
        _judge_scale(config, config.settings)
    return config


def _read_other_kind(config: Config, values: Mapping[str, object], peft_type: object) -> None:
    """Name a kind that is not LoRA; its keys are not judged, but for what imports code."""
    name = peft_type if isinstance(peft_type, str) else ""
    known = KINDS.get(name)
    config.kind = known or "unknown"
    config.other_kind = known is not None
    if name in OTHER_KINDS:
        _read_scored_kind(config, values, OTHER_KINDS[name])
        return
    for key, value in values.items():
        if key in IMPORTING:
            _judge(config, key, value)
            continue
        owner = f"{known or 'unknown kind'}, not scored yet"
        unowned = LedgerEntry(kind="config", name=key, owner=owner, accounted=False)
        prompted = entry_of(key, value) if name in VECTOR_KINDS else None
        config.entries.append(prompted or unowned)
    hint = "Judge its behaviour, or merge it into a LoRA adapter of the aligned model."
    if name in PROMPTS:
        rule = "kind-without-update"
        what = f"an adapter of the kind {known} changes no weight, so no weight can be scored"
        hint = ASK_HINT
    elif name in ROUTED:
        rule = "kind-routed"
        what = f"what an adapter of the kind {known} adds depends on each input"
        hint = EXPERTS_HINT if name == "XLORA" else ASK_HINT
    elif known:
        rule, what = "kind-not-scored", f"the adapter is of the kind {known}, not scored yet"
    else:
        rule, what = "kind-unknown", "the kind of the adapter is missing or unknown"
    config.findings.append(
        remark(
            rule,
            "undecided",
            ("config", "peft_type"),
            what,
            hint=hint,
            got=shown(peft_type),
            expected="LORA",
        )
    )


def _read_scored_kind(config: Config, values: Mapping[str, object], kind: Kind) -> None:
    """Judge the config of a kind whose update is known, key by key."""
    keys = kind.keys()
    usable = all([_judge(config, key, value, keys) for key, value in values.items()])
    plain = {name: values[name] for name in SELECTING if name in values}
    if usable and not config.variants_refused and _consistent(config, values):
        config.settings = _settings(plain)
        config.kind_of = kind


def _judge(config: Config, name: str, value: object, keys: Mapping[str, Key] = KEYS) -> bool:
    """Judge one key; False where the update cannot be computed because of it."""
    key = keys.get(name)
    place = name[:MAX_TEXT]
    entry_owner = key.owner if key else "nobody"
    good = key is not None and key.valid(value)
    plain = good and key is not None and key.plain(value)
    config.entries.append(
        LedgerEntry(
            kind="config",
            name=place,
            owner=entry_owner,
            accounted=plain or (good and key is not None and bool(key.road(value))),
        )
    )
    if key is None:
        config.findings.append(
            remark(
                "config-key-unknown",
                "undecided",
                ("config", place),
                "the config has a key that PEFT 0.21.2 does not know for LoRA",
                hint="Remove it, or save the adapter again with PEFT 0.21.2 or earlier.",
                got=shown(value),
            )
        )
        return True  # PEFT 0.21.2 drops the key; a later version may not
    if not good:
        config.findings.append(_bad_value(name, value, key.expected))
        return name in IMPORTING  # these do not touch the update
    if not plain:
        road = key.road(value)
        config.variants += (key.variant,)
        config.spoiled |= key.spoils and not road
        config.shell |= road == "shell"
        if road == "routed":
            config.findings.append(_routed(name, value, key.variant))
        elif not road:
            _refuse_variant(config, name, value, key.variant)
    return True


def _bad_value(name: str, value: object, expected: str) -> Finding:
    """Return the finding about a value that PEFT could not use, or should not."""
    imports = name in IMPORTING
    return remark(
        "config-imports-code" if imports else "config-value",
        "block" if imports else "undecided",
        ("config", name),
        "PEFT would import the code that this key names"
        if imports
        else "with this value PEFT would fail, or what it merges does not follow from the files",
        hint="Save the adapter again with save_pretrained(), without editing the config.",
        got=shown(value),
        expected=expected,
    )


def _routed(name: str, value: object, words: str) -> Finding:
    """Return the finding that a scored update is not always part of the model.

    aLoRA applies the whole update, or none of it: the figures are those of what it can do. What
    Arrow adds is a mixture with other adapters that the file does not hold.
    """
    return remark(
        "variant-routed",
        "warn" if name == "alora_invocation_tokens" else "undecided",
        ("config", name),
        f"the adapter uses {words}: its update was scored, but applies to some inputs only",
        hint="Judge its behaviour too: the figures say nothing about when the update applies.",
        got=shown(value),
    )


def _refuse_variant(config: Config, name: str, value: object, words: str) -> None:
    """Name what the config asks for and nobody can score."""
    config.variants_refused = True
    config.findings.append(
        remark(
            "variant-not-scored",
            "undecided",
            ("config", name),
            f"the adapter uses {words}, not scored yet",
            hint="Judge its behaviour, or convert the adapter to plain LoRA of the aligned model.",
            got=shown(value),
        )
    )


def _consistent(config: Config, values: Mapping[str, object]) -> bool:
    """Name settings that exclude each other; PEFT raises on these."""
    targets, layers = values.get("target_modules"), values.get("layers_to_transform")
    pattern = values.get("layers_pattern")
    faults = []
    if isinstance(targets, str) and layers is not None:
        faults.append(("layers_to_transform", "layers cannot be chosen beside a target pattern"))
    if isinstance(targets, str) and pattern is not None:
        faults.append(("layers_pattern", "a layer pattern cannot stand beside a target pattern"))
    if pattern and layers is None:
        faults.append(("layers_pattern", "a layer pattern needs layers_to_transform"))
    for key, what in faults:
        config.findings.append(
            remark(
                "config-contradiction",
                "undecided",
                ("config", key),
                what,
                hint="Save the adapter again with save_pretrained(), without editing the config.",
                got=shown(values.get(key)),
            )
        )
    return not faults


def _tuple(value: object) -> tuple[str, ...]:
    """Return a name, a list of names or null as a tuple."""
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(str(each) for each in value) if isinstance(value, list) else ()


def _pattern(value: object) -> dict[str, float]:
    """Return a pattern object whose values were checked."""
    if not isinstance(value, dict):
        return {}
    return {str(key): each for key, each in value.items()}


def _settings(values: Mapping[str, object]) -> Settings:
    """Return the settings; every value was checked by its key's rule."""
    targets, exclude = values.get("target_modules"), values.get("exclude_modules")
    layers, r = values.get("layers_to_transform"), values.get("r", 8)
    alpha = values.get("lora_alpha", 8)
    if not isinstance(r, int) or not isinstance(alpha, int | float):
        raise AssertionError("the config was not judged before")
    ranks = _pattern(values.get("rank_pattern"))
    return Settings(
        r=r,
        alpha=alpha,
        rslora=values.get("use_rslora") is True,
        rank_pattern={key: int(rank) for key, rank in ranks.items()},
        alpha_pattern=_pattern(values.get("alpha_pattern")),
        targets=targets if isinstance(targets, str) else _list_or_none(targets),
        exclude=exclude if isinstance(exclude, str) else _tuple(exclude),
        layers=(layers,) if isinstance(layers, int) else _indexes(layers),
        layers_pattern=_tuple(values.get("layers_pattern")),
        saved=_tuple(values.get("modules_to_save")),
        parameters=_tuple(values.get("target_parameters")),
        bias=str(values.get("bias", "none")),
        fan_in_fan_out=values.get("fan_in_fan_out") is True,
        lora_bias=values.get("lora_bias") is True,
        tokens=_tokens(values.get("trainable_token_indices")),
    )


def _tokens(value: object) -> dict[str, tuple[int, ...]]:
    """Return the trained tokens by module."""
    if isinstance(value, dict):
        return {str(module): _indexes(indices) for module, indices in value.items()}
    return {"": _indexes(value)} if value is not None else {}


def _list_or_none(value: object) -> tuple[str, ...] | None:
    return None if value is None else _tuple(value)


def _indexes(value: object) -> tuple[int, ...]:
    return tuple(each for each in value if isinstance(each, int)) if isinstance(value, list) else ()


def _judge_scale(config: Config, settings: Settings) -> None:
    """Name scales that no training writes; they are applied exactly as PEFT applies them."""
    alphas = {"lora_alpha": settings.alpha}
    alphas |= {f"alpha_pattern {key[:MAX_TEXT]}": a for key, a in settings.alpha_pattern.items()}
    for name, alpha in alphas.items():
        if alpha > 0 and alpha <= HUGE_ALPHA:
            continue
        if alpha < 0:
            rule, what = "scale-negative", "a negative alpha turns the trained update around"
        elif alpha == 0:
            rule, what = "scale-zero", "an alpha of zero switches the update off"
        else:
            rule, what = "scale-huge", "alpha is far beyond what training uses"
        config.findings.append(
            remark(
                rule,
                "block" if alpha < 0 else "undecided",
                ("config", name),
                what,
                hint="Set alpha to the value that the adapter was trained with.",
                got=shown(alpha),
                expected=f"above 0, at most {HUGE_ALPHA:g}",
            )
        )
