"""The door from the action to the gate: one adapter in, one report out."""

import datetime
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from safety_gate import __version__
from safety_gate.action.inputs import BadInput
from safety_gate.errors import GateError, MissingFile
from safety_gate.records import Finding, PlaceKind, Report, Undecided, finding_from


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What to judge, as the workflow named it."""

    adapter: str  # folder relative to the workspace, or Hub repository
    on_hub: bool  # which of the two
    base: str
    aligned: str
    safety_adapter: str
    behaviour: str
    repair: str
    publish_repaired: str
    policy: bytes
    policy_origin: str
    workspace: Path
    cache_dir: str
    today: datetime.date
    hf_token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of it."""

    report: Report
    repaired_path: str = ""  # folder in the workspace
    repaired_url: str = ""


Judge: TypeAlias = Callable[[Task], Result]


def undecided(error: GateError, place: PlaceKind = "adapter") -> Report:
    """Return the report of an adapter that could not even be given to the gate."""
    return Report(
        verdict=Undecided(),
        findings=(finding_from(error, place),),
        adapter=None,
        base=None,
        aligned=None,
        policy=None,
        modules=(),
        total=None,
        ledger=(),
        evidence="weights only",
        versions={"safety-gate": __version__},
    )


def judge_with_gate(task: Task) -> Result:
    """Judge folders of the workspace.

    Hub repositories, behaviour and repair come with their rooms; until then what cannot be done
    is refused, and never passed over.

    Raises:
        GateError: a checkpoint is not named, or something is asked that cannot be done.
    """
    _refuse_unknown(task)
    base, aligned = _folder(task, "base", task.base), _folder(task, "aligned", task.aligned)
    from safety_gate import gate  # torch comes with it

    with tempfile.TemporaryDirectory(prefix="safety-gate-policy-") as private:
        policy = Path(private) / "policy.yml"
        policy.write_bytes(task.policy)
        report = gate.judge(
            gate.Request(
                adapter=task.workspace / task.adapter,
                base=base,
                aligned=aligned,
                policy=policy,
                workers=len(os.sched_getaffinity(0)),
                today=task.today,
            )
        )
    return Result(report=_renamed(report, {str(policy): task.policy_origin}, task))


def _folder(task: Task, name: str, location: str) -> Path:
    if not location:
        raise MissingFile(
            f"the {name} checkpoint is not named",
            where=name,
            expected="a folder, or a Hub repository",
            hint=f"Give the input {name}, or set it under action: in the policy file.",
        )
    return task.workspace / location


def _refuse_unknown(task: Task) -> None:
    asked = {"behaviour": task.behaviour, "repair": task.repair}
    asked["publish-repaired"] = task.publish_repaired
    for name, value in asked.items():
        if value != "off":
            raise BadInput(
                "this version cannot do that yet",
                where=name,
                got=value,
                expected="off",
                hint=f"Leave {name} out.",
            )
    if task.on_hub:
        raise BadInput(
            "this version reads folders only",
            where="adapter",
            got=task.adapter,
            expected="a folder of the workspace",
            hint="Download the adapter in an earlier step.",
        )


def _renamed(report: Report, names: dict[str, str], task: Task) -> Report:
    """Call files as the workflow does: a path of this container tells a reader nothing."""
    names = names | {f"{task.workspace}/": ""}

    def told(text: str) -> str:
        for path, name in names.items():
            text = text.replace(path, name)
        return text

    def finding(one: Finding) -> Finding:
        return replace(one, place=replace(one.place, name=told(one.place.name)))

    return replace(
        report,
        findings=tuple(map(finding, report.findings)),
        adapter=report.adapter and replace(report.adapter, name=told(report.adapter.name)),
        base=report.base and replace(report.base, name=told(report.base.name)),
        aligned=report.aligned and replace(report.aligned, name=told(report.aligned.name)),
        policy=report.policy and replace(report.policy, origin=told(report.policy.origin)),
    )
