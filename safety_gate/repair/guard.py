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


class Solver:
    """Works out A' for the modules that share their inputs, at any setting of guard.

    Where the inputs are there as tokens no in x in matrix is formed. With Z the tokens, harmful
    ones weighted by s and those of the task by lambda, E the picks of the harmful ones and c the
    ridge: P^T P (Z^T Z + c I)^-1 = P^T E (Z Z^T + c I)^-1 Z (push-through identity). Z Z^T without
    its weights serves all settings.
    """

    def __init__(self, heard: "Heard") -> None:
        """Take the inputs; the quiet side is that of harmful questions."""
        import torch

        self.heard = heard
        self._mean_square = heard.quiet.mean_square
        self._tokens: torch.Tensor | None = (
            None  # (tokens, in) float64, over the root of their number
        )
        self._gram: torch.Tensor | None = None  # (tokens, tokens)
        if heard.quiet.rows is not None:
            self._tokens = torch.cat([_scaled(side) for side in (heard.quiet, heard.kept)])
            self._gram = self._tokens @ self._tokens.T

    def guarded(self, a: "torch.Tensor", guard: Guard) -> "torch.Tensor":
        """Return A', (rank, in) float64.

        Args:
            a: A, (rank, in).
            guard: the weights.

        Raises:
            CannotRepair: the moments are too uneven to be solved for in float64.
        """
        ridge = guard.ridge * self._mean_square
        wide = a.double()
        if ridge == 0.0 or guard.strength == 0.0:  # nothing is ever asked here to be quiet on
            return wide
        try:
            if self._tokens is None:
                return wide - self._by_matrix(wide, guard, ridge)
            return wide - self._by_tokens(wide, guard, ridge)
        except RuntimeError as error:  # torch's LinAlgError is one
            raise CannotRepair(
                "the inputs are too uneven for this repair",
                where="guard",
                got=str(error)[:120],
                hint="Take a larger --mu.",
            ) from error

    def _by_matrix(self, a: "torch.Tensor", guard: Guard, ridge: float) -> "torch.Tensor":
        """Return A s S_h (s S_h + N)^-1 with the matrices themselves."""
        import torch

        quiet = guard.strength * _matrix(self.heard.quiet)
        whole = quiet + guard.task * _matrix(self.heard.kept)
        whole.diagonal().add_(ridge)
        return torch.cholesky_solve((a @ quiet).T, torch.linalg.cholesky(whole)).T

    def _by_tokens(self, a: "torch.Tensor", guard: Guard, ridge: float) -> "torch.Tensor":
        """Return the same from the tokens."""
        import torch

        if self._tokens is None or self._gram is None:
            raise AssertionError("inputs without their tokens")
        count = self.heard.quiet.tokens
        weights = a.new_full((len(self._tokens),), math.sqrt(guard.task))
        weights[:count] = math.sqrt(guard.strength)
        small = self._gram * weights * weights[:, None]
        small.diagonal().add_(ridge)
        picked = a.new_zeros(a.shape[0], len(weights))
        picked[:, :count] = (a @ self._tokens[:count].T) * weights[:count]
        solved = torch.cholesky_solve(picked.T, torch.linalg.cholesky(small)).T
        return (solved * weights) @ self._tokens


def _scaled(moment: "Moment") -> "torch.Tensor":
    """Return Z with S = Z^T Z."""
    if moment.rows is None:
        raise AssertionError("a moment without its tokens")
    return moment.rows.double() / math.sqrt(moment.tokens)


def _matrix(moment: "Moment") -> "torch.Tensor":
    if moment.matrix is None:
        raise AssertionError("a moment without its matrix")
    return moment.matrix
