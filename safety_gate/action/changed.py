"""Which adapters a run must judge: those that the event changed, or those that were named.

What was not seen is not called unchanged: where the difference cannot be had in full, every
adapter of the workspace is judged.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from safety_gate.action import git
from safety_gate.action.changes import Changes
from safety_gate.action.event import Event, Manual, MergeGroup, PullRequest, Push, WorkflowRun
from safety_gate.action.repository import Repository
from safety_gate.errors import GateError, SourceError
from safety_gate.publish.github import NotPublished
from safety_gate.publish.publication import count
from safety_gate.report.location import CONFIG
from safety_gate.sources.hub_names import SCHEME, HubPlace, parse_location
from safety_gate.sources.paths import printable

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
MARKS = frozenset({CONFIG, *WEIGHTS})  # a folder with any of these is an adapter
MOST_ADAPTERS = 50  # of one run; a job has six hours, and nobody reads more reports
MOST_ENTRIES = 500_000  # folders and files of a workspace that are looked at
SKIPPED = frozenset({".git", "node_modules"})

_WILD = re.compile(r"[*?]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The adapters to judge."""

    adapters: tuple[str, ...]  # folders relative to the workspace, or Hub repositories
    how: str  # our own words, for the log and for a run without adapters
    seen: bool  # False: there may be adapters that could not be found


@dataclass(frozen=True, slots=True)
class _Difference:
    """What an event changed; None where that cannot be told."""

    changes: Changes | None
    how: str


def find_adapters(
    named: Iterable[str], event: Event, workspace: Path, repository: Repository | None
) -> Found:
    """Return what to judge.

    Args:
        named: the input ``adapter``, line by line; empty for what the event changed.
        event: what happened.
        workspace: with the files that were checked out.
        repository: on GitHub; None without a token.

    Raises:
        SourceError: the workspace holds too much to be looked through, or too many adapters.
    """
    if wanted := tuple(named):
        found = tuple(dict.fromkeys(one for line in wanted for one in _named(line, workspace)))
        return _limited(Found(adapters=found, how="named by the input adapter", seen=True))
    there = tuple(_adapter_folders(workspace))
    difference = _difference(event, workspace, repository)
    changes = difference.changes
    if changes is None:
        how = f"every adapter of the workspace ({difference.how})"
        return _limited(Found(adapters=there, how=how, seen=bool(there)))
    touched = {folder for path in changes.paths for folder in _parents(path)}
    changed = tuple(folder for folder in there if folder in touched)
    files = count(len(changes.paths), "changed file")
    how = f"{count(len(changed), 'adapter')} among {files} ({difference.how})"
    return _limited(Found(adapters=changed, how=how, seen=_all_there(changes, workspace)))


def changes_of(event: Event, workspace: Path, repository: Repository | None) -> Changes | None:
    """Return what an event changed; None where that cannot be told."""
    return _difference(event, workspace, repository).changes


def _limited(found: Found) -> Found:
    if len(found.adapters) > MOST_ADAPTERS:
        raise SourceError(
            "there are too many adapters for one run",
            where="workspace",
            got=str(len(found.adapters)),
            expected=f"at most {MOST_ADAPTERS}",
            hint="Name some of them with adapter:, and judge the others in other jobs.",
        )
    return found


def _all_there(changes: Changes, workspace: Path) -> bool:
    """Tell whether the workspace holds what the event added or modified.

    Without a checkout it does not, and an adapter would go unseen. A sparse checkout may leave
    out what it likes but adapters.
    """
    whole = git.head(workspace) is not None
    wanted = (p for p in changes.there if not whole or p.rpartition("/")[2] in MARKS)
    return all(os.path.lexists(workspace / path) for path in wanted)


def _named(line: str, workspace: Path) -> Iterator[str]:
    """Yield what one line of the input means; a folder that is not there stays, to be refused."""
    if is_hub(line):
        yield line
    elif _WILD.search(line):
        pattern = re.compile(_translated(line))
        found = [folder for folder in _adapter_folders(workspace) if pattern.fullmatch(folder)]
        if not found:
            raise SourceError(
                "no adapter folder matches",
                where="adapter",
                got=line,
                expected="a pattern that matches a folder with adapter_config.json",
                hint="Check the pattern; * stays within one folder name, ** crosses them.",
            )
        yield from found
    else:
        yield inside(line, workspace)


