"""Map the measurement over modules: several workers, each reading ahead of its own computing.

A worker measures one module at a time with one thread, so a module's figures never depend on how
many workers there are. What it holds is bounded: a ring of raw row blocks, and V of the module in
hand (or, where that would be too large, only the block in hand: V is then read twice).
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safety_gate import drift
from safety_gate.checkpoint import Checkpoint
from safety_gate.errors import GateError
from safety_gate.records import Finding, ModuleScore, Place, Severity, finding_from

if TYPE_CHECKING:
    import torch

BLOCK_ELEMENTS = 1 << 20  # a float32 block of 4 MiB stays in the L2 and L3 caches
READ_AHEAD = 8  # blocks; covers the second pass over a 2048 x 5632 module at disk speed
CACHE_ELEMENTS = 1 << 26  # V of up to 256 MiB is kept between the two passes
NULL_SPREAD = 1e-6  # below this the null is float32 rounding, and z would be noise


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleTask:
    """One weight matrix to measure."""

    module: str  # module path, for the report
    weight: str  # tensor name in both checkpoints
    shape: tuple[int, int]  # (out, in) as a linear map
    transposed: bool  # stored as (in, out)
    rank: int
    scaling: float
    factors: "Callable[[], tuple[torch.Tensor, torch.Tensor]]"  # A (rank, in), B (out, rank)

    @property
    def stored(self) -> tuple[int, int]:
        """Return the shape as it stands in the checkpoint."""
        return (self.shape[1], self.shape[0]) if self.transposed else self.shape


@dataclass(frozen=True, slots=True)
class Scored:
    """A module with its figures, and with the sums that the whole adapter's are made of."""

    score: ModuleScore
    sums: drift.ModuleSums


@dataclass(frozen=True, slots=True)
class Unchanged:
    """A module whose update is exactly zero."""

    module: str


@dataclass(frozen=True, slots=True)
class Unscored:
    """A module that could not be measured, and why."""

    module: str
    finding: Finding


Outcome = Scored | Unchanged | Unscored


@dataclass(frozen=True, slots=True)
class _Step:
    """One read: some stored rows of one module, in one of its passes."""

    index: int  # of the task
    start: int
    stop: int


def score_modules(
    tasks: Sequence[ModuleTask],
    base: Checkpoint,
    aligned: Checkpoint,
    *,
    workers: int,
    on_done: Callable[[str], None] = lambda _: None,
) -> tuple[Outcome, ...]:
    """Measure every task; the outcomes stand in the order of the tasks.

    Args:
        tasks: the modules that the adapter changes.
        base: the checkpoint before alignment.
        aligned: the checkpoint that the adapter applies to.
        workers: modules measured at the same time; each takes one core.
        on_done: called with the module path after each one, from any thread.
    """
    import torch

    outcomes: list[Outcome | None] = [_refused(task, base, aligned) for task in tasks]
    todo = iter([i for i, outcome in enumerate(outcomes) if outcome is None])
    lock = threading.Lock()

    def shared() -> Iterator[int]:
        while True:
            with lock:
                index = next(todo, None)
            if index is None:
                return
            yield index

    def work() -> None:
        torch.set_num_threads(1)  # this thread's own setting
        with _Worker(tasks, shared(), base, aligned) as worker:
            for index, outcome in worker.outcomes():
                outcomes[index] = outcome
                on_done(tasks[index].module)

    before = torch.get_num_threads()
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="measure") as pool:
        for future in [pool.submit(work) for _ in range(workers)]:
            future.result()
    torch.set_num_threads(before)
    return tuple(outcome for outcome in outcomes if outcome is not None)


def _refused(task: ModuleTask, base: Checkpoint, aligned: Checkpoint) -> Unscored | None:
    """Return why a module cannot be measured at all, before anything is read."""
    for checkpoint in (aligned, base):
        if not checkpoint.has(task.weight):
            return _unscored(
                task,
                "module-missing",
                f"the {checkpoint.role} checkpoint has no weight for this module",
                got=f"no tensor {task.weight}",
                hint="Check that base and aligned are the pair that the adapter was trained on.",
            )
        if checkpoint.shape(task.weight) != task.stored:
            return _unscored(
                task,
                "shapes-disagree",
                f"the {checkpoint.role} weight has another shape than the adapter's update",
                got=str(checkpoint.shape(task.weight)),
                expected=str(task.stored),
                hint="Check that base and aligned are the pair that the adapter was trained on.",
            )
    return None


def _unscored(  # noqa: PLR0913
    task: ModuleTask,
    rule: str,
    what: str,
    *,
    hint: str,
    got: str = "",
    expected: str = "",
    severity: Severity = "undecided",
) -> Unscored:
    """Build the outcome of a module without figures."""
    place = Place(kind="module", name=task.module)
    return Unscored(
        task.module,
        Finding(
            rule=rule,
            severity=severity,
            place=place,
            what=what,
            got=got,
            expected=expected,
            hint=hint,
        ),
    )


