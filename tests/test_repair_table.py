"""docs/repair_table.md holds what was measured, and the measurement what issue 3 asks for."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from benchmarks.repair_page import ENOUGH, is_enough, page, share
from benchmarks.repair_picture import KINDS, drawn, kind

ROOT = Path(__file__).parent.parent
FACTS: dict[str, Any] = json.loads((ROOT / "examples/repair/FACTS.json").read_text())


def test_the_page_is_printed_from_the_facts() -> None:
    assert (ROOT / "docs/repair_table.md").read_text() == page(FACTS)


def test_every_method_stands_in_the_table() -> None:
    for fact in FACTS.values():
        methods = {repair["method"].split(",")[0].split()[0] for repair in fact["repairs"]}
        assert methods == {
            *("safemerge", "safelora", "project", "scale", "drop", "attenuate", "unrevert"),
            "guard",
        }
        assert fact["repairs"][0]["method"] == "safemerge linear, 0.8 adapter + 0.2 safety"


def test_one_drifted_lightly_and_one_heavily_and_both_have_the_skill() -> None:
    light, heavy = (FACTS[name]["as_it_came"] for name in ("light", "heavy"))
    assert 0.4 <= share(light["refused"]) <= 0.8
    assert share(heavy["refused"]) < 0.1
    assert share(light["skill"]) > ENOUGH
    assert share(heavy["skill"]) > ENOUGH
    assert light["verdict"] == heavy["verdict"] == "blocked"


def test_the_light_one_comes_back_and_the_heavy_one_does_not() -> None:
    good = {
        name: [r for r in fact["repairs"] if is_enough(r, fact["as_it_came"])]
        for name, fact in FACTS.items()
    }
    assert good["light"]
    assert all(repair["verdict"] == "passed" for repair in good["light"])
    assert good["heavy"] == []
    assert FACTS["heavy"]["auto"]["policy.yml"]["ending"] == "beyond repair"


@pytest.mark.parametrize("name", ["light", "heavy"])
def test_the_adapters_are_small_and_not_copies_of_others(name: str) -> None:
    folder = ROOT / "examples" / "repair" / name
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1_000_000
    tensors = load_file(folder / "adapter_model.safetensors")
    assert len(tensors) == 2 * 28


def test_the_picture_knows_every_kind() -> None:
    kinds = {kind(repair["method"]) for fact in FACTS.values() for repair in fact["repairs"]}
    assert kinds == KINDS.keys() - {"as it came"}
    assert drawn(FACTS).width > 0
