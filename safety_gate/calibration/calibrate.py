"""The whole calibration: labels, verdicts, table, thresholds, policy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safety_gate import gate
from safety_gate.calibration.judging import judged
from safety_gate.calibration.labels import read_labels
from safety_gate.calibration.proposal import (
    Proposal,
    policy_of,
    policy_text,
    proposals,
    proposed_row,
)
from safety_gate.calibration.specimen import LeftOut, Specimen
from safety_gate.calibration.table import Row, check_labels, signal_rows, verdict_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What the labelled adapters of one base say about the gate's figures."""

    specimens: tuple[Specimen, ...]
    left_out: tuple[LeftOut, ...]
    signals: tuple[Row, ...]
    verdicts: tuple[Row, ...]
    proposals: tuple[Proposal, ...]
    policy: str | None  # YAML; None where no threshold is good enough for a rule
    notes: tuple[str, ...] = ()  # our own words, such as why the model was not asked


def calibrate(
    folder: Path,
    labels: Path | None,
    request: gate.Request,
    heard: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Judge the labelled adapters of a folder, and say what thresholds they give.

    Args:
        folder: of the adapters.
        labels: the file of labels; None: labels.csv or labels.jsonl in the folder.
        request: base, aligned and what the model is asked.
        heard: is told the name of each adapter when it has been judged.

    Raises:
        CannotCalibrate: the labels cannot be read, or leave fewer than two adapters of a label.
        GateError: base or aligned cannot be found.
    """
    known = read_labels(folder, labels)
    found = judged(folder, known, request, heard)
    return replace(calibration_of(found.specimens, found.left_out), notes=found.notes)


def calibration_of(specimens: Sequence[Specimen], left_out: Sequence[LeftOut] = ()) -> Calibration:
    """Return what specimens say that are measured already.

    Raises:
        CannotCalibrate: fewer than two of either label.
    """
    check_labels(specimens)
    thresholds = proposals(specimens)
    text = policy_text(thresholds)
    rows = verdict_rows(specimens)
    if text is not None:
        policy_of(text)  # what is proposed must load
        rows.append(proposed_row(thresholds, specimens))
    return Calibration(
        specimens=tuple(specimens),
        left_out=tuple(left_out),
        signals=tuple(signal_rows(specimens)),
        verdicts=tuple(rows),
        proposals=tuple(thresholds),
        policy=text,
    )
