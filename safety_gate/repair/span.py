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


def products(
    measured: Measured, update: drift.Update, *, apart: bool = False
) -> drift.StepProducts:
    """Return the products of V with another update of the same module, then the Gaussian ones.

    Args:
        measured: the module as it was measured, V at hand.
        update: the other update.
        apart: its columns come from elsewhere, so looking for a span costs more than it spares.
    """
    made = measured.products
    own = measured.update.left.shape[1]
    if apart:
        return _continued(measured, update) or _anew(measured, update)
    left = _split(update.left, measured.update.left)
    right = _split(update.right, measured.update.right)
    x, u = made.x[:, :own] @ left.inside, made.u[:, :own] @ left.inside
    vq = made.vq @ right.inside
    if left.outside.shape[1] or right.outside.shape[1]:
        more = _multiplied(measured, left.outside, right.outside)
        x += more.x @ left.across
        u += more.u @ left.across
        vq += more.vq @ right.across
    return _with_null(measured, x, u, vq)


def _anew(measured: Measured, update: drift.Update) -> drift.StepProducts:
    """Multiply all columns."""
    more = _multiplied(measured, update.left, update.right)
    return _with_null(measured, more.x, more.u, more.vq)


def _continued(measured: Measured, update: drift.Update) -> drift.StepProducts | None:
    """Multiply only what was put behind the known factors, as merging by concatenation does.

    With A'^T = [c A^T, T] the QR of A'^T begins with that of A^T: the first right columns are the
    known ones, and the first left columns are known @ c + tail @ turn, where the tail is the other
    left columns and ``turn`` follows from R. None where that is not so within the rounding.
    """
    import torch

    made, known = measured.products, measured.update
    own = known.left.shape[1]
    first, last = update.mix[:own, own:], update.mix[own:, own:]
    if update.left.shape[1] <= own or last.shape[0] != last.shape[1]:
        return None
    if not float(torch.linalg.vector_norm(update.right[:, :own] - known.right)) <= NOTHING:
        return None
    turn = torch.linalg.solve_triangular(last.T, first.T, upper=False).float()
    tail = update.left[:, own:]
    lead = update.left[:, :own] - tail @ turn
    c = float((lead * known.left).sum())  # |known.left| = 1
    # Written so that the NaN of a singular R refuses.
    if not float(torch.linalg.vector_norm(lead - c * known.left)) <= NOTHING:
        return None
    if not float(torch.linalg.vector_norm(turn)) <= 1.0 / WEAK:
        return None
    more = _multiplied(measured, tail, update.right[:, own:])
    x = torch.cat((c * made.x[:, :own] + more.x @ turn, more.x), dim=1)
    u = torch.cat((c * made.u[:, :own] + more.u @ turn, more.u), dim=1)
    return _with_null(measured, x, u, torch.cat((made.vq, more.vq), dim=1))


def _multiplied(
    measured: Measured, columns: "torch.Tensor", rights: "torch.Tensor"
) -> drift.StepProducts:
    """Return the products of V with columns of the caller's own."""
    return drift.step_products(
        measured.blocks,
        columns,
        rights,
        transposed=measured.task.transposed,
        quick=measured.quick,
    )


def _with_null(
    measured: Measured, x: "torch.Tensor", u: "torch.Tensor", vq: "torch.Tensor"
) -> drift.StepProducts:
    """Return products followed by those of the Gaussian columns, which were made already."""
    import torch

    made, null = measured.products, slice(-drift.NULL_COLUMNS, None)
    return drift.StepProducts(
        x=torch.cat((x, made.x[:, null]), dim=1),
        u=torch.cat((u, made.u[:, null]), dim=1),
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
