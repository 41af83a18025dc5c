"""Map the measurement over modules: several workers, each reading ahead of its own computing.

A worker measures one module at a time with one thread, so a module's figures never depend on how
many workers there are.
"""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from safety_gate import drift
from safety_gate.checkpoint import Checkpoint
from safety_gate.delta.dense import DenseUpdate, dense_norm, dense_sums
from safety_gate.errors import GateError
from safety_gate.outcomes import (
    Measured,
    Memory,
    ModuleTask,
    Outcome,
    Scored,
    Unchanged,
    Unscored,
)
from safety_gate.precision import float32_products, has_bfloat16
from safety_gate.records import Finding, ModuleScore, Place, Severity, finding_from
from safety_gate.steps import Steps, is_kept

if TYPE_CHECKING:
    import torch

__all__ = ["ModuleTask", "Outcome", "Scored", "Unchanged", "Unscored", "score_modules"]

NULL_SPREAD = 1e-6  # below this the null is float32 rounding, and z would be noise


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
        tasks: the modules that the adapter changes.
        base: the checkpoint before alignment.
        aligned: the checkpoint that the adapter applies to.
        workers: modules measured at the same time; each takes one core.
        on_done: called with the module path after each one, from any thread.
        memory: watches the pass, and answers for modules that it saw before.
        quick: large modules may be multiplied in bfloat16 where the processor can; the caller
            measures again what stands near a threshold.
    """
    import torch

    quick = quick and memory is None and has_bfloat16()

    outcomes: list[Outcome | None] = [
        _refused(task, base, aligned)
        or (memory.recall(task) if memory and task.dense is None else None)
        for task in tasks
    ]
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
        passes = 2 + (memory.more_passes if memory else 0)
        with Steps(tasks, shared(), (aligned, base), quick=quick, passes=passes) as steps:
            for index, outcome in _Worker(tasks, steps, memory).outcomes():
                outcomes[index] = outcome
                on_done(tasks[index].module)

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="measure")
    with float32_products(), pool:
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
    """Measures modules one after the other."""

    def __init__(self, tasks: Sequence[ModuleTask], steps: Steps, memory: Memory | None) -> None:
        self._tasks = tasks
        self._steps = steps
        self._memory = memory

    def outcomes(self) -> Iterator[tuple[int, Outcome]]:
        """Yield (index of the task, outcome) until no task is left."""
        import torch

        for index in self._steps.indices():
            task = self._tasks[index]
            try:
                outcome = self._measure(task, index)
            except GateError as error:
                outcome = Unscored(task.module, finding_from(error, "module"))
            except (ArithmeticError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
                outcome = _unscored(
                    task,
                    "score-bad",
                    "the figures of this module cannot be computed",
                    got=type(error).__name__,
                    hint="Check its weights for values of absurd size.",
                )
            yield index, outcome

    def _measure(self, task: ModuleTask, index: int) -> Outcome:
        """Measure one module."""
        import torch

        if task.dense is not None:
            return self._measure_dense(task, index, task.dense())
        a, b = task.factors()
        if not (bool(torch.isfinite(a).all()) and bool(torch.isfinite(b).all())):
            return _not_finite(task)
        update = drift.factored(a, b, task.scaling)
        if update is None:
            return Unchanged(task.module)
        columns = torch.cat((update.left, drift.null_columns(task.shape[0])), dim=1)
        blocks = self._steps.blocks_of(index)
        products = drift.step_products(
            blocks,
            columns,
            update.right,
            transposed=task.transposed,
            quick=self._steps.is_quick(task),
        )
        outcome = _scored(task, update, products)
        if self._memory:
            self._memory.keep(
                Measured(
                    task=task,
                    factors=(a, b),
                    update=update,
                    products=products,
                    outcome=outcome,
                    blocks=blocks,
                    whole=is_kept(task),
                    score=_scored,
                )
            )
        return outcome

    def _measure_dense(self, task: ModuleTask, index: int, stored: "torch.Tensor") -> Outcome:
        """Measure a module whose update has no thin factors; no repair can work on it."""
        norm = dense_norm(stored)
        if not math.isfinite(norm):
            return _not_finite(task)
        if norm == 0.0:
            return Unchanged(task.module)
        sums, products = dense_sums(
            task.module,
            DenseUpdate(stored, norm),
            self._steps.blocks_of(index),
            transposed=task.transposed,
        )
        wrong = _degenerate(task, products)
        if wrong is not None or sums is None:
            return wrong or _not_finite(task)
        return _figures(task, norm, sums, products)


def _not_finite(task: ModuleTask) -> Unscored:
    """Say that the update holds NaN or Inf."""
    return _unscored(
        task,
        "update-not-finite",
        "the adapter's update of this module holds NaN or Inf",
        hint="The training diverged: train the adapter again, or remove the module.",
        severity="block",
    )


def _scored(task: ModuleTask, update: drift.Update, products: drift.StepProducts) -> Outcome:
    """Turn products into figures, or say why there are none."""
    wrong = _degenerate(task, products)
    if wrong is not None:
        return wrong
    sums = drift.module_sums(
        task.module, update, products, slice(0, update.left.shape[1]), products.vq
    )
    return _figures(task, update.norm, sums, products)


def _figures(
    task: ModuleTask, norm: float, sums: drift.ModuleSums, products: drift.StepProducts
) -> Outcome:
    """Turn sums into figures."""
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
        delta_norm=norm,
        step_norm=products.step_norm,
        weight_norm=products.weight_norm,
    )
    return Scored(score, sums)


def _degenerate(task: ModuleTask, products: drift.StepProducts) -> Unscored | None:
    """Name the reference weights that nothing can be measured against."""
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
