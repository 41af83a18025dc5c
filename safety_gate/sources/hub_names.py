"""Which texts name a repository on the Hub, and which a folder.

In this order:

1. ``hf://org/name`` or ``hf://org/name@revision`` is a repository, always.
2. What begins with ``/``, ``./``, ``../`` or ``~`` is a folder, always.
3. ``org/name@revision``, where all three fit the Hub's rules, is a repository, whatever folders
   there are.
4. ``org/name`` is a folder where such a folder exists, else a repository.
5. Everything else is a folder.

Rule 4 is a trap in a working copy that a stranger can add folders to: a pull request that brings
a folder ``meta-llama/Llama-2-7b-hf`` would replace the checkpoint of that name. Where that may
be, call with ``shadowing="refuse"``.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from safety_gate.errors import SourceError

SCHEME = "hf://"
# Of organisation and name each; the Hub's limits (huggingface_hub.utils.validate_repo_id).
PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
SHOWN = 200  # characters of a bad name in a message
REPO_ID = re.compile(rf"{PART}/{PART}")
# Branch, tag, refs/pr/N or commit; git allows more, but nothing that the Hub's own pages make.
REVISION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/+-]{0,253}[A-Za-z0-9._+-])?")
COMMIT = re.compile(r"[0-9a-f]{40}")
FOLDER_STARTS = ("/", "./", "../", "~")
HINT = "Write ./folder for a folder, or hf://org/name@revision for a repository on the Hub."

Shadowing: TypeAlias = Literal["folder", "refuse"]


class BadLocation(SourceError):
    """A text that names neither a folder nor a repository."""

    rule = "location-bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderPlace:
    """A folder on this machine, which may not exist."""

    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class HubPlace:
    """A repository on the Hub."""

    repo_id: str  # "org/name", checked
    revision: str | None  # branch, tag, refs/pr/N or commit, checked; None: the main branch

    def __str__(self) -> str:
        """Return "org/name@revision"."""
        return f"{self.repo_id}@{self.revision}" if self.revision else self.repo_id


Location: TypeAlias = FolderPlace | HubPlace


def is_repo_id(text: str) -> bool:
    """Tell whether this could be org/name on the Hub; stricter than the Hub, never laxer."""
    return (
        REPO_ID.fullmatch(text) is not None
        and not any(bad in text for bad in ("--", ".."))
        and not text.endswith(".git")
    )


def is_revision(text: str) -> bool:
    """Tell whether this could name a branch, a tag, a pull request or a commit."""
    return (
        REVISION.fullmatch(text) is not None
        and not any(bad in text for bad in ("..", "//", "/.", "./"))
        and not text.endswith((".lock", "."))
    )


def check_repo_id(repo_id: str) -> None:
    """Raise BadLocation unless this could be org/name on the Hub."""
    if not is_repo_id(repo_id):
        raise BadLocation(
            "this is not the name of a repository on the Hub",
            where=repo_id[:SHOWN] or "(empty name)",
            expected="org/name: letters, digits, '-', '_' and '.'",
            hint=HINT,
        )


def check_revision(revision: str) -> None:
    """Raise BadLocation unless this could be a branch, a tag, refs/pr/N or a commit."""
    if not is_revision(revision):
        raise BadLocation(
            "this is not the name of a revision",
            where=revision[:SHOWN] or "(empty revision)",
            expected="a branch, a tag, refs/pr/N or a commit",
            hint="Write org/name@main, or better org/name@ and the 40-digit commit.",
        )


def _hub_place(text: str) -> HubPlace:
    repo_id, at, revision = text.partition("@")
    check_repo_id(repo_id)
    if at:
        check_revision(revision)
    return HubPlace(repo_id=repo_id, revision=revision if at else None)


def parse_location(text: str, *, shadowing: Shadowing = "folder") -> Location:
    """Tell what a user's text names; the rules stand at the top of this file.

    Args:
        text: as typed on a command line or written in a workflow.
        shadowing: what to do where ``org/name`` is a folder too: take the folder, or refuse.

    Raises:
        BadLocation: ``hf://`` with a name that is none, or a name that means two things.
    """
    if text.startswith(SCHEME):
        return _hub_place(text.removeprefix(SCHEME))
    repo_id, at, revision = text.partition("@")
    path = Path(text)
    if text.startswith(FOLDER_STARTS) or not is_repo_id(repo_id):
        return FolderPlace(path=path)
    if at and is_revision(revision):
        return HubPlace(repo_id=repo_id, revision=revision)
    if not path.is_dir():
        return _hub_place(text)
    if shadowing == "refuse":
        raise BadLocation(
            "this names a folder and could name a repository on the Hub", where=text, hint=HINT
        )
    return FolderPlace(path=path)
