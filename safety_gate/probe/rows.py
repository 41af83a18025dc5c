"""What is asked, as rows of batches: prompts, and the continuations whose likelihood is wanted.

The continuations of one prompt form a tree: "I cannot" and "I can't" share their "I". A row holds
the prompt once, then the nodes of the tree that have children; each node sees the prompt, its
ancestors and itself. Where a model cannot take such a mask, every continuation gets a row of its
own; the figures are the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch

Tokens: TypeAlias = tuple[int, ...]
PAD = 0  # any token will do: nothing looks at it
ROOT = -1  # the parent of a first token: the last token of the prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Continuations that share their beginnings."""

    tokens: Tokens  # of the nodes; a parent stands before its children
    parents: tuple[int, ...]  # index of the node before, or ROOT
    paths: tuple[tuple[int, ...], ...]  # the nodes of each continuation, in its order

    @classmethod
    def of(cls, continuations: Sequence[Tokens]) -> "Tree":
        """Build the tree of some continuations, each of one token at least."""
        places: dict[tuple[int, int], int] = {}
        paths = []
        for continuation in continuations:
            if not continuation:
                raise AssertionError("an empty continuation has no likelihood")
            at, path = ROOT, []
            for token in continuation:
                at = places.setdefault((at, token), len(places))
                path.append(at)
            paths.append(tuple(path))
        keys = tuple(places)
        return cls(
            tokens=tuple(token for _, token in keys),
            parents=tuple(parent for parent, _ in keys),
            paths=tuple(paths),
        )

    @property
    def inner(self) -> tuple[int, ...]:
        """Return the nodes that have children: only these need be computed."""
        return tuple(sorted(set(self.parents) - {ROOT}))

    @property
    def is_chain(self) -> bool:
        """Tell whether this is one continuation."""
        return self.parents == tuple(range(ROOT, len(self.parents) - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A prompt and the tree of its continuations, for one variant."""

    variant: int
    prompt: Tokens  # at least one token
    tree: Tree

    @property
    def length(self) -> int:
        """Return the tokens that go through the model."""
        return len(self.prompt) + len(self.tree.inner)

    @property
    def asked(self) -> int:
        """Return the positions whose next token is asked for."""
        return 1 + len(self.tree.inner)

    def split(self) -> "Iterator[tuple[Row, tuple[int, ...]]]":
        """Yield a row for each continuation, and its nodes in this row's tree."""
        for path in dict.fromkeys(self.tree.paths):
            chain = Tree.of([tuple(self.tree.tokens[node] for node in path)])
            yield Row(variant=self.variant, prompt=self.prompt, tree=chain), path


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows of one variant that go through the model together."""

    variant: int
    rows: tuple[Row, ...]
    places: tuple[int, ...]  # of the rows in the list that was packed

    @property
    def width(self) -> int:
        """Return the tokens of the longest row."""
        return max(row.length for row in self.rows)

    @property
    def size(self) -> int:
        """Return the positions of the batch, padding included."""
        return self.width * len(self.rows)

    @property
    def tokens(self) -> set[int]:
        """Return every token that goes through the model."""
        return {
            token
            for row in self.rows
            for token in (*row.prompt, *(row.tree.tokens[node] for node in row.tree.inner), PAD)
        }


def pack(rows: Sequence[Row], *, tokens: int, asked: int) -> list[Batch]:
    """Put rows of similar length together.

    Args:
        rows: of any variants.
        tokens: of a batch at most, padding included; a longer row goes alone.
        asked: positions of a batch at most whose logits are formed; likewise.
    """
    order = sorted(range(len(rows)), key=lambda i: (rows[i].variant, rows[i].length, i))
    batches: list[Batch] = []
    taken: list[int] = []

    def close() -> None:
        if taken:
            chosen = tuple(rows[i] for i in taken)
            batches.append(Batch(variant=chosen[0].variant, rows=chosen, places=tuple(taken)))
            taken.clear()

    for i in order:
        row, count = rows[i], len(taken) + 1
        if taken and (
            rows[taken[0]].variant != row.variant
            or count * row.length > tokens  # sorted: this row is the longest so far
            or count * max(rows[j].asked for j in (*taken, i)) > asked
        ):
            close()
        taken.append(i)
    close()
    return batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The tensors of a batch. Rows are padded at the end, where causal attention never looks."""

    ids: "torch.Tensor"  # (rows, width)
    kept: "torch.Tensor"  # (rows, asked): the positions whose logits are wanted
    positions: "torch.Tensor | None"  # (rows, width); None: from 0 on
    mask: "torch.Tensor | None"  # (rows, 1, width, width), added to the scores; None: causal


def inputs(batch: Batch, dtype: "torch.dtype") -> Inputs:
    """Lay out a batch; the mask is only there where a row has a true tree."""
    import torch

    count, width = len(batch.rows), batch.width
    ids = torch.full((count, width), PAD)
    kept = torch.zeros(count, max(row.asked for row in batch.rows), dtype=torch.long)
    for i, row in enumerate(batch.rows):
        inner = [row.tree.tokens[node] for node in row.tree.inner]
        ids[i, : row.length] = torch.tensor([*row.prompt, *inner])
        kept[i, : row.asked] = torch.arange(len(row.prompt) - 1, row.length)
    if all(row.tree.is_chain for row in batch.rows):
        return Inputs(ids=ids, kept=kept, positions=None, mask=None)
    seen = torch.ones(width, width, dtype=torch.bool).tril().repeat(count, 1, 1)
    positions = torch.arange(width).repeat(count, 1)
    for i, row in enumerate(batch.rows):
        _shape_tree(row, seen[i], positions[i])
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    return Inputs(ids=ids, kept=kept, positions=positions, mask=mask[:, None])


def _shape_tree(row: Row, seen: "torch.Tensor", positions: "torch.Tensor") -> None:
    """Write what each node of a tree sees, and where it stands in its own continuation."""
    first = len(row.prompt)
    columns = {node: first + i for i, node in enumerate(row.tree.inner)}
    for node, column in columns.items():
        parent = row.tree.parents[node]
        seen[column, first:] = False
        if parent != ROOT:
            seen[column, first:] = seen[columns[parent], first:]
            positions[column] = positions[columns[parent]] + 1
        else:
            positions[column] = first
        seen[column, column] = True


@dataclass(frozen=True, slots=True)
class Scores:
    """What a model thinks of the nodes of one row, each given what stands before it."""

    logs: "torch.Tensor"  # (nodes,) float64: log-likelihoods
    first: "torch.Tensor"  # (nodes,) bool: whether the node is the model's first choice

    @classmethod
    def empty(cls, count: int) -> "Scores":
        """Return room for the scores of some nodes."""
        import torch

        return cls(torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.bool))

    def set(self, nodes: Sequence[int], other: "Scores") -> None:
        """Take over the scores of some nodes."""
        self.logs[list(nodes)] = other.logs
        self.first[list(nodes)] = other.first


def scores(batch: Batch, logits: "torch.Tensor") -> list[Scores]:
    """Read the scores of every row off the logits.

    Args:
        batch: the rows.
        logits: (rows, asked, vocabulary), at the kept positions.
    """
    import torch

    found = []
    for row, row_logits in zip(batch.rows, logits, strict=True):
        slots = {ROOT: 0} | {node: 1 + i for i, node in enumerate(row.tree.inner)}
        exact = row_logits[: row.asked].float()
        total = exact.logsumexp(dim=-1)  # (asked,)
        best = exact.argmax(dim=-1)  # (asked,)
        at = torch.tensor([slots[parent] for parent in row.tree.parents], device=logits.device)
        token = torch.tensor(row.tree.tokens, device=logits.device)
        logs = (exact[at, token] - total[at]).double().cpu()
        found.append(Scores(logs, (best[at] == token).cpu()))
    return found
