"""What the ledger understood beyond plain LoRA: the change of one matrix, as a sum of parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A part of a stored tensor, seen as a matrix."""

    tensor: str  # in the checkpoint
    whole: tuple[int, ...]  # the shape that the tensor must have
    shape: tuple[int, int]  # rows and columns of the part, as stored
    start: int = 0  # elements before it


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """scaling * B @ A, of whole factors or of one expert's share of them."""

    a_name: str
    b_name: str
    scaling: float
    expert: int = 0
    experts: int = 1  # A is stored (experts * r, in), B (out, r * experts): their order differs
    rows: tuple[int, int] | None = None  # of B; None: all
    swapped: bool = False  # B @ A is the transpose of the linear map


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """W' - W: the file holds the new values of the whole parameter."""

    tensor: str
    start: int = 0  # elements of it before the part that the piece changes


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRows:
    """W'[indices] - W[indices]: the file holds new values of some rows (tokens)."""

    tensor: str
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """scaling * values: the file holds what is added to a vector."""

    tensor: str
    scaling: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellLayer:
    """One layer that PEFT is to merge."""

    module: str
    layer: str  # "linear", "conv1d" or "embedding"
    tensor: str  # that holds its weight: of a tied head, the embedding's
    shape: tuple[int, ...]  # of its weight, as stored
    bias: tuple[int, ...] | None  # shape; None where it has none
    bias_tensor: str = ""  # that holds the bias


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellRequest:
    """One question to PEFT: what do these tensors add to these layers?"""

    config: Mapping[str, object]  # checked keys and values only; modules by name
    layers: tuple[ShellLayer, ...]
    tensors: tuple[str, ...]  # names in the file
    whole_model: bool  # within a PeftModel
    needs_weights: bool
    changes_biases: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What PEFT adds to one parameter of one layer."""

    request: ShellRequest
    module: str
    parameter: str  # "weight" or "bias"


Part: TypeAlias = Product | Replacement | NewRows | Addition | Merged


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One matrix, or vector as a matrix of one column, that the adapter changes."""

    module: str  # for the report; the parameter's name where it is no module's weight
    changes: str  # the entry of the account of changed parameters that it covers
    view: View
    shape: tuple[int, int]  # (out, in) as a linear map
    transposed: bool  # stored (in, out)
    parts: tuple[Part, ...] = field(default=())  # their sum is dW
    rank: int = 0  # of the factors; 0: no product of thin factors
    scaling: float = 1.0

    @property
    def tensors(self) -> frozenset[str]:
        """Return the names of the adapter's tensors that dW is made of."""
        found: set[str] = set()
        for part in self.parts:
            match part:
                case Product():
                    found |= {part.a_name, part.b_name}
                case Merged():
                    found |= set(part.request.tensors)
                case _:
                    found.add(part.tensor)
        return frozenset(found)
