"""Several adapters in one repository: PEFT saves each but the first in a subfolder of its own."""

from collections.abc import Mapping
from pathlib import PurePosixPath

from safety_gate.adapter.inventory import CONFIG
from safety_gate.sources.source import FileEntry, Source


def adapter_roots(source: Source) -> tuple[str, ...]:
    """Return every folder that holds an adapter_config.json; "" is the repository's own root."""
    paths = (PurePosixPath(entry.path) for entry in source.files())
    folders = (str(path.parent) for path in paths if path.name == CONFIG)
    return tuple(sorted("" if folder == "." else folder for folder in folders))


class Subfolder:
    """One folder of a source as a source of its own; closing it leaves the whole open."""

    def __init__(self, whole: Source, root: str) -> None:
        """Take the files below ``root``, by their paths from there."""
        self._whole = whole
        self._root = root
        self._paths: Mapping[str, FileEntry] = {
            entry.path.removeprefix(f"{root}/"): entry
            for entry in whole.files()
            if entry.path.startswith(f"{root}/")
        }

    @property
    def name(self) -> str:
        """Return the name of the whole with the folder; a stranger's text."""
        return f"{self._whole.name}/{self._root}"

    @property
    def revision(self) -> str:
        """Return the revision of the whole."""
        return self._whole.revision

    def files(self) -> tuple[FileEntry, ...]:
        """Return every file below the folder, sorted by path."""
        return tuple(
            FileEntry(path=path, size=entry.size) for path, entry in sorted(self._paths.items())
        )

    def read_into(self, path: str, start: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes of a file; SourceError as the whole raises it."""
        self._whole.read_into(self._paths[path].path, start, buffer)

    def verify(self) -> None:
        """Raise ChangedWhileRead if a file of the whole is no longer what it was."""
        self._whole.verify()

    def close(self) -> None:
        """Leave the whole open: it is its owner's to close."""
