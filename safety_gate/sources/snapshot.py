"""A private copy of a small source, hashed while it is copied: bytes judged are bytes hashed."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from safety_gate.errors import SourceError
from safety_gate.records import FileFact
from safety_gate.sources.folder import LISTING, FolderSource
from safety_gate.sources.paths import check_paths
from safety_gate.sources.source import FileEntry, Source

LIMIT_BYTES = 20 * 2**30  # the largest honest adapters, full embeddings included, are below 10 GiB
PIECE = 8 * 2**20  # bytes copied at a time
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Snapshot(FolderSource):
    """The private copy; close() removes it from the disk."""

    def __init__(self, folder: Path, *, name: str, revision: str) -> None:
        """List the copy; nothing in it is ignored, for everything was put there on purpose."""
        self._folder = folder  # first, for super() calls close() where it fails
        super().__init__(folder, name=name, revision=revision, ignore=frozenset())

    def close(self) -> None:
        """Close all descriptors and remove the copy."""
        super().close()
        shutil.rmtree(self._folder, ignore_errors=True)


def digest_of(facts: Sequence[FileFact]) -> str:
    """Return sha256 hex over the canonical JSON of the sorted list of [path, size, sha256].

    Canonical: UTF-8, no spaces, non-ASCII characters escaped, sorted by code points of the path.
    """
    rows = sorted([fact.path, fact.size, fact.sha256] for fact in facts)
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


def _no_room(into: Path, err: OSError) -> SourceError:
    return SourceError(
        "the private copy of the adapter cannot be written",
        where=str(into),
        got=os.strerror(err.errno or errno.EIO),
        hint="Free disk space, or set TMPDIR to a folder on a larger disk, and run again.",
    )


def _check_size(source: Source, entries: Sequence[FileEntry], limit_bytes: int) -> None:
    total = sum(entry.size for entry in entries)
    if total > limit_bytes:
        raise SourceError(
            "the files are too large together to be copied for judging",
            where=source.name,
            got=f"{total} bytes",
            expected=f"at most {limit_bytes} bytes",
            hint="Keep optimizer states and training checkpoints in another repository than the "
            "adapter, or raise the limit.",
        )


def _make_private(into: Path) -> None:
    """Create ``into`` for this user alone; an empty folder that is there already serves too."""
    try:
        into.mkdir(mode=0o700, exist_ok=True)
        into.chmod(0o700)
        occupied = any(into.iterdir())
    except OSError as err:
        raise _no_room(into, err) from None
    if occupied:
        raise AssertionError(f"the folder for a private copy is not empty: {into}")


def _copy(source: Source, entry: FileEntry, into: Path, piece: memoryview) -> FileFact:
    """Copy one file and return the digest of exactly the bytes that were written."""
    target = into / entry.path
    sha256 = hashlib.sha256()
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(target, NEW_FILE, 0o600), "wb", buffering=0) as copy:
            for start in range(0, entry.size, len(piece)):
                part = piece[: min(len(piece), entry.size - start)]
                source.read_into(entry.path, start, part)
                sha256.update(part)
                _write_all(copy.fileno(), part)
    except OSError as err:  # a source raises SourceError, so this is the copy's own disk
        raise _no_room(into, err) from None
    return FileFact(path=entry.path, size=entry.size, sha256=sha256.hexdigest())


def _write_all(opened: int, part: memoryview) -> None:
    done = 0
    while done < len(part):
        done += os.write(opened, part[done:])


def snapshot(
    source: Source, into: Path, *, limit_bytes: int = LIMIT_BYTES
) -> tuple[Source, tuple[FileFact, ...], str]:
    """Copy every file of ``source`` once into the private folder ``into``.

    Returns:
        A source over the copy, whose close() removes the copy; one fact per file, sorted by path;
        the digest of them (see digest_of). The copy's revision is the source's own where that
        pins the bytes (a commit), else "sha256:" and the digest.

    Raises:
        SourceError: too large, changed while it was copied, or no room. Nothing is left behind.
    """
    entries = source.files()
    check_paths(entry.path for entry in entries)
    _check_size(source, entries, limit_bytes)
    with ExitStack() as undo:
        _make_private(into)
        undo.callback(shutil.rmtree, into, ignore_errors=True)
        piece = memoryview(bytearray(PIECE))
        facts = tuple(_copy(source, entry, into, piece) for entry in entries)
        source.verify()  # all files belong to one state of the source
        digest = digest_of(facts)
        pinned = not source.revision.startswith(LISTING)
        revision = source.revision if pinned else f"sha256:{digest}"
        copy = Snapshot(into, name=source.name, revision=revision)
        undo.pop_all()
    return copy, facts, digest
