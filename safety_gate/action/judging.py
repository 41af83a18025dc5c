"""The door from the action to the gate: one adapter in, one report out."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from safety_gate.action.changed import is_hub
from safety_gate.action.task import Result, Task
from safety_gate.policy.file import PolicyText
from safety_gate.records import Finding, Report
from safety_gate.sources.hub_names import HubPlace, parse_location

if TYPE_CHECKING:
    from safety_gate.asking import Mode
    from safety_gate.gate import Request
    from safety_gate.places import Where


def judge_with_gate(task: Task) -> Result:
    """Judge a folder of the workspace, or a repository on the Hub; repair it where that is asked.

    Raises:
        GateError: a place is named that cannot be one.
    """
    from safety_gate import gate  # torch comes with it
    from safety_gate.action.mending import mended

    with tempfile.TemporaryDirectory(prefix="safety-gate-action-") as private:
        request = _request(task, Path(private))
        if task.repair == "off":
            result = Result(report=gate.judge(request))
        else:
            result = mended(task, request, place_of(task, task.safety_adapter))
        names = {f"{private}/": "", f"{task.workspace}/": ""}
    return replace(result, report=_renamed(result.report, names))


def _request(task: Task, private: Path) -> "Request":
    from safety_gate import gate
    from safety_gate.asking import Ask

    def kept(name: str, data: bytes | None) -> Path | None:
        if data is None:
            return None
        path = private / name
        path.write_bytes(data)
        return path

    adapter = place_of(task, task.adapter)
    if adapter is None:
        raise AssertionError("a task without an adapter")
    return gate.Request(
        adapter=adapter,
        base=place_of(task, task.base),
        aligned=place_of(task, task.aligned),
        cache=task.workspace / task.cache_dir if task.cache_dir else None,
        policy=PolicyText(data=task.policy, origin=task.policy_origin),
        workers=len(os.sched_getaffinity(0)),
        today=task.today,
        ask=Ask(
            mode=_mode(task.behaviour),
            prompts=kept("prompts.jsonl", task.prompts),
            openings=kept("openings.json", task.openings),
        ),
    )


def place_of(task: Task, text: str) -> "Where | None":
    """Return a repository where a text says so itself, else a folder of the workspace.

    A plain a/b is a folder: a pull request that deletes the folder must not put a stranger's
    repository of that name in its place, nor one that adds it a folder in a repository's.

    Raises:
        BadLocation: hf:// with a name that is none.
    """
    if not text:
        return None
    if is_hub(text):
        place = parse_location(text)
        if isinstance(place, HubPlace):
            return place
    return task.workspace / text


def _mode(behaviour: str) -> "Mode":
    modes: dict[str, Mode] = {
        "off": "none",
        "auto": "auto",
        "openings": "openings",
        "generate": "generate",
    }
    return modes[behaviour]


def _renamed(report: Report, names: dict[str, str]) -> Report:
    """Call files as the workflow does: a path of this container tells a reader nothing."""

    def told(text: str) -> str:
        for path, name in names.items():
            text = text.replace(path, name)
        return text

    def finding(one: Finding) -> Finding:
        return replace(one, place=replace(one.place, name=told(one.place.name)))

    said = report.behaviour
    return replace(
        report,
        findings=tuple(map(finding, report.findings)),
        adapter=report.adapter and replace(report.adapter, name=told(report.adapter.name)),
        base=report.base and replace(report.base, name=told(report.base.name)),
        aligned=report.aligned and replace(report.aligned, name=told(report.aligned.name)),
        behaviour=said
        and replace(said, prompt_set=told(said.prompt_set), openings=told(said.openings)),
    )
