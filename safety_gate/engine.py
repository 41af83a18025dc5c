"""Map the measurement over weights: several workers, each at a weight of its own.

All updates of one weight, of however many adapters, are measured in the same pass over its V. A
worker computes with one thread, so a module's figures never depend on how many workers there are.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from safety_gate.checkpoint import Checkpoint
from safety_gate.outcomes import Batch, Memory, ModuleTask, Outcome, Scored, Unchanged, Unscored
from safety_gate.precision import float32_products, has_bfloat16, one_thread
from safety_gate.scorer import Scorer, unscored
from safety_gate.steps import Steps

__all__ = ["ModuleTask", "Outcome", "Scored", "Unchanged", "Unscored", "score_modules"]

QUICK_ELEMENTS = 1 << 19  # smaller weights gain nothing from bfloat16 and keep float32
BATCH_COLUMNS = 512  # ranks in one batch: their products take up to 200 MB at 7B


def score_modules(
    tasks: Sequence[ModuleTask],
    base: Checkpoint,
    aligned: Checkpoint,
    *,
    workers: int,
    on_done: Callable[[str], None] = lambda _: None,
    memory: Memory | None = None,
    quick: bool = False,
) -> tuple[Outcome, ...]:
    """Measure every task; the outcomes stand in the order of the tasks.

    Args:
        tasks: the modules that an adapter changes, or several adapters of one pair.
        base: the checkpoint before alignment.
        aligned: the checkpoint that the adapters apply to.
        workers: weights measured at the same time; each takes one core.
        on_done: called with the module path after each task, from any thread.
        memory: watches the pass, and answers for modules that it saw before.
        quick: large weights may be multiplied in bfloat16 where the processor can; the caller
            measures again what stands near a threshold.
    """
    import torch

    quick = quick and (memory is None or not memory.exact) and has_bfloat16()
    with one_thread():
        outcomes: list[Outcome | None] = [
            _refused(task, base, aligned)
            or (memory.recall(task) if memory and task.dense is None and not task.partial else None)
            for task in tasks
        ]
    todo = [index for index, outcome in enumerate(outcomes) if outcome is None]
    batches = batches_of(tasks, todo, quick=quick)
    turns = iter(batches)
    lock = threading.Lock()

    def work() -> None:
        torch.set_num_threads(1)  # this thread's own setting
        scorer = Scorer(tasks, Steps(batches, (aligned, base)), memory)
        while True:
            with lock:
                batch = next(turns, None)
            if batch is None:
                return
            found = scorer.outcomes(batch)
            for index, outcome in zip(batch.members, found, strict=True):
                outcomes[index] = outcome
                on_done(tasks[index].module)

    before = torch.get_num_threads()
    useful = max(1, min(workers, len(batches)))
    pool = ThreadPoolExecutor(max_workers=useful, thread_name_prefix="measure")
    if batches:
        with float32_products(), pool:
            for future in [pool.submit(work) for _ in range(useful)]:
                future.result()
        torch.set_num_threads(before)
    return tuple(outcome for outcome in outcomes if outcome is not None)


def batches_of(
    tasks: Sequence[ModuleTask], todo: Sequence[int], *, quick: bool
) -> tuple[Batch, ...]:
    """Put the tasks of one weight together, in the order in which the weights first come.

    An update without thin factors shares no product with others, and stays alone.
    """
    groups: dict[tuple[str, tuple[int, int], bool, int | None], list[list[int]]] = {}
    for index in todo:
        task = tasks[index]
        alone = None if task.dense is None else index
        group = groups.setdefault((task.weight, task.shape, task.transposed, alone), [[]])
        ranks = sum(tasks[member].rank for member in group[-1])
        if group[-1] and ranks + task.rank > BATCH_COLUMNS:
            group.append([])
        group[-1].append(index)
    return tuple(
        Batch(
            members=tuple(members),
            weight=weight,
            stored=tasks[members[0]].stored,
            transposed=transposed,
            quick=quick and alone is None and shape[0] * shape[1] >= QUICK_ELEMENTS,
        )
        for (weight, shape, transposed, alone), group in groups.items()
        for members in group
    )


def _refused(task: ModuleTask, base: Checkpoint, aligned: Checkpoint) -> Unscored | None:
    """Return why a module cannot be measured at all, before anything is read."""
    for checkpoint in (aligned, base):
        if not checkpoint.has(task.weight):
            return unscored(
                task,
                "module-missing",
                f"the {checkpoint.role} checkpoint has no weight for this module",
                got=f"no tensor {task.weight}",
                hint="Check that base and aligned are the pair that the adapter was trained on.",
            )
        if checkpoint.shape(task.weight) != task.stored:
            return unscored(
                task,
                "shapes-disagree",
                f"the {checkpoint.role} weight has another shape than the adapter's update",
                got=str(checkpoint.shape(task.weight)),
                expected=str(task.stored),
                hint="Check that base and aligned are the pair that the adapter was trained on.",
            )
    return None
