"""The action's repair: a repaired copy in the workspace, and an offer on the Hub."""

import os
import shutil
from pathlib import Path

from safety_gate import gate
from safety_gate.action.task import Result, Task
from safety_gate.errors import GateError, UnsafePath
from safety_gate.places import Where
from safety_gate.publish.hub_parcel import Way
from safety_gate.records import Passed
from safety_gate.repair.forms import Merge
from safety_gate.repair.guard import Guard
from safety_gate.repair.methods import Drop, Method, SafeLora, SafeMerge, Unrevert
from safety_gate.repair.plan import Auto, Choice, Order, Plan
from safety_gate.repair.record import Repaired
from safety_gate.repair.selection import Flagged
from safety_gate.repairing import repair_and_judge
from safety_gate.sources.hub_names import HubPlace

FOLDER = "safety-gate-report/repaired"
METHODS: dict[str, Method] = {  # those that need no number; the command line has all
    "safemerge": SafeMerge(merge=Merge()),
    "safelora": SafeLora(),
    "guard": Guard(),
    "unrevert": Unrevert(),
    "drop": Drop(),
}
WAYS: dict[str, Way] = {
    "pull-request": "pull request",
    "branch": "branch",
    "repo": "repository",
}
SUFFIX = "-safety-gate"  # of the repository that a repaired adapter goes to, beside the judged one


def choice_of(repair: str) -> Choice:
    """Return the repair of a name: "auto", or a method on what the policy flags."""
    if repair == "auto":
        return Auto()
    return Plan(method=METHODS[repair], selection=Flagged())


def mended(task: Task, request: gate.Request, safety: Where | None) -> Result:
    """Judge an adapter, and write a repaired copy of it where the policy blocks it.

    The verdict is that of the adapter as it is: a repaired copy does not release it.
    """
    folder = _new_folder(task)
    order = Order(choice=choice_of(task.repair), output=folder, safety=safety)
    try:
        repaired = repair_and_judge(request, order)
    except GateError as error:  # what stops a repair must not hide what the gate can still say
        return Result(report=gate.judge(request), notes=(f"No repair: {error.what}.",))
    if repaired.ending != "repaired" or repaired.output is None:
        shutil.rmtree(folder, ignore_errors=True)  # "nothing to repair" leaves a plain copy
        return Result(report=repaired.before, notes=(f"Repair: {repaired.ending}.",))
    url, note = _offered(task, request, repaired)
    return Result(
        report=repaired.before,
        repaired_path=str(folder.relative_to(task.workspace)),
        repaired_url=url,
        notes=(f"Repair: {_word(repaired)}.", *note),
    )


def _word(repaired: Repaired) -> str:
    if repaired.unsettled:
        return "the weights pass now, but the model was not asked, so that settles nothing"
    after = repaired.after
    return f"the repaired adapter is {after.verdict.word if after else 'not judged'}"


def _new_folder(task: Task) -> Path:
    """Return a folder of the workspace that is free, and reached through no link.

    Raises:
        UnsafePath: a part of the way is a link, or no folder.
    """
    name = task.adapter.removeprefix("hf://").partition("@")[0].strip("/")
    parts = [part for part in (*FOLDER.split("/"), *name.split("/")) if part not in ("", ".")]
    folder = task.workspace
    for part in parts:
        folder = folder / part
        if part == ".." or folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise UnsafePath(
                "a repaired adapter cannot be written there",
                where=str(folder.relative_to(task.workspace)),
                expected="plain folders",
                hint="Remove the link or file of this name from the repository.",
            )
    if folder.exists():
        shutil.rmtree(folder)  # of an earlier run in the same workspace
    os.makedirs(folder.parent, exist_ok=True)
    return folder


def _offered(task: Task, request: gate.Request, repaired: Repaired) -> tuple[str, tuple[str, ...]]:
    """Offer a repaired adapter on the Hub; return its address, and what is to be said."""
    if task.publish_repaired == "off":
        return "", ()
    after, before = repaired.after, repaired.before
    settled = after is not None and isinstance(after.verdict, Passed) and not repaired.unsettled
    if not isinstance(request.adapter, HubPlace):
        return "", ("Not offered: only an adapter of a Hub repository can be.",)
    if not settled or after is None or before.adapter is None or repaired.made is None:
        return "", ("Not offered: the repaired adapter has not passed with the model asked.",)
    if not task.hf_token:
        return "", ("Not offered: hf-token is needed, with write access.",)
    from safety_gate.publish.hub import HubWishes, connect, publish_hub
    from safety_gate.publish.hub_desk import Target
    from safety_gate.publish.hub_parcel import Variant

    place = request.adapter
    wishes = HubWishes(
        discussion="never",
        comment="never",
        variant=Variant(
            folder=task.workspace / FOLDER / place.repo_id,
            before=before,
            after=after,
            method=repaired.made.method,
            removed=repaired.made.left_out,
            way=WAYS[task.publish_repaired],
            repository=place.repo_id + SUFFIX if task.publish_repaired == "repo" else "",
        ),
    )
    target = Target(repo_id=place.repo_id, sha=before.adapter.revision)
    (told,) = publish_hub(connect(task.hf_token), target, before, wishes)
    note = f"Offer on the Hub: {told.state}" + (f", {told.why}" if told.why else "")
    return told.url, (f"{note}.",)
