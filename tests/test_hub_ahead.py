"""Read-ahead: always the right bytes, bounded memory, few requests, no waiting for ever."""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_gate.errors import SourceError
from safety_gate.sources.hub_ahead import AheadLimits, ReadAhead
from safety_gate.sources.hub_errors import HubError, HubUnreachable
from safety_gate.sources.hub_plan import ReadPlan, Span, merged

SIZE = 10_000
DATA = {"a": random.Random(1).randbytes(SIZE), "b": random.Random(2).randbytes(SIZE)}  # noqa: S311
SIZES = {"a": SIZE, "b": SIZE}
LIMITS = AheadLimits(connections=3, buffer_bytes=4000, piece_bytes=1000)


class Network:
    """Answers spans from memory and notes them."""

    def __init__(self, fails: Callable[[Span], bool] = lambda _: False) -> None:
        self._fails = fails
        self._lock = threading.Lock()
        self.spans: list[Span] = []
        self.at_once = self.most_at_once = 0

    def __call__(self, span: Span, view: memoryview) -> None:
        with self._lock:
            self.spans.append(span)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self._fails(span):
                raise HubUnreachable("gone", where=span.path, hint="Run again.")
            view[:] = DATA[span.path][span.start : span.stop]
        finally:
            with self._lock:
                self.at_once -= 1

    @property
    def total(self) -> int:
        return sum(span.size for span in self.spans)


def span(path: str, start: int, stop: int) -> Span:
    return Span(path=path, start=start, stop=stop)


def read(ahead: ReadAhead, path: str, start: int, stop: int) -> None:
    room = bytearray(stop - start)
    ahead.read(path, start, memoryview(room))
    assert room == DATA[path][start:stop]


def test_a_planned_tensor_comes_in_pieces_and_nothing_comes_twice() -> None:
    network = Network()
    ahead = ReadAhead(network, SIZES, LIMITS)
    ahead.expect(ReadPlan([span("a", 500, 4500), span("b", 100, 2100)]))
    for path, first, last in (("a", 500, 4500), ("b", 100, 2100)):
        for start in range(first, last, 100):
            read(ahead, path, start, start + 100)
    ahead.close()
    assert network.total == 6000
    # Pieces end at multiples of 1000: 600-1000, ..., 4000-4500 after the first read itself.
    assert len(network.spans) <= 9
    assert sorted(network.spans, key=lambda s: (s.path, s.start))[0] == span("a", 500, 600)


def test_neighbours_are_read_together() -> None:
    network = Network()
    ahead = ReadAhead(network, SIZES, LIMITS)
    small = [span("a", start, start + 50) for start in range(2000, 2950, 50)]
    ahead.expect(ReadPlan(small))
    for each in small:
        read(ahead, "a", each.start, each.stop)
    ahead.close()
    assert network.total == 950
    assert len(network.spans) == 2


def test_without_a_plan_only_a_sequence_is_read_ahead() -> None:
    network = Network()
    ahead = ReadAhead(network, SIZES, LIMITS)
    for start in (5000, 100, 7000, 3000):
        read(ahead, "a", start, start + 100)
    assert network.total == 400
    read(ahead, "a", 3100, 3200)
    ahead.close()
    assert network.total > 500


def test_the_buffers_are_never_exceeded() -> None:
    network = Network()
    ahead = ReadAhead(network, SIZES, LIMITS)
    ahead.expect(ReadPlan([span(path, 0, SIZE) for path in DATA]))
    for start in range(0, SIZE, 500):
        for path in DATA:
            read(ahead, path, start, start + 500)
            assert ahead.held_bytes <= LIMITS.buffer_bytes
    ahead.close()
    assert network.most_at_once <= LIMITS.connections + 1
    assert ahead.held_bytes == 0


