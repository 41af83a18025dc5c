"""The engine on real files: against dense float64, over block edges, threads and bad weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from safety_gate import engine, steps
from safety_gate.checkpoint import Checkpoint
from safety_gate.engine import ModuleTask, Outcome, Scored, Unchanged, Unscored
from safety_gate.sources.folder import FolderSource
from tests.small_checkpoints import SHAPES, lora_tensors, weights, write_checkpoint

Factors = dict[str, torch.Tensor]


def tasks_for(factors: Factors, *, transposed: bool = False) -> list[ModuleTask]:
    """Return one task per module, with scaling 2."""

    def pair(name: str) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
        prefix = f"base_model.model.{name}"
        return lambda: (factors[f"{prefix}.lora_A.weight"], factors[f"{prefix}.lora_B.weight"])

    return [
        ModuleTask(
            module=name,
            weight=f"{name}.weight",
            shape=shape,
            transposed=transposed,
            rank=4,
            scaling=2.0,
            factors=pair(name),
        )
        for name, shape in SHAPES.items()
    ]


def run(
    root: Path, base: Factors, aligned: Factors, tasks: list[ModuleTask], workers: int = 2
) -> tuple[Outcome, ...]:
    """Write both checkpoints and measure."""
    before = Checkpoint.open(FolderSource(write_checkpoint(root / "base", base)), "base")
    after = Checkpoint.open(FolderSource(write_checkpoint(root / "aligned", aligned)), "aligned")
    return engine.score_modules(tasks, before, after, workers=workers)


def example() -> tuple[Factors, Factors]:
    """Return base and aligned."""
    base, step = weights(1), weights(2, scale=0.1)
    return base, {name: tensor + step[name] for name, tensor in base.items()}


def dense_cosine(base: Factors, aligned: Factors, factors: Factors, name: str) -> float:
    """Return the published formula in float64, with C and dW formed."""
    v = aligned[f"{name}.weight"].double() - base[f"{name}.weight"].double()
    prefix = f"base_model.model.{name}"
    b, a = factors[f"{prefix}.lora_B.weight"], factors[f"{prefix}.lora_A.weight"]
    delta = 2.0 * b.double() @ a.double()
    image = v @ v.T / v.norm() @ delta
    return float((image * delta).sum() / (image.norm() * delta.norm()))


@pytest.mark.parametrize("block", [1, 17, 64, 1 << 20], ids=["row", "odd", "few", "all"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "read-twice"])
def test_figures_do_not_depend_on_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, kept: bool
) -> None:
    monkeypatch.setattr(steps, "BLOCK_ELEMENTS", block)
    monkeypatch.setattr(steps, "CACHE_ELEMENTS", 1 << 26 if kept else 0)
    base, aligned = example()
    factors = lora_tensors()
    for outcome in run(tmp_path, base, aligned, tasks_for(factors)):
        assert isinstance(outcome, Scored)
        expected = dense_cosine(base, aligned, factors, outcome.score.module)
        assert outcome.score.drift.cosine == pytest.approx(expected, abs=1e-5)


def test_transposed_weights_give_the_same_figures(tmp_path: Path) -> None:
    base, aligned = example()
    tasks = tasks_for(lora_tensors())
    plain = run(tmp_path / "plain", base, aligned, tasks)
    turned = run(
        tmp_path / "turned",
        {name: tensor.T.contiguous() for name, tensor in base.items()},
        {name: tensor.T.contiguous() for name, tensor in aligned.items()},
        tasks_for(lora_tensors(), transposed=True),
    )
    for one, other in zip(plain, turned, strict=True):
        assert isinstance(one, Scored)
        assert isinstance(other, Scored)
        values = one.score.drift.values()
        assert other.score.drift.values() == pytest.approx(values, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_the_number_of_workers_changes_no_bit(tmp_path: Path, workers: int) -> None:
    base, aligned = example()
    tasks = tasks_for(lora_tensors())
    one = run(tmp_path / "one", base, aligned, tasks, workers=1)
    many = run(tmp_path / "many", base, aligned, tasks, workers=workers)
    assert [o.score for o in one if isinstance(o, Scored)] == [
        o.score for o in many if isinstance(o, Scored)
    ]
    assert len(many) == len(SHAPES)


Change = Callable[[Factors, Factors, Factors], None]
FIRST = next(iter(SHAPES))
WEIGHT, A = f"{FIRST}.weight", f"base_model.model.{FIRST}.lora_A.weight"


def _nan_in_a(base: Factors, aligned: Factors, factors: Factors) -> None:
    factors[A][1, 3] = float("nan")


def _inf_in_a(base: Factors, aligned: Factors, factors: Factors) -> None:
    factors[A][0, 0] = float("inf")


def _nan_in_base(base: Factors, aligned: Factors, factors: Factors) -> None:
    base[WEIGHT][2, 2] = float("nan")


def _inf_in_aligned(base: Factors, aligned: Factors, factors: Factors) -> None:
    aligned[WEIGHT][0, 0] = float("-inf")


def _equal(base: Factors, aligned: Factors, factors: Factors) -> None:
    base[WEIGHT] = aligned[WEIGHT].clone()


def _missing(base: Factors, aligned: Factors, factors: Factors) -> None:
    del base[WEIGHT]


def _other_shape(base: Factors, aligned: Factors, factors: Factors) -> None:
    base[WEIGHT] = base[WEIGHT][:-1].clone()


def _rank_one_step_of_one_row(base: Factors, aligned: Factors, factors: Factors) -> None:
    aligned[WEIGHT] = base[WEIGHT].clone()
    aligned[WEIGHT][3] += 1.0  # every update's image lies in this row: but its share varies


@pytest.mark.parametrize(
    ("change", "rule", "severity"),
    [
        (_nan_in_a, "update-not-finite", "block"),
        (_inf_in_a, "update-not-finite", "block"),
        (_nan_in_base, "reference-not-finite", "undecided"),
        (_inf_in_aligned, "reference-not-finite", "undecided"),
        (_equal, "step-zero", "undecided"),
        (_missing, "module-missing", "undecided"),
        (_other_shape, "shapes-disagree", "undecided"),
    ],
)
def test_what_cannot_be_measured_has_its_own_finding(
    tmp_path: Path, change: Change, rule: str, severity: str
) -> None:
    base, aligned = example()
    factors = lora_tensors()
    change(base, aligned, factors)
    outcomes = run(tmp_path, base, aligned, tasks_for(factors))
    bad = outcomes[0]
    assert isinstance(bad, Unscored)
    assert (bad.finding.rule, bad.finding.severity) == (rule, severity)
    assert bad.finding.place.name == FIRST
    assert all(isinstance(outcome, Scored) for outcome in outcomes[1:])


def test_a_zero_update_is_listed_not_scored(tmp_path: Path) -> None:
    base, aligned = example()
    factors = lora_tensors()
    factors[f"base_model.model.{FIRST}.lora_B.weight"].zero_()
    outcomes = run(tmp_path, base, aligned, tasks_for(factors))
    assert outcomes[0] == Unchanged(FIRST)
    assert all(isinstance(outcome, Scored) for outcome in outcomes[1:])


def test_a_step_of_one_direction_is_measured(tmp_path: Path) -> None:
    base, aligned = example()
    factors = lora_tensors()
    _rank_one_step_of_one_row(base, aligned, factors)
    outcome = run(tmp_path, base, aligned, tasks_for(factors))[0]
    assert isinstance(outcome, Scored)
    expected = dense_cosine(base, aligned, factors, FIRST)
    assert outcome.score.drift.cosine == pytest.approx(expected, abs=1e-5)


def test_a_module_with_one_output_has_no_null(tmp_path: Path) -> None:
    base, aligned = example()
    base["head.weight"], aligned["head.weight"] = torch.zeros(1, 16), torch.ones(1, 16)
    task = ModuleTask(
        module="head",
        weight="head.weight",
        shape=(1, 16),
        transposed=False,
        rank=2,
        scaling=1.0,
        factors=lambda: (torch.randn(2, 16), torch.randn(1, 2)),
    )
    outcome = run(tmp_path, base, aligned, [task])[0]
    assert isinstance(outcome, Unscored)
    assert outcome.finding.rule == "null-without-spread"
