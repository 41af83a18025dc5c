"""What the tree of a commit says of its files' contents, and the check of whole files."""

import hashlib
from dataclasses import dataclass
from typing import Literal

from safety_gate.sources.hub_answers import HubFile
from safety_gate.sources.hub_errors import BYTES_HINT, HubWrongBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """One digest of a whole file, from the tree of its commit."""

    kind: Literal["sha256", "git-sha1"]  # git-sha1: of "blob <size>", a zero byte, and the file
    hex: str


def expected_digest(file: HubFile) -> Digest:
    """Return the digest that the tree gives: sha256 for LFS and Xet files, else git's own."""
    if file.sha256 is not None:
        return Digest(kind="sha256", hex=file.sha256)
    return Digest(kind="git-sha1", hex=file.git_oid)


class WholeFile:
    """Hashes one file while it is read from its beginning to its end."""

    def __init__(self, file: HubFile, where: str) -> None:
        """Start at the first byte.

        Args:
            file: as the tree describes it.
            where: names it in an error.
        """
        self._file = file
        self._where = where
        self._digest = expected_digest(file)
        if self._digest.kind == "sha256":
            self._hash = hashlib.sha256()
        else:  # git's own digest: an attacker who can collide sha1 could also push the commit
            self._hash = hashlib.sha1(usedforsecurity=False)
            self._hash.update(b"blob %d\0" % file.size)
        self.done = 0  # bytes hashed

    @property
    def complete(self) -> bool:
        """Tell whether all bytes were hashed."""
        return self.done == self._file.size

    def add(self, start: int, part: memoryview) -> None:
        """Hash what goes on where the last part ended; other parts are not for us.

        Raises:
            HubWrongBytes: the file is complete, and not the one of the commit.
        """
        if start != self.done or self.complete:
            return
        self._hash.update(part)
        self.done += len(part)
        if self.complete:
            self.check()

    def check(self) -> None:
        """Raise HubWrongBytes unless the hashed bytes have the digest of the tree."""
        if self._hash.hexdigest() != self._digest.hex:
            raise HubWrongBytes(
                "the bytes are not those of the pinned commit",
                where=self._where,
                got=f"{self._digest.kind} {self._hash.hexdigest()}",
                expected=self._digest.hex,
                hint=BYTES_HINT,
            )
