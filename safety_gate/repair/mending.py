"""One module repaired: its new factors, as they will be stored, and what changed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safety_gate.adapter.lora import LoraModule
from safety_gate.repair.factors import Factors, sizes, stacked
from safety_gate.repair.methods import Method, Subject, all_finite, apply, nothing_left
from safety_gate.repair.record import ModuleRepair
from safety_gate.repair.refusal import CannotRepair
from safety_gate.repair.sight import Sight
from safety_gate.repair.tensor_file import cast_to

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """A repaired module; ``factors`` are rounded to the dtypes that they will be stored with."""

    factors: Factors  # with the scaling that the module had
    fact: ModuleRepair


@dataclass(frozen=True, slots=True, kw_only=True)
class Mender:
    """Repairs modules by one method."""

    method: Method
    own: Callable[[str], LoraModule]
    safety: Callable[[str], Factors | None]  # the safety adapter's update of a module
    dtypes: Callable[[LoraModule], tuple[str, str]]  # of A and B in the new file
    guarded: "Callable[[str], torch.Tensor | None]" = lambda _: None  # A' of guard

    def mend(self, module: str, old: Factors, sight: Sight | None) -> Mended | None:
        """Repair one module; None where the method leaves it as it is.

        Raises:
            CannotRepair: the method cannot take these factors, or its result cannot be stored.
        """
        new = self._new(module, old, sight)
        if new is None:
            return None
        fine, stored = self._in_file(module, new)
        before, after, change = sizes(new, old)
        fact = ModuleRepair(
            module=module,
            change=change,
            before_norm=before,
            after_norm=0.0 if nothing_left(new) else after,
            before_rank=old.rank,
            after_rank=new.rank,
            rounding=_rounding(stored, fine) / before,
        )
        return Mended(factors=stored, fact=fact)

    def stored(self, module: str, old: Factors, sight: Sight | None) -> Factors:
        """Return the factors that the module would have in the new file.

        Raises:
            CannotRepair: as ``mend``.
        """
        new = self._new(module, old, sight)
        return old if new is None else self._in_file(module, new)[1]

    def _new(self, module: str, old: Factors, sight: Sight | None) -> Factors | None:
        """Apply the method."""
        subject = Subject(
            module=module,
            factors=old,
            safety=self.safety(module),
            sight=sight,
            guarded=self.guarded(module),
        )
        return apply(self.method, subject)

    def _in_file(self, module: str, new: Factors) -> tuple[Factors, Factors]:
        """Return the new factors with the module's own scaling, and as the file rounds them."""
        own = self.own(module)
        fine = rescaled(new, own.scaling)
        return fine, _rounded(fine, own, self.dtypes(own))


def rescaled(new: Factors, scaling: float) -> Factors:
    """Return the same update with another scaling: the rest goes into B."""
    if new.scaling == scaling:
        return new
    return Factors(a=new.a, b=new.b.double() * (new.scaling / scaling), scaling=scaling)


def _rounded(fine: Factors, own: LoraModule, dtypes: tuple[str, str]) -> Factors:
    """Return the factors as a reader of the file will see them.

    Raises:
        CannotRepair: a value does not fit into the dtype.
    """
    stored = Factors(
        a=cast_to(fine.a, dtypes[0]), b=cast_to(fine.b, dtypes[1]), scaling=fine.scaling
    )
    if not all_finite(stored):
        if not all_finite(fine):
            raise CannotRepair(
                "the repaired update is not finite",
                where=own.module,
                hint="Check the safety adapter's weights, and the merge weights and density.",
            )
        raise CannotRepair(
            "a repaired value does not fit into the dtype that the adapter is stored with",
            where=own.module,
            got=" and ".join(dict.fromkeys(dtypes)),
            hint="Write the repaired modules with --dtype float32.",
        )
    return stored


def _rounding(rough: Factors, fine: Factors) -> float:
    """Return |rough - fine| of factors that differ by rounding only.

    B'A' - BA = (B' - B)A + B'(A' - A): the small differences are formed first, so that the Gram
    sum of what is left has nothing to cancel.
    """
    if rough.a is fine.a and rough.b is fine.b:  # stored as they were computed
        return 0.0
    step_a = rough.a.double() - fine.a.double()
    step_b = rough.b.double() - fine.b.double()
    if not (bool(step_a.any()) or bool(step_b.any())):
        return 0.0
    parts = [
        (1.0, Factors(a=fine.a.double(), b=step_b, scaling=fine.scaling)),
        (1.0, Factors(a=step_a, b=rough.b.double(), scaling=fine.scaling)),
    ]
    both = stacked(parts)
    square = ((both.b.T @ both.b) * (both.a @ both.a.T)).sum()
    return math.sqrt(max(0.0, float(square)))
