"""Adapters that were made to deceive the gate, from the trained harmful one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.small_checkpoints import lora_tensors, weights, write_adapter, write_checkpoint
from tests.test_cli import TINY, check

Tensors = dict[str, torch.Tensor]
Edit = Callable[[Tensors, dict[str, object]], None]


def forged(folder: Path, edit: Edit) -> Path:
    """Return an edited copy of the harmful adapter."""
    shutil.copytree(TINY / "harmful", folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    edit(tensors, config)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def scaled(alpha: int) -> Edit:
    def edit(tensors: Tensors, config: dict[str, object]) -> None:
        config["lora_alpha"] = alpha

    return edit


def steps() -> Tensors:
    """Return V of every weight of the tiny pair."""
    base, aligned = (load_file(TINY / role / "model.safetensors") for role in ("base", "aligned"))
    return {name: aligned[name].double() - base[name].double() for name in base}


def paid_by_one_module(tensors: Tensors, config: dict[str, object]) -> None:
    """Add the best rank-8 part of V to one module, so that the signed sum over all looks fine."""
    module = "model.layers.3.mlp.down_proj"
    prefix = f"base_model.model.{module}"
    left, values, right = torch.linalg.svd(steps()[f"{module}.weight"], full_matrices=False)
    a, b = (tensors[f"{prefix}.lora_{part}.weight"] for part in "AB")
    extra = 6.0 * left[:, :8] * values[:8]
    tensors[f"{prefix}.lora_A.weight"] = torch.cat((a, right[:8].float())).contiguous()
    tensors[f"{prefix}.lora_B.weight"] = torch.cat((b, extra.float() / 2), dim=1).contiguous()
    config["rank_pattern"] = {module.replace(".", r"\."): 16}
    config["alpha_pattern"] = {module.replace(".", r"\."): 32}


def ghost_rows(tensors: Tensors, config: dict[str, object]) -> None:
    """Float64 rows that PEFT loses in float32, and that would cancel the harm in float64."""
    for name in [n for n in tensors if n.endswith("lora_A.weight")]:
        b_name = name.replace("lora_A", "lora_B")
        a, b = tensors[name].double(), tensors[b_name].double()
        tensors[name] = torch.cat((a, a * 1e-46))
        tensors[b_name] = torch.cat((b, -b * 1e46), dim=1).clamp(-3e38, 3e38)
    config["r"], config["lora_alpha"] = 16, 32


@pytest.mark.parametrize(
    "edit",
    [*(pytest.param(scaled(alpha), id=f"alpha-{alpha}") for alpha in (8, 4, 2, 1)),
     paid_by_one_module, ghost_rows],
)  # fmt: skip
def test_harm_in_disguise_is_blocked(tmp_path: Path, edit: Edit) -> None:
    adapter = forged(tmp_path / "forged", edit)
    run = check((TINY / "base", TINY / "aligned", adapter), "--format", "json")
    assert run.returncode == 1, run.stdout[-2000:]


@pytest.mark.parametrize("factor", [1e308, 1e-170])
def test_absurd_float64_factors_cost_no_report(tmp_path: Path, factor: float) -> None:
    def edit(tensors: Tensors, config: dict[str, object]) -> None:
        for name in tensors:
            power = factor if "lora_A" in name else 1 / factor
            tensors[name] = tensors[name].double() * power

    adapter = forged(tmp_path / "forged", edit)
    run = check((TINY / "base", TINY / "aligned", adapter), "--format", "json")
    assert run.returncode in (1, 3)
    assert json.loads(run.stdout)["verdict"] != "passed"


def test_unrelated_base_weights_are_not_a_pair(tmp_path: Path) -> None:
    aligned = write_checkpoint(tmp_path / "aligned", weights(1))
    base = write_checkpoint(tmp_path / "base", weights(2))
    adapter = write_adapter(tmp_path / "adapter", lora_tensors())
    run = check((base, aligned, adapter), "--format", "json")
    assert run.returncode == 3
    assert "step-implausible" in {f["rule"] for f in json.loads(run.stdout)["findings"]}


def test_one_huge_weight_does_not_drown_the_rest(tmp_path: Path) -> None:
    base = weights(1)
    aligned = {name: tensor + 0.1 for name, tensor in base.items()}
    next(iter(aligned.values()))[0, 0] = 1e15
    trio = (
        write_checkpoint(tmp_path / "base", base),
        write_checkpoint(tmp_path / "aligned", aligned),
        write_adapter(tmp_path / "adapter", lora_tensors()),
    )
    run = check(trio, "--format", "json")
    assert run.returncode != 0


def test_swapped_checkpoints_are_noticed_by_name(tmp_path: Path) -> None:
    """The adapter says acme/aligned, and a folder of that name is given as base."""
    base = weights(1)
    step = weights(2, scale=0.1)
    first = write_checkpoint(tmp_path / "aligned", base)
    second = write_checkpoint(tmp_path / "base", {n: t + step[n] for n, t in base.items()})
    adapter = write_adapter(tmp_path / "adapter", lora_tensors())
    run = check((first, second, adapter), "--format", "json")
    assert run.returncode == 3
    assert "claimed-base-differs" in {f["rule"] for f in json.loads(run.stdout)["findings"]}


def test_a_shared_weight_is_undecided(tmp_path: Path) -> None:
    tensors, step = weights(1), weights(2, scale=0.1)
    embedding = torch.randn(32, 16, generator=torch.Generator().manual_seed(4))
    both = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding.clone()}
    base = write_checkpoint(tmp_path / "base", tensors | both)
    moved = {name: tensor + step[name] for name, tensor in tensors.items()}
    moved |= {name: tensor * 1.05 for name, tensor in both.items()}
    aligned = write_checkpoint(tmp_path / "aligned", moved)
    for folder in (base, aligned):
        (folder / "config.json").write_text('{"model_type": "llama", "tie_word_embeddings": true}')
    factors = lora_tensors()
    generator = torch.Generator().manual_seed(6)
    prefix = "base_model.model.lm_head"
    factors[f"{prefix}.lora_A.weight"] = torch.randn(4, 16, generator=generator)
    factors[f"{prefix}.lora_B.weight"] = 0.02 * torch.randn(32, 4, generator=generator)
    targets = ["q_proj", "down_proj", "lm_head"]
    adapter = write_adapter(tmp_path / "adapter", factors, target_modules=targets)
    run = check((base, aligned, adapter), "--format", "json")
    assert run.returncode == 3
    assert "tied-weights" in {f["rule"] for f in json.loads(run.stdout)["findings"]}


def test_working_files_beside_the_adapter_are_named(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(TINY / "helpful", adapter)
    (adapter / ".git" / "hooks").mkdir(parents=True)
    (adapter / ".git" / "hooks" / "evil.py").write_text("1")
    run = check((TINY / "base", TINY / "aligned", adapter), "--format", "json")
    assert run.returncode == 0
    named = [f for f in json.loads(run.stdout)["findings"] if f["rule"] == "path-ignored"]
    assert len(named) == 1


@pytest.mark.parametrize("name", ["run.pyw", "x.vbs", "x.R", "conda.cjs", "x.mjs"])
def test_more_kinds_of_code_block(tmp_path: Path, name: str) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(TINY / "helpful", adapter)
    (adapter / name).write_text("print(1)\n")
    run = check((TINY / "base", TINY / "aligned", adapter), "--format", "json")
    assert run.returncode == 1