class _Worker:
    """Measures modules one after the other while its reader fills the next blocks."""

    def __init__(
        self,
        tasks: Sequence[ModuleTask],
        indices: Iterator[int],
        base: Checkpoint,
        aligned: Checkpoint,
    ) -> None:
        import torch

        self._tasks = tasks
        self._pair = (aligned, base)
        largest = max((_block_bytes(task, self._pair) for task in tasks), default=1)
        self._ring = [
            tuple(torch.empty(largest, dtype=torch.uint8) for _ in self._pair)
            for _ in range(READ_AHEAD + 1)
        ]
        kept = [t.shape[0] * t.shape[1] for t in tasks if _is_kept(t)]
        self._step = torch.empty(max([BLOCK_ELEMENTS, *kept, *map(_block_elements, tasks)]))
        self._steps = self._walk(indices)
        self._turn = 0
        self._ahead: deque[tuple[_Step, Future[tuple[torch.Tensor, ...]]]] = deque()
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read")

    def __enter__(self) -> "_Worker":
        for _ in range(READ_AHEAD):
            self._read_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.shutdown(wait=True, cancel_futures=True)

    def outcomes(self) -> Iterator[tuple[int, Outcome]]:
        """Yield (index of the task, outcome) until no task is left."""
        while self._ahead:
            index = self._ahead[0][0].index
            task = self._tasks[index]
            try:
                outcome = self._measure(task, index)
            except GateError as error:
                outcome = Unscored(task.module, finding_from(error, "module"))
            while self._ahead and self._ahead[0][0].index == index:
                self._next()  # blocks of a module that was given up early
            yield index, outcome

    def _walk(self, indices: Iterator[int]) -> Iterator[_Step]:
        """List the reads of one module after the other; a module is taken when it is reached."""
        for index in indices:
            task = self._tasks[index]
            rows, height = task.stored[0], _block_rows(task)
            for _ in range(1 if _is_kept(task) else 2):
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

    def _measure(self, task: ModuleTask, index: int) -> Outcome:
        """Measure one module."""
        import torch

        a, b = task.factors()
        if not (bool(torch.isfinite(a).all()) and bool(torch.isfinite(b).all())):
            return _unscored(
                task,
                "update-not-finite",
                "the adapter's factors of this module hold NaN or Inf",
                hint="The training diverged: train the adapter again, or remove the module.",
                severity="block",
            )
        update = drift.factored(a, b, task.scaling)
        if update is None:
            return Unchanged(task.module)
        columns = torch.cat((update.left, drift.null_columns(task.shape[0])), dim=1)
        products = drift.step_products(
            self._passes(task, index), columns, update.right, transposed=task.transposed
        )
        return _scored(task, update, products)

    def _passes(self, task: ModuleTask, index: int) -> "Callable[[], Iterable[drift.Block]]":
        """Return the function that starts a pass over V; the second may come from memory."""
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
                if _is_kept(task):
                    kept.append(block)
                yield block

        return blocks

    def _block(
        self, task: ModuleTask, step: _Step, loaded: "tuple[torch.Tensor, ...]"
    ) -> drift.Block:
        """Subtract one block of base from aligned, in float32."""
        import torch

        aligned, base = loaded
        width = task.stored[1]
        first = step.start * width if _is_kept(task) else 0
        room = self._step[first : first + aligned.numel()].view(aligned.shape)
        room.copy_(aligned)
        weight = float(torch.linalg.vector_norm(room, dtype=torch.float64))
        room.sub_(base)
        size = float(torch.linalg.vector_norm(room, dtype=torch.float64))
        return drift.Block(
            start=step.start,
            stop=step.stop,
            step=room,
            step_square=size**2,
            weight_square=weight**2,
        )


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


def _is_kept(task: ModuleTask) -> bool:
    """Tell whether V of this module stays in memory between the passes."""
    return task.shape[0] * task.shape[1] <= CACHE_ELEMENTS


def _scored(task: ModuleTask, update: drift.Update, products: drift.StepProducts) -> Outcome:
    """Turn products into figures, or say why there are none."""
    wrong = _degenerate(task, products)
    if wrong is not None:
        return wrong
    sums = drift.module_sums(
        task.module, update, products, slice(0, update.left.shape[1]), products.vq
    )
    if not float(sums.null.cosines().std()) > NULL_SPREAD:
        return _unscored(
            task,
            "null-without-spread",
            "every update of this module has the same cosine, so it tells nothing",
            hint="Leave this module out of the adapter, or have its behaviour judged.",
        )
    score = ModuleScore(
        module=task.module,
        shape=task.shape,
        rank=task.rank,
        scaling=task.scaling,
        drift=drift.drift(sums),
        delta_norm=update.norm,
        step_norm=products.step_norm,
        weight_norm=products.weight_norm,
    )
    return Scored(score, sums)


def _degenerate(task: ModuleTask, products: drift.StepProducts) -> Unscored | None:
    """Name the reference weights that nothing can be measured against."""
    import math

    if not (math.isfinite(products.step_norm) and math.isfinite(products.weight_norm)):
        return _unscored(
            task,
            "reference-not-finite",
            "base or aligned holds NaN or Inf in this module",
            hint="Fetch the checkpoints again and compare their sha256 with the publisher's.",
        )
    if products.step_norm == 0.0:
        return _unscored(
            task,
            "step-zero",
            "base and aligned are equal in this module: there is no alignment step",
            hint="Give the checkpoint before alignment as --base, the one after as --aligned.",
        )
    return None
