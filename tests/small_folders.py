"""Small real folders on disk, and a way to read them through a source."""

import os
from pathlib import Path

from safety_gate.sources.source import Source

FILES = {"b.bin": b"0123456789", "a/z.txt": b"z", "a/empty": b"", "a.txt": b"dot before slash"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def read(source: Source, path: str, start: int = 0, count: int | None = None) -> bytes:
    size = {entry.path: entry.size for entry in source.files()}.get(path, 0)
    buffer = bytearray(size - start if count is None else count)
    source.read_into(path, start, memoryview(buffer))
    return bytes(buffer)


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def make_folder(folder: Path) -> Path:
    """Write FILES, dated long ago: a change within one tick of the clock leaves no trace."""
    fill(folder, FILES)
    for path in FILES:
        os.utime(folder / path, ns=(10**18, 10**18))
    return folder
