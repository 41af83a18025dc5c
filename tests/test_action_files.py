"""Files in a stranger's workspace: whole, inside, through no link, and owned by its owner."""

import os
from pathlib import Path

import pytest

from safety_gate.action.files import read_file, write_file
from safety_gate.errors import GateError, SourceError, UnsafePath


def test_file_appears_whole_with_its_folders(tmp_path: Path) -> None:
    assert write_file(tmp_path, "a/b/report.md", "é") == "a/b/report.md"
    assert (tmp_path / "a/b/report.md").read_bytes() == "é".encode()
    assert [p.name for p in (tmp_path / "a/b").iterdir()] == ["report.md"]
    write_file(tmp_path, "a/b/report.md", "second")
    assert read_file(tmp_path, "a/b/report.md", most=10) == b"second"


def test_absolute_path_in_the_workspace_is_taken(tmp_path: Path) -> None:
    assert write_file(tmp_path, f"{tmp_path}/x.json", "1") == "x.json"
    assert write_file(tmp_path, "./y.json", "1") == "y.json"


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", "a//b", "a\nb", "C:/x"])
def test_paths_outside_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(UnsafePath):
        write_file(tmp_path / "w", path, "x")
    with pytest.raises(UnsafePath):
        read_file(tmp_path / "w", path, most=1)


def test_a_planted_link_is_never_followed(tmp_path: Path) -> None:
    workspace, outside = tmp_path / "workspace", tmp_path / "outside"
    workspace.mkdir()
    outside.mkdir()
    (outside / "victim").write_text("untouched")
    (workspace / "folder").symlink_to(outside)
    with pytest.raises(SourceError, match="cannot be written"):
        write_file(workspace, "folder/victim", "x")
    with pytest.raises(SourceError):
        read_file(workspace, "folder/victim", most=100)
    (workspace / "file").symlink_to(outside / "victim")
    write_file(workspace, "file", "ours")  # the link itself is replaced
    assert (outside / "victim").read_text() == "untouched"
    assert not (workspace / "file").is_symlink()


def test_reading_takes_regular_files_only(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "folder", "fifo", "missing"):
        with pytest.raises(SourceError, match="cannot be used"):
            read_file(tmp_path, name, most=10)


def test_reading_stops_at_the_limit(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert read_file(tmp_path, "x", most=5) == b"12345"
    with pytest.raises(SourceError, match="more than 4 bytes"):
        read_file(tmp_path, "x", most=4)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "report.md").mkdir()
    with pytest.raises(GateError):
        write_file(tmp_path, "report.md", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["report.md"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_belong_to_the_owner_of_the_workspace(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    os.chown(workspace, 1001, 1002)
    write_file(workspace, "out/report.md", "x")
    for path in (workspace / "out", workspace / "out/report.md"):
        assert (path.stat().st_uid, path.stat().st_gid) == (1001, 1002)
