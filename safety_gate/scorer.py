"""Measure one batch: the updates of one weight, in one pass over its V.

Their factors stand side by side as columns of the same products, and what follows from V alone is
worked out once. One update that cannot be measured leaves the others as they are.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from safety_gate import drift
from safety_gate.delta.dense import DenseUpdate, dense_norm, dense_sums
from safety_gate.errors import GateError
from safety_gate.outcomes import (
    Batch,
    Measured,
    Memory,
    ModuleTask,
    Outcome,
    Scored,
    Unchanged,
    Unscored,
)
from safety_gate.records import Finding, ModuleScore, Place, Severity, finding_from
from safety_gate.steps import Blocks, Steps, is_kept

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

NULL_SPREAD = 1e-6  # below this the null is float32 rounding, and z would be noise


@dataclass(frozen=True, slots=True)
class _Thin:
    """One update, ready to be multiplied."""

    task: ModuleTask
    factors: "tuple[torch.Tensor, torch.Tensor]"  # A (rank, in), B (out, rank)
    update: drift.Update


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the pass over V gave for all updates of a batch."""

    products: drift.StepProducts
    columns: drift.ColumnSums | None  # None where nothing can be measured against this V
    blocks: Blocks
    whole: bool  # all blocks of a pass stay valid
    quick: bool  # they are bfloat16


class Scorer:
    """Measures batches one after the other; used by one thread."""

    def __init__(self, tasks: Sequence[ModuleTask], steps: Steps, memory: Memory | None) -> None:
        """Take the tasks that the batches name by their places, and where V comes from."""
        self._tasks = tasks
        self._steps = steps
        self._memory = memory

    def outcomes(self, batch: Batch) -> list[Outcome]:
        """Return the outcome of each member."""
        tasks = [self._tasks[index] for index in batch.members]
        if tasks[0].dense is not None:
            return [_guarded(task, partial(self._dense, batch, task)) for task in tasks]
        parts = [_guarded(task, partial(_thin, task)) for task in tasks]
        thins = [part for part in parts if isinstance(part, _Thin)]
        measured = iter(self._together(batch, thins))
        return [next(measured) if isinstance(part, _Thin) else part for part in parts]

    def _together(self, batch: Batch, thins: Sequence[_Thin]) -> list[Outcome]:
        """Measure all updates that can be."""
        if not thins:
            return []
        try:
            seen = self._seen(batch, [thin.update for thin in thins])
        except _errors() as error:  # of the checkpoints: it concerns every one of them
            return [_failed(thin.task, error) for thin in thins]
        found: list[Outcome] = []
        first = 0
        for thin in thins:
            at = slice(first, first + thin.update.left.shape[1])
            first = at.stop
            found.append(_guarded(thin.task, partial(self._one, thin, seen, at)))
        return found

    def _seen(self, batch: Batch, updates: Sequence[drift.Update]) -> _Seen:
        """Pass over V once for all updates."""
        import torch

        out = batch.stored[1 if batch.transposed else 0]
        blocks = self._steps.joined(batch, self._steps.blocks_of(batch))
        products = drift.step_products(
            blocks,
            torch.cat([*(update.left for update in updates), drift.null_columns(out)], dim=1),
            torch.cat([update.right for update in updates], dim=1),
            transposed=batch.transposed,
            quick=batch.quick,
        )
        columns = drift.column_sums(products, updates) if _wrong(products) is None else None
        return _Seen(products, columns, blocks, is_kept(batch), batch.quick)

    def _one(self, thin: _Thin, seen: _Seen, at: slice) -> Outcome:
        """Turn one update's columns of the products into its outcome."""
        task, update = thin.task, thin.update
        outcome = _scored(task, update, seen, at)
        if self._memory and not task.partial:
            self._memory.keep(
                Measured(
                    task=task,
                    factors=thin.factors,
                    update=update,
                    products=_own(seen.products, at),
                    outcome=outcome,
                    blocks=seen.blocks,
                    whole=seen.whole,
                    quick=seen.quick,
                    score=partial(_score_alone, seen.columns.basis if seen.columns else None),
                )
            )
        return outcome

    def _dense(self, batch: Batch, task: ModuleTask) -> Outcome:
        """Measure a module whose update has no thin factors; no repair can work on it."""
        if task.dense is None:
            raise AssertionError("an update with thin factors on the dense road")
        stored = task.dense()
        norm = dense_norm(stored)
        if not math.isfinite(norm):
            return _not_finite(task)
        if norm == 0.0:
            return Unchanged(task.module)
        sums, products = dense_sums(
            task.module,
            DenseUpdate(stored, norm),
            self._steps.blocks_of(batch),
            transposed=task.transposed,
        )
        if sums is None:
            return _unmeasured(task, products) or _not_finite(task)
        return _unmeasured(task, products) or _figures(task, norm, sums, products)


