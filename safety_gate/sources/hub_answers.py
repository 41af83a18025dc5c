"""The answers of a Hub, checked: what is not what a Hub sends goes no further."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import httpx2
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from safety_gate.sources.hub_errors import BYTES_HINT, NETWORK_HINT, HubError, HubWrongBytes

MAX_BYTES: Final = 2**50  # of one file; keeps sums within reason
# pydantic matches with the regex of Rust, where $ is the very end, not before a line break.
Sha1 = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, le=MAX_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """One commit of one repository."""

    repo_id: str  # as the Hub writes it today; another one than asked for after a renaming
    sha: str  # 40 hex digits


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """One file of a commit, as its tree describes it."""

    path: str  # a stranger's text, not checked
    size: int  # bytes
    git_oid: str  # sha1 of the git blob: of the file, or of its pointer where sha256 is given
    sha256: str | None  # of the bytes, for LFS and Xet files

    @property
    def etag(self) -> str:
        """Return what the Hub calls this content when it is asked for the file."""
        return self.sha256 or self.git_oid


class _Wire(BaseModel):
    """Part of an answer; the Hub adds keys from time to time, so others are let through."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _Info(_Wire):
    id: str
    sha: Sha1


class _Lfs(_Wire):
    oid: Sha256
    size: Size


class _File(_Wire):
    type: Literal["file"]
    path: str
    size: Size
    oid: Sha1
    lfs: _Lfs | None = None


class _Folder(_Wire):
    type: Literal["directory"]


_TREE: Final = TypeAdapter[list[_File | _Folder]](
    list[Annotated[_File | _Folder, Field(discriminator="type")]]
)


def nonsense(where: str, expected: str) -> HubError:
    """Return the error of an answer that no Hub sends."""
    return HubError(
        "the answer is not what a Hub sends", where=where, expected=expected, hint=NETWORK_HINT
    )


def pinned_of(answer: httpx2.Response, where: str) -> Pinned:
    """Read the description of a repository at a revision."""
    try:
        info = _Info.model_validate_json(answer.content)
    except ValidationError:
        raise nonsense(where, "a commit of 40 hex digits and the repository's name") from None
    return Pinned(repo_id=info.id, sha=info.sha)


def files_of(answer: httpx2.Response, where: str) -> list[HubFile]:
    """Read one page of a tree; folders are left out."""
    try:
        entries = _TREE.validate_json(answer.content)
    except ValidationError:
        raise nonsense(where, "a list of files with sizes and digests") from None
    files = [entry for entry in entries if isinstance(entry, _File)]
    if any(file.lfs is not None and file.lfs.size != file.size for file in files):
        raise nonsense(where, "one size for each file")
    return [
        HubFile(
            path=file.path,
            size=file.size,
            git_oid=file.oid,
            sha256=file.lfs.oid if file.lfs else None,
        )
        for file in files
    ]


def check_identity(headers: Mapping[str, str], pinned: Pinned, file: HubFile, where: str) -> None:
    """Compare what a HEAD says of a file with the tree of the pinned commit.

    Raises:
        HubWrongBytes: commit, etag or size is another one.
    """
    etag = headers.get("X-Linked-Etag") or headers.get("ETag") or ""
    length = headers.get("X-Linked-Size")
    if length is None and "Location" not in headers:
        length = headers.get("Content-Length")
    told = (headers.get("X-Repo-Commit"), etag.removeprefix("W/").strip('"'), length)
    if told != (pinned.sha, file.etag, str(file.size)):
        raise HubWrongBytes(
            "the Hub offers another content than the pinned commit has",
            where=where,
            got=", ".join(map(_shown, ("commit", "etag", "size"), told)),
            expected=f"commit {pinned.sha}, etag {file.etag}, size {file.size}",
            hint=BYTES_HINT,
        )


def _shown(label: str, value: str | None) -> str:
    """Return a header for a message: hex digits only, for a mirror could send our token back."""
    fine = value is not None and re.fullmatch(r"[0-9a-f]{1,64}", value)
    return f"{label} {value if fine else 'unreadable'}"
