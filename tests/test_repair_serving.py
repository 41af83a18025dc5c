"""What is written loads elsewhere: in transformers itself, and by servers that know r and alpha."""

import datetime
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from safety_gate import gate
from safety_gate.repair.forms import Merge
from safety_gate.repair.methods import Method, SafeMerge, Unrevert
from safety_gate.repair.plan import Order, Plan
from safety_gate.repair.selection import Lowest
from safety_gate.repair.writing import Layout
from safety_gate.repairing import repair_and_judge
from tests.repair_models import Pair, calm, merged_updates, write_adapter, write_pair

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


@pytest.fixture(autouse=True)
def _calm() -> Iterator[None]:
    with calm():
        yield


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"))


def repaired(pair: Pair, folder: Path, method: Method, *, uniform: bool) -> Path:
    """Repair four modules, so that ranks are mixed unless they are padded."""
    order = Order(
        choice=Plan(method=method, selection=Lowest(number=4)),
        output=folder / "new",
        safety=write_adapter(pair, folder / "safety", seed=4, rank=6),
        layout=Layout(uniform_rank=uniform),
    )
    request = gate.Request(
        adapter=write_adapter(pair, folder / "adapter", seed=3, back=0.5),
        base=pair.base,
        aligned=pair.aligned,
        today=datetime.date(2026, 1, 1),
    )
    done = repair_and_judge(request, order)
    assert done.output is not None
    return done.output


@pytest.mark.parametrize("uniform", [False, True], ids=["mixed-ranks", "uniform-rank"])
def test_transformers_loads_it_and_gives_what_peft_gives(
    pair: Pair, tmp_path: Path, uniform: bool
) -> None:
    new = repaired(pair, tmp_path, SafeMerge(merge=Merge(form="cat")), uniform=uniform)
    plain = LlamaForCausalLM.from_pretrained(pair.aligned)
    with torch.no_grad():
        before = plain(IDS).logits
        own = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(pair.aligned), new)
        expected = own(IDS).logits
        plain.load_adapter(str(new))
        found = plain(IDS).logits
    torch.testing.assert_close(found, expected)
    assert float((found - before).abs().max()) > 1e-3  # it was applied


@pytest.mark.parametrize(
    "method", [SafeMerge(merge=Merge(form="cat")), Unrevert()], ids=["cat", "unrevert"]
)
def test_a_server_that_reads_r_and_alpha_alone_serves_the_same_update(
    pair: Pair, tmp_path: Path, method: Method
) -> None:
    """Every module has rank r, and lora_alpha / r times B A is its update, without patterns."""
    new = repaired(pair, tmp_path, method, uniform=True)
    config = json.loads((new / "adapter_config.json").read_text())
    tensors = load_file(new / "adapter_model.safetensors")
    assert {t.shape[0] for name, t in tensors.items() if "lora_A" in name} == {config["r"]}
    assert config["use_rslora"] is False
    scaling = config["lora_alpha"] / config["r"]
    for module, update in merged_updates(pair, new).items():
        stem = f"base_model.model.{module}.lora_"
        a, b = (tensors[f"{stem}{part}.weight"].double() for part in "AB")
        assert float((scaling * b @ a - update).norm()) <= 1e-6 * float(update.norm())
