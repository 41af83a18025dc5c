"""Sparse merging operators by PEFT's names: prune, elect a sign, merge what agrees.

Written from the formulas of TIES (arXiv 2306.01708) and DARE (arXiv 2311.03099) to give what
peft 0.21.2 gives on the same random stream; a test compares them with PEFT's own functions.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, assert_never

if TYPE_CHECKING:
    import torch

Majority: TypeAlias = Literal["total", "frequency"]
Operator: TypeAlias = Literal["linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"]


def largest(tensor: "torch.Tensor", density: float) -> "torch.Tensor":
    """Keep the share ``density`` of the entries that is largest by magnitude, zero the others."""
    import torch

    if density >= 1.0:
        return tensor
    flat = tensor.reshape(-1)
    at = torch.topk(flat.abs(), int(density * flat.numel())).indices
    kept = torch.zeros_like(flat)
    kept[at] = flat[at]
    return kept.view(tensor.shape)


def dropped(tensor: "torch.Tensor", density: float, generator: "torch.Generator") -> "torch.Tensor":
    """Keep each entry with probability ``density`` and divide by it: the mean stays."""
    import torch

    if density >= 1.0:
        return tensor
    mask = torch.bernoulli(torch.full_like(tensor, density), generator=generator)
    return tensor * mask / density


def elected(stack: "torch.Tensor", weighted: "torch.Tensor", majority: Majority) -> "torch.Tensor":
    """Return the mean over the tensors whose sign is the elected one, entry by entry.

    Args:
        stack: (tensors, ...), unweighted: these elect the sign. A sum of 0 elects plus.
        weighted: the same, weighted: these are averaged.
        majority: "total" adds the values, "frequency" counts the signs.
    """
    import torch

    signs = stack.sign()
    ballot = stack if majority == "total" else signs
    winner = torch.where(ballot.sum(dim=0) >= 0, 1.0, -1.0).to(stack.dtype)
    agrees = signs == winner
    return (weighted * agrees).sum(dim=0) / agrees.sum(dim=0).clamp(min=1)


def combined(
    operator: Operator,
    tensors: "Sequence[torch.Tensor]",
    weights: Sequence[float],
    *,
    density: float = 1.0,
    majority: Majority = "total",
    generator: "torch.Generator",
) -> "torch.Tensor":
    """Return one operator applied to tensors of one shape."""
    import torch

    match operator:
        case "linear":
            sparse = list(tensors)
        case "magnitude_prune" | "ties":
            sparse = [largest(tensor, density) for tensor in tensors]
        case "dare_linear" | "dare_ties":
            sparse = [dropped(tensor, density, generator) for tensor in tensors]
        case _:
            assert_never(operator)
    stack = torch.stack(sparse)
    shape = (len(tensors),) + (1,) * (stack.ndim - 1)
    weighted = stack * torch.tensor(list(weights), dtype=stack.dtype).view(shape)
    if operator in ("ties", "dare_ties"):
        return elected(stack, weighted, majority)
    return weighted.sum(dim=0)
