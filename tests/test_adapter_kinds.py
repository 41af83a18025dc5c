"""What is not plain LoRA is named, Undecided and listed as changed; never silently scored."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from tests.peft_adapters import lora, merged, opened, save, updates


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep the decompositions of tiny matrices from waiting for each other's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


VARIANTS = [
    pytest.param(lora(use_dora=True), "DoRA", id="dora"),
    pytest.param(lora(init_lora_weights="pissa"), "initialisation", id="pissa"),
    pytest.param(lora(init_lora_weights="pissa_niter_2"), "initialisation", id="pissa-niter"),
    pytest.param(lora(init_lora_weights="olora"), "initialisation", id="olora"),
    pytest.param(lora(init_lora_weights="orthogonal"), "initialisation", id="orthogonal"),
    pytest.param(lora(init_lora_weights="mica"), "initialisation", id="mica"),
    pytest.param(lora(modules_to_save=["lm_head"]), "whole modules", id="modules-to-save"),
    pytest.param(lora(trainable_token_indices=[1, 2]), "trained tokens", id="tokens"),
    pytest.param(lora(layer_replication=[(0, 2), (1, 2)]), "replicated", id="replication"),
    pytest.param(lora(alora_invocation_tokens=[1, 2], task_type="CAUSAL_LM"), "aLoRA", id="alora"),
    pytest.param(lora(kasa_config=peft.tuners.lora.config.KasaConfig()), "KaSA", id="kasa"),
    pytest.param(
        lora(velora_config=peft.tuners.lora.config.VeloraConfig(4)), "VeLoRA", id="velora"
    ),
    pytest.param(lora(bias="lora_only"), "biases", id="bias"),
    pytest.param(lora(bias="all"), "biases", id="bias-all"),
    pytest.param(lora(lora_bias=True, target_modules=["q_proj"]), "bias in B", id="lora-bias"),
]


@pytest.mark.parametrize(("config", "words"), VARIANTS)
def test_variants_are_named_and_undecided(config: Any, words: str, tmp_path: Path) -> None:
    name = "qwen2" if config.bias != "none" or config.lora_bias else "llama"
    save(name, copy.deepcopy(config), tmp_path / "adapter")
    adapter = opened(name, tmp_path / "adapter", tmp_path / "private")
    named = [f.what for f in adapter.findings if f.rule == "variant-not-scored"]
    assert any(words in what for what in named), named
    assert "block" not in {f.severity for f in adapter.findings}
    # Everything that PEFT changes is listed, and what is said to be scored is exact.
    theirs = merged(name, tmp_path / "adapter") if words not in ("replicated", "aLoRA") else {}
    changed = {change.name: change.scored for change in adapter.changed}
    assert theirs.keys() <= changed.keys() | {"base_model.model.lm_head.weight"}
    for weight, update in updates(adapter).items():
        assert (update - theirs[weight]).norm() <= 1e-5 * theirs[weight].norm()
        assert changed[weight]
    adapter.close()


def test_embedding_lora_is_named_and_undecided(tmp_path: Path) -> None:
    save("llama", lora(target_modules=["q_proj", "embed_tokens"]), tmp_path / "adapter")
    adapter = opened("llama", tmp_path / "adapter", tmp_path / "private")
    rules = {f.rule: f.severity for f in adapter.findings}
    assert rules["embedding-lora"] == rules["embedding-copy"] == "undecided"
    assert "block" not in rules.values()
    unscored = {change.name for change in adapter.changed if not change.scored}
    assert unscored == {"model.embed_tokens.weight"}
    assert len(adapter.modules) == 2


def test_lora_on_a_tied_head_is_named_and_undecided(tmp_path: Path) -> None:
    save("llama-tied", lora(target_modules=["q_proj", "lm_head"]), tmp_path / "adapter")
    adapter = opened("llama-tied", tmp_path / "adapter", tmp_path / "private")
    rules = {f.rule: f.severity for f in adapter.findings}
    assert rules["tied-head"] == "undecided"


T = ["q_proj", "v_proj"]
OTHER_KINDS = [
    peft.AdaLoraConfig(target_modules=T, total_step=10),
    peft.LoHaConfig(target_modules=T, r=4),
    peft.LoKrConfig(target_modules=T, r=4),
    peft.IA3Config(target_modules=T, feedforward_modules=[]),
    peft.OFTConfig(target_modules=["q_proj"], oft_block_size=4),
    peft.BOFTConfig(target_modules=["q_proj"], boft_block_size=4),
    peft.HRAConfig(target_modules=T, r=2),
    peft.VeraConfig(target_modules=T, r=4),
    peft.FourierFTConfig(target_modules=T, n_frequency=10),
    peft.VBLoRAConfig(target_modules=T, r=2, num_vectors=8, vector_length=8, topk=2),
    peft.MissConfig(target_modules=T, r=4),
    peft.RandLoraConfig(target_modules=T, r=4),
    peft.C3AConfig(target_modules=T, block_size=4),
    peft.RoadConfig(target_modules=T, group_size=4),
    peft.ShiraConfig(target_modules=T, r=4),
    peft.LNTuningConfig(target_modules=["norm"]),
    peft.TrainableTokensConfig(token_indices=[1, 2]),
    peft.WaveFTConfig(target_modules=["q_proj"], n_frequency=10),
    peft.PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
    peft.PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
    peft.PromptEncoderConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
]


@pytest.mark.parametrize("config", OTHER_KINDS, ids=lambda config: config.peft_type.value)
def test_other_kinds_are_named_and_undecided(config: Any, tmp_path: Path) -> None:
    save("llama", copy.deepcopy(config), tmp_path / "adapter")
    adapter = opened("llama", tmp_path / "adapter", tmp_path / "private")
    assert adapter.modules == ()
    found = [f for f in adapter.findings if f.rule == "kind-not-scored"]
    assert [f.severity for f in found] == ["undecided"]
    assert adapter.fact.kind in found[0].what
    assert "block" not in {f.severity for f in adapter.findings}
    assert not any(change.scored for change in adapter.changed)
    if not config.is_prompt_learning:
        theirs = merged("llama", tmp_path / "adapter") if config.peft_type != "OSF" else {}
        assert theirs.keys() <= {change.name for change in adapter.changed}
    adapter.close()
