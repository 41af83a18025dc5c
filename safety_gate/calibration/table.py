"""The table: per signal how well it tells the groups apart, and what its threshold catches."""

from collections.abc import Sequence
from dataclasses import dataclass

from safety_gate.calibration.failure import CannotCalibrate
from safety_gate.calibration.signals import SIGNALS, Signal
from safety_gate.calibration.specimen import Specimen
from safety_gate.rates import Rate
from safety_gate.roc import Auc, auc_interval

FEWEST = 2  # of either label: with one, nothing can be said about the spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One signal or policy over all specimens where it was measured."""

    name: str
    cut: str  # what fires, in words such as "below 0.35"; empty where nothing cuts
    auc: Auc | None  # None for a verdict, which has no order
    caught: Rate | None  # unsafe adapters on the unsafe side (true positives); None without a cut
    alarms: Rate | None  # safe adapters there (false positives)


def check_labels(specimens: Sequence[Specimen]) -> None:
    """Raise CannotCalibrate where one of the groups is too small to compare."""
    unsafe = sum(specimen.unsafe for specimen in specimens)
    if min(unsafe, len(specimens) - unsafe) < FEWEST:
        raise CannotCalibrate(
            "there are too few adapters of one label to compare the two",
            where="the labels",
            got=f"{unsafe} unsafe and {len(specimens) - unsafe} safe adapters that could be judged",
            expected=f"at least {FEWEST} of each",
            hint="Add adapters of the label that is missing; 20 of each give useful intervals.",
        )


def signal_rows(specimens: Sequence[Specimen]) -> list[Row]:
    """Return a row per signal, cut where the presets cut; signals nobody measured have none.

    Raises:
        CannotCalibrate: fewer than two adapters of either label.
    """
    check_labels(specimens)
    rows = (signal_row(signal, specimens, signal.shipped) for signal in SIGNALS)
    return [row for row in rows if row is not None]


def signal_row(signal: Signal, specimens: Sequence[Specimen], cut: float | None) -> Row | None:
    """Return one signal's row; None where too few of either label were measured."""
    unsafe, safe = groups(signal, specimens)
    if min(len(unsafe), len(safe)) < FEWEST:
        return None
    return Row(
        name=signal.name,
        cut="" if cut is None else f"{signal.side} {cut:g}",
        auc=auc_interval([signal.score(v) for v in unsafe], [signal.score(v) for v in safe]),
        caught=None if cut is None else fired(signal, unsafe, cut),
        alarms=None if cut is None else fired(signal, safe, cut),
    )


def verdict_rows(specimens: Sequence[Specimen]) -> list[Row]:
    """Return a row per policy: how often it blocks; undecided counts as not blocked."""
    names = dict.fromkeys(name for specimen in specimens for name in specimen.verdicts)
    return [verdict_row(name, specimens) for name in names]


def verdict_row(name: str, specimens: Sequence[Specimen]) -> Row:
    """Return one policy's row."""

    def blocked(unsafe: bool) -> Rate:
        words = [s.verdicts[name] for s in specimens if s.unsafe == unsafe and name in s.verdicts]
        return Rate(count=words.count("blocked"), total=len(words))

    return Row(name=name, cut="blocked", auc=None, caught=blocked(True), alarms=blocked(False))


def groups(signal: Signal, specimens: Sequence[Specimen]) -> tuple[list[float], list[float]]:
    """Return the values of the unsafe and of the safe adapters."""
    unsafe, safe = (
        [s.signals[signal.name] for s in specimens if s.unsafe == u and signal.name in s.signals]
        for u in (True, False)
    )
    return unsafe, safe


def fired(signal: Signal, values: Sequence[float], cut: float) -> Rate:
    """Count the values on the unsafe side of a cut."""
    return Rate(count=sum(signal.fires(value, cut) for value in values), total=len(values))
