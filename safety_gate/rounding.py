"""What quantisation itself put into V: rounding, and channels that were scaled to round better."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from safety_gate.checkpoint import Checkpoint
from safety_gate.errors import GateError
from safety_gate.outcomes import ModuleTask, Outcome, Scored
from safety_gate.records import Finding, Place, finding_from
from safety_gate.weights import lines_of

if TYPE_CHECKING:
    import torch

Pair = tuple[Checkpoint, Checkpoint]  # base, aligned

# Of |V|**2. Figures that divide by the square of the step (undone) are off by about this share.
ROUNDING_LIMIT = 0.1
RUNS, RUN_LINES = 8, 8  # lines that are looked at: 64, evenly over the weight
# AWQ and SmoothQuant multiply input channels and divide the norm before them by the same numbers.
# Of |norm|; bfloat16 rounds a number by 0.004 of itself at most, and training moves norms little.
NORM_LIMIT = 0.05
# Median distance of the logarithms of column (or row) sizes, aligned against base, from their
# median, beyond that of a step without structure.
SCALE_LIMIT = 0.1
MIN_SIDE = 16  # smaller matrices have too few columns for a median


def rounding_findings(
    tasks: Sequence[ModuleTask], outcomes: Sequence[Outcome], pair: Pair
) -> list[Finding]:
    """Name the modules whose V is made by quantisation more than it may be.

    Nothing is read where neither checkpoint is quantised.

    Args:
        tasks: what was measured.
        outcomes: of the tasks, in their order.
        pair: base and aligned, by the names that the tasks use.
    """
    if all(checkpoint.quantised is None for checkpoint in pair):
        return []
    swamped: dict[str, float] = {}
    scaled: dict[str, float] = {}
    try:
        for task, outcome in zip(tasks, outcomes, strict=True):
            if not isinstance(outcome, Scored) or not _is_quantised(task.weight, pair):
                continue
            score = outcome.score
            size = score.step_norm / score.weight_norm
            share, spread = _looked_at(task, score.step_norm, size, pair)
            if not share <= ROUNDING_LIMIT:
                swamped[task.module] = share
            if not spread <= SCALE_LIMIT:
                scaled[task.module] = spread
        norms = dict(_moved_norms(pair))
    except GateError as error:
        return [finding_from(error, "checkpoint")]
    return [*_swamped(swamped), *_scaled(scaled, norms)]


def _is_quantised(name: str, pair: Pair) -> bool:
    return any(checkpoint.weight(name).formats for checkpoint in pair)


def _looked_at(
    task: ModuleTask, step_norm: float, step_size: float, pair: Pair
) -> tuple[float, float]:
    """Return the share of rounding in |V|**2, and how unevenly channels differ in size.

    From the latter is taken what a step of this size, without structure, makes of so few numbers.
    """
    import torch

    lines = lines_of(pair[1].shape(task.weight))
    height = min(RUN_LINES, lines)
    last = lines - height
    starts = sorted({last * at // max(1, RUNS - 1) for at in range(RUNS)})
    sides: list[torch.Tensor] = []
    rounding = 0.0
    for checkpoint in pair:
        weight = checkpoint.weight(task.weight)
        scratch = torch.empty(max(1, weight.scratch_bytes(height)), dtype=torch.uint8)
        parts = [weight.lines(at, at + height, scratch).clone() for at in starts]
        sides.append(torch.cat(parts).double())
        rounding += sum(weight.rounding(at, at + height) for at in starts)
    share = rounding * lines / (len(starts) * height) / step_norm**2
    spread = 0.0
    if min(sides[0].shape) >= MIN_SIDE:
        spread = max(
            _spread(*sides, dim=dim) - step_size / math.sqrt(sides[0].shape[dim]) for dim in (0, 1)
        )
    return share, spread


def _spread(base: "torch.Tensor", aligned: "torch.Tensor", *, dim: int) -> float:
    """Return the median distance of log(|aligned| / |base|) from its median, over channels."""
    sizes = (aligned.norm(dim=dim), base.norm(dim=dim))
    alive = (sizes[0] > 0) & (sizes[1] > 0)
    if not bool(alive.any()):
        return 0.0
    ratio = (sizes[0][alive] / sizes[1][alive]).log()
    return float((ratio - ratio.median()).abs().median())


def _moved_norms(pair: Pair) -> Iterator[tuple[str, float]]:
    """Yield the norms of aligned that are far from those of base, and how far."""
    import torch

    base, aligned = pair
    for name in aligned.names:
        shape = aligned.shape(name)
        known = base.has(name) and base.shape(name) == shape
        if "norm" not in name or not known or len(shape) != 1:
            continue
        scratch = torch.empty(max(1, 8 * math.prod(shape)), dtype=torch.uint8)
        theirs, own = (
            checkpoint.rows(name, 0, shape[0], scratch).double().clone() for checkpoint in pair
        )
        size = float(theirs.norm())
        far = float((own - theirs).norm()) / size if size else 0.0
        if not far <= NORM_LIMIT:
            yield name, far


def _swamped(shares: dict[str, float]) -> Iterator[Finding]:
    if shares:
        worst = max(shares, key=lambda module: (shares[module], module))
        yield Finding(
            rule="step-within-rounding",
            severity="undecided",
            place=Place(kind="module", name=worst),
            what="what base and aligned differ by is in part the rounding of quantisation, in "
            f"{len(shares)} module(s)",
            got=f"rounding with {shares[worst]:.3g} of the square of the step",
            expected=f"at most {ROUNDING_LIMIT:g}",
            hint="Give the unquantised checkpoint: its weights are what V is made of.",
        )


def _scaled(spreads: dict[str, float], norms: dict[str, float]) -> Iterator[Finding]:
    if not spreads and not norms:
        return
    if norms:
        worst = max(norms, key=lambda name: (norms[name], name))
        place = Place(kind="tensor", name=worst)
        got = f"a norm that moved by {norms[worst]:.3g} of itself"
        expected = f"at most {NORM_LIMIT:g}"
    else:
        worst = max(spreads, key=lambda module: (spreads[module], module))
        place = Place(kind="module", name=worst)
        got = f"channels that differ in size by a factor of {math.exp(spreads[worst]):.3g}"
        expected = f"at most {math.exp(SCALE_LIMIT):.3g}"
    yield Finding(
        rule="weights-rescaled",
        severity="undecided",
        place=place,
        what="the quantised checkpoint scales its channels in another way than the other one, as "
        "AWQ and SmoothQuant do, so that their difference is no alignment step",
        got=got,
        expected=expected,
        hint="Give the unquantised checkpoint: its weights are what V is made of.",
    )
