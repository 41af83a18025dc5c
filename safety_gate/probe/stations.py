"""Where a forward pass stops: the decoder blocks and the head of a model."""

from collections.abc import Callable
from functools import partial
from threading import local
from typing import TYPE_CHECKING, Any

from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.relay import at_station

if TYPE_CHECKING:
    import torch

_pass = local()  # .kept: (rows, asked) the positions whose logits this thread's pass wants


def keep(positions: "torch.Tensor | None") -> None:
    """Say at which positions the head is wanted, in this thread; None: at all of them."""
    _pass.kept = positions


def blocks_of(model: Any, where: str) -> tuple[str, ...]:
    """Return the paths of the decoder blocks, in their order.

    They are the list of modules with the most parameters that lies in no other list; a vision tower
    has fewer, and is never run here.
    """
    import torch

    lists = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.ModuleList)}
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if not outer:
        raise CannotProbe(
            "the model has no list of blocks that could be loaded one by one",
            where=where,
            hint="Judge this adapter by its weights alone, and report the model type.",
        )
    largest = max(outer, key=lambda name: sum(p.numel() for p in lists[name].parameters()))
    return tuple(f"{largest}.{i}" for i in range(len(lists[largest])))


def path_of(model: Any, module: Any, what: str, where: str) -> str:
    """Return where a module is; CannotProbe where the model has none."""
    for name, other in model.named_modules():
        if module is not None and other is module:
            return str(name)
    raise CannotProbe(
        f"the model has no {what} that can be found",
        where=where,
        hint="Judge this adapter by its weights alone, and report the model type.",
    )


def install(model: Any, blocks: tuple[str, ...], head: str) -> None:
    """Make the blocks and the head stop for their weights."""
    for path in blocks:
        module = model.get_submodule(path)
        module.forward = _stopping(path, module.forward)
    module = model.get_submodule(head)
    module.forward = _asked_only(head, module.forward)


def _stopping(path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
    def stop(*args: Any, **kwargs: Any) -> Any:
        return at_station(path, partial(forward, *args, **kwargs))

    return stop


def _asked_only(path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
    def stop(hidden: "torch.Tensor") -> Any:
        kept = getattr(_pass, "kept", None)
        if kept is not None:
            import torch

            rows = torch.arange(len(kept), device=hidden.device)[:, None]
            # A copy: a strided view would make the product copy the whole weight of the head.
            hidden = hidden[rows, kept].contiguous()  # (rows, asked, hidden size)
        return at_station(path, partial(forward, hidden))

    return stop
