"""Waivers: findings that somebody answers for, on one adapter, until a day."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date

from safety_gate.policy import builtin
from safety_gate.policy.rules import matcher, plain
from safety_gate.policy.schema import Waiver
from safety_gate.records import Finding, Place


def with_waivers(
    waivers: Sequence[Waiver],
    findings: Sequence[Finding],
    *,
    adapter_ids: Sequence[str],
    today: date,
) -> tuple[Finding, ...]:
    """Lift what is waived, and say which waivers of this adapter do not count.

    A waiver of another adapter is passed over in silence: one policy serves many adapters.

    Args:
        waivers: of the policy.
        findings: what was found; those that are undecided stay as they are.
        adapter_ids: digest and revision of the adapter that is judged.
        today: a waiver counts up to and including its day of expiry.

    Returns:
        The findings in their order, lifted ones as "info", then those about waivers.
    """
    ids = {_bare(adapter_id) for adapter_id in adapter_ids}
    own = [waiver for waiver in waivers if _bare(waiver.adapter) in ids]
    valid = [waiver for waiver in own if today <= waiver.expires]
    lifted = tuple(_lifted(finding, valid) for finding in findings)
    expired = [_expired(waiver) for waiver in own if not today <= waiver.expires]
    unused = [
        _unused(waiver, findings)
        for waiver in valid
        if not any(_lifts(waiver, finding) for finding in findings)
    ]
    return (*lifted, *expired, *unused)


def _bare(adapter_id: str) -> str:
    """Return the hex digits alone: digests are written with and without their algorithm."""
    return adapter_id.lower().removeprefix("sha256:")


def _names(waiver: Waiver, finding: Finding) -> bool:
    """Tell whether the waiver speaks of this finding, be it one that can be lifted or not."""
    if finding.rule != waiver.rule:
        return False
    if not waiver.modules:
        return True
    return finding.place.kind == "module" and matcher(waiver.modules)(finding.place.name)


def _lifts(waiver: Waiver, finding: Finding) -> bool:
    """Tell whether the waiver lifts the finding; what was not judged cannot be waived."""
    return (
        finding.severity in ("block", "warn")
        and finding.rule not in builtin.NEVER_WAIVED
        and _names(waiver, finding)
    )


def _lifted(finding: Finding, waivers: Sequence[Waiver]) -> Finding:
    """Return the finding, as "info" with the first waiver that lifts it."""
    by: Iterator[Waiver] = (waiver for waiver in waivers if _lifts(waiver, finding))
    waiver = next(by, None)
    return finding if waiver is None else replace(finding, severity="info", waiver=waiver.id)


def _expired(waiver: Waiver) -> Finding:
    return Finding(
        rule=builtin.WAIVER_EXPIRED,
        severity="warn",
        place=Place(kind="policy", name=waiver.id),
        what=f"a waiver of this adapter has EXPIRED and does not count: {plain(waiver.reason)}",
        hint=f"Ask {plain(waiver.owner)} to renew the waiver or to remove it.",
        got=f"expired after {waiver.expires.isoformat()}",
        expected="a day that is not past",
    )


def _unused(waiver: Waiver, findings: Sequence[Finding]) -> Finding:
    named = any(_names(waiver, finding) for finding in findings)
    return Finding(
        rule=builtin.WAIVER_UNUSED,
        severity="warn",
        place=Place(kind="policy", name=waiver.id),
        what="a waiver does not count, because what was not judged cannot be waived"
        if named
        else "a waiver of this adapter lifts no finding",
        hint="Make the finding go away by its own hint, and remove the waiver."
        if named
        else "Check the waiver's rule and modules against the report, or remove it.",
        got=f"rule {waiver.rule}",
    )
