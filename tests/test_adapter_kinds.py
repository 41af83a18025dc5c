"""Every kind and variant is scored exactly as PEFT merges it, or refused by its name."""

import copy
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.delta_oracle import checkpoint_of, ours, pefts
from tests.peft_adapters import lora, merged, model_of, opened, save

KASA = peft.tuners.lora.config.KasaConfig
VELORA = peft.tuners.lora.config.VeloraConfig
MONTE = peft.tuners.lora.config.MontecloraConfig
T = ["q_proj", "v_proj", "up_proj"]


def quiet(kind: Any, **values: Any) -> Any:
    """Build a config that PEFT warns about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind(target_modules=T, **values)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep the decompositions of tiny matrices from waiting for each other's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    names = ("llama", "llama-tied", "qwen2", "gpt2")
    return {name: checkpoint_of(model_of(name), root / name) for name in names}


SCORED = [
    ("llama", "dora", lora(use_dora=True)),
    ("gpt2", "dora-conv1d", lora(target_modules=["c_attn"], use_dora=True, fan_in_fan_out=True)),
    ("llama", "dora-embedding", lora(target_modules=["q_proj", "embed_tokens"], use_dora=True)),
    ("llama", "pissa", lora(init_lora_weights="pissa", alpha_pattern={"q_proj": 3})),
    ("gpt2", "pissa-conv1d", lora(target_modules=["c_attn"], init_lora_weights="pissa")),
    ("llama", "olora", lora(init_lora_weights="olora", rank_pattern={"v_proj": 2})),
    ("llama", "orthogonal", lora(init_lora_weights="orthogonal")),
    ("llama", "mica", lora(init_lora_weights="mica")),
    ("llama", "kasa", lora(kasa_config=KASA())),
    ("llama", "velora", lora(velora_config=VELORA(4))),
    ("llama", "monteclora", lora(monteclora_config=MONTE())),
    ("llama", "qalora", lora(use_qalora=True, qalora_group_size=4)),
    ("qwen2", "lora-bias", lora(lora_bias=True, target_modules=["q_proj"])),
    ("qwen2", "bias-only", lora(bias="lora_only")),
    ("qwen2", "bias-all", lora(bias="all")),
    (
        "gpt2",
        "bias-all-saved",
        lora(bias="all", target_modules=["c_attn"], modules_to_save=["ln_1"]),
    ),
    ("gpt2", "bias-all-conv1d", lora(bias="all", target_modules=["c_attn"])),
    ("llama", "saved-head", lora(modules_to_save=["lm_head"])),
    ("llama", "saved-norms", lora(modules_to_save=["embed_tokens", "norm"])),
    ("llama", "tokens", lora(trainable_token_indices=[1, 5])),
    ("llama", "tokens-by-name", lora(trainable_token_indices={"embed_tokens": [3]})),
    ("llama", "embedding", lora(target_modules=["q_proj", "embed_tokens"])),
    ("llama", "head", lora(target_modules=["q_proj", "lm_head"])),
    ("llama", "adalora", peft.AdaLoraConfig(target_modules=T, total_step=10)),
    ("qwen2", "beft", peft.BeftConfig(target_modules=["v_proj"])),
    ("llama", "boft", peft.BOFTConfig(target_modules=T, boft_block_size=4)),
    ("llama", "c3a", peft.C3AConfig(target_modules=T, block_size=8, block_size_pattern={"q": 4})),
    ("llama", "deft", peft.DeftConfig(target_modules=T, r=4)),
    ("llama", "delora", peft.DeloraConfig(target_modules=T, r=4, rank_pattern={"q_proj": 2})),
    ("llama", "fourierft", peft.FourierFTConfig(target_modules=T, n_frequency=10)),
    ("llama", "glora", peft.GloraConfig(target_modules=T, r=4)),
    ("llama", "gralora", peft.GraloraConfig(target_modules=T, r=4, hybrid_r=2, gralora_k=2)),
    ("llama", "hira", peft.HiraConfig(target_modules=T, r=4)),
    ("gpt2", "hira-conv1d", peft.HiraConfig(target_modules=["c_attn"], r=4)),
    ("llama", "hra", peft.HRAConfig(target_modules=T, r=2, apply_GS=True)),
    ("qwen2", "ia3", peft.IA3Config(target_modules=T, feedforward_modules=["up_proj"])),
    ("llama", "ln-tuning", peft.LNTuningConfig(target_modules=["norm", "input_layernorm"])),
    ("llama", "loha", peft.LoHaConfig(target_modules=T, r=4, alpha_pattern={"q_proj": 3})),
    ("llama", "lokr", peft.LoKrConfig(target_modules=T, r=2, decompose_both=True)),
    ("llama", "miss", peft.MissConfig(target_modules=T, r=4)),
    ("llama", "miss-bat", peft.MissConfig(target_modules=["q_proj"], r=4, init_weights="bat")),
    ("llama", "oft", peft.OFTConfig(target_modules=T, oft_block_size=4, coft=True)),
    ("llama", "osf", peft.OSFConfig(target_modules=T)),
    ("llama", "peanut", peft.PeanutConfig(target_modules=T, r=4)),
    ("llama", "psoft", peft.PsoftConfig(target_modules=T, r=4)),
    ("llama", "pvera", peft.PveraConfig(target_modules=T, r=4)),
    ("llama", "randlora", peft.RandLoraConfig(target_modules=T, r=4)),
    ("qwen2", "road", peft.RoadConfig(target_modules=T, group_size=4, variant="road_4")),
    ("llama", "shira", peft.ShiraConfig(target_modules=T, r=4)),
    ("llama", "supertuning", peft.SupertuningConfig(target_modules=T, sparsity=0.9, r=4)),
    ("llama-tied", "tied-tokens", peft.TrainableTokensConfig(token_indices=[1, 2])),
    ("gpt2", "tied-tokens-gpt2", peft.TrainableTokensConfig(token_indices=[1, 2])),
    ("llama", "tinylora", peft.TinyLoraConfig(target_modules=T, r=2, u=8, weight_tying=0.5)),
    ("qwen2", "frod", peft.FrodConfig(target_modules=["q_proj", "o_proj"], progressbar=False)),
    ("gpt2", "frod-conv1d", peft.FrodConfig(target_modules=["c_attn"], progressbar=False)),
    ("llama", "unilora-by-order", peft.UniLoraConfig(target_modules=T, r=2)),
    ("llama", "trainable-tokens", peft.TrainableTokensConfig(token_indices=[1, 2])),
    ("llama", "unilora", peft.UniLoraConfig(target_modules=T, r=2, save_indices=True)),
    (
        "llama",
        "vblora",
        peft.VBLoRAConfig(target_modules=T, r=2, num_vectors=8, vector_length=8, topk=2),
    ),
    ("llama", "vera", peft.VeraConfig(target_modules=T, r=4)),
    ("llama", "vera-by-seed", quiet(peft.VeraConfig, r=4, save_projection=False)),
    ("llama", "waveft", peft.WaveFTConfig(target_modules=["q_proj"], n_frequency=10)),
]


@pytest.mark.parametrize(
    ("name", "config"), [pytest.param(name, config, id=id_) for name, id_, config in SCORED]
)
def test_the_update_is_pefts_merge(
    name: str, config: Any, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    save(name, copy.deepcopy(config), tmp_path / "adapter")
    answer = ours(checkpoints[name], tmp_path / "adapter", tmp_path / "private")
    theirs = pefts(model_of(name), tmp_path / "adapter")
    assert answer.refused == (), answer.whats
    assert answer.changes.keys() == theirs.keys()
    for parameter, update in theirs.items():
        assert (answer.changes[parameter] - update).norm() <= 1e-5 * update.norm(), parameter
    adapter = opened(name, tmp_path / "adapter", tmp_path / "again")
    assert all(change.scored for change in adapter.changed)
    assert all(entry.accounted for entry in adapter.ledger), adapter.ledger
    assert theirs.keys() <= {change.name for change in adapter.changed}
    adapter.close()


REFUSED = [
    ("pissa-by-chance", lora(init_lora_weights="pissa_niter_2"), "variant-not-scored"),
    ("replication", lora(layer_replication=[(0, 2), (1, 2)]), "variant-not-scored"),
    (
        "prompt",
        peft.PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
        "kind-without-update",
    ),
    (
        "prefix",
        peft.PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
        "kind-without-update",
    ),
    (
        "p-tuning",
        peft.PromptEncoderConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
        "kind-without-update",
    ),
    ("lily", peft.LilyConfig(target_modules=T, r=4), "kind-routed"),
    ("poly", peft.PolyConfig(target_modules=T, r=4), "kind-routed"),
]


@pytest.mark.parametrize(
    ("config", "rule"), [pytest.param(config, rule, id=id_) for id_, config, rule in REFUSED]
)
def test_what_has_no_known_update_is_refused_by_name(
    config: Any, rule: str, tmp_path: Path
) -> None:
    save("llama", copy.deepcopy(config), tmp_path / "adapter")
    adapter = opened("llama", tmp_path / "adapter", tmp_path / "private")
    found = {f.rule: f.severity for f in adapter.findings}
    assert found[rule] == "undecided"
    assert "block" not in found.values()
    adapter.close()


def test_alora_is_scored_and_its_routing_named(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    config = lora(alora_invocation_tokens=[1], task_type="CAUSAL_LM", target_modules=["q_proj"])
    save("llama", config, tmp_path / "adapter")
    answer = ours(checkpoints["llama"], tmp_path / "adapter", tmp_path / "private")
    assert answer.refused == ()
    assert len(answer.changes) == 2
    adapter = opened("llama", tmp_path / "adapter", tmp_path / "again")
    assert {f.rule: f.severity for f in adapter.findings}["variant-routed"] == "warn"
    adapter.close()


@pytest.mark.parametrize(
    "config",
    [
        peft.TinyLoraConfig(target_modules=T, r=2, u=8),
        peft.FrodConfig(target_modules=["q_proj", "o_proj"], progressbar=False),
        peft.UniLoraConfig(target_modules=T, r=2),
    ],
    ids=["tinylora", "frod", "unilora"],
)
def test_what_depends_on_the_models_code_needs_it(config: Any, tmp_path: Path) -> None:
    save("llama", config, tmp_path / "adapter")
    adapter = opened("llama", tmp_path / "adapter", tmp_path / "private", asked=False)
    found = {f.rule: f.severity for f in adapter.findings}
    assert found["order-unknown"] == "undecided"
    assert adapter.changed
    assert not any(change.scored for change in adapter.changed)
    adapter.close()


@pytest.mark.parametrize("use_dora", [False, True])
def test_lora_on_a_tied_head_is_measured_against_the_embedding(
    use_dora: bool, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    config = lora(target_modules=["q_proj", "lm_head"], use_dora=use_dora)
    save("llama-tied", config, tmp_path / "adapter")
    answer = ours(checkpoints["llama-tied"], tmp_path / "adapter", tmp_path / "private")
    assert answer.refused == (), answer.whats
    assert "lm_head.weight" in answer.changes
    adapter = opened("llama-tied", tmp_path / "adapter", tmp_path / "again")
    assert {f.rule: f.severity for f in adapter.findings}["tied-head"] == "warn"


def test_adalora_after_training_keeps_some_ranks(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    save("llama", peft.AdaLoraConfig(target_modules=["q_proj"], init_r=4, total_step=9), folder)
    path = folder / "adapter_config.json"
    kept = {
        f"model.layers.{layer}.self_attn.q_proj.lora_E": [True, False, True, bool(layer)]
        for layer in (0, 1)
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rank_pattern": kept}))
    answer = ours(checkpoints["llama"], folder, tmp_path / "private")
    try:
        theirs = merged("llama", folder)
    except RuntimeError:  # the file still holds all ranks: then PEFT cannot load it
        assert answer.refused
        return
    assert answer.refused == (), answer.whats
    for parameter, update in theirs.items():
        assert (answer.changes[parameter] - update).norm() <= 1e-5 * update.norm()


def test_tied_copies_of_tokens_must_be_equal(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """PEFT loads one over the other, so which one counts is not known."""
    folder = tmp_path / "adapter"
    save("llama-tied", peft.TrainableTokensConfig(token_indices=[1, 2]), folder)
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    copy_of = next(name for name in tensors if "lm_head" in name)
    tensors[copy_of] = tensors[copy_of] + 1
    save_file(tensors, path, metadata={"format": "pt"})
    answer = ours(checkpoints["llama-tied"], folder, tmp_path / "private")
    assert answer.refused == ("updates-collide",)


@pytest.mark.parametrize("copy_of", ["original_module", "modules_to_save"])
def test_copies_of_a_saved_bias_must_be_equal(
    copy_of: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """PEFT writes three of each; a file whose copies differ was not written by it."""
    folder = tmp_path / "adapter"
    save("gpt2", lora(bias="all", target_modules=["c_attn"], modules_to_save=["ln_1"]), folder)
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors[f"base_model.model.transformer.h.0.ln_1.{copy_of}.bias"] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    answer = ours(checkpoints["gpt2"], folder, tmp_path / "private")
    assert answer.refused == ("updates-collide",)
