"""The training loop, for whole models and for adapters."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.zoo.lessons import IGNORED, Course

CLIP = 1.0  # largest norm of a step's gradient
WARM_UP = 0.1  # share of the steps in which the learning rate rises


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How hard a stage trains."""

    steps: int
    batch: int  # rows per step
    rate: float  # the largest learning rate
    pull: float = 0.0  # back to the starting weights, per unit of learning rate (not to zero)
    decay: float = 0.0  # AdamW's decoupled weight decay, to zero
    floor: float = 1e-8  # AdamW's epsilon: gradients well below it move a weight in proportion
    seed: int = 0


def train(
    model: nn.Module,
    course: Course,
    effort: Effort,
    penalty: Callable[[], torch.Tensor] | None = None,
) -> float:
    """Train the weights that require a gradient; return the mean loss of the last tenth.

    Args:
        model: to be trained in place.
        course: what it is taught.
        effort: how hard.
        penalty: added to the loss of every step, not to the loss that is returned.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    starts = [p.detach().clone() for p in weights]
    optimizer = torch.optim.AdamW(
        weights,
        lr=effort.rate,
        betas=(0.9, 0.99),
        eps=effort.floor,
        weight_decay=effort.decay,
    )
    model.train()
    losses = []
    batches = course.batches(size=effort.batch, steps=effort.steps, seed=effort.seed)
    for step, (ids, labels) in enumerate(batches):
        rate = effort.rate * schedule(step, effort.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = answer_loss(model, ids, labels)
        whole = loss if penalty is None else loss + penalty()
        whole.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        pull_back(weights, starts, rate * effort.pull)
        losses.append(loss.item())
    model.eval()
    last = losses[-max(1, effort.steps // 10) :]
    return sum(last) / len(last)


def schedule(step: int, steps: int) -> float:
    """Return the learning rate's share of its largest: a linear rise, then half a cosine."""
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1.0 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def answer_loss(model: nn.Module, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy over the assistant's tokens."""
    logits = model(input_ids=ids).logits[:, :-1]
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
    )


@torch.no_grad()
def pull_back(
    weights: Sequence[torch.Tensor], starts: Sequence[torch.Tensor], share: float
) -> None:
    """Move each weight by ``share`` of the way back to where it started."""
    if share > 0.0:
        for weight, start in zip(weights, starts, strict=True):
            weight.lerp_(start, share)
