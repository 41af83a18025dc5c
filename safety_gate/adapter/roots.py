"""Several adapters in one repository: PEFT saves each but the first in a subfolder of its own."""

from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from safety_gate.adapter.inventory import CONFIG, take_inventory
from safety_gate.records import Finding
from safety_gate.sources.snapshot import snapshot
from safety_gate.sources.source import FileEntry, Source


def adapter_roots(source: Source) -> tuple[str, ...]:
    """Return every folder that holds an adapter_config.json; "" is the repository's own root."""
    paths = (PurePosixPath(entry.path) for entry in source.files())
    folders = (str(path.parent) for path in paths if path.name == CONFIG)
    return tuple(sorted("" if folder == "." else folder for folder in folders))


def outside_findings(source: Source, roots: Collection[str], folder: Path) -> tuple[Finding, ...]:
    """Return what the files outside all adapters are.

    Whoever loads the repository without naming a subfolder gets these: weights or a pickle at its
    top would be in nobody's report.

    Args:
        source: the stranger's repository.
        roots: every folder that holds an adapter; with "" nothing is outside.
        folder: an empty or missing one for a private copy.

    Raises:
        SourceError: they cannot be read or copied.
    """
    outside = Outside(source, roots)
    if "" in roots or not outside.files():
        return ()
    private, facts, _ = snapshot(outside, folder)
    try:
        return tuple(take_inventory(private, facts, None).findings())
    finally:
        private.close()


class _Part:
    """Some files of a source as a source of its own; closing it leaves the whole open."""

    def __init__(self, whole: Source, name: str, paths: Mapping[str, FileEntry]) -> None:
        self._whole = whole
        self._name = name
        self._paths = paths

    @property
    def name(self) -> str:
        """Return what it is called; a stranger's text."""
        return self._name

    @property
    def revision(self) -> str:
        """Return the revision of the whole."""
        return self._whole.revision

    def files(self) -> tuple[FileEntry, ...]:
        """Return every file of the part, sorted by path."""
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


class Subfolder(_Part):
    """One folder of a source, by the paths from there."""

    def __init__(self, whole: Source, root: str) -> None:
        """Take the files below ``root``."""
        below = {
            entry.path.removeprefix(f"{root}/"): entry
            for entry in whole.files()
            if entry.path.startswith(f"{root}/")
        }
        super().__init__(whole, f"{whole.name}/{root}", below)


class Outside(_Part):
    """What lies in no folder of an adapter; no adapter's own account has these files."""

    def __init__(self, whole: Source, roots: Collection[str]) -> None:
        """Take the files that are below none of ``roots``."""
        inside = tuple(f"{root}/" for root in roots)
        beside = {e.path: e for e in whole.files() if not e.path.startswith(inside)}
        super().__init__(whole, whole.name, beside)
