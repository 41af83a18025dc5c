"""The frozen facts that the rooms hand to each other.

Strangers' text (file names, tensor names, config values, repository names) stands only in
``Place.name``, ``Finding.got``, ``FileFact.path``, ``LedgerEntry.name`` and the names of modules,
adapters and checkpoints; every renderer makes these inert. All other strings are our own words.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

from safety_gate.behaviour import BehaviourFact
from safety_gate.errors import BadScore, GateError

Severity: TypeAlias = Literal["block", "undecided", "warn", "info"]
PlaceKind: TypeAlias = Literal[
    "adapter", "file", "tensor", "module", "config", "checkpoint", "policy"
]
EntryKind: TypeAlias = Literal["file", "tensor", "config"]

SEVERITIES: tuple[Severity, ...] = ("block", "undecided", "warn", "info")  # gravest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a finding was made."""

    kind: PlaceKind
    name: str  # a stranger's text


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fact with a severity and a place; a verdict is made of findings."""

    rule: str  # stable kebab-case id: of a built-in check, or of a rule of the policy
    severity: Severity
    place: Place
    what: str  # our own words, one sentence without the final full stop
    hint: str  # our own words: what the reader should do next; never empty
    got: str = ""  # a stranger's text, or a figure
    expected: str = ""  # our own words, or a figure
    metric: str = ""  # the metric a policy rule looked at
    value: float | None = None  # its value, where the finding is about a figure
    threshold: float | None = None
    waiver: str = ""  # id of the waiver that lifted this finding; severity is then "info"

    def __post_init__(self) -> None:
        """Refuse a finding that does not tell what to do, or that hides a figure."""
        if not (self.rule and self.what and self.hint):
            raise AssertionError(f"finding without rule, what or hint: {self!r}")
        for figure in (self.value, self.threshold):
            if figure is not None and not math.isfinite(figure):
                raise BadScore(
                    "a figure of a finding is not finite",
                    where=self.place.name,
                    got=str(figure),
                    expected="a finite number",
                    hint="Report this as a bug of Safety Gate, with the adapter's commit.",
                )


def finding_from(error: GateError, place: PlaceKind) -> Finding:
    """Turn an error into the finding that makes a verdict Undecided."""
    return Finding(
        rule=error.rule,
        severity="undecided",
        place=Place(kind=place, name=error.where),
        what=error.what,
        hint=error.hint,
        got=error.got,
        expected=error.expected,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFact:
    """One file whose bytes were read, with its digest."""

    path: str  # relative to the repository, forward slashes
    size: int  # bytes
    sha256: str | None  # of the whole file; None where only the header was digested
    header_sha256: str | None = None  # of the safetensors header, for checkpoint files


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFact:
    """What was judged."""

    name: str  # folder name or repository, as the user gave it
    revision: str  # pinned: 40-hex commit on the Hub, "sha256:..." of all files for a folder
    digest: str  # sha256 over the sorted (path, size, sha256) of every file; waivers name this
    claimed_base: str  # base_model_name_or_path of its config; compared, never followed
    kind: str  # peft_type and variant in words, such as "LoRA" or "LoRA, rsLoRA"
    files: tuple[FileFact, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFact:
    """One of the two checkpoints that V is the difference of."""

    role: Literal["base", "aligned"]
    name: str
    revision: str
    files: tuple[FileFact, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One file, tensor or config key of the adapter, and who answers for it."""

    kind: EntryKind
    name: str  # a stranger's text
    owner: str  # our own words: "lora factor", "card", "weights", "training only", ...
    accounted: bool  # False: nothing vouches for it, and a finding says so
    scored: bool = False  # its change of the model is part of the figures


