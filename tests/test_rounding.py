"""Quantised pairs through the whole gate: what is only rounding is never taken for alignment."""

import datetime
import json
from pathlib import Path

import bitsandbytes.functional as bnb
import pytest
import torch
from safetensors.torch import load_file, save_file

from safety_gate import gate
from safety_gate.records import Report
from safety_gate.sources.hub_names import HubPlace
from tests.loopback_hub.server import LoopbackHub
from tests.small_checkpoints import lora_tensors, weights, write_adapter, write_checkpoint

pytest_plugins = ("tests.loopback_hub.fixtures",)
Tensors = dict[str, torch.Tensor]
NORM = "model.layers.0.input_layernorm.weight"


def rewrite(folder: Path, tensors: Tensors, **quantisation: object) -> None:
    """Put other tensors into a checkpoint, and say how they are quantised."""
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantisation}))


def eight_bits(tensors: Tensors) -> Tensors:
    found: Tensors = {}
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            found[name] = tensor
            continue
        codes, scales, _ = bnb.int8_vectorwise_quant(tensor.half())
        found |= {name: codes, f"{name.removesuffix('weight')}SCB": scales}
    return found


def four_bits(tensors: Tensors) -> Tensors:
    found: Tensors = {}
    for name, tensor in tensors.items():
        codes, state = bnb.quantize_4bit(tensor, blocksize=64, quant_type="nf4")
        found[name] = codes
        found |= {f"{name}.{k}": v for k, v in state.as_dict(packed=True).items()}
    return found


def trio(root: Path, *, step: float) -> tuple[Path, Path, Path]:
    """Write base, aligned and an adapter; every module moved by ``step`` of its size."""
    base = weights(1)
    aligned = {name: tensor + weights(2)[name] * step for name, tensor in base.items()}
    return (
        write_checkpoint(root / "base", base),
        write_checkpoint(root / "aligned", aligned),
        write_adapter(root / "adapter", lora_tensors()),
    )


def judged(base: Path, aligned: Path, adapter: Path) -> tuple[Report, dict[str, str]]:
    """Return the report, and the severity of every finding by its rule."""
    report = gate.judge(
        gate.Request(adapter=adapter, base=base, aligned=aligned, today=datetime.date(2026, 1, 1))
    )
    return report, {finding.rule: finding.severity for finding in report.findings}


def test_8_bits_are_scored_and_said(tmp_path: Path) -> None:
    base, aligned, adapter = trio(tmp_path, step=0.3)
    plain, _ = judged(base, aligned, adapter)
    rewrite(aligned, eight_bits(load_file(aligned / "model.safetensors")), **{
        "quant_method": "bitsandbytes", "load_in_8bit": True,
    })  # fmt: skip
    report, rules = judged(base, aligned, adapter)
    assert rules["checkpoint-dequantised"] == "warn"
    assert not {"step-within-rounding", "weights-rescaled"} & rules.keys()
    assert "undecided" not in rules.values()
    for module, before in zip(report.modules, plain.modules, strict=True):
        assert module.drift.cosine == pytest.approx(before.drift.cosine, abs=0.02)
        assert module.step_norm == pytest.approx(before.step_norm, rel=0.01)


@pytest.mark.parametrize("both", [False, True], ids=["aligned", "both"])
def test_4_bits_swallow_a_small_step(both: bool, tmp_path: Path) -> None:
    """nf4 rounds by about 0.09 of a weight; a step of 0.03 is mostly that."""
    base, aligned, adapter = trio(tmp_path, step=0.03)
    for folder in (base, aligned) if both else (aligned,):
        tensors = four_bits(load_file(folder / "model.safetensors"))
        rewrite(folder, tensors, quant_method="bitsandbytes", load_in_4bit=True)
    report, rules = judged(base, aligned, adapter)
    assert rules["step-within-rounding"] == "undecided"
    assert type(report.verdict).__name__ != "Passed"


