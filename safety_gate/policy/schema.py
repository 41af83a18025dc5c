"""What a policy file may say. Strict: no unknown key, no coercion, no NaN."""

import difflib
import math
import re
from datetime import date
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from safety_gate.policy.action_settings import ActionSettings
from safety_gate.policy.builtin import RESERVED
from safety_gate.policy.metrics import BEHAVIOUR_METRICS, METRIC_FACTS, RULE_METRICS
from safety_gate.policy.part import Part

Comparison: TypeAlias = Literal["above", "at-least", "below", "at-most"]
COMPARISONS: tuple[Comparison, ...] = get_args(Comparison)

# An update 100 times the whole alignment step leaves nothing of the alignment, whatever its
# cosine says. The largest of the trained adapters of examples/tiny, whose alignment step is small,
# has 30; far beyond that lies a wrong scaling (alpha_pattern, rsLoRA) or an attack.
DEFAULT_SIZE_LIMIT = 100.0
LARGEST_SIZE_LIMIT = 1000.0  # the limit may be changed, never removed

DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
KEBAB = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
ADAPTER_ID = r"^([0-9a-fA-F]{40}|(sha256:)?[0-9a-fA-F]{64})$"
GLOB = r"^[A-Za-z0-9_.\-*?]+$"  # no [...]: module names have digits enough to misread it


def _known_metric(name: str) -> str:
    if name in METRIC_FACTS:
        return name
    near = difflib.get_close_matches(name, METRIC_FACTS, n=1)
    raise PydanticCustomError(
        "metric",
        "Input should be a metric; {near}",
        {"near": f"the nearest is {near[0]}" if near else f"one of {', '.join(METRIC_FACTS)}"},
    )


def _not_null(value: object) -> object:
    if value is None:
        raise PydanticCustomError("null", "Input should be a number")
    return value


def _day(value: object) -> date:
    if isinstance(value, str) and DAY.fullmatch(value):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass  # the 30th of February
    raise PydanticCustomError("day", "Input should be a day as YYYY-MM-DD")


def _not_blank(value: str) -> str:
    if not any(c.isprintable() and not c.isspace() for c in value):
        raise PydanticCustomError("blank", "Input should be text that can be read")
    return value


Id = Annotated[str, StringConstraints(pattern=KEBAB, max_length=60)]
Location = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_not_blank)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=80), AfterValidator(_not_blank)]
Glob = Annotated[str, StringConstraints(pattern=GLOB, max_length=200)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Metric = Annotated[
    str,
    AfterValidator(_known_metric),
    WithJsonSchema({"type": "string", "enum": list(METRIC_FACTS)}),
]
# Optional, and yet `above:` without a number is refused and not read as "no threshold".
Threshold = Annotated[Finite | None, BeforeValidator(_not_null), WithJsonSchema({"type": "number"})]
Day = Annotated[
    date, BeforeValidator(_day), WithJsonSchema({"type": "string", "pattern": DAY.pattern})
]


class Condition(Part):
    """One comparison: a metric and exactly one threshold."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": [word]} for word in COMPARISONS]}
    )

    metric: Metric
    above: Threshold = Field(default=None, description="Holds when the value is larger.")
    at_least: Threshold = Field(default=None, description="Holds when larger or equal.")
    below: Threshold = Field(default=None, description="Holds when the value is smaller.")
    at_most: Threshold = Field(default=None, description="Holds when smaller or equal.")

    @model_validator(mode="after")
    def _one_threshold_in_range(self) -> "Condition":
        given = [word for word in COMPARISONS if word.replace("-", "_") in self.model_fields_set]
        if len(given) != 1:
            raise PydanticCustomError(
                "one_threshold", "Input should have exactly one of above, at-least, below, at-most"
            )
        fact = METRIC_FACTS[self.metric]
        if not fact.low <= self.threshold <= fact.high:
            raise PydanticCustomError(
                "threshold_range",
                "Input should be a threshold from {low} to {high} for {metric}",
                {"low": f"{fact.low:g}", "high": f"{fact.high:g}", "metric": self.metric},
            )
        return self

    @property
    def comparison(self) -> Comparison:
        """The one comparison that is given."""
        return next(w for w in COMPARISONS if getattr(self, w.replace("-", "_")) is not None)

    @property
    def threshold(self) -> float:
        """The one threshold that is given; finite."""
        return float(getattr(self, self.comparison.replace("-", "_")))


class Rule(Part):
    """What must not be true of a module, or of the whole adapter."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"scope": {"const": "module"}}},
            "then": {"properties": {"if-not-asked": False}},
            "else": {"properties": {"modules": False, "at-least-modules": False}},
        }
    )

    id: Id = Field(description="Name of the rule in reports and waivers, as-in-this-example.")
    scope: Literal["module", "adapter", "behaviour"] = Field(
        description="Judge each module for itself, the whole adapter, or what the model answers."
    )
    when: Annotated[tuple[Condition, ...], Field(min_length=1, max_length=16)] = Field(
        description="The rule fires when all of these hold."
    )
    severity: Literal["block", "warn"]
    if_asked: Literal["block", "warn"] = Field(
        default="block",
        description="Other scopes: what a rule that blocks does where the model was asked enough.",
    )
    if_not_asked: Literal["undecided", "skip"] = Field(
        default="undecided",
        description="Behaviour scope: what a rule that blocks says where the model was not asked.",
    )
    modules: Annotated[tuple[Glob, ...], Field(min_length=1)] = Field(
        default=("*",),
        description="Module scope: names to look at; * and ? are wild, * crosses dots.",
    )
    at_least_modules: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=1, description="Module scope: fires from this many modules on."
    )
    message: Text = Field(description="What it means when the rule fires, in one sentence.")
    hint: Text = Field(default="", description="What to do next; a general one otherwise.")

    @field_validator("id")
    @classmethod
    def _not_reserved(cls, rule: str) -> str:
        if rule in RESERVED:
            raise PydanticCustomError("reserved", "Input should not be the id of a built-in check")
        return rule

    @model_validator(mode="after")
    def _makes_sense(self) -> "Rule":
        if self.scope != "module" and self.model_fields_set & {"modules", "at_least_modules"}:
            raise PydanticCustomError(
                "scope", "Input should have modules and at-least-modules with scope: module only"
            )
        if self.scope != "behaviour" and "if_not_asked" in self.model_fields_set:
            raise PydanticCustomError(
                "scope", "Input should have if-not-asked with scope: behaviour only"
            )
        if self.scope == "behaviour" and "if_asked" in self.model_fields_set:
            raise PydanticCustomError(
                "scope", "Input should have if-asked with scope: module or adapter only"
            )
        known = BEHAVIOUR_METRICS if self.scope == "behaviour" else RULE_METRICS
        if strange := [c.metric for c in self.when if c.metric not in known]:
            raise PydanticCustomError(
                "scope_metric",
                "Input should have metrics of its scope, and {metric} is of another",
                {"metric": strange[0]},
            )
        for metric in {condition.metric for condition in self.when}:
            if not self._room(metric):
                raise PydanticCustomError(
                    "contradiction",
                    "Input should be conditions on {metric} that can hold together",
                    {"metric": metric},
                )
        return self

    def _room(self, metric: str) -> bool:
        """Tell whether any value of the metric satisfies all its conditions."""
        own = [c for c in self.when if c.metric == metric]
        floors = [c.threshold for c in own if c.comparison in ("above", "at-least")]
        ceilings = [c.threshold for c in own if c.comparison in ("below", "at-most")]
        low, high = max(floors, default=-math.inf), min(ceilings, default=math.inf)
        open_ends = {c.threshold for c in own if c.comparison in ("above", "below")}
        return low < high or (low == high and low not in open_ends)


