"""Adapters that PEFT itself writes, against PEFT's own merge: the second road for every number."""

import copy
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.peft_adapters import ALL, assert_equal, lora, merged, model_of, opened, save, updates


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep the decompositions of tiny matrices from waiting for each other's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


HONEST = [
    pytest.param("llama", lora(), id="list"),
    pytest.param("llama", lora(target_modules=["q_proj"]), id="one-name"),
    pytest.param("llama", lora(target_modules=["model.layers.1.mlp.up_proj"]), id="full-name"),
    pytest.param("llama", lora(target_modules=["self_attn.q_proj", "mlp.up_proj"]), id="two-parts"),
    pytest.param("llama", lora(target_modules="all-linear"), id="all-linear"),
    pytest.param("llama", lora(target_modules=r".*\.(q|v)_proj"), id="pattern"),
    pytest.param(
        "llama",
        lora(target_modules=r"^(model(?=\.).*\.(q_proj|k_proj|up_proj))$"),
        id="look-ahead-of-ms-swift",
    ),
    pytest.param("llama", lora(exclude_modules=["v_proj", "model.layers.0.mlp.up_proj"]), id="no"),
    pytest.param("llama", lora(exclude_modules=r".*layers\.0.*"), id="exclude-pattern"),
    pytest.param("llama", lora(layers_to_transform=[1]), id="layers"),
    pytest.param("llama", lora(layers_to_transform=0), id="layer-number"),
    pytest.param("llama", lora(layers_to_transform=[0], layers_pattern="layers"), id="pattern-of"),
    pytest.param(
        "llama",
        lora(target_modules=["model.layers.1.self_attn.q_proj", "v_proj"], layers_to_transform=[0]),
        id="full-names-are-exempt-from-layers",
    ),
    pytest.param("llama", lora(rank_pattern={"q_proj": 2, "mlp.up_proj": 8}), id="ranks"),
    pytest.param(
        "llama", lora(rank_pattern={r"^model\.layers\.0\..*": 2, "q_proj": 3}), id="rank-patterns"
    ),
    pytest.param(
        "llama", lora(alpha_pattern={"q_proj": 100, r".*\.q_proj": 1, "up_proj": 0.5}), id="alphas"
    ),
    pytest.param("llama", lora(use_rslora=True), id="rslora"),
    pytest.param(
        "llama",
        lora(use_rslora=True, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3}),
        id="rslora-with-patterns",
    ),
    pytest.param("llama", lora(init_lora_weights="gaussian"), id="gaussian"),
    pytest.param("llama", lora(init_lora_weights=False), id="random"),
    pytest.param("llama", lora(target_modules=None), id="peft-chooses"),
    pytest.param("llama-tied", lora(), id="tied"),
    pytest.param("llama-tied", lora(target_modules="all-linear"), id="tied-all-linear"),
    pytest.param("qwen2", lora(), id="biases-in-the-model"),
    pytest.param("gpt2", lora(target_modules=["c_attn", "c_proj", "c_fc"]), id="conv1d"),
    pytest.param("gpt2", lora(target_modules="all-linear", fan_in_fan_out=True), id="conv1d-all"),
]


@pytest.mark.parametrize(("name", "config"), HONEST)
def test_honest_adapters_equal_pefts_merge(name: str, config: Any, tmp_path: Path) -> None:
    save(name, copy.deepcopy(config), tmp_path / "adapter")
    adapter = opened(name, tmp_path / "adapter", tmp_path / "private")
    ours = updates(adapter)
    assert_equal(ours, merged(name, tmp_path / "adapter"))
    assert {change.name for change in adapter.changed} == ours.keys()
    assert all(change.scored for change in adapter.changed)
    assert not {f.rule for f in adapter.findings if f.severity in ("block", "undecided")}
    assert all(entry.accounted for entry in adapter.ledger)
    adapter.close()


def test_raw_all_linear_is_resolved_here(tmp_path: Path) -> None:
    save("llama", lora(target_modules="all-linear"), tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "target_modules": "All-Linear"}))
    adapter = opened("llama", tmp_path, tmp_path / "private")
    assert_equal(updates(adapter), merged("llama", tmp_path))
    assert len(adapter.modules) == 14


def test_square_conv1d_is_transposed_by_name_not_by_shape(tmp_path: Path) -> None:
    save("gpt2", lora(target_modules=[r"attn.c_proj"]), tmp_path)
    adapter = opened("gpt2", tmp_path, tmp_path / "private")
    assert [m.transposed for m in adapter.modules] == [True, True]


