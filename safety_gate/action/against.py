"""What adapters are judged against, where it lies in the workspace.

A pull request that could replace a checkpoint, or the cache of one, could choose what its adapter
is compared with.
"""

import os
from collections.abc import Iterator

from safety_gate.action import git
from safety_gate.action.changed import changes_of, is_hub
from safety_gate.action.event import Manual, Push, WorkflowRun
from safety_gate.action.job import Job
from safety_gate.action.policy_source import PolicySource
from safety_gate.action.repository import Repository
from safety_gate.errors import BadPolicy, SourceError
from safety_gate.policy.file import load_policy
from safety_gate.sources.hub_names import BadLocation, FolderPlace, parse_location
from safety_gate.sources.paths import printable

HINT = (
    "Change the checkpoint in a pull request of its own, or name repositories on the Hub, at a"
    " commit."
)
CACHE_HINT = "Name a folder under cache-dir: that git does not track."


def check_against(job: Job, policy: PolicySource, repository: Repository | None) -> None:
    """Refuse a run whose checkpoints, safety adapter or cache the event itself may have replaced.

    Raises:
        SourceError: it has, or it cannot be told that it has not.
        BadLocation: a checkpoint is named by hf:// with a name that is none.
    """
    commit = git.head(job.runner.workspace)
    if commit is None or _is_trusted(job, commit):
        return
    top = str(job.runner.workspace)
    wanted = job.options
    for path in _places(top, wanted.cache_dir):
        if _is_tracked(job, commit, path):
            raise _refused("the cache comes with what is judged", path, "", CACHE_HINT)
    tracked = [
        path
        for folder in _folders(job, policy)
        for path in _places(top, folder)
        if _is_tracked(job, commit, path)
    ]
    if not tracked:
        return  # the usual case: nothing has to be asked for
    changes = changes_of(job.event, job.runner.workspace, repository)
    for path in tracked:
        if changes is None:
            what = "it cannot be told whether the event replaces what adapters are judged against"
            raise _refused(what, path, "the changes could not be seen", HINT)
        if any(_touches(changed, path) for changed in changes.paths):
            raise _refused("the event replaces what adapters are judged against", path, "", HINT)


def _is_trusted(job: Job, commit: str) -> bool:
    """Tell whether the workspace may decide; else it holds what a pull request brought."""
    match job.event:
        case Push() | Manual():
            return True
        case WorkflowRun():
            return commit == job.event.commit
        case _:
            return False


def _folders(job: Job, policy: PolicySource) -> Iterator[str]:
    """Yield the folders that this run may compare with."""
    wanted = job.options
    for text in (wanted.base, wanted.aligned, wanted.safety_adapter):
        if text and not is_hub(text):
            yield text
    if wanted.base and wanted.aligned:
        return
    try:
        models = load_policy(policy.data, policy.origin).policy.models
    except BadPolicy:  # the gate says so itself, and does not get as far as a checkpoint
        return
    for text in (text for model in models for text in (model.aligned, model.base)):
        try:
            place = parse_location(text, shadowing="refuse")
        except BadLocation:  # refused there as well
            continue
        if isinstance(place, FolderPlace):
            yield str(place.path)


def _places(top: str, folder: str) -> set[str]:
    """Return the folder relative to the workspace, as named and where links lead; not outside."""
    if not folder:
        return set()
    real_top = os.path.realpath(top)
    named = os.path.relpath(os.path.normpath(os.path.join(top, folder)), top)
    real = os.path.relpath(os.path.realpath(os.path.join(top, folder)), real_top)
    return {path for path in (named, real) if path != ".." and not path.startswith("../")}


def _is_tracked(job: Job, commit: str, path: str) -> bool:
    """Tell whether a commit brings a folder, or a link or submodule on the way to it."""
    if path == ".":
        return True
    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        mode = git.mode(job.runner.workspace, commit, "/".join(parts[:depth]))
        if mode is None or mode in git.LEADS_AWAY or (mode and depth == len(parts)):
            return True
    return False


def _touches(changed: str, path: str) -> bool:
    """Tell whether a changed path is in a folder, or is the way to it."""
    return (
        path == "."
        or changed == path
        or changed.startswith(f"{path}/")
        or path.startswith(f"{changed}/")
    )


def _refused(what: str, path: str, got: str, hint: str) -> SourceError:
    return SourceError(
        what,
        where=printable(path),
        got=got,
        expected="files that the pull request cannot change",
        hint=hint,
    )
