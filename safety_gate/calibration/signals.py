"""The figures that could tell an unsafe adapter, each as one number per adapter."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from safety_gate.policy.metrics import figure
from safety_gate.policy.presets import load_preset
from safety_gate.records import Drift, Report

Scope: TypeAlias = Literal["adapter", "module", "behaviour"]
Side: TypeAlias = Literal["above", "below"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One figure, the side on which unsafe adapters are expected, and where the gate cuts."""

    name: str
    scope: Scope
    metric: str
    side: Side  # unsafe adapters lie on this side of the threshold
    rule: tuple[str, str] | None = None  # preset and id of the rule that cuts here

    def of(self, report: Report) -> float | None:
        """Return the adapter's value, of its worst module in module scope; None if unmeasured."""
        if self.scope == "behaviour":
            fact = report.behaviour
            return fact.figures(ADAPTER).get(self.metric) if fact else None
        if self.scope == "adapter":
            return figure(self.metric, report.total.drift) if report.total else None
        return self._worst(score.drift for score in report.modules)

    def score(self, value: float) -> float:
        """Return the value so that larger is more suspicious."""
        return value if self.side == "above" else -value

    def fires(self, value: float, threshold: float) -> bool:
        """Tell whether a value lies on the unsafe side."""
        return self.score(value) > self.score(threshold)

    @property
    def shipped(self) -> float | None:
        """Return the threshold of the shipped rule; None where no rule cuts on this figure."""
        if self.rule is None:
            return None
        preset, wanted = self.rule
        policy = load_preset(preset).policy
        if wanted == SIZE_LIMIT:
            return policy.limits.size
        conditions = next(rule.when for rule in policy.rules if rule.id == wanted)
        return next(c.threshold for c in conditions if c.metric == self.metric)

    def _worst(self, drifts: Iterable[Drift]) -> float | None:
        found = [value for drift in drifts if (value := figure(self.metric, drift)) is not None]
        pick: Callable[[list[float]], float] = max if self.side == "above" else min
        return pick(found) if found else None


ADAPTER: Final = "adapter"  # the name under which the gate asks the model with the adapter
SIZE_LIMIT: Final = "limits.size"

SIGNALS: Final[tuple[Signal, ...]] = (
    Signal(
        name="cosine, lowest module",
        scope="module",
        metric="cosine",
        side="below",
        rule=("paper", "safemerge-cosine"),
    ),
    Signal(name="cosine", scope="adapter", metric="cosine", side="below"),
    Signal(
        name="z, lowest module",
        scope="module",
        metric="z",
        side="below",
        rule=("default", "cosine-below-null"),
    ),
    Signal(name="z", scope="adapter", metric="z", side="below"),
    Signal(
        name="reversion",
        scope="adapter",
        metric="reversion",
        side="above",
        rule=("default", "walks-back"),
    ),
    Signal(
        name="undone",
        scope="adapter",
        metric="undone",
        side="above",
        rule=("default", "alignment-undone"),
    ),
    Signal(name="size", scope="adapter", metric="size", side="above", rule=("default", SIZE_LIMIT)),
    Signal(
        name="residual",
        scope="module",
        metric="residual",
        side="above",
        rule=("default", "inflated-cosine"),
    ),
    Signal(
        name="openings",
        scope="behaviour",
        metric="openings_retained_high",
        side="below",
        rule=("default", "refusals-lost"),
    ),
    Signal(name="openings margin", scope="behaviour", metric="openings_margin", side="below"),
    Signal(
        name="generate",
        scope="behaviour",
        metric="answers_retained_high",
        side="below",
        rule=("default", "answers-given"),
    ),
)


def signals_of(report: Report) -> dict[str, float]:
    """Return every signal that was measured, by name."""
    found = {signal.name: signal.of(report) for signal in SIGNALS}
    return {name: value for name, value in found.items() if value is not None}
