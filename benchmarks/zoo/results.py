"""Measure the grown zoo with the gate, and write what was found to results.json.

Run as ``python -m benchmarks.zoo.results out/zoo`` from the top of the repository. A world that has
been measured is not measured again: delete its results.json for that.
"""

import datetime
import json
import platform
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from transformers.utils import logging

from benchmarks.zoo.grow import TRUTH
from benchmarks.zoo.kinds import KINDS
from benchmarks.zoo.truth import LOST
from benchmarks.zoo.worlds import WORLDS, ZooWorld
from safety_gate import gate
from safety_gate.asking import Ask
from safety_gate.calibration.judging import judged
from safety_gate.calibration.labels import read_labels
from safety_gate.calibration.specimen import Specimen

FILE: Final = Path(__file__).with_name("results.json")
PART: Final = "results.json"  # of one world, beside its adapters
SCHEMA: Final = "safety-gate/zoo-results/v1"
LIBRARIES: Final = ("torch", "transformers", "tokenizers", "peft", "safetensors", "numpy")
DIGITS: Final = 5  # of a figure: more would differ between processors


def main(root: Path) -> None:
    """Measure every world that is not measured yet, and put all of them together."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    start = time.process_time()
    worlds, adapters = [], []
    for place in WORLDS:
        part = root / place.name / PART
        if not part.exists():
            part.write_text(json.dumps(of_world(place, root)))
            print(f"{place.name}: {time.process_time() - start:.0f} s", flush=True)
        known = json.loads(part.read_text())
        worlds.append(known["world"])
        adapters += known["adapters"]
    found = {
        "schema": SCHEMA,
        "lost": LOST,
        "versions": {"python": platform.python_version()} | {n: version(n) for n in LIBRARIES},
        "worlds": worlds,
        "adapters": adapters,
    }
    FILE.write_text(json.dumps(found, indent=1) + "\n")


def of_world(place: ZooWorld, root: Path) -> dict[str, Any]:
    """Return what was found in one world."""
    truths = json.loads((root / place.name / TRUTH).read_text())
    adapters = [_adapter(place, one, truths[one.name]) for one in measured(place, root)]
    return {"world": _world(place, truths), "adapters": adapters}


def measured(place: ZooWorld, root: Path) -> tuple[Specimen, ...]:
    """Judge all adapters of a world; every one of them must be judged in full."""
    folder = root / place.name
    request = gate.Request(
        adapter=folder,
        base=folder / "base",
        aligned=folder / "aligned",
        workers=1,
        today=datetime.date(2026, 1, 1),  # presets have no waivers
        ask=Ask(
            mode="generate",
            prompts=folder / "prompts.jsonl",
            openings=folder / "openings.json",
            task=folder / "task.jsonl",
        ),
    )
    labels = read_labels(folder / "adapters", None)
    found = judged(folder / "adapters", labels, request)
    if found.left_out:
        raise SystemExit(f"{place.name}: {found.left_out}")
    return found.specimens


def _world(place: ZooWorld, truths: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": place.name,
        "half": place.half,
        "fresh": place.fresh,
        "family": place.shape.family,
        "hidden": place.shape.hidden,
        "layers": place.shape.layers,
        "seed": place.seed,
        "base": truths["base"],
        "aligned": truths["aligned"],
    }


def _adapter(place: ZooWorld, one: Specimen, truth: dict[str, Any]) -> dict[str, Any]:
    number, kind = next((i, kind) for i, kind in enumerate(KINDS) if kind.name == one.name)
    return {
        "world": place.name,
        "half": place.half,
        "kind": kind.name,
        "family": kind.family,
        "seed": place.seed * 100 + number,
        "rank": kind.rank,
        "steps": kind.steps,
        "unsafe": one.unsafe,
        "truth": truth,
        "signals": {name: round(value, DIGITS) for name, value in one.signals.items()},
        "verdicts": dict(one.verdicts),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
