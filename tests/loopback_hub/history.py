"""Repositories as git sees them: contents, commits and refs, in memory."""

import hashlib
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from tests.loopback_hub.problem import Problem

if TYPE_CHECKING:
    from tests.loopback_hub.talk import Discussion

MAIN = "refs/heads/main"
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".onnx", ".gguf", ".png", ".zip", ".model")
REGULAR_LIMIT = 10 * 2**20  # bytes; the Hub refuses larger files outside LFS
_COUNTER = itertools.count(1)

Storage = Literal["regular", "lfs", "xet"]
Kind = Literal["model", "dataset", "space"]
Gate = Literal["auto", "manual"]


def now() -> str:
    """Return the time as the Hub writes it."""
    return datetime.now(tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def hex24() -> str:
    """Return an id as the Hub gives to events, webhooks and repositories."""
    return hashlib.sha256(f"id {next(_COUNTER)}".encode()).hexdigest()[:24]


def git_blob(data: bytes) -> str:
    """Return git's name of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def storage_for(path: str, size: int) -> Literal["regular", "lfs"]:
    """Return how the Hub would store a new file."""
    large = path.endswith(LFS_SUFFIXES) or size > REGULAR_LIMIT
    return "lfs" if large else "regular"


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of one file, and how they are stored."""

    data: bytes = field(repr=False)
    lfs: bool
    xet_hash: str | None = None
    sha256: str = field(init=False)
    git_oid: str = field(init=False)  # of the file, or of its pointer

    def __post_init__(self) -> None:
        """Hash once: the bytes do not change."""
        object.__setattr__(self, "sha256", hashlib.sha256(self.data).hexdigest())
        object.__setattr__(self, "git_oid", git_blob(self.pointer if self.lfs else self.data))

    @property
    def pointer(self) -> bytes:
        return b"version https://git-lfs.github.com/spec/v1\noid sha256:%b\nsize %d\n" % (
            self.sha256.encode(),
            len(self.data),
        )

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One state of all files."""

    id: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: Mapping[str, Content]


@dataclass(slots=True, kw_only=True)
class Repo:
    """One repository; fields may be changed by a test at any time."""

    repo_id: str
    kind: Kind = "model"
    private: bool = False
    gated: Gate | None = None
    let_in: set[str] = field(default_factory=set)  # accounts that a gated repository lets in
    disabled: bool = False
    discussions_disabled: bool = False
    tags: list[str] = field(default_factory=list)
    renamed_to: str | None = None
    id: str = field(default_factory=hex24)
    created: str = field(default_factory=now)
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)  # "refs/heads/main" -> commit
    discussions: "list[Discussion]" = field(default_factory=list)

    @property
    def namespace(self) -> str:
        return self.repo_id.split("/")[0]

    @property
    def head(self) -> Commit:
        return self.commits[self.refs[MAIN]]

    def ref_of(self, revision: str) -> str | None:
        """Return the full name of a branch, tag or pull request."""
        names = (revision, f"refs/heads/{revision}", f"refs/tags/{revision}")
        return next((name for name in names if name in self.refs), None)

    def at(self, revision: str) -> Commit:
        """Return the commit that a revision is now; 404 where there is none."""
        ref = self.ref_of(revision)
        if ref is not None:
            return self.commits[self.refs[ref]]
        if re.fullmatch(r"[0-9a-f]{5,40}", revision):
            found = [c for sha, c in self.commits.items() if sha.startswith(revision)]
            if len(found) == 1:
                return found[0]
        raise Problem(404, f"Invalid rev id: {revision}", code="RevisionNotFound")

    def history(self, revision: str) -> list[Commit]:
        """Return commits from a revision back to the first."""
        commit: Commit | None = self.at(revision)
        found = []
        while commit is not None:
            found.append(commit)
            commit = self.commits[commit.parent] if commit.parent else None
        return found

    def add_commit(
        self,
        ref: str,
        files: Mapping[str, Content],
        *,
        title: str,
        message: str = "",
        author: str,
        parent: str | None,
    ) -> Commit:
        """Make a commit the head of a ref."""
        date = now()
        tree = "".join(f"{path}\0{files[path].git_oid}\n" for path in sorted(files))
        text = f"{self.id} {parent} {title} {message} {author} {date} {next(_COUNTER)}\n{tree}"
        sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        commit = Commit(
            id=sha,
            parent=parent,
            title=title,
            message=message,
            author=author,
            date=date,
            files=dict(files),
        )
        self.commits[sha] = commit
        self.refs[ref] = sha
        return commit


def changed(old: Mapping[str, Content], new: Mapping[str, Content]) -> dict[str, Content | None]:
    """Return what differs: the new content by path, None where it was deleted."""
    paths = old.keys() | new.keys()
    return {p: new.get(p) for p in paths if old.get(p) != new.get(p)}
