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

        Blocks lie in two pieces of memory in turn: the one that computes, the one that is read.

        Args:
            again: after the head the first block is wanted once more.
        """
        import torch

        *blocks, head = self._stations
        size = max(self._weights.bytes_of(self._weights.below(block)) for block in blocks)
        arenas = [torch.empty(size, dtype=torch.uint8) for _ in range(2)]
        turns = 0
        ahead: dict[str, Future[dict[str, torch.Tensor]]] = {}
        present: list[tuple[str, ...]] = []

        def start(station: str) -> "Future[dict[str, torch.Tensor]]":
            nonlocal turns
            arena = None if station == head else arenas[turns % 2]
            turns += station != head
            return reader.submit(self._weights.read, self._weights.below(station), arena)

        def drop() -> None:
            while present:
                self._weights.detach(present.pop())
            self._applied.leave()

        def load(station: str) -> None:
            drop()
            if station not in ahead:  # the model runs its blocks in another order
                ahead.clear()
            values = (ahead.pop(station, None) or start(station)).result()
            after = self._stations.index(station) + 1
            if after < len(self._stations) or again:
                following = self._stations[after % len(self._stations)]
                ahead[following] = start(following)
            self._weights.attach(values)
            present.append(tuple(values))
            self._applied.enter(station, self._dtype, self._device)

        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read") as reader:
            try:
                yield load
            finally:
                drop()
