"""Several forward passes that take turns, so that each block of weights is loaded once.

Every pass runs the model's own forward in a thread of its own, and stops wherever it comes to a
station (a block, or the head). The caller then computes that station for one pass after the other,
in the caller's thread, before any pass goes on to the next. At any time one thread runs and all
others wait, so nothing here is a matter of locks.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from threading import local
from typing import Any, TypeAlias

Work: TypeAlias = Callable[[], Any]


class _Abandoned(BaseException):
    """Unwinds a pass that nobody waits for any more."""


@dataclass(frozen=True, slots=True)
class Request:
    """A pass has come to a station and asks for its computation."""

    station: str
    compute: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class _Answer:
    value: Any
    abandoned: bool = False


_here = local()  # .courier: whose thread this is


def at_station(station: str, compute: Callable[[], Any]) -> Any:
    """Have a station computed: by the relay where a pass of it runs here, else at once."""
    courier: Courier | None = getattr(_here, "courier", None)
    return compute() if courier is None else courier.ask(Request(station, compute))


class Courier:
    """One forward pass, as its caller sees it."""

    def __init__(self, pool: ThreadPoolExecutor, work: Work) -> None:
        self._requests: SimpleQueue[Request | None] = SimpleQueue()
        self._answers: SimpleQueue[_Answer] = SimpleQueue()
        self._work = work
        self._made: list[Any] = []
        self._future: Future[None] = pool.submit(self._run)
        self._future.add_done_callback(lambda _: self._requests.put(None))

    def _run(self) -> None:
        import torch

        if self._answers.get().abandoned:  # the first one only says: start
            raise _Abandoned
        _here.courier = self
        torch.set_num_threads(1)  # of this thread; the heavy work is done in the caller's
        with torch.no_grad():
            self._made.append(self._work())

    def ask(self, request: Request) -> Any:
        """Hand a request to the caller and wait for its answer; called by the pass."""
        self._requests.put(request)
        answer = self._answers.get()
        if answer.abandoned:
            raise _Abandoned
        return answer.value

    def go_on(self, value: Any = None) -> Request | None:
        """Let the pass run to its next station; None when it has ended."""
        self._answers.put(_Answer(value))
        return self._requests.get()

    def take(self) -> Any:
        """Return what an ended pass made, or raise what it raised; it is let go of here."""
        self._future.result()
        return self._made.pop()

    def abandon(self) -> None:
        """Make the pass end, whatever it waits for."""
        self._answers.put(_Answer(None, abandoned=True))


@contextmanager
def relay(works: Sequence[Work]) -> Iterator[list[Courier]]:
    """Start one courier per pass; those that have not ended at the end are abandoned."""
    import torch

    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(max_workers=max(1, len(works)), thread_name_prefix="pass")
    couriers = [Courier(pool, work) for work in works]
    try:
        yield couriers
    finally:
        for courier in couriers:
            courier.abandon()
        pool.shutdown(wait=True)
        torch.set_num_threads(threads)  # the passes' own setting became the default of new threads
