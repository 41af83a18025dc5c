"""Which bytes will be read, and in which order: so that they can be counted and read ahead."""

import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

GAP: Final = 64 * 1024  # bytes between two spans that are cheaper to read than to leave out


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Some bytes of one file."""

    path: str
    start: int  # first byte
    stop: int  # behind the last byte

    def __post_init__(self) -> None:
        """Refuse a span that runs backwards."""
        if not 0 <= self.start <= self.stop:
            raise AssertionError(f"a span from {self.start} to {self.stop}")

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFact:
    """What a plan amounts to, before anything is read."""

    bytes: int  # of all spans, each once
    spans: int
    files: int


class ReadPlan:
    """Spans in the order of their first read; not safe to share between threads without a lock.

    Spans of one file must not overlap.
    """

    def __init__(self, spans: Iterable[Span]) -> None:
        """Keep the order; empty spans and repeats are left out."""
        self.spans = tuple(span for span in dict.fromkeys(spans) if span.size)
        self._begun: set[Span] = set()
        self._first = 0  # index of the first span that was not begun
        self._sorted: dict[str, list[Span]] = {}
        for span in sorted(self.spans, key=lambda span: (span.path, span.start)):
            self._sorted.setdefault(span.path, []).append(span)
        self._merged = {path: merged(spans) for path, spans in self._sorted.items()}

    def fact(self) -> PlanFact:
        """Return what there is to read."""
        return PlanFact(
            bytes=sum(span.size for span in self.spans),
            spans=len(self.spans),
            files=len(self._sorted),
        )

    def begin(self, path: str, at: int) -> Span | None:
        """Return the span that holds this byte, which counts as begun from now on."""
        span = _holding(self._sorted.get(path, []), at)
        if span is not None:
            self._begun.add(span)
        return span

    def following(self) -> Iterator[Span]:
        """Yield the spans that nobody has begun, in order."""
        while self._first < len(self.spans) and self.spans[self._first] in self._begun:
            self._first += 1
        for span in self.spans[self._first :]:
            if span not in self._begun:
                yield span

    def until(self, path: str, at: int) -> int | None:
        """Return how far reading on from here is worth it; None where nothing is planned."""
        span = _holding(self._merged.get(path, []), at)
        return None if span is None else span.stop

    def wanted(self, span: Span) -> int:
        """Return how many bytes of a span are planned; all of them where nothing is planned."""
        inside = [
            min(span.stop, planned.stop) - max(span.start, planned.start)
            for planned in self._sorted.get(span.path, [])
            if planned.start < span.stop and span.start < planned.stop
        ]
        return sum(inside) if inside else span.size


def _holding(spans: list[Span], at: int) -> Span | None:
    """Return the span that holds a byte, of spans that are sorted and do not overlap."""
    place = bisect.bisect_right(spans, at, key=lambda span: span.start) - 1
    return spans[place] if place >= 0 and at < spans[place].stop else None


def merged(spans: list[Span]) -> list[Span]:
    """Join sorted spans of one file that touch, or that lie less than GAP apart."""
    joined: list[Span] = []
    for span in spans:
        if joined and span.start - joined[-1].stop <= GAP:
            stop = max(joined[-1].stop, span.stop)
            joined[-1] = Span(path=span.path, start=joined[-1].start, stop=stop)
        else:
            joined.append(span)
    return joined
