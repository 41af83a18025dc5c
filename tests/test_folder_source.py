"""A folder as a source: what is refused, what is noticed, and the private copy."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from safety_gate.errors import ChangedWhileRead, GateError, MissingFile, SourceError, UnsafePath
from safety_gate.sources import listing
from safety_gate.sources.folder import FolderSource
from safety_gate.sources.source import FileEntry
from tests.small_folders import COMMIT, fill, make_folder, read

SECRET = "canary-9b1d6c"  # noqa: S105 - it stands for one


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "adapter")


def test_files_are_sorted_with_sizes(folder: Path) -> None:
    with closing(FolderSource(folder)) as source:
        assert source.name == str(folder)
        assert source.files() == tuple(
            FileEntry(path=path, size=size)
            for path, size in [("a.txt", 16), ("a/empty", 0), ("a/z.txt", 1), ("b.bin", 10)]
        )


@pytest.mark.parametrize(
    ("start", "count", "data"),
    [(0, 10, b"0123456789"), (3, 4, b"3456"), (9, 1, b"9"), (10, 0, b"")],
)
def test_ranged_reads(start: int, count: int, data: bytes, folder: Path) -> None:
    with closing(FolderSource(folder)) as source:
        assert read(source, "b.bin", start, count) == data


@pytest.mark.parametrize(("start", "count"), [(0, 11), (10, 1), (-1, 2), (2**70, 1)])
def test_reads_outside_the_file_are_refused(start: int, count: int, folder: Path) -> None:
    with closing(FolderSource(folder)) as source, pytest.raises(SourceError, match="not inside"):
        read(source, "b.bin", start, count)


def test_buffers_of_other_element_types_are_filled(folder: Path) -> None:
    import numpy as np

    numbers = np.zeros((1, 2), dtype="<u4")
    with closing(FolderSource(folder)) as source:
        source.read_into("b.bin", 1, numbers.data)
    assert numbers.tobytes() == b"12345678"


@pytest.mark.parametrize("path", ["nowhere", "../adapter/b.bin", "/etc/passwd", "a", ""])
def test_only_listed_files_are_read(path: str, folder: Path) -> None:
    with closing(FolderSource(folder)) as source, pytest.raises(MissingFile):
        read(source, path)


@pytest.mark.parametrize("path", ["nowhere", "adapter/b.bin"])
def test_the_folder_must_be_one(path: str, folder: Path) -> None:
    with pytest.raises(MissingFile):
        FolderSource(folder.parent / path)


def test_bookkeeping_is_left_out_and_named(folder: Path) -> None:
    ours = {".git/config": b"token", ".cache/huggingface/download/b.lock": b""}
    kept = {".cache/other": b"", "sub/.git/config": b"", ".gitattributes": b""}
    fill(folder, ours | kept)
    with closing(FolderSource(folder)) as source:
        paths = {entry.path for entry in source.files()}
        assert source.ignored == (".cache/huggingface", ".git")
    assert kept.keys() <= paths
    assert not ours.keys() & paths


def test_the_revision_tells_that_it_covers_the_listing(folder: Path) -> None:
    def revision() -> str:
        with closing(FolderSource(folder)) as source:
            return source.revision

    first = revision()
    assert first.startswith("listing:")
    assert revision() == first
    (folder / "b.bin").write_bytes(b"9876543210")
    assert revision() == first
    (folder / "b.bin").write_bytes(b"987654321")
    assert revision() != first
    with closing(FolderSource(folder, name="me/it", revision=COMMIT)) as source:
        assert (source.name, source.revision) == ("me/it", COMMIT)


# ---- links and special files


def outside(folder: Path) -> Path:
    return fill(folder.parent, {"secret": SECRET.encode()}) / "secret"


def refused(folder: Path) -> GateError:
    with pytest.raises(UnsafePath) as caught:
        FolderSource(folder)
    assert SECRET not in str(caught.value)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    "target",
    [
        "../secret",
        "/proc/self/environ",
        "/etc/passwd",
        "a/../../secret",
        "a/../b.bin",  # inside, yet not by the rule of listing.py
        "./b.bin",
        "a//z.txt",
        "nowhere",
        "a",
        ".",
        "..",
        "link",  # itself
        "other",  # a link to a file inside
        ".git/config",
        "../../blobs/" + COMMIT,
    ],
)
def test_link_is_refused(target: str, folder: Path) -> None:
    outside(folder)
    fill(folder, {".git/config": SECRET.encode()})
    (folder / "other").symlink_to("b.bin")
    (folder / "link").symlink_to(target)
    assert refused(folder).where == "link"


@pytest.mark.parametrize("names", [("one", "two"), ("two", "one")])
def test_link_to_a_link_is_refused_in_whatever_order_they_are_met(
    names: tuple[str, str], folder: Path
) -> None:
    (folder / names[0]).symlink_to("b.bin")
    (folder / names[1]).symlink_to(names[0])
    assert refused(folder).where == names[1]


def test_a_link_is_never_opened(folder: Path) -> None:
    (folder / "link").symlink_to("b.bin")
    root = os.open(folder, os.O_RDONLY)
    with pytest.raises(OSError, match="symbolic links"):
        listing.open_regular(root, ("link",))
    os.close(root)


def test_absolute_link_to_the_inside_is_refused(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "b.bin")
    assert "cp -rL" in refused(folder).hint


def test_link_to_a_file_inside_is_read(folder: Path) -> None:
    (folder / "link").symlink_to("a/z.txt")
    (folder / "a" / "up").symlink_to("../b.bin")
    with closing(FolderSource(folder)) as source:
        assert read(source, "link") == b"z"
        assert read(source, "a/up") == b"0123456789"
        source.verify()


def test_the_folder_itself_may_be_a_link(folder: Path) -> None:
    (folder.parent / "link").symlink_to("adapter")
    with closing(FolderSource(folder.parent / "link")) as source:
        assert read(source, "a/z.txt") == b"z"


@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_special_file_is_refused_and_never_opened(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)  # the path of a socket must be short
    if kind == "fifo":
        os.mkfifo("pipe")
    else:
        with socket.socket(socket.AF_UNIX) as ours:
            ours.bind("pipe")
    assert refused(folder).where == "pipe"


HASH = "ab" * 32


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """Return a snapshot in the layout of the Hugging Face cache."""
    cache = fill(
        tmp_path / "models--me--it",
        {f"blobs/{COMMIT}": b"{}", f"blobs/{HASH}": b"weights", "refs/main": COMMIT.encode()},
    )
    snap = cache / "snapshots" / COMMIT
    (snap / "sub").mkdir(parents=True)
    (snap / "config.json").symlink_to(f"../../blobs/{COMMIT}")
    (snap / "sub" / "model.safetensors").symlink_to(f"../../../blobs/{HASH}")
    return snap


def test_snapshot_of_the_hub_cache_is_read(cached: Path) -> None:
    with closing(FolderSource(cached)) as source:
        assert [entry.path for entry in source.files()] == ["config.json", "sub/model.safetensors"]
        assert read(source, "sub/model.safetensors") == b"weights"
        source.verify()
        (cached / "sub" / "model.safetensors").unlink()
        (cached / "sub" / "model.safetensors").symlink_to(f"../../../blobs/{COMMIT}")
        with pytest.raises(ChangedWhileRead):
            source.verify()


@pytest.mark.parametrize(
    "target",
    [
        f"../../refs/{COMMIT}",
        "../../blobs/secret",
        f"../../../blobs/{HASH}",
        f"../../blobs/../blobs/{HASH}",
        "../../blobs/" + "cd" * 32,  # not there
        "../../blobs/" + "ee" * 20,  # a link itself
        "../../blobs/" + "ff" * 20,  # a folder
    ],
)
def test_other_links_of_a_hub_cache_are_refused(target: str, cached: Path) -> None:
    blobs = cached.parent.parent / "blobs"
    fill(blobs, {"secret": SECRET.encode(), f"{'ff' * 20}/file": b""})
    (blobs / ("ee" * 20)).symlink_to("secret")
    (cached / "link").symlink_to(target)
    assert refused(cached).where == "link"


def test_blobs_count_only_below_a_snapshot(cached: Path) -> None:
    cached.rename(cached.parent / "main")
    assert refused(cached.parent / "main").where in ("config.json", "sub/model.safetensors")


def test_blobs_folder_that_is_a_link_is_not_followed(cached: Path) -> None:
    blobs = cached.parent.parent / "blobs"
    blobs.rename(blobs.parent / "elsewhere")
    blobs.symlink_to("elsewhere")
    refused(cached)


# ---- changes under us


def put_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda p: os.truncate(p, 4), id="truncated"),
        pytest.param(lambda p: p.write_bytes(b"01234567890"), id="grown"),
        pytest.param(lambda p: p.write_bytes(b"9876543210"), id="rewritten"),
        pytest.param(lambda p: os.utime(p, ns=(1, 1)), id="touched"),
        pytest.param(lambda p: p.unlink(), id="removed"),
        pytest.param(lambda p: (p.unlink(), p.write_bytes(b"0123456789")), id="replaced"),
        pytest.param(lambda p: (p.unlink(), p.symlink_to("a.txt")), id="link"),
        pytest.param(put_fifo, id="fifo"),
        pytest.param(lambda p: (p.unlink(), p.mkdir()), id="folder"),
    ],
)
@pytest.mark.parametrize("read_before", [True, False])
def test_a_change_is_noticed(
    change: Callable[[Path], object], read_before: bool, folder: Path
) -> None:
    with closing(FolderSource(folder)) as source:
        if read_before:
            read(source, "b.bin")
            source.verify()
        os.utime(folder / "a.txt")  # nobody read this one
        change(folder / "b.bin")
        if read_before:
            with pytest.raises(ChangedWhileRead) as caught:
                source.verify()
            assert caught.value.where == "b.bin"
        else:
            with pytest.raises(ChangedWhileRead):
                read(source, "b.bin")


def test_a_folder_swapped_for_a_link_is_not_followed(folder: Path) -> None:
    fill(folder.parent, {"evil/z.txt": SECRET.encode()})
    with closing(FolderSource(folder)) as source:
        (folder / "a").rename(folder / "was")
        (folder / "a").symlink_to("../evil")
        with pytest.raises(ChangedWhileRead):
            read(source, "a/z.txt")


RACE = """
import os, sys, threading, time
from pathlib import Path
from safety_gate.errors import ChangedWhileRead, SourceError
from safety_gate.sources.folder import FolderSource
target = Path(sys.argv[1]) / "big"
stop = time.monotonic() + 1.5
def writer():
    while time.monotonic() < stop:
        with open(target, "r+b") as f:
            f.truncate(100)
            f.truncate(4_000_000)
        other = target.with_name("other")
        other.write_bytes(bytes(4_000_000))
        other.rename(target)
thread = threading.Thread(target=writer)
thread.start()
seen = 0
while time.monotonic() < stop:
    try:
        source = FolderSource(target.parent)
    except SourceError:
        continue
    try:
        buffer = memoryview(bytearray(4_000_000))
        source.read_into("big", 0, buffer)
        source.verify()
    except SourceError:
        seen += 1
    finally:
        source.close()
thread.join()
print(seen)
"""


def test_truncating_and_renaming_under_the_reader_kills_nobody(tmp_path: Path) -> None:
    fill(tmp_path, {"big": bytes(4_000_000)})
    done = subprocess.run(
        [sys.executable, "-c", RACE, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_refusals_leave_no_descriptor_open(folder: Path) -> None:
    (folder / "a" / "link").symlink_to("/etc/passwd")
    before = len(os.listdir("/proc/self/fd"))
    refused(folder)
    assert len(os.listdir("/proc/self/fd")) == before


def test_names_that_are_not_utf8_are_refused(folder: Path) -> None:
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff"))).write_bytes(b"")
    str(refused(folder)).encode()
