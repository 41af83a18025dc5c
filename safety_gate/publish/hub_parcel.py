"""The files of a repaired adapter, as they were judged, and the changes that put them in place."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from safety_gate.errors import GateError
from safety_gate.publish.hub_fault import NotPublishedOnHub
from safety_gate.records import FileFact, Passed, Report
from safety_gate.sources.hub_names import check_repo_id
from safety_gate.sources.listing import FOLDER_FLAGS, open_regular
from safety_gate.sources.paths import check_paths

Way: TypeAlias = Literal["pull request", "branch", "repository"]

KEPT = frozenset({".gitattributes"})  # the Hub's own
IN_MEMORY = 64 * 2**20  # bytes; larger files are read again by the client while it uploads
PIECE = 2**20  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A repaired adapter, and what was found before and after."""

    folder: Path
    before: Report
    after: Report  # of the files in ``folder``
    method: str  # our own words
    removed: tuple[str, ...] = ()  # files of the old adapter that were not taken along
    way: Way = "pull request"
    repository: str = ""  # "org/name", for way "repository"

    def __post_init__(self) -> None:
        """Refuse a name that could lead elsewhere."""
        if self.way == "repository":
            check_repo_id(self.repository)


def judged_files(variant: Variant) -> dict[str, bytes | Path]:
    """Return the files by path, each with the digest that the verdict is for.

    Raises:
        NotPublishedOnHub: the variant did not pass, or its files are others by now.
    """
    if not isinstance(variant.after.verdict, Passed) or variant.after.adapter is None:
        raise NotPublishedOnHub(
            "the repaired adapter did not pass, so it is not offered",
            where=str(variant.folder),
            got=variant.after.verdict.word,
            expected="passed",
            hint="Repair it in another way, or publish its report alone.",
        )
    facts = variant.after.adapter.files
    try:
        check_paths([fact.path for fact in facts])
        root = os.open(variant.folder, FOLDER_FLAGS)
        try:
            return {fact.path: _content(root, variant.folder, fact) for fact in facts}
        finally:
            os.close(root)
    except (OSError, GateError) as error:
        if isinstance(error, NotPublishedOnHub):
            raise
        raise _changed(variant.folder, type(error).__name__) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a commit puts in place, and what it takes away."""

    files: Mapping[str, bytes | Path]
    gone: tuple[str, ...]  # sorted

    def operations(self) -> list[CommitOperationAdd | CommitOperationDelete]:
        """Return how the commit is made, anew for each call."""
        adds = [CommitOperationAdd(path, self.files[path]) for path in sorted(self.files)]
        return [*adds, *(CommitOperationDelete(path) for path in self.gone)]

    def is_done(self, there: Mapping[str, str]) -> bool:
        """Tell whether a commit, given as path -> digest, holds all of this already."""
        same = all(there.get(path) in _digests(data) for path, data in self.files.items())
        return same and not self.gone


def change_to(contents: Mapping[str, bytes | Path], there: set[str], unwanted: set[str]) -> Change:
    """Return the change that puts ``contents`` in place, and takes away what is unwanted."""
    gone = (there & unwanted) - contents.keys() - KEPT
    return Change(files=contents, gone=tuple(sorted(gone)))


def _digests(data: bytes | Path) -> tuple[str, ...]:
    """Return what the Hub may call a content: git's name of it, or its sha256 for large files."""
    if isinstance(data, Path):
        with data.open("rb") as file:
            return (hashlib.file_digest(file, "sha256").hexdigest(),)
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return (hashlib.sha256(data).hexdigest(), blob.hexdigest())


def _content(root: int, folder: Path, fact: FileFact) -> bytes | Path:
    """Read one file without following links, and compare it with what was judged."""
    digest = hashlib.sha256()
    pieces = []
    with os.fdopen(open_regular(root, tuple(fact.path.split("/"))), "rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            if fact.size <= IN_MEMORY:
                pieces.append(piece)
    if fact.sha256 is None or digest.hexdigest() != fact.sha256:
        raise _changed(folder, fact.path)
    return b"".join(pieces) if fact.size <= IN_MEMORY else folder / fact.path


def _changed(folder: Path, got: str) -> NotPublishedOnHub:
    return NotPublishedOnHub(
        "the files of the repaired adapter are not those that were judged",
        where=str(folder),
        got=got,
        hint="Repair the adapter again, and leave the folder alone until it is published.",
    )
