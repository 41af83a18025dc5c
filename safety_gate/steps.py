"""V = W_aligned - W_base of one module after the other, in blocks of rows, read ahead.

What is held is bounded: a ring of raw blocks, and V of the module in hand (or, where that would be
too large, only the block in hand: V is then read twice).
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safety_gate import drift
from safety_gate.checkpoint import Checkpoint
from safety_gate.outcomes import ModuleTask

if TYPE_CHECKING:
    import torch

BLOCK_ELEMENTS = 1 << 20  # a float32 block of 4 MiB stays in the L3 cache
PART_ELEMENTS = 1 << 18  # subtracted at a time, so that its 1 MiB stays in the L2 cache
READ_AHEAD = 4  # blocks: the reader is never waited for, and the ring stays in the L3 cache
CACHE_ELEMENTS = 1 << 26  # V of up to 256 MiB is kept between the two passes
QUICK_ELEMENTS = 1 << 19  # smaller modules gain nothing from bfloat16 and keep float32


@dataclass(frozen=True, slots=True)
class _Step:
    """One read: some stored rows of one module, in one of its passes."""

    index: int  # of the task
    start: int
    stop: int


class Steps:
    """Gives V of each module in turn, while its reader fills the next blocks."""

    def __init__(
        self,
        tasks: Sequence[ModuleTask],
        indices: Iterator[int],
        pair: tuple[Checkpoint, Checkpoint],
        *,
        quick: bool,
        passes: int = 2,
    ) -> None:
        """Allocate the buffers that every module shares.

        Args:
            tasks: all of them, for the sizes of the buffers.
            indices: the tasks to go through; taken one by one, when their first read starts.
            pair: aligned, base.
            quick: large modules in bfloat16.
            passes: over V of a module that is too large to keep.
        """
        import torch

        self._tasks = tasks
        self._pair = pair
        self._quick = quick
        self._passes = passes
        largest = max((_block_bytes(task, pair) for task in tasks), default=1)
        self._ring = [
            tuple(torch.empty(largest, dtype=torch.uint8) for _ in pair)
            for _ in range(READ_AHEAD + 1)
        ]
        rooms = [self._room_bytes(task) for task in tasks]
        self._room = torch.empty(max([*rooms, 1]), dtype=torch.uint8)
        parts = [math.ceil(PART_ELEMENTS / task.stored[1]) * task.stored[1] for task in tasks]
        self._part = torch.empty(max([*parts, 1]))
        self._steps = self._walk(indices)
        self._turn = 0
        self._ahead: deque[tuple[_Step, Future[tuple[torch.Tensor, ...]]]] = deque()
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read")

    def __enter__(self) -> "Steps":
        for _ in range(READ_AHEAD):
            self._read_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.shutdown(wait=True, cancel_futures=True)

    def indices(self) -> Iterator[int]:
        """Yield the task that is read next, until none is left."""
        while self._ahead:
            index = self._ahead[0][0].index
            yield index
            while self._ahead and self._ahead[0][0].index == index:
                self._next()  # blocks of a module that was given up early

    def is_quick(self, task: ModuleTask) -> bool:
        """Tell whether the blocks of this module are bfloat16."""
        return (
            self._quick and task.dense is None and task.shape[0] * task.shape[1] >= QUICK_ELEMENTS
        )

    def _room_bytes(self, task: ModuleTask) -> int:
        """Return the bytes that V of this module, or a block of it, takes."""
        elements = task.shape[0] * task.shape[1] if is_kept(task) else _block_elements(task)
        return elements * (2 if self.is_quick(task) else 4)

    def _walk(self, indices: Iterator[int]) -> Iterator[_Step]:
        """List the reads of one module after the other; a module is taken when it is reached."""
        for index in indices:
            task = self._tasks[index]
            rows, height = task.stored[0], _block_rows(task)
            for _ in range(1 if is_kept(task) else self._passes):
                for start in range(0, rows, height):
                    yield _Step(index, start, min(start + height, rows))

    def _read_on(self) -> None:
        """Start the next read, into the ring's next pair of buffers."""
        step = next(self._steps, None)
        if step is None:
            return
        buffers = self._ring[self._turn % len(self._ring)]
        self._turn += 1
        weight = self._tasks[step.index].weight

        def read() -> "tuple[torch.Tensor, ...]":
            return tuple(
                checkpoint.rows(weight, step.start, step.stop, buffer)
                for checkpoint, buffer in zip(self._pair, buffers, strict=True)
            )

        self._ahead.append((step, self._reader.submit(read)))

    def _next(self) -> "tuple[_Step, Future[tuple[torch.Tensor, ...]]]":
        """Take the oldest read, and start another: its buffers are those taken before it."""
        taken = self._ahead.popleft()
        self._read_on()
        return taken

    def blocks_of(self, index: int) -> "Callable[[], Iterable[drift.Block]]":
        """Return the function that starts a pass over V; later ones may come from memory."""
        task = self._tasks[index]
        kept: list[drift.Block] = []

        def blocks() -> Iterator[drift.Block]:
            if kept:
                yield from kept
                return
            rows, seen = task.stored[0], 0
            while seen < rows:
                step, loaded = self._next()
                if step.index != index or step.start != seen:
                    raise AssertionError("reads out of step")
                seen = step.stop
                block = self._block(task, step, loaded.result())
                if is_kept(task):
                    kept.append(block)
                yield block

        return blocks

    def _block(
        self, task: ModuleTask, step: _Step, loaded: "tuple[torch.Tensor, ...]"
    ) -> drift.Block:
        """Subtract one block of base from aligned, in float32; quick blocks are rounded after."""
        import torch

        aligned, base = loaded
        width = task.stored[1]
        room = self._room.view(torch.bfloat16 if self.is_quick(task) else torch.float32)
        first = step.start * width if is_kept(task) else 0
        whole = room[first : first + aligned.numel()].view(aligned.shape)
        height = math.ceil(PART_ELEMENTS / width)
        weight = size = 0.0
        for start in range(0, aligned.shape[0], height):
            rows = slice(start, min(start + height, aligned.shape[0]))
            part = self._part[: aligned[rows].numel()].view(-1, width)
            part.copy_(aligned[rows])
            weight += _square(part)
            part.sub_(base[rows])
            size += _square(part)
            whole[rows].copy_(part)
        return drift.Block(
            start=step.start, stop=step.stop, step=whole, step_square=size, weight_square=weight
        )


def _square(part: "torch.Tensor") -> float:
    """Return the sum of squares: float32 along a row, float64 over the rows."""
    import torch

    return float(torch.linalg.vector_norm(part, dim=1).double().square().sum())


def is_kept(task: ModuleTask) -> bool:
    """Tell whether V of this module stays in memory between the passes."""
    return task.shape[0] * task.shape[1] <= CACHE_ELEMENTS


def _block_rows(task: ModuleTask) -> int:
    """Return the stored rows of a block."""
    return max(1, BLOCK_ELEMENTS // task.stored[1])


def _block_elements(task: ModuleTask) -> int:
    """Return the elements of a block: one row at least, however long."""
    return _block_rows(task) * task.stored[1]


def _block_bytes(task: ModuleTask, pair: tuple[Checkpoint, ...]) -> int:
    """Return the bytes of a block in the wider of the two files."""
    if not all(checkpoint.has(task.weight) for checkpoint in pair):
        return 1
    widths = [
        -(-(entry.stop - entry.start) // max(1, task.shape[0] * task.shape[1]))
        for entry in (checkpoint.entry(task.weight) for checkpoint in pair)
    ]
    return _block_elements(task) * max(widths)