def test_fan_in_fan_out_is_ignored_on_linear_layers_as_peft_does(tmp_path: Path) -> None:
    save("llama", lora(), tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "fan_in_fan_out": True}))
    adapter = opened("llama", tmp_path, tmp_path / "private")
    assert_equal(updates(adapter), merged("llama", tmp_path))
    assert "fan-in-fan-out-ignored" in {f.rule for f in adapter.findings}


REFUSALS = (ValueError, TypeError, KeyError, RuntimeError, re.error)  # what PEFT raises

KEYS = [name for name, _ in model_of("llama").named_modules() if name]
LINEAR = [name for name in KEYS if name.endswith("_proj")]
PATTERNS = [
    "q_proj",
    "self_attn.k_proj",
    r".*\.(up|down)_proj",
    r"^model\.layers\.1\..*",
    r"layers\.[01]\.mlp\.[a-z]+_proj",
    r"(?!.*mlp).*_proj",
    "model.layers.0.self_attn.v_proj",
    r"[^.]*_proj",
    r"o_proj|q_proj",
    r"layers\.\d{1,2}\..*_proj",
    r"nothing\.here",
    "o_proj)|(gate_proj",
]
NAMES = st.one_of(
    st.sampled_from(ALL), st.sampled_from(LINEAR), st.sampled_from(["mlp.up_proj", "1.mlp.up_proj"])
)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a config as a stranger could write it: not only what PEFT would save."""
    values: dict[str, Any] = {
        "r": draw(st.integers(1, 6)),
        "lora_alpha": draw(st.one_of(st.integers(1, 64), st.floats(0.25, 8.0))),
        "use_rslora": draw(st.booleans()),
        "exclude_modules": draw(
            st.one_of(
                st.none(), st.lists(NAMES, max_size=3), st.sampled_from(PATTERNS), st.just("")
            )
        ),
        "rank_pattern": draw(st.dictionaries(st.sampled_from(PATTERNS), st.integers(1, 6))),
        "alpha_pattern": draw(st.dictionaries(st.sampled_from(PATTERNS), st.integers(1, 99))),
    }
    if draw(st.booleans()):
        values["target_modules"] = draw(st.lists(NAMES, min_size=1, max_size=24))
        if draw(st.booleans()):
            values["layers_to_transform"] = draw(
                st.one_of(st.integers(0, 2), st.lists(st.integers(0, 2), max_size=2))
            )
            values["layers_pattern"] = draw(
                st.sampled_from([None, [], "layers", ["blocks", "layers"], "l[a-z]+", "h"])
            )
    else:
        values["target_modules"] = draw(st.sampled_from([*PATTERNS, "all-linear", ".*"]))
    return values


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(values=configs(), seed=st.integers(0, 2**16))
def test_any_config_is_read_as_peft_reads_it_or_refused(values: dict[str, Any], seed: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "adapter"
        try:
            save("llama", peft.LoraConfig(**copy.deepcopy(values)), folder, seed=seed)
        except REFUSALS:  # then a file that does not belong to the config
            save("llama", lora(r=values["r"]), folder, seed=seed)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, **values}))
        try:
            theirs = merged("llama", folder)
        except REFUSALS:
            theirs = {}
        adapter = opened("llama", folder, Path(name) / "private")
        grave = [f for f in adapter.findings if f.severity in ("block", "undecided")]
        event("refused" if grave else "equal" if theirs else "no change")
        if not grave:
            assert_equal(updates(adapter), theirs)
            assert all(change.scored for change in adapter.changed)
        else:
            assert not theirs or {f.rule for f in grave} <= {"targets-unclear"}
        adapter.close()


def test_findings_of_a_clean_adapter_are_harmless(tmp_path: Path) -> None:
    save("llama", lora(), tmp_path)
    adapter = opened("llama", tmp_path, tmp_path / "private")
    assert {f.severity for f in adapter.findings} <= {"warn", "info"}
    assert adapter.fact.kind == "LoRA"
    assert adapter.fact.revision == f"sha256:{adapter.fact.digest}"
    kinds = {entry.kind for entry in adapter.ledger}
    assert kinds == {"file", "tensor", "config"}
    assert {e.name for e in adapter.ledger if e.kind == "file"} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
