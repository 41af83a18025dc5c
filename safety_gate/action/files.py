"""Files that the action leaves in the workspace.

The workspace holds a stranger's files, and the container is root: no link is followed, nothing is
written in place, and what is made belongs to whom the workspace belongs to, so that later steps
of the job can use and delete it.
"""

import os
import secrets
import stat
from pathlib import Path

from safety_gate.errors import SourceError
from safety_gate.sources.paths import check_path, printable

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_file(workspace: Path, path: str, text: str) -> str:
    """Write a file that appears whole, and return its path relative to the workspace.

    Args:
        workspace: the folder that it must stay in.
        path: relative to it, or an absolute path below it.
        text: the whole contents.

    Raises:
        SourceError: the path leads outside, goes through a link, or cannot be written.
    """
    relative = path.removeprefix(f"{workspace}/").removeprefix("./")
    check_path(relative)
    *folders, name = relative.split("/")
    try:
        _write(workspace, folders, name, text.encode("utf-8", "replace"))
    except OSError as error:
        raise SourceError(
            "a file cannot be written there",
            where=printable(relative),
            got=error.strerror or type(error).__name__,
            expected="a path in the workspace without links",
            hint="Name another file, or remove what is in its way.",
        ) from error
    return relative


def read_file(workspace: Path, path: str, *, most: int) -> bytes:
    """Return a regular file of the workspace.

    Raises:
        SourceError: it is not there, leads outside, is a link, or is larger than ``most`` bytes.
    """
    relative = path.removeprefix(f"{workspace}/").removeprefix("./")
    check_path(relative)
    *folders, name = relative.split("/")
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    opened = -1
    try:
        opened = _enter(workspace, folders, make=False)
        with os.fdopen(os.open(name, flags, dir_fd=opened), "rb") as file:
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            data = file.read(most + 1) if regular else b""
    except OSError as error:
        raise _unreadable(relative, error.strerror or type(error).__name__) from error
    finally:
        if opened >= 0:
            os.close(opened)
    if not regular:
        raise _unreadable(relative, "not a regular file")
    if len(data) > most:
        raise _unreadable(relative, f"more than {most} bytes")
    return data


def _unreadable(path: str, got: str) -> SourceError:
    return SourceError(
        "this file cannot be used",
        where=printable(path),
        got=got,
        expected="a regular file in the workspace",
        hint="Check the path, and that an earlier step of the job made the file.",
    )


def _enter(workspace: Path, folders: list[str], *, make: bool) -> int:
    """Return a descriptor of the folder, making what is missing; no link on the way is followed."""
    here = os.open(workspace, FOLDER & ~os.O_NOFOLLOW)
    owner = os.fstat(here)
    for name in folders:
        try:
            if make and not _is_there(here, name):
                os.mkdir(name, 0o755, dir_fd=here)
                _give(here, name, owner)
            below = os.open(name, FOLDER, dir_fd=here)
        finally:
            os.close(here)
        here = below
    return here


def _is_there(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _give(folder: int, name: str, owner: os.stat_result) -> None:
    """Give a new file or folder to the owner of the workspace; only root can, and needs to."""
    if os.geteuid() == 0:
        os.chown(name, owner.st_uid, owner.st_gid, dir_fd=folder, follow_symlinks=False)


def _write(workspace: Path, folders: list[str], name: str, data: bytes) -> None:
    folder = _enter(workspace, folders, make=True)
    beside = f".{secrets.token_hex(8)}.new"
    try:
        with os.fdopen(os.open(beside, NEW_FILE, 0o644, dir_fd=folder), "wb") as file:
            file.write(data)
        _give(folder, beside, os.stat(workspace))
        os.rename(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        if _is_there(folder, beside):
            os.unlink(beside, dir_fd=folder)
        raise
    finally:
        os.close(folder)