def _errors() -> tuple[type[Exception], ...]:
    """Return what one module may raise without stopping the others."""
    import torch

    return (GateError, ArithmeticError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]


def _guarded(task: ModuleTask, step: Callable[[], T]) -> T | Unscored:
    """Take a step for one task; an error becomes its outcome."""
    try:
        return step()
    except _errors() as error:
        return _failed(task, error)


def _failed(task: ModuleTask, error: Exception) -> Unscored:
    """Say why a module has no figures."""
    if isinstance(error, GateError):
        return Unscored(task.module, finding_from(error, "module"))
    return unscored(
        task,
        "score-bad",
        "the figures of this module cannot be computed",
        got=type(error).__name__,
        hint="Check its weights for values of absurd size.",
    )


def _thin(task: ModuleTask) -> "_Thin | Outcome":
    """Read the factors of one task and bring them into the form that keeps norms."""
    import torch

    a, b = task.factors()
    if not (bool(torch.isfinite(a).all()) and bool(torch.isfinite(b).all())):
        return _not_finite(task)
    update = drift.factored(a, b, task.scaling)
    return Unchanged(task.module) if update is None else _Thin(task, (a, b), update)


def _own(products: drift.StepProducts, at: slice) -> drift.StepProducts:
    """Return the products of one update's columns and of the Gaussian ones."""
    import torch

    own, null = at.stop - at.start, drift.NULL_COLUMNS
    if products.x.shape[1] == own + null:
        return products
    x, u = (torch.cat((thin[:, at], thin[:, -null:]), dim=1) for thin in (products.x, products.u))
    return drift.StepProducts(
        x=x,
        u=u,
        vq=products.vq[:, at],
        step_norm=products.step_norm,
        weight_norm=products.weight_norm,
    )


def unscored(  # noqa: PLR0913
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


def _not_finite(task: ModuleTask) -> Unscored:
    """Say that the update holds NaN or Inf."""
    return unscored(
        task,
        "update-not-finite",
        "the adapter's update of this module holds NaN or Inf",
        hint="The training diverged: train the adapter again, or remove the module.",
        severity="block",
    )


def _scored(task: ModuleTask, update: drift.Update, seen: _Seen, at: slice) -> Outcome:
    """Turn products into figures, or say why there are none."""
    if seen.columns is None:
        return _unmeasured(task, seen.products) or _not_finite(task)
    sums = drift.module_sums(task.module, update, seen.products, at, seen.columns)
    return _figures(task, update.norm, sums, seen.products)


def _score_alone(
    basis: "torch.Tensor | None",
    task: ModuleTask,
    update: drift.Update,
    products: drift.StepProducts,
) -> Outcome:
    """Do the same for products that are this update's alone."""
    wrong = _unmeasured(task, products)
    if wrong is not None:
        return wrong
    sums = drift.update_sums(task.module, update, products, basis)
    return _figures(task, update.norm, sums, products)


def _figures(
    task: ModuleTask, norm: float, sums: drift.ModuleSums, products: drift.StepProducts
) -> Outcome:
    """Turn sums into figures."""
    if not float(sums.null.cosines().std()) > NULL_SPREAD:
        return unscored(
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


def _wrong(products: drift.StepProducts) -> str | None:
    """Return the rule that reference weights break which nothing can be measured against."""
    if not (math.isfinite(products.step_norm) and math.isfinite(products.weight_norm)):
        return "reference-not-finite"
    return "step-zero" if products.step_norm == 0.0 else None


def _unmeasured(task: ModuleTask, products: drift.StepProducts) -> Unscored | None:
    """Name such reference weights."""
    match _wrong(products):
        case None:
            return None
        case "step-zero":
            return unscored(
                task,
                "step-zero",
                "base and aligned are equal in this module: there is no alignment step",
                hint="Give the checkpoint before alignment as --base, the one after as --aligned.",
            )
        case rule:
            return unscored(
                task,
                rule,
                "base or aligned holds NaN or Inf in this module",
                hint="Fetch the checkpoints again and compare their sha256 with the publisher's.",
            )
