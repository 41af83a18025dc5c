"""A cache of checkpoint bytes on disk, in blocks, for `--cache DIR`.

DIR/<organisation>--<name>/<commit>/<sha256 of the path>/<block number>: the bytes of the block, and
behind them the sha256 over its key and its bytes. A block that does not agree is read anew, so
damage is noticed. **Intent is not**: who can write into the folder can change the checkpoints, as
with any folder of checkpoints. Do not restore it from a cache that pull requests can write to.
"""

import hashlib
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from safety_gate.sources.hub_answers import Pinned
from safety_gate.sources.hub_plan import Span

BLOCK: Final = 4 * 2**20  # bytes; that of the read-ahead, so that its pieces are whole blocks
MARK: Final = b"safety-gate hub block 1"  # changes with the layout
DIGEST_BYTES: Final = 32

Read = Callable[[Span, memoryview], None]


class HubCache:
    """Answers spans of one commit from disk, and from the network what is missing there."""

    def __init__(self, folder: Path, pinned: Pinned, sizes: Mapping[str, int], read: Read) -> None:
        """Create nothing yet.

        Args:
            folder: shared by all repositories.
            pinned: the commit.
            sizes: of all its files in bytes.
            read: fills a view with a span, over the network.
        """
        self._folder = folder / pinned.repo_id.replace("/", "--") / pinned.sha
        self._pinned = pinned
        self._sizes = sizes
        self._read = read
        self.full = False  # the disk refused a block; nothing is kept from then on

    def read(self, span: Span, view: memoryview) -> None:
        """Fill ``view`` with a span; missing blocks are read whole, then kept."""
        for block in range(span.start // BLOCK, -(-span.stop // BLOCK)):
            first = block * BLOCK
            last = min(first + BLOCK, self._sizes[span.path])
            start, stop = max(span.start, first), min(span.stop, last)
            part = view[start - span.start : stop - span.start]
            if (start, stop) == (first, last):
                self._whole_block(span.path, block, part)
            else:
                room = memoryview(bytearray(last - first))
                self._whole_block(span.path, block, room)
                part[:] = room[start - first : stop - first]

    def _whole_block(self, path: str, block: int, room: memoryview) -> None:
        file = self._file(path, block)
        if self._load(file, path, block, room):
            return
        start = block * BLOCK
        self._read(Span(path=path, start=start, stop=start + len(room)), room)
        if not self.full:
            self._store(file, self._digest(path, block, room), room)

    def _file(self, path: str, block: int) -> Path:
        return self._folder / hashlib.sha256(path.encode()).hexdigest() / f"{block:06d}"

    def _digest(self, path: str, block: int, room: memoryview) -> bytes:
        key = (self._pinned.repo_id, self._pinned.sha, path, str(block), str(self._sizes[path]))
        digest = hashlib.sha256(MARK + "\0".join(key).encode() + b"\0")
        digest.update(room)
        return digest.digest()

    def _load(self, file: Path, path: str, block: int, room: memoryview) -> bool:
        """Fill ``room`` from disk; False where the block is not there, or damaged."""
        try:
            opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        with open(opened, "rb", buffering=0) as stream:
            try:
                if os.fstat(opened).st_size != len(room) + DIGEST_BYTES:
                    return False
                if stream.readinto(room) != len(room):
                    return False
                digest = stream.read(DIGEST_BYTES)
            except OSError:
                return False
        return digest == self._digest(path, block, room)

    def _store(self, file: Path, digest: bytes, room: memoryview) -> None:
        """Keep a block: written beside, then renamed. A disk that refuses ends the keeping."""
        beside = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(beside, "xb", buffering=0) as stream:
                _write_all(stream.fileno(), room)
                _write_all(stream.fileno(), memoryview(digest))
            beside.replace(file)
        except OSError:
            self.full = True
            with suppress(OSError):
                beside.unlink(missing_ok=True)


def _write_all(opened: int, part: memoryview) -> None:
    done = 0
    while done < len(part):
        done += os.write(opened, part[done:])
