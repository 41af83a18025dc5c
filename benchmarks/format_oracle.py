"""Random adapters of every kind against PEFT's own merge: the facts behind docs/formats.md.

Run: python benchmarks/format_oracle.py [COUNT] [FIRST_SEED]. It writes its facts beside itself and
prints what docs/formats.md holds; with "print" as its only argument it prints the facts that are
there. Exit status 1 where one adapter is judged wrong.
"""

import json
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from tests.delta_oracle import checkpoint_of, verdict
from tests.older_adapters import OLDER, save_older
from tests.random_adapters import KINDS, MODELS, config_of, model_of, narrowed, older

COUNT = 2800
FACTS = Path(__file__).with_suffix(".json")
OLDER_KIND = "LORA, older names"
ROWS = (KINDS[0], OLDER_KIND, *KINDS[1:])
SHARE_LORA, SHARE_OLDER, SHARE_NARROW = 0.35, 0.15, 0.25
OUTCOMES = ("equal", "refused", "PEFT refuses")


@dataclass
class Tally:
    """What came of all adapters drawn so far."""

    cells: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # kind, model, outcome
    why: Counter[tuple[str, str]] = field(default_factory=Counter)  # kind, rule
    narrow: int = 0  # adapters and checkpoints in bfloat16 that were equal
    wrong: list[str] = field(default_factory=list)

    def facts(self, first: int, count: int) -> dict[str, Any]:
        """Return everything as JSON."""
        cells: dict[str, dict[str, list[int]]] = {}
        for kind in ROWS:
            for name in MODELS:
                numbers = [self.cells[kind, name, outcome] for outcome in OUTCOMES]
                if any(numbers):
                    cells.setdefault(kind, {})[name] = numbers
        why: dict[str, dict[str, int]] = {}
        for (kind, rule), number in sorted(self.why.items()):
            why.setdefault(kind, {})[rule] = number
        return {
            "seeds": [first, first + count],
            "peft": peft.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "outcomes": list(OUTCOMES),
            "models": list(MODELS),
            "cells": cells,
            "refused": why,
            "bfloat16": self.narrow,
            "wrong": self.wrong,
        }


def main() -> int:
    """Draw, merge, compare, count; or print what was counted."""
    if sys.argv[1:] == ["print"]:
        print(document(json.loads(FACTS.read_text())))
        return 0
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    tally = Tally()
    with tempfile.TemporaryDirectory() as place:
        oracle = Oracle(Path(place))
        for seed in range(first, first + count):
            oracle.draw(seed, tally)
    facts = tally.facts(first, count)
    FACTS.write_text(json.dumps(facts, indent=1) + "\n")
    print(document(facts))
    return 1 if tally.wrong else 0


class Oracle:
    """Draws adapters; the checkpoints of its models are written once."""

    def __init__(self, root: Path) -> None:
        """Write below ``root``."""
        self._root = root
        self._checkpoints: dict[tuple[str, bool], Path] = {}

    def draw(self, seed: int, tally: Tally) -> None:
        """Judge one random adapter."""
        rng = random.Random(seed)
        name = rng.choice([*MODELS])
        kind = "LORA" if rng.random() < SHARE_LORA else rng.choice(KINDS)
        narrow = rng.random() < SHARE_NARROW
        if kind == "LORA" and name in OLDER and rng.random() < 2 * SHARE_OLDER:
            kind = OLDER_KIND
        said = self._said(rng, kind, name, seed, narrow)
        outcome = said.partition(":")[0]
        tally.cells[kind, name, outcome] += 1
        tally.narrow += narrow and outcome == "equal"
        if outcome == "refused":
            tally.why[kind, said.split(": ")[1]] += 1
        elif outcome not in OUTCOMES:
            tally.wrong.append(f"seed {seed}, {kind} on {name}: {said}")
            print(tally.wrong[-1], file=sys.stderr, flush=True)

    def _said(  # noqa: PLR0913
        self, rng: random.Random, kind: str, name: str, seed: int, narrow: bool
    ) -> str:
        """Return what the comparison says."""
        try:
            config = older(rng) if kind == OLDER_KIND else config_of(rng, name, kind)
        except Exception as error:  # noqa: BLE001  PEFT raises all sorts
            return f"PEFT refuses: {type(error).__name__}"
        model = narrowed(name) if narrow else model_of(name)
        folder = Path(tempfile.mkdtemp(dir=self._root))
        save = {"save": save_older} if kind == OLDER_KIND else {}
        try:
            checkpoint = self._checkpoint(name, model, narrow)
            return verdict(model, checkpoint, config, folder, seed=seed, narrow=narrow, **save)
        finally:
            shutil.rmtree(folder)

    def _checkpoint(self, name: str, model: Any, narrow: bool) -> Path:
        """Return the folder of a model's checkpoint."""
        if (name, narrow) not in self._checkpoints:
            folder = self._root / f"{name} {narrow}"
            self._checkpoints[name, narrow] = checkpoint_of(model, folder, narrow=narrow)
        return self._checkpoints[name, narrow]


def document(facts: Mapping[str, Any]) -> str:
    """Return what docs/formats.md prints of the facts."""
    return f"{summary(facts)}\n\n{matrix(facts)}\n\n{reasons(facts)}"


def summary(facts: Mapping[str, Any]) -> str:
    """Return the sums in words."""
    total = Counter[str]()
    for row in facts["cells"].values():
        for numbers in row.values():
            total.update(dict(zip(facts["outcomes"], numbers, strict=True)))
    drawn = sum(total.values()) + len(facts["wrong"])
    return (
        f"The last full run drew {drawn} adapters (PEFT {facts['peft']}, transformers "
        f"{facts['transformers']}): **{total['equal']} equal, {total['refused']} refused by name, "
        f"{len(facts['wrong'])} wrong**; PEFT itself refused to build or merge "
        f"{total['PEFT refuses']}. Of the equal ones, {facts['bfloat16']} were stored in bfloat16, "
        "like their checkpoints."
    )


def matrix(facts: Mapping[str, Any]) -> str:
    """Return a table of kinds and architectures: equal / refused by name."""
    names = facts["models"]
    lines = ["| kind | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for kind, row in facts["cells"].items():
        cells = []
        for name in names:
            equal, refused, _ = row.get(name, [0, 0, 0])
            cells.append(f"{equal}" + (f" / {refused}" if refused else ""))
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def reasons(facts: Mapping[str, Any]) -> str:
    """Return a table of the refusals."""
    lines = ["| kind | refused as | adapters |", "| --- | --- | ---: |"]
    for kind, rules in facts["refused"].items():
        lines += [f"| {kind} | `{rule}` | {number} |" for rule, number in rules.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
