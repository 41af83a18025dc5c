"""Virtual tokens: vectors that stand before a text in place of embeddings.

They travel as token numbers behind the vocabulary. Before the table of embeddings is asked each
becomes token 0, and afterwards its vector is put in its place: as PEFT joins its vectors and the
embeddings of the words, after whatever the table itself does to those.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.rows import PAD, Row, Tokens
from safety_gate.probe.variants import Variant

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class _Own:
    """The virtual tokens of one variant."""

    numbers: Tokens
    vectors: "torch.Tensor"  # (tokens, hidden)


class Virtual:
    """Puts each variant's vectors before its texts."""

    def __init__(
        self, model: Any, variants: Sequence[Variant], dtype: "torch.dtype", where: str
    ) -> None:
        """Read the vectors; hooks come before all others of the table of embeddings.

        Raises:
            CannotProbe: they are not finite, or have another width than the model's embeddings.
            SourceError: the adapter's file cannot be read.
        """
        import torch

        table = model.get_input_embeddings()
        self._size, width = table.weight.shape
        self._own: dict[int, _Own] = {}
        vectors: list[torch.Tensor] = []
        at = int(self._size)
        for index, variant in enumerate(variants):
            if variant.prefix is None:
                continue
            own = variant.prefix.vectors().to(dtype)
            if own.shape[1] != width or not bool(torch.isfinite(own).all()):
                raise CannotProbe(
                    "the vectors before the text do not fit the model's embeddings",
                    where=f"{where}: {variant.name}",
                    got=f"width {own.shape[1]}, or a value that is not finite",
                    expected=f"width {width}, all finite",
                    hint="Check that this adapter was trained on this model.",
                )
            self._own[index] = _Own(tuple(range(at, at + len(own))), own)
            vectors.append(own)
            at += len(own)
        if vectors:
            self._vectors = torch.cat(vectors)
            self._places: torch.Tensor | None = None  # of the ids that are asked now
            table.register_forward_pre_hook(self._before, prepend=True)
            table.register_forward_hook(self._after)

    def begun(self, variant: int, prompt: Tokens) -> Tokens:
        """Return a text as the variant reads it."""
        own = self._own.get(variant)
        return prompt if own is None else (*own.numbers, *prompt)

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """Return rows with the virtual tokens of their variants."""
        return [replace(row, prompt=self.begun(row.variant, row.prompt)) for row in rows]

    def real(self, token: int) -> bool:
        """Tell whether a token number is a word of the model, or beyond anything there is."""
        behind = token - int(self._size)
        return not 0 <= behind < sum(len(own.numbers) for own in self._own.values())

    def _before(self, _: Any, args: "tuple[torch.Tensor, ...]") -> "tuple[torch.Tensor, ...]":
        ids, *rest = args
        self._places = ids - int(self._size)
        return (ids.masked_fill(self._places >= 0, PAD), *rest)

    def _after(self, _: Any, __: Any, out: "torch.Tensor") -> "torch.Tensor":
        if self._places is None:
            raise AssertionError("embeddings without their token numbers")
        virtual = self._places >= 0
        if bool(virtual.any()):
            out = out.clone()
            out[virtual] = self._vectors.to(out.device)[self._places[virtual]]
        return out
