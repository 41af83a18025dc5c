"""What regular files lie below a folder, found without following any link.

Everything is reached by directory descriptors and O_NOFOLLOW, one component at a time, so that a
folder or file that is swapped for a link is refused and never followed.

Two kinds of symbolic links are understood, both resolved here and never by the kernel:

- a link to a regular file of the same folder, in one step, with ``..`` only in front;
- in a snapshot of the Hugging Face cache (``.../snapshots/<40 hex>``) a link to
  ``../../blobs/<40 or 64 hex>``, which must be a regular file.

Every other link is refused: to a folder, to another link, to an ignored file, to the outside.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from safety_gate.errors import SourceError, UnsafePath
from safety_gate.sources.paths import check_paths, printable

MAX_ENTRIES = 100_000  # files and folders; the largest model repositories have a few thousand
MAX_DEPTH = 16  # folders below each other; every level holds one descriptor while we walk
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO that is put in place of a file must not make us wait for its writer.
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
HUB_BLOB = re.compile(r"(?P<up>(?:\.\./)+)blobs/(?P<blob>[0-9a-f]{40}|[0-9a-f]{64})")
LINK_HINT = (
    "Replace the link by the file itself: cp -rL FOLDER COPY makes a copy without links, "
    "and the gate can judge COPY."
)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes when a file is replaced, or written to after its listing.

    Writes within one tick of the file system's clock (at most 10 ms) leave no trace.
    """

    device: int
    inode: int
    size: int  # bytes
    mtime_ns: int
    ctime_ns: int  # cannot be set back by utime()


def stamp_of(info: os.stat_result) -> Stamp:
    """Return the stamp of a stat result."""
    return Stamp(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One regular file, and how to reach it without following a link."""

    parts: tuple[str, ...]  # below the folder, or below the blobs folder
    in_blobs: bool
    link: str | None  # text of the link that led here; None for a plain file
    stamp: Stamp


@dataclass(slots=True, kw_only=True)
class Listing:
    """What one walk found."""

    files: dict[str, Listed] = field(default_factory=dict)  # by path, as the walk met them
    ignored: list[str] = field(default_factory=list)  # paths that were there and left out
    links: dict[str, str] = field(default_factory=dict)  # path -> text of the link
    entries: int = 0


@contextmanager
def parent_of(root: int, parts: tuple[str, ...]) -> Iterator[int]:
    """Lend a descriptor of the folder that holds ``parts``, reached without links."""
    folder = root
    try:
        for part in parts[:-1]:
            deeper = os.open(part, FOLDER_FLAGS, dir_fd=folder)
            if folder != root:
                os.close(folder)
            folder = deeper
        yield folder
    finally:
        if folder != root:
            os.close(folder)


def open_regular(root: int, parts: tuple[str, ...]) -> int:
    """Open a regular file below ``root``; OSError where it is not there, or not regular."""
    with parent_of(root, parts) as folder:
        opened = os.open(parts[-1], FILE_FLAGS, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(errno.EINVAL, "not a regular file")
    return opened


def _unsafe(path: str, what: str, *, hint: str) -> UnsafePath:
    return UnsafePath(what, where=printable(path), expected="a regular file", hint=hint)


def _too_large(where: str, what: str) -> SourceError:
    return SourceError(
        what,
        where=where,
        expected=f"at most {MAX_ENTRIES} entries, {MAX_DEPTH} folders deep",
        hint="Point the gate at the folder that holds the model or adapter, and nothing else.",
    )


def _walk(folder: int, prefix: str, ignore: frozenset[str], found: Listing) -> None:
    """Add everything below an open folder to ``found``; links are kept for later."""
    if prefix.count("/") > MAX_DEPTH:
        raise _too_large(printable(prefix), "the folders lie too deep")
    with os.scandir(folder) as entries:
        for entry in entries:
            path = prefix + entry.name
            if path in ignore:
                found.ignored.append(path)
                continue
            found.entries += 1
            if found.entries > MAX_ENTRIES:
                raise _too_large(printable(prefix) or ".", "the folder holds too much")
            _take(folder, entry.name, path, ignore, found)


def _take(folder: int, name: str, path: str, ignore: frozenset[str], found: Listing) -> None:
    """Add one directory entry to ``found``."""
    info = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISDIR(info.st_mode):
        deeper = os.open(name, FOLDER_FLAGS, dir_fd=folder)
        try:
            _walk(deeper, path + "/", ignore, found)
        finally:
            os.close(deeper)
    elif stat.S_ISREG(info.st_mode):
        found.files[path] = Listed(
            parts=tuple(path.split("/")), in_blobs=False, link=None, stamp=stamp_of(info)
        )
    elif stat.S_ISLNK(info.st_mode):
        found.links[path] = os.readlink(name, dir_fd=folder)
    else:
        raise _unsafe(
            path,
            "this is a pipe, a socket or a device",
            hint="Remove it; a model or an adapter is made of plain files.",
        )


def _inside(path: str, link: str) -> str | None:
    """Return the path below the folder that a link means, or None if it leads elsewhere.

    Only leading ".." parts are understood: "a/../b" means another file where "a" is a link.
    """
    folder = path.split("/")[:-1]
    parts = link.split("/")
    while parts and parts[0] == "..":
        if not folder:
            return None
        parts.pop(0)
        folder.pop()
    return None if any(part in ("", ".", "..") for part in parts) else "/".join(folder + parts)


def _resolve(path: str, link: str, plain: dict[str, Listed], blobs: int | None) -> Listed:
    """Return the regular file that a link means; UnsafePath for every link not understood."""
    target = _inside(path, link)
    if target is not None and target in plain:
        there = plain[target]
        return Listed(parts=there.parts, in_blobs=False, link=link, stamp=there.stamp)
    match = HUB_BLOB.fullmatch(link)
    # From snapshots/<commit>/a/b the cache is two levels up from the snapshot, plus the folders.
    if blobs is None or match is None or match["up"].count("/") != path.count("/") + 2:
        raise _unsafe(path, "this link does not stay inside the folder", hint=LINK_HINT)
    try:
        info = os.stat(match["blob"], dir_fd=blobs, follow_symlinks=False)
    except FileNotFoundError:
        raise _unsafe(
            path,
            "this link of the Hugging Face cache leads nowhere",
            hint="Download the model again: hf download REPO.",
        ) from None
    if not stat.S_ISREG(info.st_mode):
        raise _unsafe(path, "this link does not lead to a regular file", hint=LINK_HINT)
    return Listed(parts=(match["blob"],), in_blobs=True, link=link, stamp=stamp_of(info))


def list_files(root: int, blobs: int | None, ignore: frozenset[str]) -> Listing:
    """List every regular file below ``root``.

    Args:
        root: descriptor of the folder.
        blobs: descriptor of the cache's blobs folder; None where the folder is no snapshot.
        ignore: paths that are left out, with all below them.

    Raises:
        UnsafePath: a link not understood, a pipe, a device, or a path that is not safe.
        SourceError: too many entries, or folders too deep.
        OSError: the file system says no.
    """
    found = Listing()
    _walk(root, "", ignore, found)
    check_paths([*found.files, *found.links])
    plain = dict(found.files)  # targets are looked up here, so that a link to a link is refused
    for path, link in found.links.items():
        found.files[path] = _resolve(path, link, plain, blobs)
    return found
