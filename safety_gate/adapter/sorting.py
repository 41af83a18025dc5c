"""The tensors of an adapter with their owners, and the parameters that they change."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from safety_gate.adapter.architecture import EMBEDDINGS, SAVED_WITH_EMBEDDINGS
from safety_gate.adapter.blueprint import Place
from safety_gate.adapter.building import pieces
from safety_gate.adapter.model import Model
from safety_gate.adapter.parts import Merged, NewRows, Piece, Replacement
from safety_gate.adapter.remark import remark_on_all
from safety_gate.adapter.rules import TENSOR_RULES
from safety_gate.records import Finding, LedgerEntry
from safety_gate.tensors import TensorEntry, TensorFile, decodable

PREFIX = "base_model.model."
INNER = (".original_module.", ".modules_to_save.")  # PEFT's own names inside a saved module


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraModule:
    """One weight that the adapter changes by scaling * B @ A."""

    module: str  # module path in the aligned model
    weight: str  # name of its weight in the aligned checkpoint
    rank: int
    scaling: float  # as PEFT computes it, sign included
    out_features: int
    in_features: int
    transposed: bool  # the checkpoint stores the weight (in, out), as Conv1D does
    a_name: str  # tensor (rank, in)
    b_name: str  # tensor (out, rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One parameter of the model that the adapter changes."""

    name: str  # in the aligned checkpoint, as far as it is there
    elements: int
    scored: bool


@dataclass(slots=True)
class Sorted:
    """The tensors with their owners."""

    modules: list[LoraModule] = field(default_factory=list)
    pieces: dict[str, Piece] = field(default_factory=dict)  # beside these, by changed parameter
    changes: dict[str, Change] = field(default_factory=dict)  # by parameter name
    owners: dict[str, str] = field(default_factory=dict)  # tensor -> owner, where one vouches
    groups: dict[str, list[str]] = field(default_factory=dict)  # rule -> names
    got: dict[str, str] = field(default_factory=dict)  # rule -> what the first name has

    def put(self, rule: str, name: str, got: str = "") -> None:
        """Note a thing under the rule that it breaks."""
        names = self.groups.setdefault(rule, [])
        if got and (not names or name < min(names)):
            self.got[rule] = got
        names.append(name)

    def change(self, name: str, elements: int, *, scored: bool = False) -> None:
        """Note a changed parameter; once unscored, it stays so."""
        before = self.changes.get(name)
        kept = scored and (before is None or before.scored)
        self.changes[name] = Change(name=name, elements=elements, scored=kept)

    def add(self, piece: Piece, tensors: Sequence[str], owner: str) -> None:
        """Take a piece of dW; several of one parameter add up where each is a known matrix."""
        before = self.pieces.get(piece.changes)
        self.owners |= dict.fromkeys(tensors, owner)
        collides = before is not None and _collide(before, piece)
        self.change(piece.changes, piece.shape[0] * piece.shape[1], scored=not collides)
        if before is None:
            self.pieces[piece.changes] = piece
            return
        if collides:
            self.put("updates-collide", piece.module)
            return
        rank = max(before.rank, piece.rank)
        scaling = before.scaling if before.rank else piece.scaling
        parts = (*before.parts, *piece.parts)
        self.pieces[piece.changes] = replace(before, parts=parts, rank=rank, scaling=scaling)

    def findings(self) -> list[Finding]:
        """Return one finding per rule."""
        found = []
        for rule, names in self.groups.items():
            severity, kind, what, hint = TENSOR_RULES[rule]
            got = self.got.get(rule, "")
            found += remark_on_all(rule, severity, (kind, names), what, hint=hint, got=got)
        return found

    def entries(self, file: TensorFile | None) -> list[LedgerEntry]:
        """Return the ledger's lines for all tensors; none for a file that could not be read."""
        scored = {name for m in self.modules for name in (m.a_name, m.b_name)}
        scored |= {name for piece in self.pieces.values() for name in piece.tensors}
        return [
            LedgerEntry(
                kind="tensor",
                name=name,
                owner=self.owners.get(name, "nobody"),
                accounted=name in scored,
                scored=name in scored,
            )
            for name in (file.entries if file else ())
        ]


def _collide(one: Piece, other: Piece) -> bool:
    """Tell whether the sum of two pieces is not known.

    A copy of the weight, or of the same rows, may turn out to be equal; safety_gate/delta compares.
    """
    parts = [part for part in (*one.parts, *other.parts) if not isinstance(part, Replacement)]
    alone = any(isinstance(part, NewRows | Merged) for part in parts)
    copies = all(isinstance(part, NewRows) for part in parts)
    return alone and len(parts) > 1 and not copies


def count_of(shape: tuple[int, ...]) -> int:
    """Return the number of elements."""
    total = 1
    for size in shape:
        total *= size
    return total


def is_saved(module: str, saved: Sequence[str]) -> bool:
    """Tell whether modules_to_save covers the module; PEFT matches by plain endings."""
    while module:
        if any(module.endswith(name) for name in saved):
            return True
        module = module.rpartition(".")[0]
    return False


