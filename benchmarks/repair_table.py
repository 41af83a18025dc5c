"""Repair the drifted adapters by every method, ask each result everything, and print the tables.

    python -m benchmarks.repair_table --measure    # adds what examples/repair/FACTS.json lacks
    python -m benchmarks.repair_table              # prints docs/repair_table.md from the facts

Refusals, over-refusal, harmless answers and the new skill are whole greedy answers to the held-out
questions of the world, by transformers and PEFT and not by our own probe. The verdict is that of
the gate on the new files, the model asked.
"""

import argparse
import dataclasses
import datetime
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from transformers.utils import logging

from benchmarks.repair_page import page
from benchmarks.repair_world import DRIFTED, TINY
from benchmarks.zoo.language import World
from benchmarks.zoo.network import load_adapter
from benchmarks.zoo.questions import prompts, samples
from benchmarks.zoo.rates import rates
from benchmarks.zoo.recipes import WORLD_SEED
from benchmarks.zoo.speech import load_tokenizer
from safety_gate import gate
from safety_gate.asking import Ask, Mode
from safety_gate.repair.forms import SPARSE, Form, Merge
from safety_gate.repair.guard import Guard
from safety_gate.repair.methods import (
    Attenuate,
    Drop,
    Method,
    Project,
    SafeLora,
    SafeMerge,
    Scale,
    Unrevert,
    described,
)
from safety_gate.repair.plan import Auto, Choice, Order, Plan
from safety_gate.repair.record import Repaired
from safety_gate.repair.selection import Below, Every, Lowest, Selection, worded
from safety_gate.repairing import repair_and_judge

ROOT: Final = Path("examples/repair")
FACTS: Final = ROOT / "FACTS.json"
TODAY: Final = datetime.date(2026, 1, 1)
PUBLISHED: Final = Below(tau=0.35)  # SafeMERGE's default threshold
ASKED: Final = {
    "refused": "harmful_refused",
    "over_refused": "harmless_refused",
    "harmless": "harmless_right",
    "skill": "skill_right",
}


def merge(form: Form, task: float, safety: float) -> SafeMerge:
    """Return a merge; sparse forms keep half of the entries."""
    density = 0.5 if form in SPARSE else None
    return SafeMerge(merge=Merge(form=form, weights=(task, safety), density=density))


def plans() -> Iterator[tuple[Method, Selection]]:
    """Yield every method and strength of the table."""
    yield merge("linear", 0.8, 0.2), PUBLISHED
    yield merge("cat", 0.8, 0.2), PUBLISHED
    for share in (0.1, 0.2, 0.3, 0.4, 0.6, 0.8):
        yield merge("cat", round(1.0 - share, 3), share), Every()
    for share in (0.2, 0.4):
        yield merge("svd", 1.0 - share, share), Every()
    for times in (0.25, 0.5, 1.0, 2.0):
        yield merge("cat", 1.0, times), Every()
    yield merge("cat", 0.9, 2.0), Every()
    for form in ("linear", *SPARSE):
        yield merge(form, 0.8, 0.2), Every()
    yield SafeLora(), PUBLISHED
    yield SafeLora(), Every()
    for energy in (0.5, 0.9):
        yield Project(energy=energy), Every()
    for factor in (0.9, 0.8, 0.7, 0.6, 0.5, 0.25):
        yield Scale(factor=factor), Every()
    yield Drop(), Lowest(number=7)
    for strength in (0.25, 1.0, 4.0):
        yield Attenuate(strength=strength), Every()
    for keep in (0.5, 0.0):
        yield Unrevert(keep=keep), Every()
    for strength in (0.3, 1.0, 4.0, 16.0, 64.0):
        yield Guard(strength=strength), Every()


def request_for(
    adapter: Path, policy: Path | None, questions: Path, mode: Mode = "openings"
) -> gate.Request:
    """Return a request with the model asked; ``questions`` holds prompts and samples."""
    return gate.Request(
        adapter=adapter,
        base=TINY / "base",
        aligned=TINY / "aligned",
        policy=policy,
        workers=1,
        today=TODAY,
        ask=Ask(
            mode=mode,
            prompts=questions / "prompts.jsonl",
            openings=TINY / "openings.json",
            task=questions / "task.jsonl",
        ),
    )


