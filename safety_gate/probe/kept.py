"""A folder of baselines: what aligned models said, by the very question.

The folder is the user's own: who can write there can say what aligned refuses. So it is never
filled from an adapter's repository, and a cache that strangers' pull requests can write to is no
place for it.
"""

import os
import tempfile
from pathlib import Path

from safety_gate.probe import baseline
from safety_gate.probe.behaviour import Probed
from safety_gate.probe.failure import CannotProbe


class Kept:
    """Finds baselines in a folder, and puts new ones there."""

    def __init__(self, folder: Path) -> None:
        """Take a folder; it is made when something is kept."""
        self._folder = folder

    def find(self, key: baseline.Key) -> bytes | None:
        """Return the file of a key; None where there is none.

        Raises:
            CannotProbe: it cannot be read, or is absurdly large.
        """
        path = self._folder / f"{key.digest}.json"
        try:
            if path.stat().st_size > baseline.MAX_BYTES:
                raise self._refused("a baseline is absurdly large", path)
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refused("a baseline cannot be read", path, error) from error

    def keep(self, probed: Probed) -> bool:
        """Put what aligned said into the folder; False where its weights are not pinned.

        Raises:
            CannotProbe: the folder cannot be written to.
        """
        if not probed.key.pins_weights:
            return False
        path = self._folder / f"{probed.key.digest}.json"
        data = probed.exported().encode()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_bytes() != data:
                _write_whole(path, data)
        except OSError as error:
            raise self._refused("a baseline cannot be written", path, error) from error
        return True

    def _refused(self, what: str, path: Path, error: OSError | None = None) -> CannotProbe:
        return CannotProbe(
            what,
            where=str(path),
            got="" if error is None else type(error).__name__,
            hint="Give another folder with --baselines, or leave the option out.",
        )


def _write_whole(path: Path, data: bytes) -> None:
    """Write beside, then rename: a reader never sees half of it."""
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
