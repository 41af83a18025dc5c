"""Findings about many things at once: one finding per rule, the first names shown, all counted."""

from collections.abc import Sequence

from safety_gate.records import Finding, Place, PlaceKind, Severity

MAX_NAMES = 3  # names beside the first that a finding shows; the ledger has all of them
MAX_TEXT = 120  # characters of a stranger's value that a finding shows


def shown(value: object) -> str:
    """Return a stranger's value in one short line."""
    text = repr(value)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."


def remark(
    rule: str,
    severity: Severity,
    place: tuple[PlaceKind, str],
    what: str,
    *,
    hint: str,
    **detail: str,
) -> Finding:
    """Return one finding; ``place`` is its kind and name, ``detail`` may be got and expected."""
    kind, name = place
    return Finding(
        rule=rule,
        severity=severity,
        place=Place(kind=kind, name=name),
        what=what,
        hint=hint,
        got=detail.get("got", ""),
        expected=detail.get("expected", ""),
    )


def remark_on_all(
    rule: str,
    severity: Severity,
    places: tuple[PlaceKind, Sequence[str]],
    what: str,
    *,
    hint: str,
    **detail: str,
) -> list[Finding]:
    """Return one finding at the first of the sorted names that counts the others, or none."""
    kind, unsorted_names = places
    names = sorted(unsorted_names)
    if not names:
        return []
    if len(names) > 1:
        more = "; ".join(name[:MAX_TEXT] for name in names[1 : 1 + MAX_NAMES])
        beside = f"{len(names)} in all, with: {more}"
        got = detail.get("got", "")
        detail = {**detail, "got": f"{got}; {beside}" if got else beside}
    return [remark(rule, severity, (kind, names[0]), what, hint=hint, **detail)]
