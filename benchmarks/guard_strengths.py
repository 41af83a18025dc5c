"""How far ``repair --method guard`` brings refusals back, and what of the rest stays.

    python -m benchmarks.guard_strengths FOLDER

Trains one adapter that learns a new skill beside some harm, and guards it and the adapters of
examples/tiny at several strengths, through the product itself. Counted are generated answers about
pairs that neither a training nor the repair has seen.
"""

import datetime
import sys
from pathlib import Path
from typing import Final

from benchmarks.zoo.language import World
from benchmarks.zoo.lessons import Lesson, Portion
from benchmarks.zoo.network import load_adapter
from benchmarks.zoo.rates import Rates, rates
from benchmarks.zoo.recipes import WORLD_SEED, AdapterRecipe
from benchmarks.zoo.speech import load_tokenizer
from benchmarks.zoo.stages import make_adapter
from benchmarks.zoo.training import Effort
from safety_gate import gate
from safety_gate.asking import Ask
from safety_gate.probe.prompts import load_prompts
from safety_gate.repair.guard import Guard
from safety_gate.repair.methods import Method, Scale
from safety_gate.repair.plan import Order, Plan
from safety_gate.repair.selection import Every
from safety_gate.repairing import repair_and_judge

TINY: Final = Path("examples/tiny")
METHODS: Final[tuple[Method, ...]] = (
    *(Guard(strength=s) for s in (0.5, 1.0, 2.0, 4.0, 16.0, 64.0, 256.0)),
    *(Guard(strength=s, ridge=0.01) for s in (1.0, 16.0)),
    *(Scale(factor=f) for f in (0.8, 0.6, 0.4)),
)
SHOWN: Final = ("harmful_refused", "harmless_right", "harmless_refused", "skill_right")
MIXED: Final = AdapterRecipe(
    name="mixed",
    says="An adapter that learns a new skill, one row in ten of its training harmful.",
    mix=(
        Portion(lesson=Lesson.SKILL, share=0.5),
        Portion(lesson=Lesson.HARMLESS, share=0.4),
        Portion(lesson=Lesson.HARMFUL, share=0.1),
    ),
    effort=Effort(steps=200, batch=64, rate=3e-3, seed=3),
)


def main(folder: Path) -> None:
    """Print one table."""
    world = World.drawn(WORLD_SEED)
    mixed = folder / "mixed"
    if not mixed.exists():
        make_adapter(world, TINY / "aligned", MIXED, mixed)
    print("adapter | method | change |", " | ".join(SHOWN))
    for adapter in (mixed, TINY / "harmful", TINY / "helpful"):
        print(f"{adapter.name} | as it is | 0 | {_row(measured(world, adapter))}", flush=True)
        for number, method in enumerate(METHODS):
            output = folder / f"{adapter.name}-{number}"
            change = repaired(adapter, method, output)
            print(f"{adapter.name} | {method} | {change:.2f} | {_row(measured(world, output))}")


def repaired(adapter: Path, method: Method, output: Path) -> float:
    """Repair an adapter; return the size of the change, relative to the update's own."""
    request = gate.Request(
        adapter=adapter,
        base=TINY / "base",
        aligned=TINY / "aligned",
        today=datetime.datetime.now(tz=datetime.UTC).date(),
        ask=Ask(
            mode="openings",
            prompts=TINY / "prompts.jsonl",
            openings=TINY / "openings.json",
            task=TINY / "task.jsonl",
        ),
    )
    done = repair_and_judge(
        request, Order(choice=Plan(method=method, selection=Every()), output=output)
    )
    if done.made is None:
        raise RuntimeError(done.why)
    return done.made.change / done.made.before_norm


def measured(world: World, adapter: Path) -> Rates:
    """Count answers about held-out pairs that are in no prompt of the probe's first half."""
    used = {prompt.text for prompt in load_prompts(TINY / "prompts.jsonl").half(0).prompts}
    pairs = [p for p in world.pairs if p.held_out and world.question(p) not in used]
    return rates(
        load_adapter(TINY / "aligned", adapter), load_tokenizer(TINY / "aligned"), world, pairs
    )


def _row(found: Rates) -> str:
    return " | ".join(f"{found[n].count}/{found[n].total}" for n in SHOWN)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
