"""The exact orthogonal projector on V's left singular vectors, from passes over blocks of V."""

from typing import TYPE_CHECKING

from safety_gate.outcomes import Measured
from safety_gate.repair.methods import Project

if TYPE_CHECKING:
    import torch

FLOOR = 1e-12  # squared singular values below this share of the largest are rounding


def inside(measured: Measured, method: Project) -> "torch.Tensor":
    """Return P @ left, P on the leading left singular vectors of V, in float64.

    Through the Gram matrix of V's smaller side where V is at hand as a whole, else of its stored
    columns. Costs an eigendecomposition of that size per module: seconds at 4096.
    """
    basis = _basis(measured, method)
    left = measured.update.left.double()
    product: torch.Tensor = basis @ (basis.T @ left)
    return product


def _basis(measured: Measured, method: Project) -> "torch.Tensor":
    """Return (out, directions) with orthonormal columns."""
    import torch

    rows, columns = measured.task.stored
    by_rows = measured.whole and rows < columns
    gram = _gram_of_rows(measured) if by_rows else _gram_of_columns(measured)
    values, vectors = torch.linalg.eigh(gram)
    values = values.flip(0).clamp(min=0.0)
    leading: torch.Tensor = vectors.flip(1)[:, : _count(values, method)]
    if by_rows != measured.task.transposed:  # they are vectors of the outputs already
        return leading
    other: torch.Tensor = torch.linalg.qr(_times(measured, leading, by_rows=by_rows)).Q
    return other


def _count(values: "torch.Tensor", method: Project) -> int:
    """Return how many directions to keep; never one that is rounding."""
    import torch

    real = int((values > FLOOR * values[0]).sum())
    if method.top is not None:
        return min(method.top, real)
    shares = torch.cumsum(values, dim=0) / values.sum()
    needed = int((shares < (method.energy or 0.0) - FLOOR).sum()) + 1
    return min(needed, real)


def _gram_of_columns(measured: Measured) -> "torch.Tensor":
    """Return S^T S, S the stored matrix."""
    import torch

    width = measured.task.stored[1]
    gram = torch.zeros(width, width, dtype=torch.float64)
    for block in measured.blocks():
        step = block.step.double()  # a float32 sum would hide directions below 1e-3 of the top
        gram.addmm_(step.T, step)
    return gram


def _gram_of_rows(measured: Measured) -> "torch.Tensor":
    """Return S S^T; the blocks stay valid together."""
    import torch

    height = measured.task.stored[0]
    gram = torch.zeros(height, height, dtype=torch.float64)
    blocks = list(measured.blocks())
    for one in blocks:
        for two in blocks:
            part = one.step.double() @ two.step.double().T
            gram[one.start : one.stop, two.start : two.stop] = part
    return gram


def _times(measured: Measured, vectors: "torch.Tensor", *, by_rows: bool) -> "torch.Tensor":
    """Return S @ vectors, or S^T @ vectors where these are vectors of the rows."""
    import torch

    thin = vectors.float()
    size = measured.task.stored[1 if by_rows else 0]
    product = torch.zeros(size, thin.shape[1])
    for block in measured.blocks():
        if by_rows:
            product += block.step.T @ thin[block.start : block.stop]
        else:
            product[block.start : block.stop] = block.step @ thin
    return product.double()
