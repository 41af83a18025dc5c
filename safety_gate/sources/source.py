"""What every source of files can do."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One regular file of a source."""

    path: str  # relative, forward slashes, safe (no "..", no absolute path, no control character)
    size: int  # bytes


class Source(Protocol):
    """A pinned set of files that answers ranged reads.

    Implementations are safe to read from several threads at once.
    """

    @property
    def name(self) -> str:
        """Return what the user called it; a stranger's text."""

    @property
    def revision(self) -> str:
        """Return the pinned revision; the same string means the same bytes."""

    def files(self) -> tuple[FileEntry, ...]:
        """Return every file, sorted by path; subfolders included."""

    def read_into(self, path: str, start: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes of ``path`` from ``start`` on.

        Raises:
            SourceError: fewer bytes are there, or the file changed since it was listed.
        """

    def verify(self) -> None:
        """Raise ChangedWhileRead if any file that was read is no longer what it was."""

    def close(self) -> None:
        """Let go of open files and temporary copies."""