def is_hub(location: str) -> bool:
    """Tell whether an adapter is named as a Hub repository: by hf://, or by a revision.

    A plain a/b is a folder here. Otherwise a pull request could delete the folder that is to be
    judged, and a stranger's repository of that name would be judged in its place.

    Raises:
        BadLocation: hf:// with a name that is none.
    """
    explicit = location.startswith(SCHEME) or "@" in location
    return explicit and isinstance(parse_location(location), HubPlace)


def inside(location: str, workspace: Path) -> str:
    """Return a folder relative to the workspace, with forward slashes; "." for its top.

    Raises:
        SourceError: it leads outside.
    """
    top = os.path.realpath(workspace)
    real = os.path.realpath(workspace / location)
    if os.path.commonpath([top, real]) != top:
        raise SourceError(
            "this folder is not in the workspace",
            where=printable(location),
            expected="a folder below the workspace",
            hint="Check the code out before the gate runs, and name a folder of it.",
        )
    return os.path.normpath(os.path.join(".", location.removeprefix(f"{workspace}/")))


def _translated(pattern: str) -> str:
    """Return a glob as a regular expression: * and ? within a name, ** across folders."""
    out = ""
    for part in re.split(r"(\*\*/|\*\*|\*|\?)", pattern.strip("/")):
        out += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
    return out


def _adapter_folders(workspace: Path) -> Iterator[str]:
    """Yield every adapter folder, sorted; links to folders are adapters too, and are not entered.

    Raises:
        SourceError: there is too much to look through.
    """
    entries = 0
    for top, folders, files in os.walk(workspace):
        folders[:] = sorted(name for name in folders if name not in SKIPPED)
        entries += len(folders) + len(files)
        if entries > MOST_ENTRIES:
            raise SourceError(
                "the workspace holds too many files to look through",
                where="workspace",
                expected=f"at most {MOST_ENTRIES}",
                hint="Name the adapter with adapter:.",
            )
        relative = os.path.relpath(top, workspace)
        if MARKS & set(files):
            yield _slashed(relative)
        for name in folders:
            path = os.path.join(top, name)
            if os.path.islink(path) and any(os.path.exists(os.path.join(path, m)) for m in MARKS):
                yield _slashed(os.path.normpath(os.path.join(relative, name)))


def _slashed(path: str) -> str:
    return path.replace(os.sep, "/")


def _parents(path: str) -> Iterator[str]:
    """Yield the path itself, since a link may be a folder, and every folder above it."""
    parts = path.split("/")
    for depth in range(len(parts), 0, -1):
        yield "/".join(parts[:depth])
    yield "."


def _difference(event: Event, workspace: Path, repository: Repository | None) -> _Difference:
    """Ask for the changed files, the local history first."""
    match event:
        case PullRequest():
            return _asked(
                repository, lambda r: r.pull_files(event.number), "files of the pull request"
            )
        case Push(after=None):
            return _Difference(Changes(there=(), gone=()), "the branch was deleted")
        case Push(before=None):
            return _Difference(None, "the branch is new")
        case Push(before=str(before), after=str(after)):
            return _between(before, after, workspace, repository)
        case MergeGroup():
            return _between(event.base, event.head, workspace, repository)
        case Manual():
            return _Difference(None, f"{event.name} has no changes of its own")
        case WorkflowRun():
            return _Difference(None, "workflow_run has no changes of its own")
    raise AssertionError(f"an event without a difference: {event!r}")


def _between(
    before: str, after: str, workspace: Path, repository: Repository | None
) -> _Difference:
    changes = git.changed_paths(workspace, before, after)
    if changes is not None:
        return _Difference(changes, "difference of the commits")
    return _asked(
        repository,
        lambda r: r.compared_files(before, after),
        "difference of the commits, from GitHub",
    )


def _asked(
    repository: Repository | None, ask: Callable[[Repository], Changes | None], how: str
) -> _Difference:
    if repository is None:
        return _Difference(None, "without a token the changes cannot be asked for")
    try:
        changes = ask(repository)
    except NotPublished as error:
        return _Difference(None, f"the changes could not be seen: {error.what}")
    if changes is None:
        return _Difference(None, "GitHub does not list all changes")
    return _Difference(changes, how)


def nothing_seen(found: Found) -> GateError:
    """Return why a run that found no adapter may not pass."""
    return SourceError(
        "no adapter was found, and it is not known that none has changed",
        where="workspace",
        got=found.how,
        expected="a checkout with the adapter in it",
        hint="Add actions/checkout before the gate, or name the adapter with adapter:.",
    )
