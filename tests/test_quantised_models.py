"""Real quantised checkpoints, as transformers saves them, with real QLoRA adapters on them."""

import datetime
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from safety_gate import gate
from safety_gate.checkpoint import Checkpoint
from safety_gate.sources.folder import FolderSource

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
KINDS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4-double": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "fp4",
        "bnb_4bit_use_double_quant": True,
    },
    "int8": {"load_in_8bit": True},
}


def quantised(source: Path, folder: Path, **options: Any) -> Any:
    """Let transformers quantise a checkpoint and save it; return the model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(
            source,
            quantization_config=BitsAndBytesConfig(**options),
            dtype=torch.float32,
            device_map="cpu",
        )
        model.save_pretrained(folder)
    return model


def dequantised(module: Any) -> torch.Tensor:
    """Return the weight of a quantised layer by bitsandbytes' own code."""
    if hasattr(module.weight, "quant_state"):
        found = bnb.dequantize_4bit(module.weight.data, module.weight.quant_state)
    else:
        found = bnb.int8_vectorwise_dequant(module.weight.data, module.weight.SCB)
    assert isinstance(found, torch.Tensor)
    return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write base, and aligned with a step far above the rounding of 4 bits."""
    root = tmp_path_factory.mktemp("pair")
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    model.save_pretrained(root / "base")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.add_(0.8 * parameter.std() * torch.randn(parameter.shape))
    model.save_pretrained(root / "aligned")
    return root / "base", root / "aligned"


@pytest.mark.parametrize("kind", KINDS)
def test_what_transformers_saves_is_read(
    kind: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    base, aligned = pair
    model = quantised(aligned, tmp_path / "it", **KINDS[kind])
    with closing(FolderSource(tmp_path / "it")) as source, closing(FolderSource(base)) as plain:
        checkpoint = Checkpoint.open(source, "aligned")
        assert checkpoint.shapes == Checkpoint.open(plain, "base").shapes
        assert checkpoint.quantised is not None
        assert not checkpoint.quantised.refused
        read = 0
        for name, module in model.named_modules():
            if not name.endswith("_proj"):
                continue
            rows = checkpoint.shape(f"{name}.weight")[0]
            scratch = torch.empty(1, dtype=torch.uint8)
            ours = checkpoint.rows(f"{name}.weight", 0, rows, scratch)
            assert torch.allclose(ours, dequantised(module), rtol=1e-6, atol=1e-8)
            read += 1
        assert read == 14


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_trained_on_it_is_scored(
    kind: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    base, aligned = pair
    model = quantised(aligned, tmp_path / "it", **KINDS[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj"]))
        generator = torch.Generator().manual_seed(6)
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.data.copy_(0.01 * torch.randn(parameter.shape, generator=generator))
        wrapped.save_pretrained(tmp_path / "adapter")
    report = gate.judge(
        gate.Request(
            adapter=tmp_path / "adapter",
            base=base,
            aligned=tmp_path / "it",
            today=datetime.date(2026, 1, 1),
        )
    )
    rules = {finding.rule: finding.severity for finding in report.findings}
    assert rules["checkpoint-dequantised"] == "warn"
    assert "undecided" not in rules.values()
    assert [score.module.rsplit(".", 1)[-1] for score in report.modules] == ["q_proj"] * 2
