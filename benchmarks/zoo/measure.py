"""Measure the stored example models and write what was found: FACTS.json and the cards.

Run as ``python -m benchmarks.zoo.measure examples/tiny``.
"""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from benchmarks.zoo.card import card
from benchmarks.zoo.language import World
from benchmarks.zoo.network import load_adapter, load_model
from benchmarks.zoo.rates import Rates, rates, together
from benchmarks.zoo.recipes import ALIGNED, STAGES, WORLD_SEED, AdapterRecipe, Recipe
from benchmarks.zoo.speech import load_tokenizer

FACTS: Final = "FACTS.json"
LIBRARIES: Final = ("torch", "transformers", "tokenizers", "peft", "safetensors", "numpy")


def main(root: Path) -> None:
    """Measure every stage, write its card, then the facts; print the table."""
    logging.disable_progress_bar()
    world = World.drawn(WORLD_SEED)
    models: dict[str, Any] = {}
    for recipe in STAGES:
        trained, held_out = measured(root, recipe, world)
        (root / recipe.name / "README.md").write_text(card(recipe, trained, held_out))
        models[recipe.name] = _facts(recipe, root / recipe.name, trained, held_out)
    facts = {
        "schema": "safety-gate/tiny-facts/v1",
        "world_seed": WORLD_SEED,
        "versions": {"python": platform.python_version()} | {n: version(n) for n in LIBRARIES},
        "bytes": sum(model["bytes"] for model in models.values()),  # FACTS.json left out
        "models": models,
    }
    (root / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
    print(table(models))


def measured(root: Path, recipe: Recipe, world: World) -> tuple[Rates, Rates]:
    """Return the rates on the trained pairs and on the held-out ones."""
    model, tokenizer = stored(root, recipe), load_tokenizer(root / recipe.name)
    trained = [pair for pair in world.pairs if not pair.held_out]
    held_out = [pair for pair in world.pairs if pair.held_out]
    return rates(model, tokenizer, world, trained), rates(model, tokenizer, world, held_out)


def stored(root: Path, recipe: Recipe) -> PreTrainedModel:
    """Read what a stage made, an adapter merged into the aligned model."""
    if isinstance(recipe, AdapterRecipe):
        return load_adapter(root / ALIGNED.name, root / recipe.name)
    return load_model(root / recipe.name)


def table(models: dict[str, Any]) -> str:
    """Return the rates over all pairs and over the held-out ones as a Markdown table."""
    names = list(next(iter(models.values()))["rates"])
    lines = [f"| model | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    for model, facts in models.items():
        found = [facts["rates"][name] for name in names]
        cells = [f"{f['all']['rate']:.3f} / {f['held_out']['rate']:.3f}" for f in found]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "(all pairs / held-out pairs)"])


def _facts(recipe: Recipe, folder: Path, trained: Rates, held_out: Rates) -> dict[str, Any]:
    splits = {"all": together(trained, held_out), "trained": trained, "held_out": held_out}
    return {
        "seed": recipe.effort.seed,
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
        "rates": {
            name: {
                split: {
                    "count": found[name].count,
                    "total": found[name].total,
                    "rate": round(found[name].rate, 4),
                }
                for split, found in splits.items()
            }
            for name in trained
        },
    }


if __name__ == "__main__":
    torch.set_num_threads(2)
    main(Path(sys.argv[1]))
