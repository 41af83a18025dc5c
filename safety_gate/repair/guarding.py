"""Works out A' of guard for every module, in one streamed pass over the aligned model."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from safety_gate.policy.behaviour import behaviour_findings
from safety_gate.probe.moments import Heard, listen
from safety_gate.probe.settings import Settings
from safety_gate.probe.talks import Lesson
from safety_gate.probe.variants import ALIGNED, variant_of
from safety_gate.repair.bench import Bench
from safety_gate.repair.factors import Factors, distance
from safety_gate.repair.guard import Guard, Solver
from safety_gate.repair.hearing import Hear
from safety_gate.repair.search import Candidate, Known
from safety_gate.repair.selection import Every, selected

if TYPE_CHECKING:
    import torch

# What a search tries, all in one pass: from hardly anything to almost silence on such inputs.
LADDER: Final = tuple(Guard(strength=2.0**step) for step in range(-1, 11))


def guard_all(bench: Bench, guards: Sequence[Guard], settings: Settings) -> None:
    """Work out A' of every module of the bench's adapter, into ``bench.guarded``.

    Args:
        bench: the adapter is plain LoRA.
        guards: settings; all of them cost one pass.
        settings: what to ask, and samples of the task; only the first half of each is used.

    Raises:
        CannotProbe: the aligned model cannot be asked, or refuses too little.
        CannotRepair: the inputs are too uneven.
        SourceError: weights cannot be read.
    """
    from safety_gate.probe.chat import Chat
    from safety_gate.probe.precision import dtype_of
    from safety_gate.probe.stream import Stream
    from safety_gate.probe.talks import lesson

    found: dict[Guard, dict[str, torch.Tensor]] = {guard: {} for guard in guards}
    modules: dict[str, list[str]] = {}
    for own in bench.adapter.modules:
        modules.setdefault(own.weight, []).append(own.module)

    solver: Solver | None = None

    def hear(weight: str, heard: Heard) -> None:
        nonlocal solver
        if solver is None or solver.heard is not heard:
            solver = Solver(heard)
        for module in modules[weight]:
            a = bench.factors(module).a
            for guard in guards:
                found[guard][module] = solver.guarded(a, guard)

    half = settings.half(0)
    stream = Stream(
        bench.aligned,
        [ALIGNED, variant_of("adapter", bench.adapter)],
        dtype=dtype_of(bench.aligned, half.precision, half.device),
        device=half.device,
    )
    taught = lesson(stream, Chat.open(bench.aligned), half, 1)
    listen(stream, taught.talks, 1, hear)
    bench.guarded.factors.update(found)
    bench.guarded.note = _note(taught)


def _note(taught: Lesson) -> str:
    kept = "samples of the task" if taught.samples else "benign look-alikes"
    return (
        f"Made with {taught.refusals} refusals of the aligned model and {taught.kept} {kept}: every"
        " second question and sample. It was judged by the others"
    )


def guard_candidates(bench: Bench, known: Known, hear: Hear) -> tuple[Candidate, ...]:
    """Return what was worked out, by what the model says; there is no forecast of its figures.

    Args:
        bench: with ``guarded`` filled.
        known: the report before, and the policy.
        hear: asks questions that the repairs were not made with.
    """
    modules = selected(Every(), known.before)
    guards = tuple(bench.guarded.factors)
    said = hear([(guard, modules) for guard in guards])
    return tuple(
        Candidate(
            method=guard,
            selection=Every(),
            change=_change(bench, bench.guarded.factors[guard], modules),
            passes=not any(
                finding.severity in ("block", "undecided")
                for rule in known.policy.policy.rules
                for finding in behaviour_findings(rule, figures)
            ),
            behaviour=figures,
        )
        for guard, figures in zip(guards, said, strict=True)
    )


def _change(bench: Bench, factors: "Mapping[str, torch.Tensor]", modules: Sequence[str]) -> float:
    """Return |dW' - dW| over the modules."""
    old = {module: bench.factors(module) for module in modules}
    new = {
        m: Factors(a=factors[m], b=own.b.double(), scaling=own.scaling) for m, own in old.items()
    }
    return math.sqrt(sum(distance(new[module], old[module]) ** 2 for module in modules))
