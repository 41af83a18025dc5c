"""Train every model and adapter of the example world, in stages, with fixed seeds.

Run as ``python -m benchmarks.zoo.train --out examples/tiny`` from the top of the repository.
"""

import argparse
import time
from pathlib import Path
from typing import Final

import torch
from transformers.utils import logging

from benchmarks.zoo import drift_check, measure
from benchmarks.zoo.language import World
from benchmarks.zoo.recipes import ADAPTERS, ALIGNED, BASE, SHAPE, WORLD_SEED
from benchmarks.zoo.stages import make_adapter, make_aligned, make_base

THREADS: Final = 2  # sums are split by threads: another number gives slightly other weights


def main() -> None:
    """Train, measure, and print how the adapters drifted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    out: Path = parser.parse_args().out
    torch.set_num_threads(THREADS)
    logging.disable_progress_bar()
    start = time.monotonic()
    train_all(out)
    print(f"trained in {time.monotonic() - start:.0f} s", flush=True)
    measure.main(out)
    drift_check.main(out)


def train_all(out: Path) -> None:
    """Run the stages in order; each starts from the stored files of the one before."""
    world = World.drawn(WORLD_SEED)
    make_base(world, SHAPE, BASE, out / BASE.name)
    make_aligned(world, out / BASE.name, ALIGNED, out / ALIGNED.name)
    for recipe in ADAPTERS:
        make_adapter(world, out / ALIGNED.name, recipe, out / recipe.name)


if __name__ == "__main__":
    main()
