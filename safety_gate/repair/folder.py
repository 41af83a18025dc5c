"""A folder that appears whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safety_gate.repair.refusal import CannotRepair


def check_free(output: Path) -> None:
    """Refuse a place where something is; nothing of anybody's is overwritten.

    Raises:
        CannotRepair: the output exists and is not an empty folder.
    """
    try:
        free = not output.is_symlink() and (
            not output.exists() or (output.is_dir() and not any(output.iterdir()))
        )
    except OSError as err:
        raise _failed(output, err) from err
    if not free:
        raise CannotRepair(
            "something is already at the place of the output",
            where=str(output),
            expected="a new folder, or an empty one",
            hint="Name another --output, or remove what is there.",
        )


@contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """Yield a hidden folder beside ``output``, which takes its name when the block ends well.

    Raises:
        CannotRepair: the place is taken, or the disk refuses. Nothing is left behind then.
    """
    check_free(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as err:
        raise _failed(output, err) from err
    try:
        yield beside
        _settle(beside)
        beside.rename(output)  # onto nothing, or onto an empty folder; else it fails
        _sync(output.parent)
    except OSError as err:
        raise _failed(output, err) from err
    finally:
        shutil.rmtree(beside, ignore_errors=True)  # not there any more when all went well


def _settle(folder: Path) -> None:
    """Put every byte on the disk before the folder gets its name."""
    for path in sorted(folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
        _sync(path)
    folder.chmod(0o755)
    _sync(folder)


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _failed(output: Path, err: OSError) -> CannotRepair:
    return CannotRepair(
        "the repaired adapter cannot be written",
        where=str(output),
        got=err.strerror or type(err).__name__,
        hint="Check the path, its permissions and the free space, and run again.",
    )
