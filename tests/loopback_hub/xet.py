"""Real Xet storage on disk: the released hf-xet wheel writes to and reads from ``local://``.

The store is locked per process, so Hub and client have to run in one.
"""

from pathlib import Path

import hf_xet  # type: ignore[import-untyped]

HEADER = 48  # bytes of an .mdb shard before its first file
ENTRY = 48  # bytes of every entry after it
END = b"\xff" * 32  # stands where the next file's hash would
WITH_SHA256, WITH_CHECKS = 1 << 30, 1 << 31  # flags of a file


def _hex(raw: bytes) -> str:
    """Return a Merkle hash as text: four little-endian words."""
    return b"".join(raw[i : i + 8][::-1] for i in range(0, 32, 8)).hex()


def files_of_shard(data: bytes) -> dict[str, str]:
    """Return sha256 -> Xet hash of the files that a shard describes.

    Source: the format as hf-xet 1.8.0 writes it; per file one header entry (hash, flags, number
    of segments), the segments, as many checks, and one entry with the sha256.
    """
    found: dict[str, str] = {}
    at = HEADER
    while data[at : at + 32] != END:
        name = _hex(data[at : at + 32])
        flags = int.from_bytes(data[at + 32 : at + 36], "little")
        segments = int.from_bytes(data[at + 36 : at + 40], "little")
        at += ENTRY * (1 + segments * (2 if flags & WITH_CHECKS else 1))
        if flags & WITH_SHA256:
            found[_hex(data[at : at + 32])] = name
            at += ENTRY
    return found


class XetStore:
    """One store on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._session = hf_xet.XetSession()

    @property
    def url(self) -> str:
        """Return what the client is told as ``casUrl``."""
        return f"local://{self._folder}"

    def put(self, data: bytes) -> str:
        """Store bytes and return their Xet hash."""
        with self._session.new_upload_commit(endpoint=self.url) as commit:
            handle = commit.start_upload_bytes(data, sha256=hf_xet.COMPUTE_SHA256)
        return str(handle.result().xet_info.hash)

    def hash_of(self, sha256: str) -> str | None:
        """Return the Xet hash of a file that somebody has uploaded."""
        for shard in sorted(self._folder.glob("xet/xorbs/shards/*.mdb")):
            known = files_of_shard(shard.read_bytes())
            if sha256 in known:
                return known[sha256]
        return None

    def read(self, xet_hash: str, size: int) -> bytes:
        """Return the bytes of a file."""
        group = self._session.new_download_stream_group(endpoint=self.url)
        return b"".join(group.download_stream(hf_xet.XetFileInfo(xet_hash, size)))
