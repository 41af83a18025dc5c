"""The repair "guard": do least where harmful questions are asked, and elsewhere what was learned.

Of all updates D of a module, with inputs x of second moments S_h on harmful questions and S_t on
the task, guard takes the one with the least

    s tr(D S_h D^T) + tr((D - dW) N (D - dW)^T),    N = lambda S_t + mu mean(diag S_h) I

which is, over tokens, s times the mean of |D x|^2 on harmful questions, lambda times the mean of
|D x - dW x|^2 on the task, and a little of |D - dW|^2. Setting its derivative 2 s D S_h +
2 (D - dW) N to zero gives D = dW N (s S_h + N)^-1. With dW = B A that is B A', so B and the rank
stay, although no rank was asked for:

    A' = A N (s S_h + N)^-1 = A - A s S_h (s S_h + N)^-1
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from safety_gate.repair.refusal import CannotRepair

if TYPE_CHECKING:
    import torch

    from safety_gate.probe.moments import Heard, Moment

HIGHEST: Final = 1e9  # of a weight; beyond it float64 has no digits left for the other terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """How much each aim weighs."""

    # Only s : lambda : mu counts. Refusals come back between 4 and 256 on the toy worlds, and the
    # new skill goes between 1 and 16 (docs/repair.md); a mu of 0.01 changes twice as much for it.
    strength: float = 16.0  # s: 0 changes nothing
    task: float = 1.0  # lambda
    ridge: float = 1.0  # mu, above 0: what keeps the change small where nothing was asked

    def __post_init__(self) -> None:
        """Refuse weights that turn an aim around, and a ridge that leaves no single answer."""
        given = {"strength": self.strength, "lambda": self.task, "mu": self.ridge}
        for name, value in given.items():
            if not 0.0 <= value <= HIGHEST or (name == "mu" and not value >= 1.0 / HIGHEST):
                raise CannotRepair(
                    f"the weight {name} of guard is out of range",
                    where="the repair's settings",
                    got=str(value),
                    expected=f"{1.0 / HIGHEST if name == 'mu' else 0:g} to {HIGHEST:g}",
                    hint="docs/repair.md tells what each method takes.",
                )

    @property
    def words(self) -> str:
        """Return the method with its settings, in our own words."""
        return f"guard {self.strength:.3g}, lambda {self.task:.3g}, mu {self.ridge:.3g}"


@dataclass(slots=True)
class Guarded:
    """What was worked out so far: A' of every module, (rank, in) float64, for each setting."""

    factors: "dict[Guard, Mapping[str, torch.Tensor]]" = field(default_factory=dict)
    note: str = ""  # what it was made with, in our own words


def guarded(a: "torch.Tensor", heard: "Heard", guard: Guard) -> "torch.Tensor":
    """Return A', (rank, in) float64.

    Args:
        a: A, (rank, in).
        heard: the inputs of the module; the quiet side is that of harmful questions.
        guard: the weights.

    Raises:
        CannotRepair: the moments are too uneven to be solved for in float64.
    """
    ridge = guard.ridge * heard.quiet.mean_square
    wide = a.double()
    if ridge == 0.0 or guard.strength == 0.0:  # nothing is ever asked here: nothing to be quiet on
        return wide
    solve = _by_matrix if heard.quiet.matrix is not None else _by_tokens
    try:
        return wide - solve(wide, heard, guard, ridge)
    except RuntimeError as error:  # torch's LinAlgError is one
        raise CannotRepair(
            "the inputs are too uneven for this repair",
            where="guard",
            got=str(error)[:120],
            hint="Take a larger --mu.",
        ) from error


def _by_matrix(a: "torch.Tensor", heard: "Heard", guard: Guard, ridge: float) -> "torch.Tensor":
    """Return A s S_h (s S_h + N)^-1 with the matrices themselves."""
    import torch

    quiet = guard.strength * _matrix(heard.quiet)
    whole = quiet + guard.task * _matrix(heard.kept)
    whole.diagonal().add_(ridge)
    factor = torch.linalg.cholesky(whole)
    return torch.cholesky_solve((a @ quiet).T, factor).T


def _by_tokens(a: "torch.Tensor", heard: "Heard", guard: Guard, ridge: float) -> "torch.Tensor":
    """Return the same with s S_h + lambda S_t = Z^T Z, Z having a row per token.

    Z^T Z + c I never stands in memory: P^T P (Z^T Z + c I)^-1 = P^T E (Z Z^T + c I)^-1 Z, where P
    are the rows of harmful questions and E picks them from Z (push-through identity).
    """
    import torch

    quiet = _rows(heard.quiet) * math.sqrt(guard.strength / heard.quiet.tokens)
    kept = _rows(heard.kept) * math.sqrt(guard.task / heard.kept.tokens)
    z = torch.cat((quiet, kept))  # (tokens, in)
    small = z @ z.T
    small.diagonal().add_(ridge)
    picked = a.new_zeros(a.shape[0], len(z))
    picked[:, : len(quiet)] = a @ quiet.T
    return torch.cholesky_solve(picked.T, torch.linalg.cholesky(small)).T @ z


def _matrix(moment: "Moment") -> "torch.Tensor":
    if moment.matrix is None:
        raise AssertionError("a moment without its matrix")
    return moment.matrix


def _rows(moment: "Moment") -> "torch.Tensor":
    if moment.rows is None:
        raise AssertionError("a moment without its tokens")
    return moment.rows.double()
