"""When the weights of the stations are in memory: each just in time, or all at once."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from safety_gate.probe.updates import Applied
from safety_gate.probe.weights import Weights

if TYPE_CHECKING:
    import torch

Load: TypeAlias = Callable[[str], None]


class Loading:
    """Brings the weights of stations, and the updates of the variants there, into the model."""

    def __init__(
        self,
        weights: Weights,
        applied: Applied,
        stations: Sequence[str],
        *,
        dtype: "torch.dtype",
        device: str,
    ) -> None:
        self._weights = weights
        self._applied = applied
        self._stations = tuple(stations)  # in the order in which a pass comes to them; head last
        self._dtype = dtype
        self._device = device

    @property
    def all_bytes(self) -> int:
        """Return the memory that all stations take together."""
        return sum(self._weights.bytes_of(self._weights.below(s)) for s in self._stations)

    @contextmanager
    def whole(self) -> Iterator[Load]:
        """Load every station once, and keep them all; the function that is yielded does nothing."""
        try:
            for station in self._stations:
                self._weights.attach(self._weights.read(self._weights.below(station)))
                self._applied.enter(station, self._dtype, self._device)
            yield lambda _: None
        finally:
            for station in self._stations:
                self._weights.detach(self._weights.below(station))
            self._applied.leave()

    @contextmanager
    def streamed(self, *, again: bool = False) -> Iterator[Load]:
        """Yield the function that loads a station, drops the one before, and reads ahead.

        Args:
            again: after the head the first block is wanted once more.
        """
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read") as reader:
            shuttle = _Shuttle(self._weights, self._stations, reader, again=again)

            def load(station: str) -> None:
                self._applied.leave()
                shuttle.bring(station)
                self._applied.enter(station, self._dtype, self._device)

            try:
                yield load
            finally:
                self._applied.leave()
                shuttle.drop()


class _Shuttle:
    """Holds one station in the model, and reads the next one meanwhile.

    Blocks lie in two pieces of memory in turn: the one that computes, the one that is read.
    """

    def __init__(
        self,
        weights: Weights,
        stations: tuple[str, ...],
        reader: ThreadPoolExecutor,
        *,
        again: bool,
    ) -> None:
        import torch

        self._weights = weights
        self._stations = stations
        self._reader = reader
        self._again = again
        size = max(weights.bytes_of(weights.below(block)) for block in stations[:-1])
        self._arenas = [torch.empty(size, dtype=torch.uint8) for _ in range(2)]
        self._turns = 0
        self._ahead: dict[str, Future[dict[str, torch.Tensor]]] = {}
        self._present: tuple[str, ...] = ()

    def bring(self, station: str) -> None:
        """Put the weights of a station into the model in place of those before."""
        self.drop()
        if station not in self._ahead:  # the model runs its blocks in another order
            self._ahead.clear()
        values = (self._ahead.pop(station, None) or self._start(station)).result()
        after = self._stations.index(station) + 1
        if after < len(self._stations) or self._again:
            following = self._stations[after % len(self._stations)]
            self._ahead[following] = self._start(following)
        self._weights.attach(values)
        self._present = tuple(values)

    def drop(self) -> None:
        """Take the weights of the station that is there out of the model."""
        self._weights.detach(self._present)
        self._present = ()

    def _start(self, station: str) -> "Future[dict[str, torch.Tensor]]":
        arena = None
        if station != self._stations[-1]:  # the head has its own memory: it can be larger
            arena = self._arenas[self._turns % 2]
            self._turns += 1
        return self._reader.submit(self._weights.read, self._weights.below(station), arena)