def sort_parameter(  # noqa: PLR0913
    result: Sorted,
    model: Model,
    entry: TensorEntry,
    *,
    saved: Sequence[str],
    targeted: set[str],
    bias: str = "none",
) -> None:
    """Judge a tensor that has the name of a parameter of the model, or of nothing.

    Args:
        result: takes the owner, the piece or the finding.
        model: the aligned model.
        entry: the tensor; its name begins with PREFIX.
        saved: modules_to_save.
        targeted: the modules that PEFT wraps.
        bias: "all", or "..._only" where the biases of wrapped modules are trained.
    """
    stem = entry.name.removeprefix(PREFIX)
    parameter = stem.replace(".base_layer.", ".")
    module, _, part = parameter.rpartition(".")
    wrapped = parameter != stem
    is_copy = wrapped and module.rpartition(".")[2] in SAVED_WITH_EMBEDDINGS | EMBEDDINGS
    trained_bias = (bias == "all" and "bias" in stem) or (
        part == "bias" and bias.endswith("_only") and module in targeted
    )
    inner = next((each for each in INNER if each in stem), None)
    if inner and bias == "all" and is_saved(module, saved) and part == "bias":
        # PEFT writes every bias, those inside its own wrapper of the module too. They must be
        # equal to the model's, or to the new one; safety_gate/delta compares.
        parameter = stem.replace(inner, ".")
        owner = "copy of a saved module's bias"
    elif not wrapped and inner is None and is_saved(module, saved):
        owner = "module saved whole"
    elif trained_bias and parameter in model.shapes:
        owner = "trained bias"
    elif is_copy and module in targeted and part == "weight":
        owner = "copy of an embedding"
    elif parameter in model.shapes or parameter == f"{model.head}.weight":
        result.put("tensor-overwrites-base", entry.name)
        result.change(parameter, count_of(model.shapes.get(parameter, entry.shape)))
        return
    else:
        result.put("tensor-unexplained", entry.name)
        return
    replace_whole(result, model, parameter, entry, owner)


def replace_whole(
    result: Sorted, model: Model, parameter: str, entry: TensorEntry, owner: str
) -> None:
    """Take the new values of a whole parameter, where they fit the model's."""
    shape = model.shape(parameter)
    result.owners[entry.name] = owner
    if shape is None:
        result.put("parameter-missing", entry.name, f"no {parameter} in the aligned checkpoint")
    elif shape != entry.shape and not _has_more_tokens(model, parameter, entry):
        result.put("parameter-differs", entry.name, f"{entry.shape}, in the model {shape}")
    elif not decodable(entry):
        result.put("parameter-not-read", entry.name, entry.dtype)
    else:
        if shape != entry.shape:
            result.put("tokens-beyond", entry.name, f"rows {shape[0]} to {entry.shape[0] - 1}")
            result.change(f"{parameter}, new tokens", count_of(entry.shape) - count_of(shape))
        _replace_places(result, model, parameter, replace(entry, shape=shape), owner)
        return
    result.change(model.stored(parameter), count_of(shape or entry.shape))


def _has_more_tokens(model: Model, parameter: str, entry: TensorEntry) -> bool:
    """Tell whether the file holds an embedding or a head of this model with tokens added."""
    module = parameter.rpartition(".")[0]
    shape = model.shape(parameter) or ()
    if ".base_layer." in entry.name:  # beside factors, which then have the other shape as well
        return False
    is_tokens = module == model.head or model.layer(module) == "embedding"
    wide = len(shape) == len(entry.shape) == 2 and shape[1:] == entry.shape[1:]
    return is_tokens and wide and entry.shape[0] > shape[0] and model.is_whole(parameter)


def _replace_places(
    result: Sorted, model: Model, parameter: str, entry: TensorEntry, owner: str
) -> None:
    """Take the new values of each stored matrix of a parameter."""
    shape = entry.shape
    places = model.places(parameter)
    if any(place.turned for place in places):
        result.put("layout-not-scored", parameter)
        for place in places:
            result.change(place.tensor, count_of(place.shape))
        return

    def part(place: Place) -> Replacement:
        each = count_of(shape[1:]) if len(shape) == 3 else 0
        columns = shape[-1] if shape else 1
        start = place.expert * each + place.offset * columns
        return Replacement(tensor=entry.name, start=start)

    for found in pieces(model, parameter, part):
        result.add(found, [entry.name], owner)


def replace_rows(
    result: Sorted, model: Model, module: str, entry: TensorEntry, indices: tuple[int, ...] | None
) -> None:
    """Take the new values of some rows of an embedding, where they fit the model's."""
    # Tied modules have copies of the same rows; safety_gate/delta compares them.
    parameter = model.owner(f"{module}.weight")
    shape = model.shapes.get(parameter)
    result.owners[entry.name] = "trained tokens"
    is_embedding = model.layer(parameter.rpartition(".")[0]) == "embedding"
    if indices is None or shape is None or not is_embedding:
        result.put("tensor-unexplained", entry.name)
        return
    fits = entry.shape == (len(indices), shape[1]) and len(set(indices)) == len(indices)
    if not fits or not all(index < shape[0] for index in indices):
        result.put("parameter-differs", entry.name, f"{entry.shape}, {len(indices)} tokens")
        result.change(model.stored(parameter), count_of(shape))
    elif not decodable(entry):
        result.put("parameter-not-read", entry.name, entry.dtype)
        result.change(model.stored(parameter), count_of(shape))
    elif not model.is_whole(parameter):
        result.put("layout-not-scored", parameter)
        result.change(model.stored(parameter), count_of(shape))
    else:
        part = NewRows(tensor=entry.name, indices=indices)
        for found in pieces(model, parameter, lambda _: part):
            result.add(found, [entry.name], "trained tokens")


def saved_without_tensors(
    result: Sorted, model: Model, file: TensorFile, saved: Sequence[str]
) -> None:
    """Name modules that should be saved whole and are not in the file; PEFT would not load it."""
    if not saved:
        return
    wanted = {name for name in model.shapes if is_saved(name.rpartition(".")[0], saved)}
    for name in wanted:
        if f"{PREFIX}{name}" not in file.entries:
            result.put("saved-without-tensors", f"{PREFIX}{name}")