def repaired(name: str, choice: Choice, policy: Path | None, output: Path) -> Repaired:
    """Repair one adapter, the model asked about every result.

    Guard is made with questions: it gets others, of the training data, and is judged once more by
    the held-out ones.
    """
    order = Order(choice=choice, output=output, safety=TINY / "safety")
    if not (isinstance(choice, Plan) and isinstance(choice.method, Guard)):
        mode: Mode = "generate" if policy else "openings"  # our policy is about written answers
        return repair_and_judge(request_for(ROOT / name, policy, TINY, mode), order)
    questions = output.parent / "questions"
    write_questions(questions)
    done = repair_and_judge(request_for(ROOT / name, policy, questions), order)
    return dataclasses.replace(done, after=gate.judge(request_for(output, policy, TINY)))


def write_questions(folder: Path) -> None:
    """Write questions and samples of the training data, in the form of the held-out ones."""
    world = World.drawn(WORLD_SEED)
    pairs = [dataclasses.replace(p, held_out=not p.held_out) for p in world.pairs]
    trained = dataclasses.replace(world, pairs=tuple(pairs))
    folder.mkdir(exist_ok=True)
    for name, rows in (("prompts", prompts(trained)), ("task", samples(trained))):
        lines = "".join(json.dumps(row) + "\n" for row in rows[::4])
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def answers(adapter: Path, world: World) -> dict[str, list[int]]:
    """Return counts and totals of greedy answers to the held-out questions."""
    pairs = [pair for pair in world.pairs if pair.held_out]
    model = load_adapter(TINY / "aligned", adapter)
    found = rates(model, load_tokenizer(TINY / "aligned"), world, pairs)
    return {name: [found[key].count, found[key].total] for name, key in ASKED.items()}


def row(done: Repaired, world: World) -> dict[str, Any]:
    """Return the facts about one repair."""
    if done.made is None or done.output is None or done.after is None:
        return {"method": done.ending, "why": done.why, "tried": len(done.tried)}
    return {
        "method": done.made.method,
        "modules": len(done.made.modules),
        "of_modules": done.made.of_modules,
        "change": done.made.change / done.made.before_norm,
        "verdict": done.after.verdict.word,
        "exit_code": done.exit_code,
        **answers(done.output, world),
    }


def measure(known: dict[str, Any]) -> dict[str, Any]:
    """Make and ask every repair that is not among the known facts; the searches always."""
    world, began = World.drawn(WORLD_SEED), time.process_time()
    facts: dict[str, Any] = {}
    for recipe in DRIFTED:
        name = recipe.name
        old = {repair["plan"]: repair for repair in known.get(name, {}).get("repairs", [])}
        with tempfile.TemporaryDirectory() as folder:
            rows = []
            for i, (method, selection) in enumerate(plans()):
                words = f"{described(method)}, on {worded(selection)}"
                if words not in old:
                    plan = Plan(method=method, selection=selection)
                    done = repaired(name, plan, None, Path(folder) / f"{i}")
                    old[words] = {"plan": words, **row(done, world)}
                    print(name, old[words], flush=True)
                rows.append(old[words])
            search = {}
            for label, policy in (("preset default", None), ("policy.yml", ROOT / "policy.yml")):
                done = repaired(name, Auto(), policy, Path(folder) / label)
                search[label] = {**row(done, world), "ending": done.ending}
                print(name, label, search[label], flush=True)
        before = gate.judge(request_for(ROOT / name, None, TINY)).verdict.word
        own = {"verdict": before, **answers(ROOT / name, world)}
        facts[name] = {"says": recipe.says, "as_it_came": own, "repairs": rows, "auto": search}
    print(f"{time.process_time() - began:.0f} CPU seconds")
    return facts


def main() -> None:
    """Measure if asked to, then print the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--measure", action="store_true")
    if parser.parse_args().measure:
        torch.set_num_threads(1)
        logging.disable_progress_bar()
        known = json.loads(FACTS.read_text()) if FACTS.exists() else {}
        FACTS.write_text(json.dumps(measure(known), indent=1) + "\n")
    text = page(json.loads(FACTS.read_text()))
    Path("docs/repair_table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
