"""Base and aligned with vocabularies of different size: what is measured are the rows of both.

A token that base does not have has no alignment step. Its rows are named; where the adapter changes
them they count as changed and not as scored, so that coverage tells.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from safety_gate.checkpoint import Checkpoint
from safety_gate.outcomes import ModuleTask
from safety_gate.records import Finding, Place
from safety_gate.weights import part_of

if TYPE_CHECKING:
    import torch

    Pair = tuple[torch.Tensor, torch.Tensor]

LATER = " as far as both vocabularies go"  # behind the name of a weight; no tensor is called so


@dataclass(slots=True, kw_only=True)
class _Cut:
    """The rows of one weight that are left out of a task."""

    module: str
    rows: int  # that both have
    aligned: int  # that aligned has
    width: int
    changed: bool = True  # until the update was seen to leave them alone

    @property
    def beyond(self) -> int:
        """Return how many rows only aligned has."""
        return self.aligned - self.rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """Tasks over the rows that both checkpoints have."""

    tasks: Sequence[ModuleTask]
    base: Checkpoint
    aligned: Checkpoint
    cuts: tuple[_Cut, ...]

    def correction(self, still: Collection[str]) -> int:
        """Return what to add to the count of changed numbers; to be asked after measuring.

        Args:
            still: modules whose shared rows the adapter leaves alone: they were not counted, and
                their other rows may change all the same.
        """
        found = 0
        for cut in self.cuts:
            rest = max(0, cut.beyond) * cut.width
            if cut.module in still:
                found += rest if cut.changed else 0
            else:
                found -= 0 if cut.changed else rest
        return found

    def findings(self) -> list[Finding]:
        """Name the rows that only aligned has; to be asked after the tasks were measured."""
        return [_finding(cut) for cut in self.cuts]


def on_shared_rows(tasks: Sequence[ModuleTask], base: Checkpoint, aligned: Checkpoint) -> Shared:
    """Cut the tasks on weights whose rows are tokens down to the rows that both checkpoints have.

    Rows are tokens where their number is the size of the vocabulary, in both configs. What differs
    in another way stays as it is, and is refused for its shape.
    """
    sizes = _vocabulary(base), _vocabulary(aligned)
    if None in sizes or sizes[0] == sizes[1]:
        return Shared(tasks=tasks, base=base, aligned=aligned, cuts=())
    cuts: list[_Cut] = []
    done: list[ModuleTask] = []
    weights = dict(base.weights), dict(aligned.weights)
    for task in tasks:
        if not _differs(task, base, aligned, sizes):
            done.append(task)
            continue
        rows = min(base.shape(task.weight)[0], task.stored[0])
        name = f"{task.weight}{LATER}"
        for own in weights:
            own[name] = part_of(own[task.weight], 0, (rows, task.stored[1]))
        cut = _Cut(
            module=task.module,
            rows=rows,
            aligned=task.stored[0],
            width=task.stored[1],
        )
        cut.changed = cut.beyond > 0
        cuts.append(cut)
        done.append(_cut(task, cut, name))
    return Shared(
        tasks=done,
        base=base.with_weights(weights[0]),
        aligned=aligned.with_weights(weights[1]),
        cuts=tuple(cuts),
    )


def _vocabulary(checkpoint: Checkpoint) -> int | None:
    """Return the size of the vocabulary that the config names."""
    for part in (checkpoint.config, checkpoint.config.get("text_config")):
        if isinstance(part, Mapping) and type(size := part.get("vocab_size")) is int:
            return size
    return None


def _differs(
    task: ModuleTask,
    base: Checkpoint,
    aligned: Checkpoint,
    sizes: tuple[int | None, int | None],
) -> bool:
    """Tell whether the rows of a task's weight are tokens, of two vocabularies."""
    if not (base.has(task.weight) and aligned.has(task.weight)):
        return False
    shapes = base.shape(task.weight), aligned.shape(task.weight)
    rows = tuple(shape[0] for shape in shapes if shape)
    same = all(len(shape) == 2 and shape[1] == task.stored[1] for shape in shapes)
    return same and shapes[1] == task.stored and rows == sizes


def _cut(task: ModuleTask, cut: _Cut, name: str) -> ModuleTask:
    """Return the task on the shared rows."""
    out, inputs = task.shape
    return replace(
        task,
        weight=name,
        shape=(out, cut.rows) if task.transposed else (cut.rows, inputs),
        factors=lambda: _cut_factors(task, cut),
        dense=None if task.dense is None else _cut_dense(task.dense, cut),
        partial=True,
    )


def _cut_factors(task: ModuleTask, cut: _Cut) -> "Pair":
    """Return the factors of the shared rows, and note whether the others change."""
    import torch

    a, b = task.factors()
    if not (bool(torch.isfinite(a).all()) and bool(torch.isfinite(b).all())):
        return a, b  # refused before anything is done with them
    if task.transposed:
        cut.changed = bool((b.double() @ a[:, cut.rows :].double()).any())
        return a[:, : cut.rows].contiguous(), b
    cut.changed = bool((b[cut.rows :].double() @ a.double()).any())
    return a, b[: cut.rows].contiguous()


def _cut_dense(dense: "Callable[[], torch.Tensor]", cut: _Cut) -> "Callable[[], torch.Tensor]":
    """Return the update of the shared rows, and note whether the others change."""

    def shared() -> "torch.Tensor":
        import torch

        whole = dense()
        if not bool(torch.isfinite(whole).all()):
            return whole  # refused before anything is done with it
        cut.changed = bool(whole[cut.rows :].any())
        return whole[: cut.rows].contiguous()

    return shared


def _finding(cut: _Cut) -> Finding:
    place = Place(kind="module", name=cut.module)
    if cut.beyond <= 0:
        return Finding(
            rule="vocabulary-differs",
            severity="info",
            place=place,
            what="base has more tokens than aligned; the rows of aligned were scored",
            got=f"{cut.rows} rows",
            hint="Nothing to do: tokens that aligned lacks cannot be changed by the adapter.",
        )
    rows = f"rows {cut.rows} to {cut.aligned - 1}"
    if not cut.changed:
        return Finding(
            rule="vocabulary-differs",
            severity="info",
            place=place,
            what="aligned has tokens that base lacks; the adapter leaves their rows alone",
            got=rows,
            hint="Nothing to do: all rows that the adapter changes were scored.",
        )
    return Finding(
        rule="rows-without-base",
        severity="warn",
        place=place,
        what="the adapter changes rows of tokens that base lacks; they were not scored, and count "
        "against coverage",
        got=rows,
        expected=f"changes of rows 0 to {cut.rows - 1} only",
        hint="Leave the embedding and the head out of the adapter, or have its behaviour judged "
        "and allow this share in the policy's coverage.",
    )
