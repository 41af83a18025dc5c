"""Files of the repository that decide: never from what is judged.

On a pull request, in a merge queue and after another workflow they are read at a commit that the
pull request cannot have changed: the base, or the default branch.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from safety_gate.action import git
from safety_gate.action.event import Event, Manual, MergeGroup, PullRequest, Push, WorkflowRun
from safety_gate.action.repository import Repository
from safety_gate.action.runner import Runner
from safety_gate.errors import BadPolicy, UnsafePath
from safety_gate.sources.paths import check_path, printable


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """What was found at the commit that has the say."""

    data: bytes | None  # None: there is no such file
    path: str  # relative to the top of the repository
    commit: str  # 40 hex


def trusted_file(
    path: str, event: Event, runner: Runner, repository: Repository | None, *, most: int
) -> Trusted:
    """Read a file where it counts.

    Args:
        path: as the workflow names it.
        event: what happened.
        runner: the job.
        repository: on GitHub; None without a token.
        most: bytes to read; one more tells that there are more.

    Raises:
        BadPolicy: the path leads outside, or it cannot be known what stands there.
        NotPublished: GitHub did not answer.
    """
    wanted = _checked(path, runner.workspace)
    commit = _trusted_commit(event, runner)
    if commit is None:
        data = _from_workspace(runner.workspace, wanted, most)
        return Trusted(data=data, path=wanted, commit=runner.sha)
    data = _from_commit(wanted, commit, runner.workspace, repository, most)
    return Trusted(data=data, path=wanted, commit=commit)


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
            hint="Name the file relative to the top of the repository.",
        ) from error
    return relative


def _from_commit(
    path: str, commit: str, workspace: Path, repository: Repository | None, most: int
) -> bytes | None:
    """Return the file at a commit; None where it is known not to be there."""
    if repository is not None:
        return repository.file(path, commit, most=most)
    if not git.knows(workspace, commit):
        raise BadPolicy(
            "a file of the base branch cannot be read",
            where=path,
            got="no token, and the base commit is not checked out",
            expected="github-token, or a checkout with fetch-depth: 0",
            hint="Leave github-token at its default and give the job contents: read.",
        )
    return git.blob(workspace, commit, path, most=most)


def _from_workspace(workspace: Path, path: str, most: int) -> bytes | None:
    """Return the file that is checked out; None where there is none."""
    target = workspace / path
    try:
        handle = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadPolicy(
            "the file cannot be read",
            where=path,
            got=error.strerror or type(error).__name__,
            expected="a regular file",
            hint="Check the path; a link is not followed.",
        ) from error
    with os.fdopen(handle, "rb") as file:
        return file.read(most + 1)  # what is longer is refused where it is parsed