def test_more_readers_than_buffers() -> None:
    limits = AheadLimits(connections=2, buffer_bytes=2000, piece_bytes=1000)
    network = Network()
    ahead = ReadAhead(network, SIZES, limits)
    ahead.expect(ReadPlan([span(p, s, s + 1000) for p in DATA for s in range(0, SIZE, 1000)]))

    def work(path: str, first: int) -> None:
        for start in range(first, first + 1000, 50):
            read(ahead, path, start, start + 50)

    places = [(path, first) for path in DATA for first in range(0, SIZE, 1000)]
    with ThreadPoolExecutor(20) as pool:
        for future in [pool.submit(work, *place) for place in places]:
            future.result()
    ahead.close()
    assert network.total <= 3 * SIZE


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_reads_give_the_right_bytes(data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, SIZE), max_size=12, unique=True).map(sorted))
    spans = [span("a", a, b) for a, b in zip(cuts, cuts[1:], strict=False)]
    network = Network()
    ahead = ReadAhead(network, SIZES, LIMITS)
    if data.draw(st.booleans()):
        ahead.expect(ReadPlan(data.draw(st.permutations(spans))))
    at = 0
    for _ in range(data.draw(st.integers(1, 25))):
        at = at if data.draw(st.booleans()) else data.draw(st.integers(0, SIZE))
        stop = min(SIZE, at + data.draw(st.integers(0, 2500)))
        read(ahead, data.draw(st.sampled_from(["a", "a", "b"])), at, stop)
        assert ahead.held_bytes <= LIMITS.buffer_bytes
        at = stop
    ahead.close()


def test_a_fault_reaches_the_reader_that_needs_the_bytes_and_then_is_forgotten() -> None:
    broken = {2000}
    network = Network(lambda s: s.start in broken)
    ahead = ReadAhead(network, SIZES, LIMITS)
    ahead.expect(ReadPlan([span("a", 0, 5000)]))
    read(ahead, "a", 0, 1000)
    read(ahead, "a", 1000, 2000)
    with pytest.raises(SourceError):
        read(ahead, "a", 2000, 2500)
    broken.clear()
    read(ahead, "a", 2000, 2500)
    read(ahead, "a", 2500, 5000)
    ahead.close()


def test_close_ends_a_read_that_waits() -> None:
    started, go = threading.Event(), threading.Event()

    def network(asked: Span, view: memoryview) -> None:
        if asked.start:
            started.set()
            go.wait(5)
        view[:] = DATA[asked.path][asked.start : asked.stop]

    limits = AheadLimits(connections=1, buffer_bytes=2000, piece_bytes=1000)
    ahead = ReadAhead(network, SIZES, limits)
    ahead.expect(ReadPlan([span("a", 0, 5000)]))
    read(ahead, "a", 0, 1000)
    assert started.wait(5)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(read, ahead, "a", 2000, 3000)
        time.sleep(0.05)
        threading.Timer(0.05, go.set).start()
        ahead.close()
        with pytest.raises(HubError):
            waiting.result()


def test_spans_that_touch_or_nearly_touch_are_merged() -> None:
    gap = 64 * 1024
    spans = [span("a", 0, 10), span("a", 10, 20), span("a", 20 + gap, 30 + gap)]
    far = span("a", 31 + 2 * gap, 40 + 2 * gap)
    assert merged([*spans, far]) == [span("a", 0, 30 + gap), far]


def test_a_plan_knows_what_is_wanted() -> None:
    plan = ReadPlan([span("a", 100, 200), span("a", 300, 400), span("b", 5, 5)])
    assert plan.fact().bytes == 200
    assert plan.fact().spans == 2
    assert plan.wanted(span("a", 150, 350)) == 100
    assert plan.wanted(span("b", 0, 10)) == 10  # nothing is planned there: all of it
    assert plan.until("a", 150) == 400
    assert plan.until("a", 400) is None
    assert [s.start for s in plan.following()] == [100, 300]
    plan.begin("a", 150)
    assert [s.start for s in plan.following()] == [300]
