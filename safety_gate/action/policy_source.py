"""Where the policy comes from: never from what is judged.

On a pull request, in a merge queue and after another workflow the policy is read at a commit that
the pull request cannot have changed: the base, or the default branch.
"""

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import assert_never

from safety_gate.action import git
from safety_gate.action.event import Event, Manual, MergeGroup, PullRequest, Push, WorkflowRun
from safety_gate.action.repository import Repository
from safety_gate.action.runner import Runner
from safety_gate.errors import BadPolicy, UnsafePath
from safety_gate.policy.presets import load_preset
from safety_gate.policy.yaml_text import MAX_BYTES
from safety_gate.report.location import address_of
from safety_gate.sources.paths import check_path, printable

USUAL = "safety-gate.yml"  # at the top of the repository, where nothing else is said
DEFAULT_PRESET = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySource:
    """A policy file's bytes, and what they are called."""

    data: bytes
    origin: str  # for the report: "preset default", or path and commit
    uri: str
    path: str = ""  # in the repository; empty for a preset


def find_policy(
    path: str, preset: str, event: Event, runner: Runner, repository: Repository | None
) -> PolicySource:
    """Return the policy that decides.

    Args:
        path: the input ``policy``; empty for the usual place.
        preset: the input ``preset``; empty unless given.
        event: what happened.
        runner: the job.
        repository: on GitHub; None without a token.

    Raises:
        BadPolicy: there is no such file where it counts, or it cannot be known whether there is.
        NotPublished: GitHub did not answer.
    """
    if preset:
        return _preset(preset)
    wanted = _checked(path or USUAL, runner.workspace)
    commit = _trusted_commit(event, runner)
    if commit is None:
        data = _from_workspace(runner.workspace, wanted)
        commit = runner.sha
    else:
        data = _from_commit(wanted, commit, runner.workspace, repository)
    if data is not None:
        uri = f"{runner.server_url}/{runner.repository}/blob/{commit}/{address_of(wanted)}"
        origin = f"{wanted} at {commit[:12]}"
        return PolicySource(data=data, origin=origin, uri=uri, path=wanted)
    if path:
        raise BadPolicy(
            "the policy file is not where it counts",
            where=wanted,
            got=f"no such file at commit {commit[:12]}",
            expected="the file on the base branch, for a pull request",
            hint="Merge the policy file first, in a pull request of its own, or use a preset.",
        )
    return _preset(DEFAULT_PRESET)


def _preset(name: str) -> PolicySource:
    load_preset(name)  # refuses an unknown name, with the nearest one
    data = resources.files("safety_gate").joinpath("policies", f"{name}.yml").read_bytes()
    return PolicySource(data=data, origin=f"preset {name}", uri=f"urn:safety-gate:preset:{name}")


def _trusted_commit(event: Event, runner: Runner) -> str | None:
    """Return the commit whose policy counts; None where the workspace itself may be trusted."""
    match event:
        case PullRequest() | MergeGroup():
            return event.base
        case WorkflowRun():
            return event.commit
        case Push() | Manual():
            return None
        case _:
            assert_never(event)


def _checked(path: str, workspace: Path) -> str:
    """Return the path relative to the top of the repository."""
    relative = path.removeprefix(f"{workspace}/").removeprefix("./")
    try:
        check_path(relative)
    except UnsafePath as error:
        raise BadPolicy(
            error.what,
            where=printable(path),
            expected="a path in this repository",
            hint="Name the policy file relative to the top of the repository.",
        ) from error
    return relative


def _from_commit(
    path: str, commit: str, workspace: Path, repository: Repository | None
) -> bytes | None:
    """Return the file at a commit; None where it is known not to be there."""
    if repository is not None:
        return repository.file(path, commit, most=MAX_BYTES)
    if not git.knows(workspace, commit):
        raise BadPolicy(
            "the policy of the base branch cannot be read",
            where=path,
            got="no token, and the base commit is not checked out",
            expected="github-token, or a checkout with fetch-depth: 0",
            hint="Leave github-token at its default and give the job contents: read.",
        )
    return git.blob(workspace, commit, path, most=MAX_BYTES)


def _from_workspace(workspace: Path, path: str) -> bytes | None:
    """Return the file that is checked out; None where there is none."""
    target = workspace / path
    try:
        handle = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadPolicy(
            "the policy file cannot be read",
            where=path,
            got=error.strerror or type(error).__name__,
            expected="a regular file",
            hint="Check the path; a link is not followed.",
        ) from error
    with os.fdopen(handle, "rb") as file:
        return file.read(MAX_BYTES + 1)  # what is longer is refused where it is parsed