def test_a_large_step_survives_4_bits(tmp_path: Path) -> None:
    base, aligned, adapter = trio(tmp_path, step=0.6)
    tensors = four_bits(load_file(aligned / "model.safetensors"))
    rewrite(aligned, tensors, quant_method="bitsandbytes", load_in_4bit=True)
    _, rules = judged(base, aligned, adapter)
    assert "step-within-rounding" not in rules
    assert "weights-rescaled" not in rules


@pytest.mark.parametrize("with_norm", [True, False], ids=["norm", "channels"])
def test_scaled_channels_are_found(with_norm: bool, tmp_path: Path) -> None:
    """As AWQ does it: input channels times s, and the norm before them divided by s."""
    base, aligned, adapter = trio(tmp_path, step=0.3)
    largest = 1.5 if with_norm else 3.0
    for folder, scaled in ((base, False), (aligned, True)):
        tensors = load_file(folder / "model.safetensors")
        norm = torch.ones(16)
        for name, tensor in tensors.items():
            scale = torch.linspace(1 / largest, largest, tensor.shape[1])
            if scaled:
                tensors[name] = tensor * scale
                norm = 1 / scale if len(scale) == 16 else norm
        if with_norm:
            tensors[NORM] = norm
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    rewrite(aligned, eight_bits(load_file(aligned / "model.safetensors")), **{
        "quant_method": "bitsandbytes", "load_in_8bit": True,
    })  # fmt: skip
    report, rules = judged(base, aligned, adapter)
    assert rules["weights-rescaled"] == "undecided"
    assert type(report.verdict).__name__ != "Passed"


def test_every_adapter_of_a_pass_hears_of_it(tmp_path: Path) -> None:
    """Only the norm was scaled much: no module of any adapter shows it."""
    base, aligned, adapter = trio(tmp_path, step=0.3)
    second = write_adapter(tmp_path / "second", lora_tensors(seed=9))
    for folder, norm in ((base, 1.0), (aligned, 1.2)):
        tensors = load_file(folder / "model.safetensors") | {NORM: torch.full((16,), norm)}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    rewrite(aligned, eight_bits(load_file(aligned / "model.safetensors")), **{
        "quant_method": "bitsandbytes", "load_in_8bit": True,
    })  # fmt: skip
    request = gate.Request(
        adapter=adapter, base=base, aligned=aligned, today=datetime.date(2026, 1, 1)
    )
    reports = gate.judge_all(request, [adapter, second])
    assert len(reports) == 2
    for report in reports:
        assert "weights-rescaled" in {finding.rule for finding in report.findings}


def test_a_format_that_is_not_read_is_undecided(tmp_path: Path) -> None:
    base, aligned, adapter = trio(tmp_path, step=0.3)
    rewrite(aligned, load_file(aligned / "model.safetensors"), quant_method="aqlm")
    report, rules = judged(base, aligned, adapter)
    assert rules["checkpoint-quantised"] == "undecided"
    assert type(report.verdict).__name__ == "Undecided"


def test_a_quantised_repository_is_judged_like_its_folder(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of quantised weights, and norms, are ranges of files that nobody planned one by one."""
    base, aligned, adapter = trio(tmp_path, step=0.3)
    norm = {NORM: torch.ones(16)}
    for folder in (base, aligned):
        plain = load_file(folder / "model.safetensors") | norm
        save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
    rewrite(aligned, eight_bits(load_file(aligned / "model.safetensors")), **{
        "quant_method": "bitsandbytes", "load_in_8bit": True,
    })  # fmt: skip
    expected, _ = judged(base, aligned, adapter)
    for folder in (base, aligned):
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        hub.add_repo(f"acme/{folder.name}", files)
    places = [HubPlace(repo_id=f"acme/{name}", revision="main") for name in ("base", "aligned")]
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    request = gate.Request(
        adapter=adapter, base=places[0], aligned=places[1], today=datetime.date(2026, 1, 1)
    )
    report = gate.judge(request)
    assert report.modules == expected.modules
    rules = {finding.rule for finding in report.findings}
    assert "checkpoint-dequantised" in rules
    assert not {"could-not-judge", "source-unreadable"} & rules
