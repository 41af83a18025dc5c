"""V = W_aligned - W_base of one weight after the other, formed in blocks of rows.

What is held is bounded: one raw block of each checkpoint, and V of the weight in hand (or, where
that would be too large, only the block in hand: V is then read again for every pass).
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from safety_gate.checkpoint import Checkpoint
from safety_gate.drift import Block
from safety_gate.outcomes import Batch
from safety_gate.sources.folder import FolderSource

if TYPE_CHECKING:
    import torch

BLOCK_ELEMENTS = 1 << 20  # read at a time from each checkpoint: 2 MiB in bfloat16
PART_ELEMENTS = 1 << 18  # subtracted at a time, so that its 1 MiB stays in the L2 cache
CACHE_ELEMENTS = 1 << 26  # V of up to 256 MiB is kept between the passes

AHEAD_BYTES = 16 << 20  # of each file that the disk is asked for while computing
SLOW = 1e-9  # seconds a byte, read: no memory takes that long, so the disk was waited for
STAYS_SLOW = 64  # blocks for which the disk is asked ahead after that

Blocks = Callable[[], Iterable[Block]]


class Steps:
    """Gives V of each batch in turn; used by one thread."""

    def __init__(self, batches: Sequence[Batch], pair: tuple[Checkpoint, Checkpoint]) -> None:
        """Allocate the buffers that all batches share.

        Args:
            batches: all of them, for the sizes of the buffers.
            pair: aligned, base.
        """
        import torch

        self._pair = pair
        self._slow = 0  # blocks for which the disk is still asked ahead
        raw = max((_raw_bytes(batch, pair) for batch in batches), default=1)
        self._raw = tuple(torch.empty(raw, dtype=torch.uint8) for _ in pair)
        rooms = [_room_bytes(batch) for batch in batches]
        self._room = torch.empty(max([*rooms, 1]), dtype=torch.uint8)
        parts = [_part_rows(batch) * batch.stored[1] for batch in batches if batch.quick]
        self._part = torch.empty(max([*parts, 1]))

    def blocks_of(self, batch: Batch) -> Blocks:
        """Return the function that starts a pass over V.

        The blocks of a weight that is kept are read in the first pass and stay valid until the
        next batch; those of another are read in every pass and valid until the next block.
        """
        kept: list[Block] = []

        def blocks() -> Iterator[Block]:
            if kept:
                yield from kept
                return
            fresh: list[Block] = []
            for start, stop in _spans(batch):
                block = self._block(batch, start, stop)
                if is_kept(batch):
                    fresh.append(block)
                yield block
            kept.extend(fresh)

        return blocks

    def joined(self, batch: Batch, blocks: Blocks) -> Blocks:
        """Return passes over the same V that give a kept weight as one block."""
        if not is_kept(batch):
            return blocks

        def whole() -> Iterator[Block]:
            squares = [(block.step_square, block.weight_square) for block in blocks()]
            if squares:
                step, weight = (sum(side) for side in zip(*squares, strict=True))
                yield Block(
                    start=0,
                    stop=batch.stored[0],
                    step=self._view(batch, 0, batch.stored[0]),
                    step_square=step,
                    weight_square=weight,
                )

        return whole

    def _view(self, batch: Batch, start: int, stop: int) -> "torch.Tensor":
        """Return where rows of V stand."""
        import torch

        room = self._room.view(torch.bfloat16 if batch.quick else torch.float32)
        width = batch.stored[1]
        first = start * width if is_kept(batch) else 0
        return room[first : first + (stop - start) * width].view(stop - start, width)

    def _block(self, batch: Batch, start: int, stop: int) -> Block:
        """Read and subtract some rows, in float32; quick blocks are rounded after."""
        import torch

        began = time.perf_counter()
        aligned, base = (
            checkpoint.rows(batch.weight, start, stop, buffer)
            for checkpoint, buffer in zip(self._pair, self._raw, strict=True)
        )
        took = time.perf_counter() - began
        self._look_ahead(batch, stop, slow=took > SLOW * (aligned.nbytes + base.nbytes))
        result = self._view(batch, start, stop)
        norms = torch.empty(2, stop - start)  # of each row of aligned and of V
        height = _part_rows(batch)
        for first in range(0, stop - start, height):
            rows = slice(first, min(first + height, stop - start))
            target = result[rows]
            part = self._part[: target.numel()].view(target.shape) if batch.quick else target
            part.copy_(aligned[rows])
            torch.linalg.vector_norm(part, dim=1, out=norms[0, rows])
            part.sub_(base[rows])
            torch.linalg.vector_norm(part, dim=1, out=norms[1, rows])
            if batch.quick:
                target.copy_(part)
        weight, step = norms.double().square().sum(dim=1).tolist()
        return Block(start=start, stop=stop, step=result, step_square=step, weight_square=weight)

    def _look_ahead(self, batch: Batch, row: int, *, slow: bool) -> None:
        """Have the system read on behind a row, where the files do not lie in memory.

        Not otherwise, for asking costs a third of what reading from memory does. Repositories on
        the Hub read ahead by themselves.
        """
        self._slow = STAYS_SLOW if slow else max(0, self._slow - 1)
        for checkpoint in self._pair if self._slow else ():
            extents = checkpoint.extents(batch.weight)
            if isinstance(checkpoint.source, FolderSource) and len(extents) == 1:
                only = extents[0]
                behind = (only.stop - only.start) * row // max(1, batch.stored[0])
                checkpoint.source.expect(only.path, only.start + behind, AHEAD_BYTES)


def is_kept(batch: Batch) -> bool:
    """Tell whether V of this weight stays in memory between the passes."""
    return batch.elements <= CACHE_ELEMENTS


def _spans(batch: Batch) -> Iterator[tuple[int, int]]:
    """Yield the first row of each block, and the row behind its last."""
    rows, height = batch.stored[0], _block_rows(batch)
    for start in range(0, rows, height):
        yield start, min(start + height, rows)


def _block_rows(batch: Batch) -> int:
    """Return the stored rows of a block: one at least, however long."""
    return max(1, BLOCK_ELEMENTS // max(1, batch.stored[1]))


def _part_rows(batch: Batch) -> int:
    """Return the rows that are subtracted at a time."""
    return math.ceil(PART_ELEMENTS / max(1, batch.stored[1]))


def _room_bytes(batch: Batch) -> int:
    """Return the bytes that V of this weight, or a block of it, takes."""
    elements = batch.elements if is_kept(batch) else _block_rows(batch) * batch.stored[1]
    return elements * (2 if batch.quick else 4)


def _raw_bytes(batch: Batch, pair: tuple[Checkpoint, Checkpoint]) -> int:
    """Return the bytes of a block in the wider of the two checkpoints."""
    rows = min(_block_rows(batch), max(1, batch.stored[0]))
    return max(1, *(checkpoint.scratch_bytes(batch.weight, rows) for checkpoint in pair))
