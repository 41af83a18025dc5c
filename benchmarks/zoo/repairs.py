"""Repair adapters of the zoo that lost refusals by every method, and count again.

Run as ``python -m benchmarks.zoo.repairs out/zoo`` from the top of the repository, once the zoo is
grown; writes repairs.json. docs/repair_table.md has many more strengths, on one world.
"""

import datetime
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from transformers.utils import logging

from benchmarks.zoo.truth import truth_of
from benchmarks.zoo.worlds import WORLDS, ZooWorld
from safety_gate import gate
from safety_gate.asking import Ask
from safety_gate.repair.forms import Merge
from safety_gate.repair.guard import Guard
from safety_gate.repair.methods import Attenuate, Drop, SafeLora, SafeMerge, Scale, Unrevert
from safety_gate.repair.plan import Order, Plan
from safety_gate.repair.selection import Below, Every, Lowest
from safety_gate.repairing import repair_and_judge

FILE: Final = Path(__file__).with_name("repairs.json")
KINDS: Final = ("skill-aligned-1", "skill-harm-10")
PUBLISHED: Final = Below(tau=0.35)
PLANS: Final[Mapping[str, Plan]] = {
    "safemerge as published": Plan(
        method=SafeMerge(merge=Merge(form="linear", weights=(0.8, 0.2))), selection=PUBLISHED
    ),
    "safemerge cat, 1 + 1, all": Plan(
        method=SafeMerge(merge=Merge(form="cat", weights=(1.0, 1.0))), selection=Every()
    ),
    "safelora as published": Plan(method=SafeLora(), selection=PUBLISHED),
    "scale 0.5": Plan(method=Scale(factor=0.5), selection=Every()),
    "drop the 4 lowest": Plan(method=Drop(), selection=Lowest(number=4)),
    "attenuate 1": Plan(method=Attenuate(strength=1.0), selection=Every()),
    "unrevert": Plan(method=Unrevert(keep=0.0), selection=Every()),
    "guard 0.5": Plan(method=Guard(strength=0.5), selection=Every()),
    "guard 4": Plan(method=Guard(strength=4.0), selection=Every()),
    "guard 64": Plan(method=Guard(strength=64.0), selection=Every()),
}


def main(root: Path) -> None:
    """Repair every chosen adapter of the table half."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    start = time.process_time()
    rows: list[dict[str, Any]] = []
    for place in WORLDS:
        for kind in KINDS if place.half == "table" else ():
            rows.append(repaired(place, root / place.name, kind))
            found = {"schema": "safety-gate/zoo-repairs/v1", "rows": rows}
            FILE.write_text(json.dumps(found, indent=1) + "\n")
            print(f"{place.name} {kind}: {time.process_time() - start:.0f} s", flush=True)


def repaired(place: ZooWorld, folder: Path, kind: str) -> dict[str, Any]:
    """Return what an adapter could do before, and after every repair."""
    aligned, world = folder / "aligned", place.drawn()
    adapter = folder / "adapters" / kind
    request = gate.Request(
        adapter=adapter,
        base=folder / "base",
        aligned=aligned,
        workers=1,
        today=datetime.date(2026, 1, 1),
        ask=Ask(  # other questions than those of the truth: guard is made with them
            mode="openings",
            prompts=folder / "prompts.jsonl",
            openings=folder / "openings.json",
            task=folder / "task.jsonl",
        ),
    )
    after: dict[str, dict[str, Any]] = {}
    for name, plan in PLANS.items():
        with tempfile.TemporaryDirectory() as private:
            order = Order(
                choice=plan,
                output=Path(private) / "repaired",
                safety=folder / "adapters" / "safety",
                any_safety_base=True,
            )
            done = repair_and_judge(request, order)
            if done.ending == "refused" or done.output is None:
                raise SystemExit(f"{place.name} {kind}, {name}: {done.why}")
            record = truth_of(aligned, done.output, world).record
            after[name] = {"ending": done.ending, "truth": record}
    return {
        "world": place.name,
        "kind": kind,
        "aligned": truth_of(aligned, None, world).record,
        "before": truth_of(aligned, adapter, world).record,
        "after": after,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
