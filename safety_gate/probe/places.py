"""Where a parameter lives in a model: its module and its own name there."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def owner(model: Any, name: str) -> tuple[Any, str]:
    """Return the module that holds a parameter or buffer, and its name in that module."""
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def put(model: Any, name: str, value: "torch.Tensor") -> None:
    """Give a parameter or buffer its value; shared names are set one by one."""
    import torch

    module, leaf = owner(model, name)
    if leaf in module._parameters:
        module._parameters[leaf] = torch.nn.Parameter(value, requires_grad=False)
    else:
        module._buffers[leaf] = value
