"""A folder of many files, read by many threads."""

import os
import threading
from contextlib import closing
from pathlib import Path

import pytest

from safety_gate.errors import SourceError
from safety_gate.sources import listing
from safety_gate.sources.folder import MAX_OPEN, FolderSource
from tests.small_folders import fill, read


def test_more_files_than_descriptors_are_kept(tmp_path: Path) -> None:
    fill(tmp_path, {f"f{at:03}": f"{at}".encode() for at in range(MAX_OPEN + 40)})
    before = len(os.listdir("/proc/self/fd"))
    source = FolderSource(tmp_path)
    for _ in range(2):
        for at in range(MAX_OPEN + 40):
            assert read(source, f"f{at:03}") == f"{at}".encode()
    assert len(os.listdir("/proc/self/fd")) <= before + MAX_OPEN + 1
    source.verify()
    source.close()
    source.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_threads_read_side_by_side(tmp_path: Path) -> None:
    data = {f"f{at}": bytes([at]) * 50_000 for at in range(MAX_OPEN + 10)}
    fill(tmp_path, data)
    wrong: list[str] = []
    with closing(FolderSource(tmp_path)) as source:

        def reader(step: int) -> None:
            for at in range(len(data)):
                path = f"f{(at * step) % len(data)}"
                if read(source, path) != data[path]:
                    wrong.append(path)

        threads = [threading.Thread(target=reader, args=(step,)) for step in (1, 3, 5, 7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_too_many_entries_and_too_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, {"/".join(["d"] * 16) + "/file": b""})
    FolderSource(tmp_path).close()
    monkeypatch.setattr(listing, "MAX_ENTRIES", 17)
    FolderSource(tmp_path).close()
    fill(tmp_path, {"one-more": b""})
    with pytest.raises(SourceError, match="holds too much"):
        FolderSource(tmp_path)
    monkeypatch.undo()
    fill(tmp_path, {"/".join(["d"] * 17) + "/file": b""})
    with pytest.raises(SourceError, match="too deep"):
        FolderSource(tmp_path)
