"""The ways to repair a module: a closed union, and one function that applies any of them."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, assert_never

from safety_gate.repair.factors import Factors, is_finite
from safety_gate.repair.forms import EXACT, Merge, merged
from safety_gate.repair.guard import Guard
from safety_gate.repair.refusal import CannotRepair
from safety_gate.repair.sight import Sight, attenuated, projected, through_c, unreverted

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class SafeMerge:
    """Merge with a safety adapter (arXiv 2503.17239): (1 - w) dW + w dW_safety in exact forms."""

    merge: Merge


@dataclass(frozen=True, slots=True, kw_only=True)
class SafeLora:
    """Replace dW by C dW (arXiv 2405.16833)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """Replace dW by P dW, P the orthogonal projector on V's left singular vectors."""

    top: int | None = None  # how many of them
    energy: float | None = None  # or the fewest that hold this share of |V|^2

    def __post_init__(self) -> None:
        """Refuse anything but one of the two."""
        if (self.top is None) == (self.energy is None):
            raise _refused("a projector needs a number of directions or a share of energy")
        if self.top is not None and not self.top >= 1:
            raise _refused("a projector needs at least one direction", got=str(self.top))
        if self.energy is not None:
            _check("the share of energy", self.energy, 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Replace dW by factor * dW."""

    factor: float

    def __post_init__(self) -> None:
        """Refuse a factor that enlarges or turns around."""
        _check("the factor", self.factor, 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Set the update to zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attenuate:
    """Shrink what lies off V's range, in the manner of CSULoRA (arXiv 2605.30640)."""

    strength: float  # 0: nothing; a direction wholly off the range is divided by 1 + strength

    def __post_init__(self) -> None:
        """Refuse a strength that enlarges."""
        _check("the strength", self.strength, 0.0, 1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrevert:
    """Remove the component that walks back towards base."""

    keep: float = 0.0  # share of it that stays
    most: float = math.inf  # of V's part within reach, this multiple at most is added per module

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        _check("the share that stays", self.keep, 0.0, 1.0)
        _check("the multiple that is added", self.most, 0.0, math.inf)


Method: TypeAlias = SafeMerge | SafeLora | Project | Scale | Drop | Attenuate | Unrevert | Guard


def _refused(what: str, *, got: str = "", expected: str = "") -> CannotRepair:
    hint = "docs/repair.md tells what each method takes."
    return CannotRepair(what, where="the repair's settings", got=got, expected=expected, hint=hint)


def _check(what: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise _refused(f"{what} is out of range", got=str(value), expected=f"{low:g} to {high:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One module as the methods see it."""

    module: str
    factors: Factors
    safety: Factors | None = None  # of the safety adapter; None: it has no update here
    sight: Sight | None = None  # None where the method needs no product with V
    guarded: "torch.Tensor | None" = None  # A' of guard, (rank, in); None for other methods


def is_identity(method: Method) -> bool:
    """Tell whether the method changes nothing by its very settings: then bytes are kept."""
    match method:
        case SafeMerge(merge=merge):
            return merge.weights == (1.0, 0.0)
        case Scale(factor=factor):
            return factor == 1.0
        case Attenuate(strength=strength):
            return strength == 0.0
        case Unrevert(keep=keep, most=most):
            return keep == 1.0 or most == 0.0
        case Guard(strength=strength):
            return strength == 0.0
        case SafeLora() | Project() | Drop():
            return False
        case _:
            assert_never(method)


def apply(method: Method, subject: Subject) -> Factors | None:
    """Return the new factors of one module; None where the method leaves it as it is.

    Raises:
        CannotRepair: the form of merging cannot take these factors.
    """
    if is_identity(method):
        return None
    factors = subject.factors
    match method:
        case SafeMerge(merge=merge):
            return merged(subject.module, factors, subject.safety, merge)
        case SafeLora():
            return through_c(_seen(subject))
        case Project():
            return projected(_seen(subject))
        case Scale(factor=factor):
            return Factors(a=factors.a, b=factor * factors.b, scaling=factors.scaling)
        case Drop():
            return Factors(a=factors.a, b=0.0 * factors.b, scaling=factors.scaling)
        case Attenuate(strength=strength):
            return attenuated(_seen(subject), strength)
        case Unrevert(keep=keep, most=most):
            return unreverted(_seen(subject), keep, most)
        case Guard():
            return _guarded(subject)
        case _:
            assert_never(method)


def _guarded(subject: Subject) -> Factors:
    if subject.guarded is None:
        raise AssertionError(f"the inputs of {subject.module} were not taken")
    return Factors(a=subject.guarded, b=subject.factors.b, scaling=subject.factors.scaling)


def _seen(subject: Subject) -> Sight:
    if subject.sight is None:
        raise CannotRepair(  # safety_gate/vocabulary.py: the pass over V saw only a part of it
            "the module has rows of tokens that base lacks, so its alignment step is not known",
            where=subject.module,
            hint="Leave it out with --select, or use drop or scale, which need no step.",
        )
    return subject.sight


def described(method: Method) -> str:
    """Return the method with its settings, in our own words."""
    match method:
        case SafeMerge(merge=merge):
            extra = "" if merge.form in EXACT or merge.form == "linear" else f" {merge.density:g}"
            task, safety = merge.weights
            return f"safemerge {merge.form}{extra}, {task:.3g} adapter + {safety:.3g} safety"
        case SafeLora():
            return "safelora"
        case Project(top=top, energy=energy):
            return f"project top {top}" if energy is None else f"project energy {energy:.3g}"
        case Scale(factor=factor):
            return f"scale {factor:.3g}"
        case Drop():
            return "drop"
        case Attenuate(strength=strength):
            return f"attenuate {strength:.3g}"
        case Unrevert(keep=keep, most=most):
            limit = "" if math.isinf(most) else f", at most {most:.3g} V"
            return ("unrevert" if keep == 0.0 else f"unrevert, keep {keep:.3g}") + limit
        case Guard():
            return method.words
        case _:
            assert_never(method)


def nothing_left(factors: Factors) -> bool:
    """Tell whether the update is exactly zero."""
    return not bool(factors.b.any()) or not bool(factors.a.any())


def all_finite(factors: Factors) -> bool:
    """Tell whether every number is finite."""
    return math.isfinite(factors.scaling) and is_finite(factors.a) and is_finite(factors.b)
