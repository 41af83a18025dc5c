"""A local folder as a source."""

import contextlib
import errno
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safety_gate.errors import ChangedWhileRead, MissingFile, SourceError
from safety_gate.sources.listing import (
    FOLDER_FLAGS,
    Listed,
    Listing,
    list_files,
    open_regular,
    parent_of,
    stamp_of,
)
from safety_gate.sources.paths import printable
from safety_gate.sources.source import FileEntry

MAX_OPEN = 64  # descriptors kept, of the usual 1024; further files are opened for each read
IGNORED = frozenset({".git", ".cache/huggingface"})  # bookkeeping of git and of `hf download`
LISTING = "listing:"  # begins a revision that covers names and sizes only
COMMIT = re.compile(r"[0-9a-f]{40}")
# What opening a listed regular file says when another thing stands in its place by now.
SWAPPED = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EINVAL)
HINT_BYTES = 128 * 2**10  # the read-ahead window that Linux comes with
CHANGED_HINT = "Run the gate again while nothing writes to this folder, or judge a copy of it."


def _open_blobs(root: int, path: Path) -> int | None:
    """Open the blobs folder that a Hugging Face cache snapshot links to; None where there is none.

    The layout is models--owner--name/{blobs,snapshots/<commit>}. The real path decides, so that
    a link to a snapshot works as well.
    """
    real = Path(os.path.realpath(path))
    if real.parent.name != "snapshots" or not COMMIT.fullmatch(real.name):
        return None
    try:
        return os.open("../../blobs", FOLDER_FLAGS, dir_fd=root)
    except OSError:
        return None  # a folder that merely looks like a snapshot


def _failed(path: str, err: OSError) -> SourceError:
    """Translate an error of the file system; never quotes the file."""
    return SourceError(
        "the file system refused",
        where=printable(path),
        got=os.strerror(err.errno or errno.EIO),
        hint="Check that the folder is complete and that this user may read all of it.",
    )


def _fill(opened: int, start: int, view: memoryview) -> int:
    """Read into ``view`` until it is full or the file ends; return how many bytes came."""
    done = 0
    while done < len(view):
        # preadv and not mmap: a mapped file that is truncated kills the process (SIGBUS).
        came = os.preadv(opened, [view[done:]], start + done)
        if came == 0:
            break
        done += came
    return done


