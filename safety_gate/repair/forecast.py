"""Figures of a repaired module without another pass over V: for the search, never for a verdict.

Every exact repair has its columns in the span of a few thin matrices that are known during the
first pass. One product of V with an orthonormal basis of them gives, by small Gram matrices, the
figures of every such repair; what is written is then measured from its files like any adapter.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from safety_gate import drift
from safety_gate.drift import Floats, ModuleSums
from safety_gate.outcomes import Measured
from safety_gate.repair.factors import Factors, norm
from safety_gate.repair.methods import Subject
from safety_gate.repair.sight import Sight

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One module in coordinates: every thin matrix times an orthonormal basis, left or right."""

    subject: Subject  # its factors and its sight in coordinates
    xx: "torch.Tensor"  # (p, p) float64: (V^T S)^T (V^T S), S the left basis
    uu: "torch.Tensor"  # (p, p): (V V^T S)^T (V V^T S)
    vv: "torch.Tensor"  # (q, q): (V T)^T (V T), T the right basis
    across: "torch.Tensor"  # (p, q): S^T V T
    in_range: "torch.Tensor"  # (directions, p): basis of V's range times S
    null: tuple[Floats, Floats, Floats]  # per Gaussian column, as drift.null_figures
    out: int
    step: float  # |V|
    weight: float  # |W_aligned|


def frame(measured: Measured, sight: Sight, safety: Factors | None) -> Frame:
    """Multiply V with a basis of all that the repairs of this module are made of."""
    import torch

    a, b = measured.factors
    sides = [sight.left, sight.along, sight.image, sight.inside]
    lefts = [side.double() for side in sides if side is not None]
    rights = [sight.right.double()]
    if safety is not None:
        lefts.append(safety.b.double() / max(float(safety.b.norm()), 1e-300))
        rights.append(safety.a.double().T)
    left = torch.linalg.qr(torch.cat(lefts, dim=1)).Q  # (out, p)
    right = torch.linalg.qr(torch.cat(rights, dim=1)).Q  # (in, q)
    products = drift.step_products(
        measured.blocks, left.float(), right.float(), transposed=measured.task.transposed
    )
    x, u, vt = products.x.double(), products.u.double(), products.vq.double()
    basis = drift.range_basis(measured.products.u[:, -drift.NULL_COLUMNS :])
    into = _Into(left, right)
    task = Factors(a=a, b=b, scaling=measured.task.scaling)
    return Frame(
        subject=Subject(
            module=measured.task.module,
            factors=into.factors(task),
            safety=None if safety is None else into.factors(safety),
            sight=into.sight(sight),
        ),
        xx=x.T @ x,
        uu=u.T @ u,
        vv=vt.T @ vt,
        across=x.T @ right,
        in_range=basis.T @ left,
        null=drift.null_figures(measured.products),
        out=measured.task.shape[0],
        step=measured.products.step_norm,
        weight=measured.products.weight_norm,
    )


@dataclass(frozen=True, slots=True)
class _Into:
    """Takes thin matrices to their coordinates."""

    left: "torch.Tensor"
    right: "torch.Tensor"

    def factors(self, factors: Factors) -> Factors:
        return Factors(
            a=factors.a.double() @ self.right,
            b=self.left.T @ factors.b.double(),
            scaling=factors.scaling,
        )

    def sight(self, sight: Sight) -> Sight:
        def side(thin: "torch.Tensor | None") -> "torch.Tensor | None":
            return None if thin is None else self.left.T @ thin.double()

        own = side(sight.left)
        if own is None:
            raise AssertionError("a sight without its left side")
        return Sight(
            left=own,
            right=self.right.T @ sight.right.double(),
            norm=sight.norm,
            step_norm=sight.step_norm,
            image=side(sight.image),
            along=side(sight.along),
            inside=side(sight.inside),
        )


def sums(seen: Frame, new: Factors) -> ModuleSums | None:
    """Return the sums that measuring the new factors would give; None for a zero update.

    Args:
        seen: the module.
        new: its repaired update in the frame's coordinates.
    """
    import torch

    if norm(new) == 0.0:
        return None
    right, mix = torch.linalg.qr(new.a.double().T)
    tall = new.scaling * (new.b.double() @ mix.T)
    size = float(torch.linalg.vector_norm(tall))
    left = tall / size
    squares: Floats = torch.linalg.svdvals(mix).square().numpy()
    return ModuleSums(
        inner=size**2 * _form(seen.xx, left) / seen.step,
        image=size**2 * _form(seen.uu, left) / seen.step**2,
        norm=size**2,
        against=-size * float(((seen.across @ right) * left).sum()),
        against_variance=size**2
        * _form(seen.vv, right @ mix)
        / (seen.out * float(np.sum(squares))),
        off_range=size**2 * max(0.0, 1.0 - float((seen.in_range @ left).square().sum())),
        step=seen.step**2,
        weight=seen.weight**2,
        null=drift.null_draws(seen.subject.module, squares, seen.null, size),
    )


def _form(gram: "torch.Tensor", columns: "torch.Tensor") -> float:
    """Return the sum over columns c of c^T gram c."""
    return float(((gram @ columns) * columns).sum())
