"""Watches the pass over V for a repair, and spares the judging of the repaired adapter the rest."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from safety_gate import drift
from safety_gate.outcomes import Measured, ModuleTask, Outcome, Scored, Unchanged
from safety_gate.repair import forecast, projection, span
from safety_gate.repair.factors import Factors
from safety_gate.repair.forecast import Frame
from safety_gate.repair.guard import Guard
from safety_gate.repair.mending import Mended, Mender
from safety_gate.repair.methods import (
    Attenuate,
    Drop,
    Method,
    Project,
    SafeLora,
    SafeMerge,
    Scale,
    Unrevert,
)
from safety_gate.repair.refusal import CannotRepair
from safety_gate.repair.sight import Sight

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Which products with V a repair needs of each module."""

    image: bool = False  # V V^T left
    along: bool = False  # V right
    inside: bool = False  # P left, P on V's range as the residual uses it
    project: Project | None = None  # P left, P the exact projector
    frames: bool = False  # everything, and the figures of any repair: for the search

    @property
    def sight(self) -> bool:
        """Tell whether any product is kept."""
        return self.image or self.along or self.inside or self.project is not None


SEARCH = Needs(image=True, along=True, inside=True, frames=True)


def needs_of(method: Method) -> Needs:
    """Return what a method needs of the pass over V."""
    match method:
        case SafeMerge() | Scale() | Drop() | Guard():
            return Needs()
        case SafeLora():
            return Needs(image=True)
        case Project():
            return Needs(project=method)
        case Attenuate():
            return Needs(inside=True)
        case Unrevert():
            return Needs(along=True)
        case _:
            assert_never(method)


@dataclass(frozen=True, slots=True)
class _Known:
    """What factors in a place were measured to be."""

    place: tuple[object, ...]
    factors: "tuple[torch.Tensor, torch.Tensor]"
    outcome: Outcome

    def holds(self, a: "torch.Tensor", b: "torch.Tensor") -> bool:
        """Tell whether these are the very factors."""
        import torch

        return torch.equal(a, self.factors[0]) and torch.equal(b, self.factors[1])


class Watch:
    """Follows ``outcomes.Memory``. One object serves one pair of checkpoints only.

    An outcome is recalled for equal factors, scale and place: measuring again would give the
    same bytes. So judging a repaired adapter measures what the repair changed, and reads no V of
    the modules that kept their bytes.
    """

    def __init__(
        self,
        needs: Needs,
        *,
        safety: Callable[[str], Factors | None] = lambda _: None,
        wanted: Callable[[Outcome], bool] = lambda _: True,
        mender: Mender | None = None,
        apart: bool = False,
    ) -> None:
        """Say what to keep.

        Args:
            needs: products with V.
            safety: the safety adapter's update of a module, for the search.
            wanted: False for modules that the repair will not change.
            mender: repairs each module while V is at hand, and has the result measured too.
            apart: what the repairs are made of has columns that the pass does not multiply.
        """
        self._needs = needs
        self._mender = mender
        self._apart = apart
        self._safety = safety
        self._wanted = wanted
        self._full = False
        self._known: dict[str, list[_Known]] = {}  # by module
        self.sights: dict[str, Sight] = {}
        self.frames: dict[str, Frame] = {}
        self.sums: dict[str, drift.ModuleSums] = {}
        self.mended: dict[str, Mended | None] = {}

    @property
    def exact(self) -> bool:
        """Tell whether the products must be those of float32: they go into weights."""
        return self._needs.sight or self._needs.frames

    def fill(self) -> None:
        """Say that the first judgment is over: what later ones see is no part of the repair.

        A judged candidate would otherwise take the place of the adapter that the next is made of.
        """
        self._full = True

    def recall(self, task: ModuleTask) -> Outcome | None:
        """Return the outcome of the same factors in the same place."""
        known = [one for one in self._known.get(task.module, ()) if one.place == _place(task)]
        if not known:
            return None
        a, b = task.factors()
        return next((one.outcome for one in known if one.holds(a, b)), None)

    def keep(self, measured: Measured) -> None:
        """Keep the outcome, and the products of a module that was scored."""
        outcome = measured.outcome
        self._remember(measured.task, measured.factors, outcome)
        if self._full or not isinstance(outcome, Scored):
            return
        module = measured.task.module
        self.sums[module] = outcome.sums
        if not self._wanted(outcome):
            return
        sight = self._sight(measured) if self._needs.sight else None
        if sight is not None:
            self.sights[module] = sight
            if self._needs.frames:
                self.frames[module] = forecast.frame(measured, sight, self._safety(module))
        if self._mender is not None:
            self._mend(self._mender, measured, sight)

    def _mend(self, mender: Mender, measured: Measured, sight: Sight | None) -> None:
        """Repair the module and measure the result, as long as V is at hand.

        The outcome is kept with the new factors: if the files will hold these very numbers, judging
        them needs no second read of V; if not, they are measured like any others.
        """
        task = measured.task
        old = Factors(*measured.factors, task.scaling)
        try:
            mended = mender.mend(task.module, old, sight)
        except CannotRepair:  # said when the repair itself is made, if this module is selected
            return
        self.mended[task.module] = mended
        if mended is None:
            return
        a, b = mended.factors.a.float(), mended.factors.b.float()  # as a reader gives them
        again = _task_of(task, mended.factors, a, b)
        update = drift.factored(a, b, again.scaling)
        if update is None:
            self._remember(again, (a, b), Unchanged(task.module))
            return
        products = span.products(measured, update, apart=self._apart)
        self._remember(again, (a, b), measured.score(again, update, products))

    def _remember(
        self, task: ModuleTask, factors: "tuple[torch.Tensor, torch.Tensor]", outcome: Outcome
    ) -> None:
        """Keep an outcome for the judging of the new files."""
        self._known.setdefault(task.module, []).append(_Known(_place(task), factors, outcome))

    def _sight(self, measured: Measured) -> Sight:
        update, products = measured.update, measured.products
        inside = None
        if self._needs.project is not None:
            inside = projection.inside(measured, self._needs.project)
        elif self._needs.inside:
            basis = drift.range_basis(products.u[:, -drift.NULL_COLUMNS :])
            inside = basis @ (basis.T @ update.left.double())
        own = slice(0, update.left.shape[1])
        return Sight(
            left=update.left,
            right=update.right,
            norm=update.norm,
            step_norm=products.step_norm,
            # Cloned: a view would keep the products of all columns alive.
            image=products.u[:, own].clone() if self._needs.image else None,
            along=products.vq.clone() if self._needs.along else None,
            inside=None if inside is None else inside.float(),
        )


def _task_of(task: ModuleTask, new: Factors, a: "torch.Tensor", b: "torch.Tensor") -> ModuleTask:
    """Return the task that the new factors will be in the repaired adapter."""
    scaling = task.scaling
    if new.rank != task.rank:  # the config then says alpha, and PEFT divides it by the rank
        scaling = task.scaling * new.rank / new.rank
    return dataclasses.replace(task, rank=new.rank, scaling=scaling, factors=lambda: (a, b))


def _place(task: ModuleTask) -> tuple[object, ...]:
    """Return all that an outcome follows from, but for factors and checkpoints."""
    return (task.module, task.weight, task.shape, task.transposed, task.rank, task.scaling)
