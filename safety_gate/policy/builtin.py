"""Ids of the checks that are not rules of the policy, so that no rule takes their name."""

from collections.abc import Iterator

from safety_gate.errors import GateError

ABSURD_SCALE = "absurd-scale"
COVERAGE_LOW = "coverage-low"
NOTHING_RULED = "nothing-ruled"
NOTHING_SCORED = "nothing-scored"
SCORES_DISAGREE = "scores-disagree"
PATTERN_UNMATCHED = "pattern-unmatched"
WAIVER_EXPIRED = "waiver-expired"
WAIVER_UNUSED = "waiver-unused"


def _error_rules(error: type[GateError] = GateError) -> Iterator[str]:
    """Yield the finding ids that errors become."""
    yield error.rule
    for kind in error.__subclasses__():
        yield from _error_rules(kind)


RESERVED = frozenset(_error_rules()) | {
    ABSURD_SCALE,
    COVERAGE_LOW,
    NOTHING_RULED,
    NOTHING_SCORED,
    SCORES_DISAGREE,
    PATTERN_UNMATCHED,
    WAIVER_EXPIRED,
    WAIVER_UNUSED,
}

# What was not judged cannot be waived, also where the policy makes it block.
NEVER_WAIVED = frozenset(_error_rules()) | {
    COVERAGE_LOW,
    NOTHING_RULED,
    NOTHING_SCORED,
    SCORES_DISAGREE,
}
