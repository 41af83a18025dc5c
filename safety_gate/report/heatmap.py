"""The heat map: which modules take the alignment step back, by layer and projection.

A neutral grid, made once; each renderer paints it in its own way.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from safety_gate.records import Report

# Shares of the alignment step. Below 2% an update hardly shows in the step; 10% and 25% are
# where the preset "default" blocks an adapter and warns of a module. The policy decides, not the
# colour.
FAINT, CLEAR, STRONG = 0.02, 0.1, 0.25

MOST_COLUMNS = 64  # deeper models are folded: neighbouring layers share a square
MOST_ROWS = 32  # an encoder and a decoder with everything targeted have under 20
MOST_OTHERS = 12  # modules without a layer number: embeddings, head, a few adapters of vision

_LAYER = re.compile("[0-9]{1,6}")  # longer numbers are no layers, and int() is slow on them
_PEFT_PREFIX = "base_model.model."
_TENSOR_PARTS = frozenset(
    {"base_layer", "modules_to_save", "original_module", "token_adapter", "weight", "bias"}
)


class Shade(Enum):
    """What a square tells, the worst first."""

    NOT_SCORED = "not scored"
    MUCH = f"{STRONG:g} or more"
    SOME = f"{CLEAR:g} to {STRONG:g}"
    LITTLE = f"{FAINT:g} to {CLEAR:g}"
    NONE = f"under {FAINT:g}"
    FORWARD = f"under -{FAINT:g}, adds to the step"
    UNCHANGED = "unchanged"


_WORST_FIRST = tuple(Shade)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One square; where it stands for several modules, the worst of them."""

    shade: Shade
    module: str = ""  # a stranger's text; empty where the adapter touches nothing
    undone: float | None = None  # None unless scored


