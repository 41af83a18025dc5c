"""A JSON report read back into facts; strict, since it may come from a stranger's run.

What does not follow schemas/report.schema.json is refused, and so is what the facts themselves
refuse at birth. The words of such a report, our own sentences too, are a stranger's: renderers
make all of them inert.
"""

from typing import Any, Literal, TypeAlias

import jsonschema
from pydantic import TypeAdapter, ValidationError

from safety_gate.behaviour import BehaviourFact
from safety_gate.errors import GateError
from safety_gate.records import (
    AdapterFact,
    AdapterScore,
    Blocked,
    CheckpointFact,
    Drift,
    FileFact,
    Finding,
    LedgerEntry,
    ModuleScore,
    Passed,
    Place,
    PolicyFact,
    Report,
    Undecided,
    Verdict,
)
from safety_gate.report.json_report import report_schema

Json: TypeAlias = dict[str, Any]

VERDICTS: dict[str, Verdict] = {
    "passed": Passed(),
    "blocked": Blocked(),
    "undecided": Undecided(),
}


class BadReport(GateError):
    """A JSON report is not one that Safety Gate has written."""

    rule = "report-bad"


def read_report(tree: object, *, where: str) -> Report:
    """Return the report that a JSON value holds.

    Args:
        tree: the value, parsed strictly.
        where: what it is called in messages.

    Raises:
        BadReport: it does not follow the schema, or a figure is out of range.
    """
    validator = jsonschema.Draft202012Validator(report_schema())
    error = next(iter(validator.iter_errors(tree)), None)
    if error is not None:
        place = ".".join(map(str, error.absolute_path)) or "the whole"
        raise _bad(where, f"{place[:200]}: breaks {error.validator}")
    if not isinstance(tree, dict):
        raise _bad(where, "no object")
    try:
        return _report(tree)
    except (GateError, AssertionError, OverflowError, ValidationError) as refused:
        raise _bad(where, f"a fact that cannot be: {type(refused).__name__}") from refused


def _bad(where: str, got: str) -> BadReport:
    return BadReport(
        "this is not a report of Safety Gate",
        where=where,
        got=got,
        expected="what schemas/report.schema.json describes",
        hint="Use the same version of Safety Gate in both workflows.",
    )


def _report(tree: Json) -> Report:
    return Report(
        verdict=VERDICTS[tree["verdict"]],
        findings=tuple(_finding(one) for one in tree["findings"]),
        adapter=_adapter(tree["adapter"]) if tree["adapter"] else None,
        base=_checkpoint(tree["base"], "base") if tree["base"] else None,
        aligned=_checkpoint(tree["aligned"], "aligned") if tree["aligned"] else None,
        policy=PolicyFact(**tree["policy"]) if tree["policy"] else None,
        modules=tuple(_module(one) for one in tree["modules"]),
        total=_total(tree["total"]) if tree["total"] else None,
        ledger=tuple(LedgerEntry(**one) for one in tree["ledger"]),
        evidence=tree["evidence"],
        versions=tree["versions"],
        behaviour=_behaviour(tree.get("behaviour")),
    )


def _behaviour(tree: Json | None) -> BehaviourFact | None:
    """Read what the model said; the figures follow from the rest and are formed anew."""
    if tree is None:
        return None
    facts = {name: value for name, value in tree.items() if name != "figures"}
    return TypeAdapter(BehaviourFact).validate_python(facts)


def _finding(tree: Json) -> Finding:
    place = Place(**tree["place"])
    return Finding(**{**tree, "place": place})


def _files(tree: Json) -> tuple[FileFact, ...]:
    return tuple(FileFact(**{"sha256": None, **one}) for one in tree["files"])


def _adapter(tree: Json) -> AdapterFact:
    return AdapterFact(**{**tree, "files": _files(tree)})


def _checkpoint(tree: Json, role: Literal["base", "aligned"]) -> CheckpointFact:
    return CheckpointFact(**{**tree, "files": _files(tree)}, role=role)


def _drift(tree: Json) -> Drift:
    names = Drift.__dataclass_fields__
    return Drift(**{name: float(tree[name]) for name in names})


def _module(tree: Json) -> ModuleScore:
    return ModuleScore(
        module=tree["module"],
        shape=(int(tree["shape"][0]), int(tree["shape"][1])),
        rank=int(tree["rank"]),  # JSON Schema takes 8.0 for an integer
        scaling=float(tree["scaling"]),
        drift=_drift(tree),
        delta_norm=float(tree["delta_norm"]),
        step_norm=float(tree["step_norm"]),
        weight_norm=float(tree["weight_norm"]),
    )


def _total(tree: Json) -> AdapterScore:
    return AdapterScore(
        drift=_drift(tree),
        modules=int(tree["modules"]),
        changed_parameters=int(tree["changed_parameters"]),
        scored_parameters=int(tree["scored_parameters"]),
        unchanged_modules=tuple(tree["unchanged_modules"]),
    )
