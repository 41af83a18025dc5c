"""What lies outside the blocks and the head: norms and the like, and the table of embeddings."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.stations import path_of
from safety_gate.probe.weights import Weights

if TYPE_CHECKING:
    import torch


class Residents:
    """Small parts are read when first run, and stay; of the embeddings only the asked rows are.

    A table of embeddings can be larger than a block (Gemma: 256,000 rows), and a probe uses a few
    hundred of its rows: the table is read piece by piece, and token numbers are translated.
    """

    def __init__(self, model: Any, weights: Weights, stations: Sequence[str], where: str) -> None:
        self._weights = weights
        self._where = where
        self._embedding = path_of(
            model, model.get_input_embeddings(), "table of input embeddings", where
        )
        self._table = f"{self._embedding}.weight"
        self._wanted: torch.Tensor | None = None  # (n,) token numbers, ascending
        self._size = int(model.get_input_embeddings().weight.shape[0])
        model.get_input_embeddings().register_forward_pre_hook(self._translate)
        self._fills: dict[str, Callable[..., None]] = {}  # by module, until it was filled
        heads = tuple(f"{station}." for station in stations)
        for path, module in model.named_modules():
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            if own and path != self._embedding and not f"{path}.".startswith(heads):
                self._fill_when_run(path, module)

    def _fill_when_run(self, path: str, module: Any) -> None:
        own = [name for name, _ in module.named_parameters(recurse=False)]
        own += [name for name, _ in module.named_buffers(recurse=False)]
        names = {f"{path}.{name}" if path else name for name in own}

        def fill(*_: Any) -> None:
            handle.remove()
            del self._fills[path]
            stored = tuple(name for name in self._weights.below(path) if name in names)
            self._weights.attach(self._weights.read(stored))

        handle = module.register_forward_pre_hook(fill)
        self._fills[path] = fill

    def fill(self, targets: Iterable[str]) -> None:
        """Read the modules of these parameters now, and not when they are first run."""
        for path in dict.fromkeys(target.rpartition(".")[0] for target in targets):
            if path in self._fills:
                self._fills[path]()

    @property
    def table(self) -> str:
        """Return the name of the table of embeddings."""
        return self._table

    @property
    def wanted(self) -> "torch.Tensor | None":
        """Return the rows of the table that are in the model, ascending; None: all."""
        return self._wanted

    @property
    def table_bytes(self) -> int:
        """Return the memory that the whole table takes."""
        return self._weights.bytes_of((self._table,))

    def prepare(self, tokens: Iterable[int]) -> None:
        """Read the rows of the embeddings that these tokens need.

        Raises:
            CannotProbe: a token is beyond the table.
        """
        import torch

        wanted = torch.tensor(sorted(set(tokens)))
        if len(wanted) and not 0 <= int(wanted[0]) <= int(wanted[-1]) < self._size:
            raise CannotProbe(
                "the tokenizer makes tokens that the model has no embedding for",
                where=self._where,
                got=f"token {int(wanted[-1])}",
                expected=f"below {self._size}",
                hint="Check that tokenizer and weights belong to the same model.",
            )
        self._wanted = wanted
        self._weights.attach({self._table: self._weights.rows_of(self._table, wanted)})

    def whole(self) -> None:
        """Read the whole table, for tokens that are not known beforehand."""
        self._wanted = None
        self._weights.attach(self._weights.read((self._table,)))

    def _translate(self, _: Any, args: "tuple[torch.Tensor, ...]") -> "tuple[torch.Tensor, ...]":
        """Turn token numbers into numbers of kept rows."""
        import torch

        if self._wanted is None:
            return args
        ids, *rest = args
        return (torch.searchsorted(self._wanted.to(ids.device), ids), *rest)