def _check_range(owner: str, name: str, value: float, low: float, high: float) -> None:
    """Refuse a figure outside [low, high]; NaN fails every comparison and so is refused."""
    if not low <= value <= high or math.isinf(value):
        raise BadScore(
            f"{name} is out of range",
            where=owner,
            got=repr(value),
            expected=f"a finite number from {low:g} to {high:g}",
            hint="Check the three weights of this module for NaN, Inf or absurd scale.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The metrics of one module, or of the whole adapter (docs/metrics.md has the formulas)."""

    cosine: float  # <C dW, dW> / (|C dW| |dW|), 0..1; blind to sign and scale
    null_mean: float  # the cosine that a random update with the adapter's own A would have
    null_sd: float  # its spread, > 0
    z: float  # (cosine - null_mean) / null_sd
    reversion: float  # -<dW, V> / (|dW| |V|), -1..1; above 0 walks back towards base
    reversion_sd: float  # its spread for a random update, > 0
    undone: float  # -<dW, V> / |V|^2; 1 means dW = -V
    size: float  # |dW| / |V|
    weight_size: float  # |dW| / |W_aligned|
    residual: float  # |dW - P dW| / |V|, P on V's top left singular directions
    gain: float  # |C dW| / |dW|

    def values(self) -> dict[str, float]:
        """Return the metrics by name, in the order of the JSON report."""
        return {f.name: getattr(self, f.name) for f in fields(Drift)}

    def check(self, owner: str) -> None:
        """Raise BadScore unless every figure is finite and in its range."""
        tiny = 1e-5  # float32 rounding of a quotient that is 1 in exact arithmetic
        big = 1e30  # above this a float32 square overflows; no honest ratio comes near
        ranges = {
            "cosine": (0.0, 1.0 + tiny),
            "null_mean": (0.0, 1.0 + tiny),
            "null_sd": (0.0, 1.0),
            "z": (-big, big),
            "reversion": (-1.0 - tiny, 1.0 + tiny),
            "reversion_sd": (0.0, 1.0 + tiny),
            "undone": (-big, big),
        }
        for name, value in self.values().items():
            low, high = ranges.get(name, (0.0, big))
            _check_range(owner, name, value, low, high)


METRICS: tuple[str, ...] = tuple(f.name for f in fields(Drift))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleScore:
    """How one module drifts from the alignment step."""

    module: str  # module path in the aligned model, without ".weight"
    shape: tuple[int, int]  # (out, in) of the weight as a linear map
    rank: int
    scaling: float
    drift: Drift
    delta_norm: float  # |dW|_F, > 0
    step_norm: float  # |V|_F, > 0
    weight_norm: float  # |W_aligned|_F, > 0

    def __post_init__(self) -> None:
        """Refuse NaN, Inf and figures outside their range."""
        self.drift.check(self.module)
        for name in ("delta_norm", "step_norm", "weight_norm"):
            _check_range(self.module, name, getattr(self, name), 0.0, 1e30)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterScore:
    """The same metrics over all scored modules: sums first, one quotient at the end."""

    drift: Drift
    modules: int  # scored modules
    changed_parameters: int  # elements of every parameter that the adapter changes
    scored_parameters: int  # those of them that the figures cover
    unchanged_modules: tuple[str, ...]  # modules whose update is exactly zero: listed, not scored

    def __post_init__(self) -> None:
        """Refuse NaN, Inf and impossible counts."""
        self.drift.check("the whole adapter")
        if not 0 <= self.scored_parameters <= self.changed_parameters:
            raise AssertionError("more parameters scored than changed")

    @property
    def coverage(self) -> float:
        """Share of changed parameters that was scored, 0..1; 0 when nothing changed."""
        return self.scored_parameters / self.changed_parameters if self.changed_parameters else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """Every rule was applied to everything, and none was broken."""

    word: Literal["passed"] = "passed"
    exit_code: Literal[0] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """At least one finding blocks."""

    word: Literal["blocked"] = "blocked"
    exit_code: Literal[1] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Undecided:
    """Nothing blocks, but something could not be judged."""

    word: Literal["undecided"] = "undecided"
    exit_code: Literal[3] = 3


Verdict: TypeAlias = Passed | Blocked | Undecided


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFact:
    """Which rules decided."""

    name: str  # the policy's own name
    origin: str  # "preset default", or the file as the user gave it
    sha256: str  # of the bytes of the policy file


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that was found; every renderer and publisher works from this alone."""

    verdict: Verdict
    findings: tuple[Finding, ...]  # gravest first
    adapter: AdapterFact | None  # None where reading stopped before it was known
    base: CheckpointFact | None
    aligned: CheckpointFact | None
    policy: PolicyFact | None
    modules: tuple[ModuleScore, ...]  # in the order of the aligned model
    total: AdapterScore | None  # None where nothing could be scored
    ledger: tuple[LedgerEntry, ...]
    evidence: str  # "weights only", or what else was asked
    versions: Mapping[str, str]  # of safety-gate, torch, python
    behaviour: BehaviourFact | None = None  # None: the model was not asked


def with_gravest_first(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Sort by severity, then by rule and place, so that equal input gives equal output."""
    return tuple(
        sorted(
            findings,
            key=lambda f: (SEVERITIES.index(f.severity), f.rule, f.place.kind, f.place.name),
        )
    )
