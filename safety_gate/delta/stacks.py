"""The factors of one expert of many, without reading all of them again for each."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from safety_gate.adapter.parts import Product

if TYPE_CHECKING:
    import torch

    Pair = tuple[torch.Tensor, torch.Tensor]

HELD = 4  # tensors: A and B of the stack that each of two workers is at


class Stacks:
    """Reads factors of stacks once, and hands out the experts' shares; used by several threads."""

    def __init__(self, read: "Callable[[str], torch.Tensor]") -> None:
        """Take the function that reads a tensor of the adapter by its name."""
        self._read = read
        self._held: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def pair(self, part: Product) -> "Pair":
        """Return A (rank, in) and B (out, rank) of one expert."""
        experts = part.experts

        def by_rows(a: "torch.Tensor") -> "torch.Tensor":
            return a.view(experts, a.shape[0] // experts, a.shape[1])

        def by_columns(b: "torch.Tensor") -> "torch.Tensor":
            stack = b.view(b.shape[0], b.shape[1] // experts, experts)
            return stack.permute(2, 0, 1).contiguous()  # (experts, out, rank)

        a = self._stack(part.a_name, by_rows)
        b = self._stack(part.b_name, by_columns)
        return a[part.expert], b[part.expert]

    def _stack(self, name: str, order: "Callable[[torch.Tensor], torch.Tensor]") -> "torch.Tensor":
        """Return a stack with its experts first."""
        with self._lock:
            found = self._held.pop(name, None)
            if found is None:
                found = order(self._read(name))
            self._held[name] = found
            while len(self._held) > HELD:
                self._held.popitem(last=False)
            return found
