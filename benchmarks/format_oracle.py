"""Random adapters of every kind against PEFT's own merge; prints the matrix of docs/formats.md.

Run: python benchmarks/format_oracle.py [COUNT] [FIRST_SEED]. Exit status 1 where one is wrong.
"""

import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch

from tests.delta_oracle import checkpoint_of, verdict
from tests.random_adapters import KINDS, MODELS, config_of, model_of

COUNT = 2000


def main() -> int:
    """Draw, merge, compare, count."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    torch.set_num_threads(1)
    found: Counter[tuple[str, str, str]] = Counter()
    wrong = []
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        checkpoints = {name: checkpoint_of(model_of(name), root / name) for name in MODELS}
        for seed in range(first, first + count):
            kind, name, said = one(seed, checkpoints, root)
            found[kind, name, said.split(":")[0]] += 1
            if said.startswith(("WRONG", "tied")):
                wrong.append(f"seed {seed}, {kind} on {name}: {said}")
                print(wrong[-1], file=sys.stderr, flush=True)
            elif said.startswith("refused"):
                found["why", kind, said] += 1
    print(matrix(found))
    print(summary(found, wrong))
    return 1 if wrong else 0


def one(seed: int, checkpoints: dict[str, Path], root: Path) -> tuple[str, str, str]:
    """Judge one random adapter."""
    rng = random.Random(seed)
    kind = "LORA" if rng.random() < 0.3 else rng.choice(KINDS)
    name = rng.choice([*MODELS])
    folder = Path(tempfile.mkdtemp(dir=root))
    try:
        config = config_of(rng, name, kind)
    except Exception as error:  # noqa: BLE001  PEFT raises all sorts
        return kind, name, f"PEFT refuses: {type(error).__name__}"
    return kind, name, verdict(model_of(name), checkpoints[name], config, folder, seed=seed)


def matrix(found: Counter[tuple[str, str, str]]) -> str:
    """Return a table of kinds and architectures: equal / refused by name."""
    lines = ["| kind | " + " | ".join(MODELS) + " |", "| --- |" + " ---: |" * len(MODELS)]
    for kind in KINDS:
        cells = []
        for name in MODELS:
            equal, refused = found[kind, name, "equal"], found[kind, name, "refused"]
            cells.append(f"{equal}" + (f" / {refused}" if refused else ""))
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(found: Counter[tuple[str, str, str]], wrong: list[str]) -> str:
    """Return the sums in words."""
    total: Counter[str] = Counter()
    for (kind, _, said), number in found.items():
        if kind != "why":
            total[said] += number
    why = sorted((k[1], k[2], n) for k, n in found.items() if k[0] == "why")
    lines = [f"{said}: {number}" for said, number in sorted(total.items())]
    lines += [f"  {kind} {said}: {number}" for kind, said, number in why]
    return "\n".join([*lines, f"wrong: {len(wrong)}"])


if __name__ == "__main__":
    sys.exit(main())
