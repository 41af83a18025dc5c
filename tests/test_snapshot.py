"""The private copy of an adapter: bytes judged are bytes hashed."""

import errno
import hashlib
import json
import os
import resource
from contextlib import closing
from pathlib import Path

import pytest

from safety_gate.errors import ChangedWhileRead, SourceError, UnsafePath
from safety_gate.sources.folder import FolderSource
from safety_gate.sources.snapshot import snapshot
from safety_gate.sources.source import FileEntry
from tests.small_folders import COMMIT, FILES, fill, make_folder, read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "adapter")


def test_the_copy_is_the_bytes_that_were_hashed(folder: Path, tmp_path: Path) -> None:
    with closing(FolderSource(folder)) as source:
        copy, facts, digest = snapshot(source, tmp_path / "private")
    rows = [
        [path, len(data), hashlib.sha256(data).hexdigest()] for path, data in sorted(FILES.items())
    ]
    assert [[fact.path, fact.size, fact.sha256] for fact in facts] == rows
    assert digest == hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()
    assert copy.name == str(folder)
    assert copy.revision == f"sha256:{digest}"
    (folder / "b.bin").write_bytes(b"swapped!!!")
    assert read(copy, "b.bin") == b"0123456789"
    copy.verify()
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "private").rglob("*")}
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o700
    assert modes == {0o700, 0o600}
    copy.close()
    assert not (tmp_path / "private").exists()


def test_the_copy_keeps_a_commit_and_every_file(folder: Path, tmp_path: Path) -> None:
    fill(folder, {".cache/huggingface/evil.py": b"x"})
    with closing(FolderSource(folder, revision=COMMIT, ignore=frozenset())) as source:
        copy, facts, _ = snapshot(source, tmp_path / "private")
    assert copy.revision == COMMIT
    assert copy.files() == source.files()
    assert ".cache/huggingface/evil.py" in {fact.path for fact in facts}
    copy.close()


def test_equal_bytes_have_equal_digests_wherever_they_lie(folder: Path, tmp_path: Path) -> None:
    digests = set()
    for data in (b"0123456789", b"0123456789", b"0123456780"):
        (folder / "b.bin").write_bytes(data)
        with closing(FolderSource(folder)) as source:
            copy, _, digest = snapshot(source, tmp_path / "private")
            copy.close()
        digests.add(digest)
    assert len(digests) == 2


def test_a_large_file_is_copied_piece_by_piece(tmp_path: Path) -> None:
    data = os.urandom(8 * 2**20) + b"tail"
    fill(tmp_path / "adapter", {"big": data})
    with closing(FolderSource(tmp_path / "adapter")) as source:
        copy, facts, _ = snapshot(source, tmp_path / "private")
    assert facts[0].sha256 == hashlib.sha256(data).hexdigest()
    assert read(copy, "big") == data
    copy.close()


def test_too_large_to_copy(folder: Path, tmp_path: Path) -> None:
    with closing(FolderSource(folder)) as source:
        with pytest.raises(SourceError, match="27 bytes, expected at most 26") as caught:
            snapshot(source, tmp_path / "private", limit_bytes=26)
        assert "raise the limit" in caught.value.hint
        assert not (tmp_path / "private").exists()
        snapshot(source, tmp_path / "private", limit_bytes=27)[0].close()


def test_a_source_that_changes_leaves_no_copy(folder: Path, tmp_path: Path) -> None:
    with closing(FolderSource(folder)) as source:
        read(source, "b.bin")
        os.utime(folder / "b.bin")
        with pytest.raises(ChangedWhileRead):
            snapshot(source, tmp_path / "private")
    assert not (tmp_path / "private").exists()


class Busy(FolderSource):
    """A folder whose first file is written to while the last one is read."""

    def read_into(self, path: str, start: int, buffer: memoryview) -> None:
        super().read_into(path, start, buffer)
        if path == "b.bin":
            os.utime(Path(self.name) / "a.txt")


def test_files_of_two_states_are_not_one_adapter(folder: Path, tmp_path: Path) -> None:
    with closing(Busy(folder)) as source, pytest.raises(ChangedWhileRead) as caught:
        snapshot(source, tmp_path / "private")
    assert caught.value.where == "a.txt"
    assert not (tmp_path / "private").exists()


def test_a_full_disk_is_an_error_with_a_hint(folder: Path, tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands in for a full disk: write() fails with EFBIG in place of ENOSPC."""
    fill(folder, {"big": bytes(5_000_000)})
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    with closing(FolderSource(folder)) as source:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, old[1]))
        try:
            with pytest.raises(SourceError) as caught:
                snapshot(source, tmp_path / "private")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert caught.value.got == os.strerror(errno.EFBIG)
    assert "TMPDIR" in caught.value.hint
    assert not (tmp_path / "private").exists()


class Liar:
    """A source as it must not be: one of its paths leads outside."""

    name = revision = "liar"

    def files(self) -> tuple[FileEntry, ...]:
        return (FileEntry(path="../escaped", size=1),)

    def read_into(self, path: str, start: int, buffer: memoryview) -> None:
        raise AssertionError("an unsafe path was read")

    def verify(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_the_copy_never_trusts_a_source_with_paths(tmp_path: Path) -> None:
    with pytest.raises(UnsafePath):
        snapshot(Liar(), tmp_path / "private")
    assert not list(tmp_path.iterdir())
