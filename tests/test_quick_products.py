"""bfloat16 products: near float32, and never what decides."""

import datetime
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from safety_gate import engine, gate
from safety_gate.checkpoint import Checkpoint
from safety_gate.engine import ModuleTask, Scored
from safety_gate.policy.file import load_policy
from safety_gate.policy.nearness import close_modules, is_total_close
from safety_gate.policy.schema import Policy
from safety_gate.records import ModuleScore
from safety_gate.sources.folder import FolderSource
from tests.small_checkpoints import write_adapter, write_checkpoint
from tests.test_policy_builders import module, total

NAME = "model.layers.0.self_attn.q_proj"
SIDE = 1024  # large enough for quick products


def write_large_trio(root: Path) -> tuple[Path, Path, Path]:
    """Write a pair with one large module, in bfloat16, and an adapter on it."""
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(SIDE, SIDE, generator=generator)
    left = torch.randn(SIDE, 8, generator=generator)
    step = 0.02 * left @ torch.randn(8, SIDE, generator=generator)
    a = torch.randn(4, SIDE, generator=generator)
    b = 0.01 * torch.randn(SIDE, 4, generator=generator) + 0.003 * left[:, :4]
    prefix = f"base_model.model.{NAME}"
    factors = {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}
    return (
        write_checkpoint(root / "base", {f"{NAME}.weight": base.bfloat16()}),
        write_checkpoint(root / "aligned", {f"{NAME}.weight": (base + step).bfloat16()}),
        write_adapter(root / "adapter", factors, target_modules=["q_proj"]),
    )


def scores(root: Path, monkeypatch: pytest.MonkeyPatch, *, quick: bool) -> ModuleScore:
    """Measure the large module."""
    monkeypatch.setattr(engine, "has_bfloat16", lambda: True)  # slow elsewhere, but the same
    folders = write_large_trio(root)
    base = Checkpoint.open(FolderSource(folders[0]), "base")
    aligned = Checkpoint.open(FolderSource(folders[1]), "aligned")
    from safetensors.torch import load_file

    factors = load_file(folders[2] / "adapter_model.safetensors")
    a, b = (factors[f"base_model.model.{NAME}.lora_{part}.weight"] for part in "AB")
    task = ModuleTask(
        module=NAME,
        weight=f"{NAME}.weight",
        shape=(SIDE, SIDE),
        transposed=False,
        rank=4,
        scaling=2.0,
        factors=lambda: (a, b),
    )
    (outcome,) = engine.score_modules([task], base, aligned, workers=1, quick=quick)
    assert isinstance(outcome, Scored)
    return outcome.score


def test_quick_figures_are_near_exact_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = scores(tmp_path / "quick", monkeypatch, quick=True)
    exact = scores(tmp_path / "exact", monkeypatch, quick=False)
    assert quick.drift != exact.drift  # the quick road was really taken
    assert quick.drift.cosine == pytest.approx(exact.drift.cosine, abs=1e-4)
    assert quick.drift.reversion == pytest.approx(exact.drift.reversion, abs=2e-5)
    assert quick.drift.residual == pytest.approx(exact.drift.residual, rel=2e-3)
    assert (quick.step_norm, quick.weight_norm) == (exact.step_norm, exact.weight_norm)


@pytest.mark.parametrize(("distance", "again"), [(1e-5, True), (0.1, False)])
def test_what_is_near_a_threshold_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distance: float, again: bool
) -> None:
    """The report's figure is the float32 one where a threshold is near, and the quick one else."""
    exact = scores(tmp_path / "exact", monkeypatch, quick=False)
    quick = scores(tmp_path / "quick", monkeypatch, quick=True)
    base, aligned, adapter = write_large_trio(tmp_path)
    policy = tmp_path / "policy.yml"
    policy.write_text(
        "version: 1\nname: near\nrules:\n  - id: near\n    scope: module\n    severity: warn\n"
        "    message: near\n"
        f"    when: [{{metric: cosine, above: {exact.drift.cosine - distance:.9f}}}]\n"
    )
    request = gate.Request(
        adapter=adapter,
        base=base,
        aligned=aligned,
        policy=policy,
        today=datetime.date(2026, 1, 1),
    )
    found = gate.judge(request).modules[0].drift
    assert found == (exact.drift if again else quick.drift)


def policy_with(when: str, scope: str = "module") -> Policy:
    """Return a policy with one rule."""
    lines = ["version: 1", "name: p", "rules:", "  - id: r", f"    scope: {scope}"]
    lines += ["    severity: block", "    message: words", f"    when: [{when}]", ""]
    return load_policy("\n".join(lines).encode(), "test").policy


@pytest.mark.parametrize(
    ("when", "figures", "close"),
    [
        ("{metric: cosine, below: 0.35}", {"cosine": 0.3501}, True),
        ("{metric: cosine, below: 0.35}", {"cosine": 0.3499}, True),
        ("{metric: cosine, below: 0.35}", {"cosine": 0.3504}, False),
        ("{metric: z, below: -3}", {"z": -3.03, "null_sd": 0.01}, True),  # 2e-4 * 3 / 0.01 = 0.06
        ("{metric: z, below: -3}", {"z": -3.1, "null_sd": 0.01}, False),
        # one condition is near, the other clearly fails: the rule cannot fire
        (
            "{metric: cosine, above: 0.35}, {metric: undone, above: 0.5}",
            {"cosine": 0.35, "undone": 0.1},
            False,
        ),
        (
            "{metric: cosine, above: 0.35}, {metric: undone, above: 0.5}",
            {"cosine": 0.35, "undone": 0.9},
            True,
        ),
        ("{metric: cosine, above: 0.9}", {"size": 99.999}, True),  # the limit of scale is 100
    ],
)
def test_nearness_by_hand(when: str, figures: dict[str, float], close: bool) -> None:
    score = module(**figures)
    assert close_modules(policy_with(when), [score]) == (
        frozenset({score.module}) if close else frozenset()
    )
    whole = replace(total(), drift=score.drift)
    assert is_total_close(policy_with(when, "adapter"), whole) is close
