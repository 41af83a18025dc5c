"""What became of each publication: a record, never an exception."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

Channel: TypeAlias = Literal["comment", "check run", "commit status", "code scanning"]
State: TypeAlias = Literal["created", "updated", "unchanged", "skipped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One channel, and whether it heard."""

    channel: Channel
    state: State
    why: str = ""  # our own words; never empty for "skipped" and "failed"
    hint: str = ""  # our own words: what to do next; never empty for "failed"
    url: str = ""  # as the server gave it: a stranger's text

    def __post_init__(self) -> None:
        """Refuse a failure that does not tell what to do."""
        if self.state == "failed" and not (self.why and self.hint):
            raise AssertionError(f"a failure without why or hint: {self!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """All that was tried."""

    told: tuple[Told, ...] = ()

    def __iter__(self) -> Iterator[Told]:
        """Go through what was tried, in the order it was."""
        return iter(self.told)

    @property
    def failures(self) -> tuple[Told, ...]:
        """What did not get through."""
        return tuple(told for told in self.told if told.state == "failed")

    @property
    def comment_url(self) -> str:
        """The comment's address; empty where there is none. A stranger's text."""
        return next((t.url for t in self.told if t.channel == "comment" and t.url), "")
