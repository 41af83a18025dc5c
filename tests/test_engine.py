"""The engine on real files: against dense float64, over block edges, threads and bad weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from safety_gate import engine, steps
from safety_gate.checkpoint import Checkpoint
from safety_gate.engine import ModuleTask, Outcome, Scored, Unchanged, Unscored
from safety_gate.errors import BadScore
from safety_gate.outcomes import Measured
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


def adapters(count: int) -> list[Factors]:
    """Return the factors of several adapters of one base."""
    return [
        {name: tensor * (1 + k) for name, tensor in lora_tensors(seed=20 + k).items()}
        for k in range(count)
    ]


def every_drift(outcomes: tuple[Outcome, ...]) -> list[dict[str, float]]:
    """Return the metrics of outcomes that must all be scored."""
    values = []
    for outcome in outcomes:
        assert isinstance(outcome, Scored)
        values.append(outcome.score.drift.values())
    return values


@pytest.mark.parametrize("columns", [512, 9], ids=["one-batch", "two-in-a-batch"])
def test_several_adapters_have_the_figures_of_single_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setattr(engine, "BATCH_COLUMNS", columns)
    base, aligned = example()
    tasks = [tasks_for(factors) for factors in adapters(5)]
    together = run(tmp_path / "all", base, aligned, [task for own in tasks for task in own])
    first = 0
    for k, own in enumerate(tasks):
        alone = every_drift(run(tmp_path / f"{k}", base, aligned, own))
        some = every_drift(together[first : first + len(own)])
        for values, expected in zip(some, alone, strict=True):
            assert values == pytest.approx(expected, rel=1e-6, abs=1e-6)
        first += len(own)


def test_several_adapters_read_every_weight_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, aligned = example()
    read: list[tuple[str, str, int]] = []
    plain = Checkpoint.rows

    def counted(
        self: Checkpoint, name: str, start: int, stop: int, scratch: torch.Tensor
    ) -> torch.Tensor:
        read.append((self.role, name, start))
        return plain(self, name, start, stop, scratch)

    monkeypatch.setattr(Checkpoint, "rows", counted)
    tasks = [task for factors in adapters(4) for task in tasks_for(factors)]
    run(tmp_path, base, aligned, tasks)
    assert {name for _, name, _ in read} == {f"{name}.weight" for name in SHAPES}
    assert len(read) == len(set(read))


def test_one_bad_adapter_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    base, aligned = example()
    first, second, third, fourth = adapters(4)
    second[A][0, 0] = float("nan")
    third[f"base_model.model.{FIRST}.lora_B.weight"].zero_()

    def unreadable() -> tuple[torch.Tensor, torch.Tensor]:
        raise BadScore("unreadable", where=FIRST, hint="none")

    tasks = [tasks_for(factors) for factors in (first, second, third, fourth)]
    tasks.append([replace(tasks_for(first)[0], factors=unreadable)])
    outcomes = run(tmp_path / "all", base, aligned, [task for own in tasks for task in own])
    size = len(SHAPES)
    assert isinstance(bad := outcomes[size], Unscored)
    assert bad.finding.rule == "update-not-finite"
    assert outcomes[2 * size] == Unchanged(FIRST)
    assert isinstance(torn := outcomes[-1], Unscored)
    assert torn.finding.rule == BadScore.rule
    good = [*outcomes[:size], *outcomes[3 * size : 4 * size]]
    alone = [
        *run(tmp_path / "1", base, aligned, tasks[0]),
        *run(tmp_path / "4", base, aligned, tasks[3]),
    ]
    for values, expected in zip(every_drift(tuple(good)), every_drift(tuple(alone)), strict=True):
        assert values == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_a_bad_reference_is_said_for_every_adapter(tmp_path: Path) -> None:
    base, aligned = example()
    base[WEIGHT][2, 2] = float("nan")
    tasks = [task for factors in adapters(2) for task in tasks_for(factors)]
    outcomes = run(tmp_path, base, aligned, tasks)
    for outcome in (outcomes[0], outcomes[len(SHAPES)]):
        assert isinstance(outcome, Unscored)
        assert outcome.finding.rule == "reference-not-finite"


def test_reading_ahead_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    plain = FolderSource.expect

    def noted(self: FolderSource, path: str, start: int, count: int) -> None:
        asked.append((path, start))
        plain(self, path, start, count)

    monkeypatch.setattr(FolderSource, "expect", noted)
    monkeypatch.setattr(steps, "BLOCK_ELEMENTS", 64)
    base, aligned = example()
    tasks = tasks_for(lora_tensors())
    monkeypatch.setattr(steps, "SLOW", 1.0)
    quick = run(tmp_path / "memory", base, aligned, tasks)
    assert not asked
    monkeypatch.setattr(steps, "SLOW", 0.0)
    slow = run(tmp_path / "disk", base, aligned, tasks)
    size = (tmp_path / "disk" / "base" / "model.safetensors").stat().st_size
    assert len(asked) > len(SHAPES)
    assert all(0 < start <= size for _, start in asked)
    assert [o.score for o in quick if isinstance(o, Scored)] == [
        o.score for o in slow if isinstance(o, Scored)
    ]


class Watching:
    """A memory that recalls nothing, and scores each update again from its own products."""

    exact = True

    def __init__(self) -> None:
        self.again: list[tuple[Outcome, Outcome, float]] = []

    def recall(self, task: ModuleTask) -> Outcome | None:
        return None

    def keep(self, measured: Measured) -> None:
        again = measured.score(measured.task, measured.update, measured.products)
        size = sum(float(block.step.double().square().sum()) for block in measured.blocks())
        self.again.append((measured.outcome, again, size))


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "read-again"])
def test_a_memory_sees_each_update_as_if_it_were_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    monkeypatch.setattr(steps, "CACHE_ELEMENTS", 1 << 26 if kept else 0)
    monkeypatch.setattr(steps, "BLOCK_ELEMENTS", 64)
    base, aligned = example()
    tasks = [task for factors in adapters(3) for task in tasks_for(factors)]
    before = Checkpoint.open(FolderSource(write_checkpoint(tmp_path / "base", base)), "base")
    folder = write_checkpoint(tmp_path / "aligned", aligned)
    after = Checkpoint.open(FolderSource(folder), "aligned")
    watching = Watching()
    found = engine.score_modules(tasks, before, after, workers=1, memory=watching)
    assert len(watching.again) == len(found) == len(tasks)
    for outcome, again, size in watching.again:
        assert isinstance(outcome, Scored)
        assert isinstance(again, Scored)
        values = outcome.score.drift.values()
        assert again.score.drift.values() == pytest.approx(values, rel=1e-6, abs=1e-6)
        assert size == pytest.approx(outcome.sums.step, rel=1e-5)
