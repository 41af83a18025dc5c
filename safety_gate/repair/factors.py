"""One module's update as its two thin factors, dW = scaling * b @ a."""

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


CANCELLED = 1e-6  # of the terms' size; above it a Gram sum in float64 is right to 1e-9


@dataclass(frozen=True, slots=True)
class Factors:
    """A low-rank update; a new object for every change."""

    a: "torch.Tensor"  # (rank, in)
    b: "torch.Tensor"  # (out, rank)
    scaling: float

    @property
    def rank(self) -> int:
        """Return the inner dimension, which may be above the true rank."""
        return int(self.a.shape[0])


def compact(factors: Factors) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """Return (left, core, right) in float64 with dW = left @ core @ right.T.

    ``left`` and ``right`` have orthonormal columns, so every norm of dW is a norm of the core, and
    no m x n matrix is formed. Never by Gram sums: they are rounding where the factors cancel.
    """
    import torch

    left, mix_b = torch.linalg.qr(factors.b.double())  # (out, k), (k, rank)
    right, mix_a = torch.linalg.qr(factors.a.double().T)
    return left, factors.scaling * (mix_b @ mix_a.T), right


def norm(factors: Factors) -> float:
    """Return |dW|.

    By the Gram sum tr((B^T B)(A A^T)) in float64 where its terms do not cancel, which is several
    times cheaper than a QR; where they do, the sum would be rounding, and a QR decides.
    """
    import torch

    a, b = factors.a.double(), factors.b.double()
    size = _by_gram(a @ a.T, b.T @ b)
    if size is None:
        mix_b = torch.linalg.qr(b, mode="r").R
        mix_a = torch.linalg.qr(a.T, mode="r").R
        size = float(torch.linalg.vector_norm(mix_b @ mix_a.T))
    return abs(factors.scaling) * size


def _by_gram(gram_a: "torch.Tensor", gram_b: "torch.Tensor") -> float | None:
    """Return |b @ a| by a @ a.T and b.T @ b; None where their terms cancel."""
    square = float((gram_b * gram_a).sum())
    if square > CANCELLED * float(gram_a.norm() * gram_b.norm()):
        return math.sqrt(square)
    return None


def stacked(parts: "list[tuple[float, Factors]]") -> Factors:
    """Return the sum of weight * dW over the parts, exactly: the ranks add.

    As PEFT's "cat": the weight and the scaling go into A, and the new scaling is 1.
    """
    import torch

    kinds = [thin.dtype for _, f in parts for thin in (f.a, f.b)]
    dtype = functools.reduce(torch.promote_types, kinds)
    return Factors(
        a=torch.cat([weight * f.scaling * f.a.to(dtype) for weight, f in parts], dim=0),
        b=torch.cat([f.b.to(dtype) for _, f in parts], dim=1),
        scaling=1.0,
    )


def distance(new: Factors, old: Factors) -> float:
    """Return |dW' - dW|."""
    return norm(stacked([(1.0, new), (-1.0, old)]))


def sizes(new: Factors, old: Factors) -> tuple[float, float, float]:
    """Return |dW|, |dW'| and |dW' - dW|, all from one pair of Gram matrices where that is right."""
    new_a, new_b = new.scaling * new.a.double(), new.b.double()
    old_a, old_b = old.scaling * old.a.double(), old.b.double()
    gram_a = _joined(new_a @ new_a.T, -(new_a @ old_a.T), old_a @ old_a.T)
    gram_b = _joined(new_b.T @ new_b, new_b.T @ old_b, old_b.T @ old_b)
    parts = (slice(new.rank, None), slice(0, new.rank), slice(None))
    before, after, change = (_by_gram(gram_a[at, at], gram_b[at, at]) for at in parts)
    return (
        norm(old) if before is None else before,
        norm(new) if after is None else after,
        distance(new, old) if change is None else change,
    )


def _joined(new: "torch.Tensor", across: "torch.Tensor", old: "torch.Tensor") -> "torch.Tensor":
    """Return the Gram matrix of new and old side by side, from its blocks."""
    import torch

    return torch.cat((torch.cat((new, across), dim=1), torch.cat((across.T, old), dim=1)), dim=0)


def truncated(factors: Factors, rank: int) -> Factors:
    """Return the best approximation of dW with at most this rank (Eckart and Young).

    By QR of the thin factors and an SVD of the small core; each singular value is shared evenly
    between the factors, so that neither is out of scale when it is stored in 16 bits.
    """
    import torch

    left, core, right = compact(factors)
    u, s, vh = torch.linalg.svd(core)
    keep = min(rank, s.numel())
    root = s[:keep].sqrt()
    return Factors(
        a=(root[:, None] * vh[:keep]) @ right.T, b=left @ (u[:, :keep] * root), scaling=1.0
    )


def is_finite(values: "torch.Tensor") -> bool:
    """Tell whether every number is finite.

    NaN and Inf survive every sum, so a finite sum tells it at a thirtieth of the cost of looking
    at each number; only where the sum overflows are they looked at.
    """
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def padded(factors: Factors, rank: int) -> Factors:
    """Return the same update with zeros up to ``rank``."""
    import torch

    more = rank - factors.rank
    if more < 0:
        raise AssertionError(f"cannot pad rank {factors.rank} to {rank}")
    if more == 0:
        return factors
    return Factors(
        a=torch.cat((factors.a, factors.a.new_zeros(more, factors.a.shape[1])), dim=0),
        b=torch.cat((factors.b, factors.b.new_zeros(factors.b.shape[0], more)), dim=1),
        scaling=factors.scaling,
    )
