"""What one pass over V leaves behind of a module for its repair: thin matrices only."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from safety_gate.repair.factors import Factors

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """The update dW = norm * left @ right.T as seen through V and its range.

    The methods are linear in these columns, so they work alike on the matrices themselves and on
    their coordinates in any orthonormal basis that holds the columns (see forecast.py).
    """

    left: "torch.Tensor"  # (out, k), Frobenius norm 1
    right: "torch.Tensor"  # (in, k), orthonormal columns
    norm: float  # |dW|
    step_norm: float  # |V|
    image: "torch.Tensor | None" = None  # (out, k), V V^T left
    along: "torch.Tensor | None" = None  # (out, k), V right
    inside: "torch.Tensor | None" = None  # (out, k), P left, P on V's leading left directions

    @property
    def against(self) -> float:
        """Return -<dW, V>: above 0 the update walks back towards base."""
        return -self.norm * float((self.left.double() * _there(self.along).double()).sum())


def _there(part: "torch.Tensor | None") -> "torch.Tensor":
    if part is None:
        raise AssertionError("the pass over V was not asked for these products")
    return part


def rebuilt(sight: Sight, left: "torch.Tensor") -> Factors:
    """Return the update with another left side, ``left`` of the scale of ``sight.left``."""
    return Factors(a=sight.right.T, b=sight.norm * left, scaling=1.0)


def through_c(sight: Sight) -> Factors:
    """Return C dW, C = V V^T / |V|: Safe LoRA's replacement (arXiv 2405.16833)."""
    return rebuilt(sight, _there(sight.image).double() / sight.step_norm)


def projected(sight: Sight) -> Factors:
    """Return P dW: an orthogonal projector keeps what it lets through at its size."""
    return rebuilt(sight, _there(sight.inside).double())


def attenuated(sight: Sight, strength: float) -> Factors:
    """Return dW with what lies off V's range made smaller, the more the further off it points.

    In the manner of CSULoRA (arXiv 2605.30640). With dW = sum sigma_i u_i v_i^T and the share
    e_i = |u_i - P u_i|^2, the minimiser of |X - dW|^2 + strength * sum e_i |(X - P X) v_i|^2 is
    X = sum sigma_i (P u_i + (u_i - P u_i) / (1 + strength * e_i)) v_i^T: a direction within the
    range stays, one wholly off it is divided by 1 + strength.
    """
    import torch

    left, inside = sight.left.double(), _there(sight.inside).double()
    _, sigma, turn = torch.linalg.svd(left, full_matrices=False)
    off = (left - inside) @ turn.T  # (out, k): sigma_i * (u_i - P u_i)
    real = sigma > sigma[0] * torch.finfo(torch.float32).eps
    share = torch.where(real, off.square().sum(dim=0) / sigma.square().clamp(min=1e-300), 1.0)
    return rebuilt(sight, inside + (off / (1.0 + strength * share.clamp(max=1.0))) @ turn)


def unreverted(sight: Sight, keep: float, most: float) -> Factors | None:
    """Return dW without its walk back towards base, but for the share ``keep`` of it.

    The smallest change within the row space of A (projector Q Q^T) that leaves
    <dW', V> = keep * <dW, V>: dW' = dW + c V Q Q^T with c = (1 - keep) (-<dW, V>) / |V Q|^2.
    The rank stays. With one ``most`` >= c for all modules, c is cut to it: of all changes that
    leave the same <dW', V> over the whole adapter, the one with equal c is the smallest.

    None where the update does not walk back: there is nothing to remove.
    """
    if not sight.against > 0.0:
        return None
    c = min(most, (1.0 - keep) * full_pull(sight))
    return rebuilt(sight, sight.left.double() + (c / sight.norm) * _there(sight.along).double())


def full_pull(sight: Sight) -> float:
    """Return the c that takes the whole walk back away; at most 0 where there is none."""
    return sight.against / float(_there(sight.along).double().square().sum())
