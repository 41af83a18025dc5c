"""Merging one module's update with the safety adapter's, in every form that PEFT names.

"cat" and "svd" are exact on dW (svd up to its rank); the others are PEFT's own operators, kept for
comparison with published results. docs/repair.md tells what each computes.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

from safety_gate.repair.factors import Factors, stacked, truncated
from safety_gate.repair.pruning import Majority, Operator, combined
from safety_gate.repair.refusal import CannotRepair

if TYPE_CHECKING:
    import torch

Form: TypeAlias = Literal[
    "cat",
    "svd",
    "linear",
    "ties",
    "dare_linear",
    "dare_ties",
    "magnitude_prune",
    "ties_svd",
    "dare_linear_svd",
    "dare_ties_svd",
    "magnitude_prune_svd",
]
FORMS: tuple[Form, ...] = get_args(Form)
EXACT: tuple[Form, ...] = ("cat", "svd")
SPARSE: tuple[Form, ...] = tuple(f for f in FORMS if f not in (*EXACT, "linear"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """How two updates become one."""

    form: Form = "cat"
    weights: tuple[float, float] = (0.8, 0.2)  # adapter, safety adapter
    density: float | None = None  # share of entries kept by the sparse forms, above 0, at most 1
    majority: Majority = "total"
    rank: int | None = None  # of the forms that end with svd; None: the larger of the two
    seed: int = 0  # of the forms that start with dare

    def __post_init__(self) -> None:
        """Refuse what no form can use."""
        if not all(math.isfinite(weight) for weight in self.weights):
            raise _refused("a merge weight is not finite", got=str(self.weights))
        if self.form in SPARSE and self.density is None:
            raise _refused("this form needs a density", got=self.form, expected="--density 0.5")
        if self.density is not None and not 0.0 < self.density <= 1.0:
            raise _refused(
                "the density is out of range",
                got=str(self.density),
                expected="above 0, at most 1: at 0 PEFT keeps nothing, and dare divides by it",
            )
        if self.rank is not None and not self.rank >= 1:
            raise _refused("the rank is too small", got=str(self.rank), expected="1 or more")


def _refused(what: str, *, got: str, expected: str = "") -> CannotRepair:
    hint = "docs/repair.md tells what each form takes."
    return CannotRepair(what, where="the merge settings", got=got, expected=expected, hint=hint)


def merged(module: str, task: Factors, safety: Factors | None, merge: Merge) -> Factors:
    """Return the merged update of one module.

    Where the safety adapter has no update, its dW is zero: what is left is weight * dW in the
    exact forms, and the operator on one tensor in the others, as PEFT does it. The published
    script deletes the adapter's update there.

    Raises:
        CannotRepair: the form needs equal ranks, and they differ.
    """
    parts = [(merge.weights[0], task)]
    if safety is not None:
        parts.append((merge.weights[1], safety))
    if merge.form == "cat":
        return stacked([part for part in parts if part[0] != 0.0] or parts[:1])
    rank = merge.rank or max(factors.rank for _, factors in parts)
    if merge.form == "svd":
        return truncated(stacked(parts), rank)
    if merge.form.endswith("_svd"):
        return _on_products(module, parts, merge, rank)
    return _on_factors(module, parts, merge)


def generator_for(module: str, seed: int) -> "torch.Generator":
    """Return the module's own random stream, so that others do not shift it."""
    import torch

    digest = hashlib.sha256(f"{seed}\0{module}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _operator(form: Form) -> Operator:
    return cast(Operator, form.removesuffix("_svd"))


def _on_factors(module: str, parts: list[tuple[float, Factors]], merge: Merge) -> Factors:
    """Apply an operator to A and to B by themselves; the result is no sum of the updates.

    dW' = sum_ij sqrt(w_i w_j s_i s_j) B_i A_j: terms with i != j belong to neither adapter.
    """
    ranks = {factors.rank for _, factors in parts}
    if len(ranks) != 1:
        raise CannotRepair(
            f"the form {merge.form} adds A to A and B to B, which needs equal ranks",
            where=module,
            got=" and ".join(str(factors.rank) for _, factors in parts),
            expected="one rank",
            hint="Use --form cat or svd: they are exact, and take any ranks.",
        )
    scales = [weight * factors.scaling for weight, factors in parts]
    sizes = [math.sqrt(abs(scale)) for scale in scales]
    generator = generator_for(module, merge.seed)
    thin = {}
    for name in ("a", "b"):  # PEFT's order, which decides who gets which random numbers
        signs = [math.copysign(1.0, scale) if name == "a" else 1.0 for scale in scales]
        thin[name] = combined(
            _operator(merge.form),
            [getattr(factors, name).float() for _, factors in parts],
            [sign * size for sign, size in zip(signs, sizes, strict=True)],
            density=merge.density or 1.0,
            majority=merge.majority,
            generator=generator,
        )
    return Factors(a=thin["a"], b=thin["b"], scaling=1.0)


def _on_products(
    module: str, parts: list[tuple[float, Factors]], merge: Merge, rank: int
) -> Factors:
    """Apply an operator to the full dW of one module, and keep the best ``rank`` directions."""
    whole = combined(
        _operator(merge.form),
        [factors.scaling * (factors.b.float() @ factors.a.float()) for _, factors in parts],
        [weight for weight, _ in parts],
        density=merge.density or 1.0,
        majority=merge.majority,
        generator=generator_for(module, merge.seed),
    )
    return _leading(whole, rank)


def _leading(whole: "torch.Tensor", rank: int) -> Factors:
    """Return the best approximation of a full matrix with this rank.

    By the eigenvectors of the smaller Gram matrix in float64: its error is about 1e-16 of the top
    singular value squared, and only the top ones are kept.
    """
    import torch

    wide = whole.double()
    flat = wide.shape[0] <= wide.shape[1]
    gram = wide @ wide.T if flat else wide.T @ wide
    keep = min(rank, gram.shape[0])
    vectors = torch.linalg.eigh(gram).eigenvectors[:, -keep:].flip(1)
    if flat:
        return Factors(a=vectors.T @ wide, b=vectors, scaling=1.0)
    return Factors(a=vectors.T, b=wide @ vectors, scaling=1.0)