class FolderSource:
    """The regular files below a local folder, as they were when it was opened.

    Left out, and named by ``ignored``: ``.git`` and ``.cache/huggingface`` at the top of the
    folder. Links: see listing.py. At most 100,000 entries, 16 folders deep.

    ``revision`` is, unless the caller gives one, "listing:" and the sha256 over the sorted
    [path, size] of every file. It covers names and sizes, **not contents**: gigabytes cannot be
    hashed for a word. ``Checkpoint.fact`` and ``snapshot`` state stronger ones.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str | None = None,
        revision: str | None = None,
        ignore: frozenset[str] = IGNORED,
    ) -> None:
        """List the folder.

        Raises:
            MissingFile: there is no such folder.
            UnsafePath: something in it is neither a regular file nor a link that is understood.
            SourceError: it cannot be read, or holds too much.
        """
        self._name = str(path) if name is None else name
        self._lock = threading.Lock()
        self._open_files: dict[str, int] = {}  # guarded by the lock; closed by close() alone
        self._read: set[str] = set()  # guarded by the lock
        self._blobs: int | None = None
        self._closed = False
        try:
            # The folder itself may be a link: the user named it, no stranger did.
            self._root = os.open(path, FOLDER_FLAGS & ~os.O_NOFOLLOW)
        except OSError as err:
            raise MissingFile(
                "this folder cannot be opened",
                where=printable(str(path)),
                got=os.strerror(err.errno or 0),
                expected="a folder",
                hint="Check the spelling of the path, and that this user may read it.",
            ) from None
        try:
            listing = self._list(path, ignore)
        except BaseException:  # raised again: only the descriptors are cleaned up here
            self.close()
            raise
        self._listed = dict(sorted(listing.files.items()))
        self.ignored = tuple(sorted(listing.ignored))
        self._revision = self._listing_digest() if revision is None else revision

    def _list(self, path: Path, ignore: frozenset[str]) -> Listing:
        self._blobs = _open_blobs(self._root, path)
        try:
            return list_files(self._root, self._blobs, ignore)
        except OSError as err:
            raise _failed(str(path), err) from None

    def _listing_digest(self) -> str:
        pairs = [[path, listed.stamp.size] for path, listed in self._listed.items()]
        return LISTING + hashlib.sha256(json.dumps(pairs).encode()).hexdigest()

    @property
    def name(self) -> str:
        """Return what the user called it; a stranger's text."""
        return self._name

    @property
    def revision(self) -> str:
        """Return the revision; see the class for what "listing:" covers."""
        return self._revision

    def files(self) -> tuple[FileEntry, ...]:
        """Return every file, sorted by path; subfolders included."""
        return tuple(
            FileEntry(path=path, size=listed.stamp.size) for path, listed in self._listed.items()
        )

    def read_into(self, path: str, start: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes of ``path`` from ``start`` on.

        Raises:
            MissingFile: the listing has no such file.
            SourceError: the span is not inside the file, or the file system refused.
            ChangedWhileRead: the file is not the one that was listed.
        """
        listed = self._find(path)
        if not 0 <= start <= listed.stamp.size - buffer.nbytes:
            raise SourceError(
                "the bytes asked for are not inside the file",
                where=path,
                got=f"bytes {start} to {start + buffer.nbytes}",
                expected=f"at most {listed.stamp.size} bytes",
                hint="The file is probably incomplete: copy or download it again.",
            )
        if buffer.nbytes == 0:
            return  # memoryview.cast() refuses empty views
        view = buffer.cast("B")
        try:
            with self._opened(path, listed) as opened:
                done = _fill(opened, start, view)
                unchanged = stamp_of(os.fstat(opened)) == listed.stamp
        except OSError as err:
            raise _failed(path, err) from None
        if not unchanged or done != len(view):
            raise self._changed(path)

    def expect(self, path: str, start: int, count: int) -> None:
        """Ask the system to read these bytes ahead; a hint, so nothing depends on it."""
        listed = self._find(path)
        stop = min(start + count, listed.stamp.size)
        with contextlib.suppress(OSError), self._opened(path, listed) as opened:
            for at in range(start, stop, HINT_BYTES):  # Linux cuts a longer hint short
                os.posix_fadvise(opened, at, min(HINT_BYTES, stop - at), os.POSIX_FADV_WILLNEED)

    def _find(self, path: str) -> Listed:
        listed = self._listed.get(path)
        if listed is None:
            raise MissingFile(
                "this file is not in the folder",
                where=printable(path),
                hint=f"Check that the folder is complete: {printable(self._name)}",
            )
        return listed

    @contextmanager
    def _opened(self, path: str, listed: Listed) -> Iterator[int]:
        """Lend a descriptor of the file.

        The first MAX_OPEN files stay open until close(); a cache that evicts would have to know
        that no other thread reads, for the number of a closed descriptor is given out again.
        """
        with self._lock:
            kept = self._open_files.get(path)
            if kept is None:
                opened = self._open_anew(path, listed)
                self._read.add(path)
                if len(self._open_files) < MAX_OPEN:
                    kept = self._open_files[path] = opened
        if kept is not None:
            yield kept
            return
        try:
            yield opened
        finally:
            os.close(opened)

    def _open_anew(self, path: str, listed: Listed) -> int:
        if self._closed:
            raise AssertionError("read from a source that is closed")
        try:
            return open_regular(self._base(listed), listed.parts)
        except OSError as err:
            if err.errno in SWAPPED:
                raise self._changed(path) from None
            raise

    def _base(self, listed: Listed) -> int:
        if not listed.in_blobs:
            return self._root
        if self._blobs is None:
            raise AssertionError("a link into the blobs folder without a blobs folder")
        return self._blobs

    def _changed(self, path: str) -> ChangedWhileRead:
        return ChangedWhileRead(
            "the file changed after it was listed", where=path, hint=CHANGED_HINT
        )

    def verify(self) -> None:
        """Raise ChangedWhileRead if any file that was read is no longer what it was.

        Compares device, inode, size, mtime and ctime by name, and the text of links.
        """
        with self._lock:
            read = sorted(self._read)
        for path in read:
            if not self._is_as_listed(path, self._listed[path]):
                raise self._changed(path)

    def _is_as_listed(self, path: str, listed: Listed) -> bool:
        try:
            if listed.link is not None:
                own = tuple(path.split("/"))
                with parent_of(self._root, own) as folder:
                    if os.readlink(own[-1], dir_fd=folder) != listed.link:
                        return False
            with parent_of(self._base(listed), listed.parts) as folder:
                info = os.stat(listed.parts[-1], dir_fd=folder, follow_symlinks=False)
        except OSError:
            return False
        return stamp_of(info) == listed.stamp

    def close(self) -> None:
        """Close all descriptors; a second call does nothing. No thread may be reading."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            open_files = [*self._open_files.values(), self._root]
            self._open_files.clear()
        if self._blobs is not None:
            open_files.append(self._blobs)
        for opened in open_files:
            os.close(opened)