UNTOUCHED = Cell(shade=Shade.UNCHANGED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One projection through all layers of its stack."""

    label: str  # a stranger's text: the last part of the module path, or more where needed
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One run of numbered layers, such as ``model.layers`` or ``encoder.block``."""

    prefix: str  # a stranger's text: the module path before the layer number
    first: int  # number of the first layer
    last: int  # number of the last layer
    fold: int  # layers per square, >= 1
    rows: tuple[Row, ...]

    def pieces(self, width: int) -> Iterator["Stack"]:
        """Cut the stack into pieces of at most ``width`` squares, to fit a page."""
        for start in range(0, len(self.rows[0].cells), width):
            rows = tuple(
                Row(label=row.label, cells=row.cells[start : start + width]) for row in self.rows
            )
            first = self.first + start * self.fold
            last = min(self.last, first + len(rows[0].cells) * self.fold - 1)
            yield Stack(prefix=self.prefix, first=first, last=last, fold=self.fold, rows=rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """Every module of a report, as squares."""

    stacks: tuple[Stack, ...]
    others: tuple[Cell, ...]  # modules without a layer number, the worst first
    hidden_rows: int  # rows and others left out, none of them worse than what is shown


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where a module belongs."""

    prefix: str
    layer: int
    projection: str


def heat_map(report: Report) -> HeatMap:
    """Return the grid of a report: scored, unchanged and unscored modules."""
    stacks: dict[str, dict[str, dict[int, Cell]]] = {}
    others: list[Cell] = []
    for cell in _cells(report):
        spot = _spot(cell.module)
        if spot is None:
            others.append(cell)
            continue
        row = stacks.setdefault(spot.prefix, {}).setdefault(spot.projection, {})
        row[spot.layer] = _worst((cell, row.get(spot.layer, cell)))
    kept, hidden = _kept_rows(stacks)
    others.sort(key=_badness)
    return HeatMap(
        stacks=tuple(_stack(prefix, kept[prefix]) for prefix in stacks if prefix in kept),
        others=tuple(others[:MOST_OTHERS]),
        hidden_rows=hidden + len(others[MOST_OTHERS:]),
    )


def shade_of(undone: float) -> Shade:
    """Return the shade of a scored module; what is no number falls to the worst."""
    if undone < -FAINT:
        return Shade.FORWARD
    if undone < FAINT:
        return Shade.NONE
    if undone < CLEAR:
        return Shade.LITTLE
    return Shade.SOME if undone < STRONG else Shade.MUCH


def unscored_modules(report: Report) -> tuple[str, ...]:
    """Return the modules that the adapter may change and no figure covers."""
    unchanged = set(report.total.unchanged_modules) if report.total else set()
    tensors = (
        module_of(entry.name)
        for entry in report.ledger
        if entry.kind == "tensor" and not entry.scored
    )
    named = (
        module_of(finding.place.name)
        for finding in report.findings
        if finding.severity in ("block", "undecided") and finding.place.kind in ("module", "tensor")
    )
    scored = {score.module for score in report.modules}
    missing = [module for module in tensors if module not in unchanged]
    missing += [module for module in named if module not in scored | unchanged]
    return tuple(dict.fromkeys(missing))


def module_of(tensor: str) -> str:
    """Return the module path that a tensor name of an adapter file belongs to."""
    parts = tensor.removeprefix(_PEFT_PREFIX).split(".")
    for index, part in enumerate(parts):
        if index and (part in _TENSOR_PARTS or part.startswith("lora_")):
            return ".".join(parts[:index])
    return ".".join(parts)


def _cells(report: Report) -> Iterator[Cell]:
    for score in report.modules:
        undone = score.drift.undone
        yield Cell(shade=shade_of(undone), module=score.module, undone=undone)
    for module in unscored_modules(report):
        yield Cell(shade=Shade.NOT_SCORED, module=module)
    for module in report.total.unchanged_modules if report.total else ():
        yield Cell(shade=Shade.UNCHANGED, module=module)


def _spot(module: str) -> _Spot | None:
    """Return stack, layer and projection; None where the path has no layer number.

    The first number is the layer. Further ones (experts, sub-layers) share its square.
    """
    parts = module.split(".")
    for index, part in enumerate(parts[:-1]):
        if _LAYER.fullmatch(part):
            inner = [p for p in parts[index + 1 :] if not _LAYER.fullmatch(p)]
            return _Spot(".".join(parts[:index]), int(part), ".".join(inner or parts[-1:]))
    return None


def _badness(cell: Cell) -> tuple[int, float]:
    """Sort key, the worst first."""
    return (_WORST_FIRST.index(cell.shade), -(cell.undone or 0.0))


def _worst(cells: Iterable[Cell]) -> Cell:
    return min(cells, key=_badness)


def _kept_rows(
    stacks: dict[str, dict[str, dict[int, Cell]]],
) -> tuple[dict[str, dict[str, dict[int, Cell]]], int]:
    """Keep the worst rows in their old order, where there are too many; and count the rest."""
    rows = [(prefix, name) for prefix, found in stacks.items() for name in found]
    ranked = sorted(rows, key=lambda at: _badness(_worst(stacks[at[0]][at[1]].values())))
    keep = set(ranked[:MOST_ROWS])
    kept = {
        prefix: {name: cells for name, cells in found.items() if (prefix, name) in keep}
        for prefix, found in stacks.items()
    }
    return {prefix: found for prefix, found in kept.items() if found}, len(rows) - len(keep)


def _stack(prefix: str, found: dict[str, dict[int, Cell]]) -> Stack:
    """Lay the rows of one stack out over the same columns."""
    numbers = [layer for cells in found.values() for layer in cells]
    first, last = min(numbers), max(numbers)
    fold = -(-(last - first + 1) // MOST_COLUMNS)
    columns = -(-(last - first + 1) // fold)
    labels = _labels(tuple(found))
    rows = []
    for name, cells in found.items():
        squares = [UNTOUCHED] * columns
        for layer, cell in cells.items():
            column = (layer - first) // fold
            squares[column] = _worst((cell, squares[column]))
        rows.append(Row(label=labels[name], cells=tuple(squares)))
    return Stack(prefix=prefix, first=first, last=last, fold=fold, rows=tuple(rows))


def _labels(projections: tuple[str, ...]) -> dict[str, str]:
    """Shorten ``self_attn.q_proj`` to ``q_proj`` where no other row would be called the same."""
    short = [name.rsplit(".", 1)[-1] for name in projections]
    return {
        name: last if short.count(last) == 1 else name
        for name, last in zip(projections, short, strict=True)
    }
