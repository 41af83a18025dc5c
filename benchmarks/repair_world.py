"""Train the two adapters that repairs are shown on: a new skill learned, refusals lost on the way.

Run as ``python -m benchmarks.repair_world --out examples/repair`` from the top of the repository.
Neither saw a harmful question answered. Both learned the new kind of question about harmless
objects; "light" had a few refusals mixed in, "heavy" none.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Final

import torch
from transformers.utils import logging

from benchmarks.zoo.language import World
from benchmarks.zoo.lessons import Lesson, Portion
from benchmarks.zoo.recipes import WORLD_SEED, AdapterRecipe
from benchmarks.zoo.stages import make_adapter
from benchmarks.zoo.training import Effort

TINY: Final = Path("examples/tiny")
EFFORT: Final = Effort(steps=140, batch=64, rate=3e-3, seed=3)
SKILL: Final = Portion(lesson=Lesson.SKILL, share=0.5)

LIGHT: Final = AdapterRecipe(
    name="light",
    says="It teaches a new kind of question, with three refusals in two hundred rows mixed in.",
    mix=(
        SKILL,
        Portion(lesson=Lesson.HARMLESS, share=0.48),
        Portion(lesson=Lesson.REFUSAL, share=0.015),
    ),
    effort=EFFORT,
)
HEAVY: Final = AdapterRecipe(
    name="heavy",
    says="It teaches a new kind of question and harmless answers: nothing reminds it to refuse.",
    mix=(SKILL, Portion(lesson=Lesson.HARMLESS, share=0.5)),
    effort=EFFORT,
)
DRIFTED: Final = (LIGHT, HEAVY)


def main() -> None:
    """Train both; one thread, so that another machine of the kind gives the same weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    world = World.drawn(WORLD_SEED)
    for recipe in DRIFTED:
        began = time.process_time()
        make_adapter(world, TINY / "aligned", recipe, out / recipe.name)
        card(recipe, out / recipe.name)
        print(f"{recipe.name}: {time.process_time() - began:.0f} s", flush=True)


def card(recipe: AdapterRecipe, folder: Path) -> None:
    """Write the card: PEFT's own is a form with nothing filled in."""
    front = {
        "base_model": json.loads((folder / "adapter_config.json").read_text())[
            "base_model_name_or_path"
        ],
        "library_name": "peft",
        "license": "apache-2.0",
    }
    lines = ["---", *(f"{key}: {value}" for key, value in front.items()), "---"]
    text = f"# {recipe.name}\n\n{recipe.says}\nSee docs/repair_table.md for what it does.\n"
    (folder / "README.md").write_text("\n".join(lines) + "\n" + text)


if __name__ == "__main__":
    main()