class Coverage(Part):
    """Which share of the changed parameters must be scored."""

    at_least: Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False)] = 1.0
    severity: Literal["undecided", "block"] = "undecided"


class Limits(Part):
    """Built-in guards, which no policy can leave out."""

    size: Annotated[float, Field(gt=0.0, le=LARGEST_SIZE_LIMIT, allow_inf_nan=False)] = Field(
        default=DEFAULT_SIZE_LIMIT,
        description="Largest update of a module or adapter, in alignment steps; above it blocks.",
    )


class Waiver(Part):
    """One finding of one adapter that somebody answers for, until a day."""

    id: Id
    adapter: Annotated[str, StringConstraints(pattern=ADAPTER_ID)] = Field(
        description="The adapter's sha256 digest, or its 40-hex commit."
    )
    rule: Id = Field(description="The finding's rule id.")
    modules: Annotated[tuple[Glob, ...], Field(min_length=1)] = Field(
        default=(), description="Only findings on these modules; all places otherwise."
    )
    reason: Text
    owner: Name
    expires: Day = Field(description="The last day on which the waiver counts, YYYY-MM-DD.")


class Model(Part):
    """A pair of checkpoints by the name that adapters claim, beside those that are shipped."""

    claim: Location = Field(description="What an adapter says it was trained on.")
    aligned: Location = Field(description="Where that is: org/name@commit, or a folder.")
    base: Location = Field(description="The checkpoint before alignment.")


class Policy(Part):
    """The whole file."""

    version: Annotated[int, Field(ge=1, le=1)]
    name: Name
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]
    coverage: Coverage = Coverage()
    limits: Limits = Limits()
    waivers: tuple[Waiver, ...] = ()
    models: Annotated[tuple[Model, ...], Field(max_length=1000)] = Field(
        default=(), description="Pairs of base and aligned that need not be named with each run."
    )
    action: ActionSettings | None = Field(
        default=None, description="What the GitHub Action is given, input by input."
    )

    @model_validator(mode="after")
    def _ids_are_unique(self) -> "Policy":
        for kind, ids in (
            ("rule", [r.id for r in self.rules]),
            ("waiver", [w.id for w in self.waivers]),
            ("model", [m.claim.casefold() for m in self.models]),
        ):
            if twice := sorted({i for i in ids if ids.count(i) > 1}):
                raise PydanticCustomError(
                    "twice",
                    "Input should have each {kind} id once, and {id} is there twice",
                    {"kind": kind, "id": twice[0]},
                )
        return self


def allowed_keys(path: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the keys that the policy knows at a path; empty where there is no mapping."""
    part: type[Part] | None = Policy
    for step in path:
        if isinstance(step, str) and part is not None:
            found = [f for f in part.model_fields.values() if f.alias == step]
            part = _part_of(found[0].annotation) if found else None
    return tuple(f.alias or "" for f in part.model_fields.values()) if part else ()


def _part_of(annotation: Any) -> type[Part] | None:
    """Return the mapping that a field's annotation speaks of, in a tuple or by itself."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _part_of(arg))), None)
