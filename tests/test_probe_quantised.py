"""A quantised model is asked by what its codes stand for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from safety_gate.probe.stream import Stream
from safety_gate.probe.variants import ALIGNED
from tests.probe_models import opened, plain_scores, random_model, some_rows

Tensors = dict[str, torch.Tensor]


def in_4_bits(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    codes, state = bnb.quantize_4bit(weight, blocksize=32, quant_type="nf4")
    parts = {f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}
    return {name: codes, **parts}, bnb.dequantize_4bit(codes, state)


def in_float8(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    scale = weight.abs().max() / 448
    codes = (weight / scale).to(torch.float8_e4m3fn)
    return {name: codes, f"{name}_scale_inv": scale}, codes.float() * scale


FORMATS: dict[str, tuple[Callable[[str, torch.Tensor], tuple[Tensors, torch.Tensor]], Any]] = {
    "nf4": (in_4_bits, {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "fp8": (in_float8, {"quant_method": "fp8"}),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_quantised_model_is_asked(kind: str, tmp_path: Path) -> None:
    """The second road is transformers' plain forward of the dequantised weights."""
    quantise, config = FORMATS[kind]
    random_model("llama", tmp_path / "plain")
    stored: Tensors = {}
    values: Tensors = {}
    for name, weight in load_file(tmp_path / "plain" / "model.safetensors").items():
        if "_proj" in name and weight.shape[1] % 32 == 0:  # no block ends inside a row
            parts, values[name] = quantise(name, weight)
            stored |= parts
        else:
            stored[name] = values[name] = weight
    save_file(values, tmp_path / "plain" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "it").mkdir()
    save_file(stored, tmp_path / "it" / "model.safetensors", metadata={"format": "pt"})
    told = json.loads((tmp_path / "plain" / "config.json").read_text())
    (tmp_path / "it" / "config.json").write_text(json.dumps(told | {"quantization_config": config}))

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype=torch.float32).eval()
    stream = Stream(opened(tmp_path / "it"), [ALIGNED], dtype=torch.float32)
    rows = some_rows()
    for row, scores in zip(rows, stream.score(rows), strict=True):
        torch.testing.assert_close(scores.logs, plain_scores(model, row), rtol=0, atol=1e-5)
