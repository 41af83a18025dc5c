"""Products of V with a repaired update, as far as they follow from those that were made already.

Most repairs are made of columns that the pass over V has multiplied: a scaled update wholly, a
merged one by half. Only what lies off the span of these columns is multiplied anew; the rest is
a product of small matrices.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from safety_gate import drift
from safety_gate.outcomes import Measured

if TYPE_CHECKING:
    import torch

# Of the strongest direction of the known columns. Weaker ones are multiplied again: their products
# would have to be enlarged by more than this, and the rounding in them too.
WEAK = 0.1
# Of the new columns, which have norm 1. What is smaller than this is rounding of float32.
NOTHING = 3e-6


@dataclass(frozen=True, slots=True)
class _Split:
    """Columns T = known @ inside + outside @ across; as few ``outside`` as can be, of norm 1."""

    inside: "torch.Tensor"  # (known columns, k) float32
    outside: "torch.Tensor"  # (n, r) float32
    across: "torch.Tensor"  # (r, k) float32


def products(measured: Measured, update: drift.Update) -> drift.StepProducts:
    """Return the products of V with another update of the same module, then the Gaussian ones.

    Args:
        measured: the module as it was measured, V at hand.
        update: the other update.
    """
    import torch

    made = measured.products
    own = measured.update.left.shape[1]
    left = _split(update.left, measured.update.left)
    right = _split(update.right, measured.update.right)
    x, u = made.x[:, :own] @ left.inside, made.u[:, :own] @ left.inside
    vq = made.vq @ right.inside
    if left.outside.shape[1] or right.outside.shape[1]:
        more = drift.step_products(
            measured.blocks,
            left.outside,
            right.outside,
            transposed=measured.task.transposed,
            quick=measured.quick,
        )
        x += more.x @ left.across
        u += more.u @ left.across
        vq += more.vq @ right.across
    return drift.StepProducts(
        x=torch.cat((x, made.x[:, own:]), dim=1),
        u=torch.cat((u, made.u[:, own:]), dim=1),
        vq=vq,
        step_norm=made.step_norm,
        weight_norm=made.weight_norm,
    )


def _split(columns: "torch.Tensor", known: "torch.Tensor") -> _Split:
    """Write columns by the strong directions of known ones, and what is left by its own."""
    import torch

    if torch.equal(columns, known):
        return _Split(
            inside=torch.eye(known.shape[1]),
            outside=columns[:, :0],
            across=torch.zeros(0, columns.shape[1]),
        )
    values, turn = torch.linalg.eigh(known.T @ known)
    strong = values > WEAK**2 * values[-1]
    turn = turn[:, strong]
    inside = (turn / values[strong]) @ (turn.T @ (known.T @ columns))
    rest = columns - known @ inside  # exact, whatever the rounding of ``inside`` was
    wide = rest.double()  # its Gram matrix then holds directions of 1e-8 of the strongest
    values, turn = torch.linalg.eigh(wide.T @ wide)
    there = values > NOTHING**2
    turn, sizes = turn[:, there], values[there].sqrt()
    return _Split(
        inside=inside,
        outside=(rest @ (turn / sizes).float()),
        across=(turn * sizes).T.float(),
    )
