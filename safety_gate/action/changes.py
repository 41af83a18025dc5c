"""What differs between two commits."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Paths relative to the top of the repository; strangers' texts."""

    there: tuple[str, ...]  # added or modified
    gone: tuple[str, ...]  # deleted, or renamed to another path

    @property
    def paths(self) -> tuple[str, ...]:
        """Return all of them."""
        return (*self.there, *self.gone)
