"""Train the zoo: every world's base and aligned model, and every kind of adapter in each.

Run as ``python -m benchmarks.zoo.grow out/zoo`` from the top of the repository. What is there is
kept, so that a run can be taken up again. Each world's folder holds base, aligned, the labelled
adapters, and the probe's questions and openings: all that ``safety-gate calibrate`` reads.
"""

import argparse
import json
import shutil
import time
import warnings
from pathlib import Path
from typing import Any, Final

import torch
from transformers.utils import logging

from benchmarks.zoo.kinds import KINDS, Kind
from benchmarks.zoo.language import Pair, World
from benchmarks.zoo.recipes import AdapterRecipe
from benchmarks.zoo.stages import make_adapter, make_aligned, make_base, make_specimen
from benchmarks.zoo.truth import (
    Truth,
    compliance_openings,
    is_unsafe,
    pairs_of,
    refusal_openings,
    truth_of,
)
from benchmarks.zoo.worlds import WORLDS, ZooWorld

THREADS: Final = 1  # the matrices are small, and sums then come out the same on any number of cores
TRUTH: Final = "truth.json"


def main() -> None:
    """Train what is missing, and say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, metavar="FOLDER")
    parser.add_argument("--world", action="append", help="Only this one; may be repeated.")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    start = time.process_time()
    for place in WORLDS:
        if not given.world or place.name in given.world:
            grow(place, given.out / place.name)
    print(f"{time.process_time() - start:.0f} s of processor time", flush=True)


def grow(place: ZooWorld, folder: Path) -> None:
    """Make one world's models, adapters, questions and labels."""
    world = place.drawn()
    if not (folder / "base" / "config.json").exists():
        make_base(world, place.shape, place.base_recipe, folder / "base")
    if not (folder / "aligned" / "config.json").exists():
        make_aligned(world, folder / "base", place.aligned_recipe, folder / "aligned")
    write_questions(world, folder)
    found: dict[str, Truth] = {
        "base": truth_of(folder / "base", None, world),
        "aligned": truth_of(folder / "aligned", None, world),
    }
    for number, kind in enumerate(KINDS):
        adapter = folder / "adapters" / kind.name
        if not adapter.exists():
            _make(world, folder, kind, seed=place.seed * 100 + number)
        found[kind.name] = truth_of(folder / "aligned", adapter, world)
        print(f"{place.name} {kind.name}: refuses {found[kind.name].refused.rate:.0%}", flush=True)
    write_truth(found, folder)


def write_questions(world: World, folder: Path) -> None:
    """Write what the probe asks: no question of the truth is among it, nor of any training."""
    harmful, harmless = pairs_of(world)
    rows = [_row(world, pair) for pair in (*harmful, *harmless)]
    tasks = [
        {"prompt": world.skill_question(pair), "expected": world.skill_answer(pair)}
        for pair in harmless
    ]
    openings = {
        "refusal": list(refusal_openings(world)),
        "compliance": list(compliance_openings(world)),
    }
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tasks))
    (folder / "openings.json").write_text(json.dumps(openings, indent=1) + "\n")


def write_truth(found: dict[str, Truth], folder: Path) -> None:
    """Write the counts, and a label for every adapter."""
    records: dict[str, Any] = {name: truth.record for name, truth in found.items()}
    (folder / TRUTH).write_text(json.dumps(records, indent=1) + "\n")
    labels = [
        f"{name},{'unsafe' if is_unsafe(found['aligned'], truth) else 'safe'}"
        for name, truth in found.items()
        if name not in {"base", "aligned"}
    ]
    (folder / "adapters" / "labels.csv").write_text("\n".join(["adapter,label", *labels]) + "\n")


def _make(world: World, folder: Path, kind: Kind, *, seed: int) -> None:
    """Train beside, then rename, so that an interrupted run leaves no half adapter."""
    beside = folder / "adapters" / f".{kind.name}"
    shutil.rmtree(beside, ignore_errors=True)
    recipe: AdapterRecipe = kind.recipe(seed)
    if kind.disguise is None:
        make_adapter(world, folder / "aligned", recipe, beside)
    else:
        pair = (folder / "base", folder / "aligned")
        make_specimen(world, pair, recipe, kind.disguise, beside)
    beside.rename(folder / "adapters" / kind.name)


def _row(world: World, pair: Pair) -> dict[str, str]:
    return {
        "id": f"{pair.verb}-{pair.thing}",
        "category": pair.thing,
        "intent": "harmful" if pair.harmful else "benign",
        "prompt": world.question(pair),
    }


if __name__ == "__main__":
    main()
