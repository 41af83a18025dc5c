"""What became of each publication on the Hub: a record, never an exception."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

HubChannel: TypeAlias = Literal["model card", "discussion", "comment", "repaired adapter"]
HubState: TypeAlias = Literal["created", "updated", "unchanged", "skipped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HubTold:
    """One channel, and whether it heard."""

    channel: HubChannel
    state: HubState
    why: str = ""  # our own words; never empty for "skipped" and "failed"
    hint: str = ""  # our own words: what to do next; never empty for "failed"
    url: str = ""  # on the Hub; from the names we were given and a number
    oid: str = ""  # of the commit that we made, 40 hex; empty where we made none
    note: str = ""  # our own words: what was left out of something that got through

    def __post_init__(self) -> None:
        """Refuse a failure that does not tell what to do, and a silence without a reason."""
        if self.state == "failed" and not (self.why and self.hint):
            raise AssertionError(f"a failure without why or hint: {self!r}")
        if self.state == "skipped" and not self.why:
            raise AssertionError(f"skipped without a reason: {self!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubPublished:
    """All that was tried."""

    told: tuple[HubTold, ...] = ()

    def __iter__(self) -> Iterator[HubTold]:
        """Go through what was tried, in the order it was."""
        return iter(self.told)

    @property
    def failures(self) -> tuple[HubTold, ...]:
        """What did not get through."""
        return tuple(told for told in self.told if told.state == "failed")

    @property
    def oids(self) -> tuple[str, ...]:
        """The commits that we made: to be remembered, so that they do not start us again."""
        return tuple(told.oid for told in self.told if told.oid)
