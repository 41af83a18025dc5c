"""The JSON report: everything, in one fixed order, for programs."""

import json
from dataclasses import asdict
from importlib import resources
from typing import Any, TypeAlias

from safety_gate.behaviour import BehaviourFact
from safety_gate.errors import BadScore
from safety_gate.records import (
    AdapterFact,
    AdapterScore,
    CheckpointFact,
    FileFact,
    Finding,
    LedgerEntry,
    ModuleScore,
    PolicyFact,
    Report,
)

FORMAT = "safety-gate/report/v1"

Json: TypeAlias = dict[str, Any]


def to_json(report: Report) -> str:
    r"""Return the report as JSON: ASCII, two blanks of indent, a newline at the end.

    Equal reports give equal bytes: no time, no path of this machine, floats in their shortest form
    that reads back to the same number. A key whose thing does not exist is left out, or ``null``
    where the schema says so; no figure is ever ``null``.

    Raises:
        BadScore: a figure is NaN or infinite.
    """
    try:
        text = json.dumps(_report(report), indent=2, ensure_ascii=True, allow_nan=False)
    except ValueError as error:
        raise BadScore(
            "a figure of the report is not finite",
            where="report",
            got=str(error),
            expected="finite numbers only",
            hint="Report this as a bug of Safety Gate, with the adapter's commit.",
        ) from error
    # A runner of GitHub obeys "##[...]" anywhere in a line of its log, and DEL is the one control
    # character that JSON leaves bare. Both stand only inside strings: an escape means the same.
    return text.replace("##[", "#\\u0023[").replace("\x7f", "\\u007f") + "\n"


def report_schema() -> Json:
    """Return the JSON Schema (2020-12) that every report follows."""
    file = resources.files("safety_gate") / "schemas" / "report.schema.json"
    schema: Json = json.loads(file.read_text(encoding="utf-8"))
    return schema


def _report(report: Report) -> Json:
    return {
        "schema": FORMAT,
        "verdict": report.verdict.word,
        "exit_code": report.verdict.exit_code,
        "evidence": report.evidence,
        "adapter": None if report.adapter is None else _adapter(report.adapter),
        "base": None if report.base is None else _checkpoint(report.base),
        "aligned": None if report.aligned is None else _checkpoint(report.aligned),
        "policy": None if report.policy is None else _policy(report.policy),
        "total": None if report.total is None else _total(report.total),
        "behaviour": None if report.behaviour is None else _behaviour(report.behaviour),
        "findings": [_finding(finding) for finding in report.findings],
        "modules": [_module(score) for score in report.modules],
        "ledger": [_entry(entry) for entry in report.ledger],
        "versions": dict(sorted(report.versions.items())),
    }


def _adapter(adapter: AdapterFact) -> Json:
    return {
        "name": adapter.name,
        "revision": adapter.revision,
        "digest": adapter.digest,
        "claimed_base": adapter.claimed_base,
        "kind": adapter.kind,
        "files": [_file(file) for file in adapter.files],
    }


def _checkpoint(checkpoint: CheckpointFact) -> Json:
    return {
        "name": checkpoint.name,
        "revision": checkpoint.revision,
        "files": [_file(file) for file in checkpoint.files],
    }


def _file(file: FileFact) -> Json:
    digests = {"sha256": file.sha256, "header_sha256": file.header_sha256}
    return {"path": file.path, "size": file.size} | _present(digests)


def _policy(policy: PolicyFact) -> Json:
    return {"name": policy.name, "origin": policy.origin, "sha256": policy.sha256}


def _total(total: AdapterScore) -> Json:
    return {
        "modules": total.modules,
        "changed_parameters": total.changed_parameters,
        "scored_parameters": total.scored_parameters,
        "coverage": total.coverage,
        **total.drift.values(),
        "unchanged_modules": list(total.unchanged_modules),
    }


def _behaviour(fact: BehaviourFact) -> Json:
    """Return all that was asked and said; the texts of answers only where the user wanted them."""
    figures = {one.variant: fact.figures(one.variant) for one in fact.by_openings}
    return {**asdict(fact), "figures": figures}


def _finding(finding: Finding) -> Json:
    return {
        "rule": finding.rule,
        "severity": finding.severity,
        "place": {"kind": finding.place.kind, "name": finding.place.name},
        "what": finding.what,
        "hint": finding.hint,
    } | _present(
        {
            "got": finding.got or None,
            "expected": finding.expected or None,
            "metric": finding.metric or None,
            "value": finding.value,
            "threshold": finding.threshold,
            "waiver": finding.waiver or None,
        }
    )


def _module(score: ModuleScore) -> Json:
    return {
        "module": score.module,
        "shape": list(score.shape),
        "rank": score.rank,
        "scaling": score.scaling,
        **score.drift.values(),
        "delta_norm": score.delta_norm,
        "step_norm": score.step_norm,
        "weight_norm": score.weight_norm,
    }


def _entry(entry: LedgerEntry) -> Json:
    return {
        "kind": entry.kind,
        "name": entry.name,
        "owner": entry.owner,
        "accounted": entry.accounted,
        "scored": entry.scored,
    }


def _present(values: Json) -> Json:
    """Leave out what does not exist."""
    return {key: value for key, value in values.items() if value is not None}
