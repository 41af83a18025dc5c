"""Read-ahead: many small sequential reads become a few large ones, on several connections.

Who reads, reads rows of one tensor after the other, a few MiB at a time, from several threads at
several places. Each such place is a *run*. Ahead of every run, whole *pieces* are read into a
bounded set of buffers; a read that finds its bytes there copies them, any other goes to the
network itself, straight into the caller's memory. So reading ahead can only help: nobody ever
waits for a buffer.

How far a run may look ahead: up to the end of the span that the plan names (``expect``), and then
on to the next span of the plan that nobody has begun. Without a plan a run has to show first that
it is sequential, and its window doubles from read to read.
"""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from safety_gate.sources.hub_errors import HubError
from safety_gate.sources.hub_plan import ReadPlan, Span

PIECE: Final = 4 * 2**20  # bytes of one request: 50 ms of waiting are then 20% at 20 MB/s
STALE: Final = 16  # reads elsewhere, times the number of runs, after which a run counts as ended

Read = Callable[[Span, memoryview], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AheadLimits:
    """What reading ahead may take, for one source."""

    connections: int = 8
    buffer_bytes: int = 64 * 2**20
    piece_bytes: int = PIECE

    @property
    def pieces(self) -> int:
        """Return how many pieces may be held."""
        return max(1, self.buffer_bytes // self.piece_bytes)


@dataclass(slots=True, eq=False)
class _Piece:
    """Some bytes that were asked for ahead; guarded by the lock of its reader."""

    span: Span
    room: memoryview | None  # a whole buffer; the piece takes its beginning; None: given back
    left: int  # bytes of the plan that nobody has taken yet
    touched: int  # the clock when it was asked for, or last taken from
    came: "Future[None]"
    takers: int = 0
    dropped: bool = False  # nobody shall find it any more


@dataclass(slots=True, eq=False)
class _Run:
    """One place where someone reads on and on."""

    path: str
    at: int  # the next read is expected here
    limit: int  # nothing is read ahead from here on
    window: int  # bytes ahead
    touched: int  # the clock at its last read


class ReadAhead:
    """Answers reads from pieces that were read ahead; safe to use from several threads."""

    def __init__(self, read: Read, sizes: Mapping[str, int], limits: AheadLimits) -> None:
        """Take no memory and open no connection yet.

        Args:
            read: fills a view with a span, over the network; called from several threads.
            sizes: of all files in bytes.
            limits: connections and memory.
        """
        self._read = read
        self._sizes = sizes
        self._limits = limits
        self._lock = threading.Lock()  # guards everything below
        self._plan = ReadPlan(())
        self._runs: list[_Run] = []
        self._pieces: dict[str, list[_Piece]] = {}
        self._free: list[memoryview] = []
        self._made = 0  # buffers that exist
        self._clock = 0  # reads so far
        self._pool = ThreadPoolExecutor(limits.connections, thread_name_prefix="hub-read")
        self._closed = False

    def close(self) -> None:
        """Give up what is under way; a read that waits for it fails."""
        with self._lock:
            self._closed = True
            pieces = [piece for there in self._pieces.values() for piece in there]
        for piece in pieces:
            piece.came.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            self._pieces.clear()
            self._runs.clear()
            self._free.clear()
            self._made = 0

    @property
    def held_bytes(self) -> int:
        """Return the memory of all buffers."""
        with self._lock:
            return self._made * self._limits.piece_bytes

    def expect(self, plan: ReadPlan) -> None:
        """Learn which spans will be read, in this order; a later plan replaces it."""
        with self._lock:
            self._plan = plan

    def read(self, path: str, start: int, view: memoryview) -> None:
        """Fill ``view`` with the bytes of ``path`` from ``start`` on.

        Raises:
            SourceError: what the network read raises.
        """
        stop = start + len(view)
        with self._lock:
            run = self._run_at(path, start, stop)
            self._look_ahead(run)
        at = start
        while at < stop:
            part = view[at - start :]
            piece = self._claim(path, at)
            if piece is not None:
                at += self._take(piece, at, part)
            else:
                end = self._until_piece(path, at, stop)
                self._read(Span(path=path, start=at, stop=end), part[: end - at])
                at = end
        with self._lock:
            self._look_ahead(run)  # into the buffers that this read has freed

    def _claim(self, path: str, at: int) -> _Piece | None:
        """Return the piece that holds this byte, and keep its buffer from being reused."""
        with self._lock:
            piece = self._piece_at(path, at)
            if piece is not None:
                piece.takers += 1
            return piece

    def _piece_at(self, path: str, at: int) -> _Piece | None:
        there = self._pieces.get(path, ())
        return next((p for p in there if p.span.start <= at < p.span.stop), None)

    def _until_piece(self, path: str, at: int, stop: int) -> int:
        """Return where the next piece begins; ``stop`` where none begins before it."""
        with self._lock:
            return self._next_piece(path, at, stop)

    def _next_piece(self, path: str, at: int, stop: int) -> int:
        starts = (piece.span.start for piece in self._pieces.get(path, ()))
        return min((start for start in starts if at < start < stop), default=stop)

    def _take(self, piece: _Piece, at: int, part: memoryview) -> int:
        """Copy what a piece has of ``part``; return how many bytes that was."""
        count = 0
        try:
            piece.came.result()
            if piece.room is None:
                raise AssertionError("the buffer of a claimed piece was given away")
            first = at - piece.span.start
            room = piece.room[first : first + min(piece.span.stop - at, len(part))]
            part[: len(room)] = room
            count = len(room)
        except CancelledError:
            raise ended(piece.span.path) from None
        finally:
            with self._lock:
                piece.takers -= 1
                piece.left -= count
                piece.touched = self._clock
                if count == 0 or piece.left <= 0:  # failed, or used up
                    self._drop(piece)
                self._let_go(piece)
        return count

    def _drop(self, piece: _Piece) -> None:
        """Hide a piece from further reads."""
        if not piece.dropped:
            piece.dropped = True
            self._pieces[piece.span.path].remove(piece)

    def _let_go(self, piece: _Piece) -> None:
        """Give the buffer of a dropped piece back, once nobody copies from it."""
        if piece.dropped and piece.takers == 0 and piece.room is not None:
            self._free.append(piece.room)
            piece.room = None

    def _run_at(self, path: str, start: int, stop: int) -> _Run:
        """Return the run that this read goes on with, or a new one; moved behind the read."""
        self._clock += 1
        age = STALE * (len(self._runs) + 1)
        self._runs = [run for run in self._runs if self._clock - run.touched < age]
        run = next((run for run in self._runs if (run.path, run.at) == (path, start)), None)
        if run is None:
            span = self._plan.begin(path, start)
            limit = span.stop if span else self._sizes[path]
            window = self._limits.buffer_bytes if span else 0
            run = _Run(path, stop, limit, window, self._clock)
            self._runs.append(run)
        else:
            window = max(run.window * 2, self._limits.piece_bytes)
            run.window = min(window, self._limits.buffer_bytes)
        run.at, run.touched = stop, self._clock
        if run.at >= run.limit:
            self._runs.remove(run)
        return run

    def _look_ahead(self, run: _Run) -> None:
        """Ask for what comes after a run, as far as its share of the buffers reaches."""
        if self._closed:
            return
        share = self._limits.buffer_bytes // max(1, len(self._runs))
        budget = min(run.window, max(share, self._limits.piece_bytes))
        reach = min(run.limit, run.at + budget)
        may_steal = reach > run.at and self._piece_at(run.path, run.at) is None
        if not self._cover(run.path, run.at, reach, may_steal=may_steal) or reach < run.limit:
            return
        budget -= max(0, reach - run.at)
        for span in self._plan.following():
            reach = min(span.stop, span.start + budget)
            budget -= reach - span.start
            if budget <= 0 or not self._cover(span.path, span.start, reach, may_steal=False):
                return

    def _cover(self, path: str, at: int, reach: int, *, may_steal: bool) -> bool:
        """Ask for all that is missing between two offsets; False where buffers run out."""
        while at < reach:
            piece = self._piece_at(path, at)
            if piece is None:
                room = self._buffer(may_steal=may_steal)
                if room is None:
                    return False
                piece = self._asked(path, at, room)
                may_steal = False
            at = piece.span.stop
        return True

    def _asked(self, path: str, at: int, room: memoryview) -> _Piece:
        """Start to read one piece; it ends at a multiple of its size in the file."""
        grid = (at // self._limits.piece_bytes + 1) * self._limits.piece_bytes
        stop = min(grid, self._plan.until(path, at) or self._sizes[path])
        span = Span(path=path, start=at, stop=self._next_piece(path, at, stop))
        came = self._pool.submit(self._read, span, room[: span.size])
        piece = _Piece(span, room, self._plan.wanted(span), self._clock, came)
        self._pieces.setdefault(path, []).append(piece)
        return piece

    def _buffer(self, *, may_steal: bool) -> memoryview | None:
        """Return a buffer that is free, or may be made; or that of a piece nobody came for."""
        if not self._free and self._made < self._limits.pieces:
            self._made += 1
            self._free.append(memoryview(bytearray(self._limits.piece_bytes)))
        if not self._free and may_steal:
            age = STALE * (len(self._runs) + 1)
            idle = [
                piece
                for there in self._pieces.values()
                for piece in there
                if piece.came.done() and piece.takers == 0 and self._clock - piece.touched > age
            ]
            if idle:
                oldest = min(idle, key=lambda piece: piece.touched)
                self._drop(oldest)
                self._let_go(oldest)
        return self._free.pop() if self._free else None


def ended(path: str) -> HubError:
    """Return the error of a read that close() has ended."""
    return HubError("reading from the Hub was ended", where=path, hint="Run the gate again.")
