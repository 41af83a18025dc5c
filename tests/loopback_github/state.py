"""What the loopback GitHub knows: repositories, pull requests, comments, tokens."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

FORK = {"contents": "read", "pull-requests": "read", "issues": "read", "checks": "read"}


@dataclass(frozen=True, slots=True)
class Token:
    """Who calls, and what for."""

    login: str
    permissions: Mapping[str, str]  # "read" or "write", by GitHub's names
    kind: str = "Bot"  # "User" for a personal token


@dataclass(slots=True)
class Comment:
    """One comment of a pull request."""

    id: int
    body: str
    login: str
    kind: str  # "Bot" or "User"


@dataclass(slots=True)
class Pull:
    """One pull request."""

    number: int
    head: str  # sha
    base: str  # sha
    files: list[Json]
    head_repository: str | None  # None: the fork was deleted
    head_ref: str = "new-adapter"
    state: str = "open"
    locked: bool = False


@dataclass(slots=True)
class CheckRun:
    """One check run, with the annotations of all its requests."""

    id: int
    head_sha: str
    fields: Json
    annotations: list[Json]


@dataclass(frozen=True, slots=True)
class Status:
    """One commit status."""

    sha: str
    state: str
    context: str
    description: str
    target_url: str


@dataclass(slots=True)
class Repository:
    """One repository with what was published to it."""

    name: str  # "owner/name"
    code_scanning: bool = True
    commits: set[str] = field(default_factory=set)  # known beyond those with contents
    contents: dict[tuple[str, str], bytes] = field(default_factory=dict)  # (sha, path)
    links: dict[tuple[str, str], str] = field(default_factory=dict)  # (sha, path) of symlinks
    pulls: dict[int, Pull] = field(default_factory=dict)
    comments: dict[int, list[Comment]] = field(default_factory=dict)
    comparisons: dict[tuple[str, str], list[Json]] = field(default_factory=dict)
    check_runs: list[CheckRun] = field(default_factory=list)
    statuses: list[Status] = field(default_factory=list)
    sarifs: list[Json] = field(default_factory=list)  # commit_sha, ref, tool_name, sarif (parsed)
    ids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1000))

    def add_pull(
        self,
        number: int,
        *,
        head: str,
        base: str,
        files: Iterable[str | Json] = (),
        head_repository: str | None = "",
        head_ref: str = "new-adapter",
    ) -> Pull:
        """Open a pull request; an empty ``head_repository`` means this one."""
        pull = Pull(
            number=number,
            head=head,
            base=base,
            files=[_file(entry) for entry in files],
            head_repository=self.name if head_repository == "" else head_repository,
            head_ref=head_ref,
        )
        self.pulls[number] = pull
        self.commits |= {head, base}
        self.comments.setdefault(number, [])
        return pull

    def add_comment(self, number: int, body: str, login: str, kind: str = "User") -> Comment:
        """Add a comment as anybody."""
        comment = Comment(id=next(self.ids), body=body, login=login, kind=kind)
        self.comments[number].append(comment)
        return comment

    def add_comparison(self, base: str, head: str, files: Iterable[str | Json]) -> None:
        """Say which files differ between two commits."""
        self.comparisons[base, head] = [_file(entry) for entry in files]


def _file(entry: str | Json) -> Json:
    return {"filename": entry, "status": "modified"} if isinstance(entry, str) else entry
