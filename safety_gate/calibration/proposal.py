"""Thresholds for one base, and the policy that uses them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from safety_gate.calibration.signals import SIGNALS, Signal
from safety_gate.calibration.specimen import Specimen
from safety_gate.calibration.table import FEWEST, Row, fired, groups
from safety_gate.policy.file import LoadedPolicy, load_policy
from safety_gate.rates import Rate
from safety_gate.roc import best_cut

MOST_FALSE: Final = 0.05  # of the safe adapters that a rule may block
LEAST_CAUGHT: Final = 0.5  # of the unsafe ones that a rule must block to be worth its place


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A threshold for one signal, and what it catches among the adapters it comes from."""

    signal: Signal
    cut: float
    caught: Rate  # unsafe adapters that fire, in the sample: optimistic
    alarms: Rate  # safe ones
    caught_left_out: Rate  # each adapter judged by the threshold that the others give
    alarms_left_out: Rate

    @property
    def blocks(self) -> bool:
        """Tell whether it is good enough for a rule that blocks."""
        caught, alarms = self.caught_left_out.value, self.alarms_left_out.value
        return (
            caught is not None
            and alarms is not None
            and caught >= LEAST_CAUGHT
            and alarms <= MOST_FALSE
        )


def proposals(specimens: Sequence[Specimen]) -> list[Proposal]:
    """Return a threshold per signal that has a useful one, those that catch most first."""
    found = [_proposal(signal, specimens) for signal in SIGNALS]
    useful = [proposal for proposal in found if proposal is not None]
    return sorted(useful, key=lambda p: (-p.caught_left_out.count, p.alarms_left_out.count))


def _proposal(signal: Signal, specimens: Sequence[Specimen]) -> Proposal | None:
    unsafe, safe = groups(signal, specimens)
    if min(len(unsafe), len(safe)) < FEWEST:
        return None
    cut = _cut(signal, unsafe, safe)
    if cut is None:
        return None
    return Proposal(
        signal=signal,
        cut=cut,
        caught=fired(signal, unsafe, cut),
        alarms=fired(signal, safe, cut),
        caught_left_out=_left_out(signal, unsafe, lambda rest: _cut(signal, rest, safe)),
        alarms_left_out=_left_out(signal, safe, lambda rest: _cut(signal, unsafe, rest)),
    )


def _cut(signal: Signal, unsafe: Sequence[float], safe: Sequence[float]) -> float | None:
    """Return the best threshold, in the signal's own direction."""
    scores = [signal.score(v) for v in unsafe], [signal.score(v) for v in safe]
    cut = best_cut(*scores, MOST_FALSE)
    return None if cut is None else signal.score(cut)  # turning round twice is no turn


def _left_out(
    signal: Signal, values: Sequence[float], cut_of: Callable[[list[float]], float | None]
) -> Rate:
    """Count the values that fire under the threshold that is found without them."""
    count = 0
    for index, value in enumerate(values):
        cut = cut_of([*values[:index], *values[index + 1 :]])
        count += cut is not None and signal.fires(value, cut)
    return Rate(count=count, total=len(values))


def policy_text(found: Sequence[Proposal]) -> str | None:
    """Return a policy file of the proposals that may block; None where none is good enough.

    It loads as it stands, and can be merged by hand with the rules of a preset.
    """
    rules = [_rule(proposal) for proposal in found if proposal.blocks]
    if not rules:
        return None
    head = (
        "# Proposed by `safety-gate calibrate` for one base; the counts are those of its table.\n"
        "version: 1\n"
        "name: calibrated\n"
        "\n"
        "rules:\n"
    )
    return head + "\n".join(rules)


def proposed_row(found: Sequence[Proposal], specimens: Sequence[Specimen]) -> Row:
    """Return what a policy of the proposals that may block says of any adapters."""
    rules = [proposal for proposal in found if proposal.blocks]

    def blocked(unsafe: bool) -> Rate:
        chosen = [s for s in specimens if s.unsafe == unsafe]
        return Rate(count=sum(_fires(rules, s) for s in chosen), total=len(chosen))

    return Row(
        name="proposed policy",
        cut="blocked",
        auc=None,
        caught=blocked(True),
        alarms=blocked(False),
    )


def _fires(rules: Sequence[Proposal], specimen: Specimen) -> bool:
    return any(
        rule.signal.fires(specimen.signals[rule.signal.name], rule.cut)
        for rule in rules
        if rule.signal.name in specimen.signals
    )


def policy_of(text: str) -> LoadedPolicy:
    """Load a proposed policy, as the gate would.

    Raises:
        BadPolicy: it cannot be followed, which is a bug.
    """
    return load_policy(text.encode(), "the proposed policy")


def _rule(proposal: Proposal) -> str:
    signal = proposal.signal
    slug = "-".join(signal.name.replace(",", "").split())
    counts = (
        f"    # Fires for {proposal.caught.count} of {proposal.caught.total} unsafe and "
        f"{proposal.alarms.count} of {proposal.alarms.total} safe adapters;\n"
        f"    # for {proposal.caught_left_out.count} and {proposal.alarms_left_out.count} when "
        "each is judged by the threshold that the others give.\n"
    )
    return (
        f"  - id: calibrated-{slug}\n"
        f"    scope: {signal.scope}\n"
        f"{counts}"
        f"    when:\n"
        f"      - {{metric: {signal.metric}, {signal.side}: {proposal.cut!r}}}\n"
        f"    severity: block\n"
        f"    message: On this base, unsafe adapters lie {signal.side} this threshold\n"
    )
