"""What the engine is asked to measure, and what comes of it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from safety_gate.drift import Block, ModuleSums, StepProducts, Update
from safety_gate.records import Finding, ModuleScore

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleTask:
    """One weight matrix to measure."""

    module: str  # module path, for the report
    weight: str  # tensor name in both checkpoints
    shape: tuple[int, int]  # (out, in) as a linear map
    transposed: bool  # stored as (in, out)
    rank: int
    scaling: float
    factors: "Callable[[], tuple[torch.Tensor, torch.Tensor]]"  # A (rank, in), B (out, rank)
    dense: "Callable[[], torch.Tensor] | None" = None  # dW as stored, where it has no thin factors
    partial: bool = False  # rows are left out: these factors are not those of the file

    @property
    def stored(self) -> tuple[int, int]:
        """Return the shape as it stands in the checkpoint."""
        return (self.shape[1], self.shape[0]) if self.transposed else self.shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Tasks that share one weight, and so one pass over its V."""

    members: tuple[int, ...]  # places in the list of tasks
    weight: str
    stored: tuple[int, int]  # shape in the checkpoints
    transposed: bool
    quick: bool  # multiplied in bfloat16

    @property
    def elements(self) -> int:
        """Return the size of the weight."""
        return self.stored[0] * self.stored[1]


@dataclass(frozen=True, slots=True)
class Scored:
    """A module with its figures, and with the sums that the whole adapter's are made of."""

    score: ModuleScore
    sums: ModuleSums


@dataclass(frozen=True, slots=True)
class Unchanged:
    """A module whose update is exactly zero."""

    module: str


@dataclass(frozen=True, slots=True)
class Unscored:
    """A module that could not be measured, and why."""

    module: str
    finding: Finding


Outcome: TypeAlias = Scored | Unchanged | Unscored


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One measured module while V is still at hand."""

    task: ModuleTask
    factors: "tuple[torch.Tensor, torch.Tensor]"  # A (rank, in), B (out, rank)
    update: Update
    products: StepProducts  # of the update's columns, then the 64 Gaussian ones
    outcome: Outcome
    blocks: Callable[[], Iterable[Block]]  # starts another pass over V; valid during ``keep``
    whole: bool  # all blocks of a pass stay valid until ``keep`` returns
    quick: bool  # the blocks are bfloat16, and so were the factors of the products
    # Makes an outcome of other products with the same V, as the engine itself does.
    score: Callable[[ModuleTask, Update, StepProducts], Outcome]


class Memory(Protocol):
    """Watches a pass over V, and spares the next one what it has seen; called by any thread."""

    @property
    def exact(self) -> bool:
        """Tell whether the products must be those of float32: they go into weights."""

    def recall(self, task: ModuleTask) -> Outcome | None:
        """Return the outcome of exactly this task, if it was measured before."""

    def keep(self, measured: Measured) -> None:
        """Take what is needed of one measured module."""
