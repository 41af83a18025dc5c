"""Each method against its formula written out on full matrices."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from safety_gate import engine
from safety_gate import steps as blocks
from safety_gate.checkpoint import Checkpoint
from safety_gate.outcomes import ModuleTask, Scored
from safety_gate.repair import forecast
from safety_gate.repair.factors import Factors, norm
from safety_gate.repair.forms import Merge
from safety_gate.repair.methods import (
    Attenuate,
    Drop,
    Method,
    Project,
    SafeLora,
    SafeMerge,
    Scale,
    Subject,
    Unrevert,
    apply,
)
from safety_gate.repair.refusal import CannotRepair
from safety_gate.repair.watch import SEARCH, Needs, Watch, needs_of
from safety_gate.sources.folder import FolderSource
from tests.repair_models import calm
from tests.small_checkpoints import SHAPES, lora_tensors, weights, write_checkpoint

SCALING = 2.0


@pytest.fixture(autouse=True)
def _calm() -> Iterator[None]:
    with calm():
        yield


def factors_for(name: str, seed: int = 5, rank: int = 4) -> Factors:
    tensors = lora_tensors(seed, rank=rank)
    a, b = (tensors[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    return Factors(a=a, b=b, scaling=SCALING)


def steps() -> dict[str, torch.Tensor]:
    """Return V as the checkpoints of ``watched`` give it, in float64."""
    base, step = weights(1), weights(2, scale=0.1)
    return {name: ((base[name] + step[name]) - base[name]).double() for name in base}


def watched(
    root: Path, watch: Watch, *, transposed: bool = False, rank: int = 4, block: int = 1 << 20
) -> None:
    """Send a seeded adapter through the engine on real files."""
    base, v = weights(1), steps()
    aligned = {name: (base[name].double() + v[name]).float() for name in base}
    stored = [
        {name: tensor.T.contiguous() if transposed else tensor for name, tensor in each.items()}
        for each in (base, aligned)
    ]
    folders = [
        FolderSource(write_checkpoint(root / role, tensors))
        for role, tensors in zip(("base", "aligned"), stored, strict=True)
    ]
    pair = Checkpoint.open(folders[0], "base"), Checkpoint.open(folders[1], "aligned")

    def task(name: str, shape: tuple[int, int]) -> ModuleTask:
        own = factors_for(name, rank=rank)
        return ModuleTask(
            module=name,
            weight=f"{name}.weight",
            shape=shape,
            transposed=transposed,
            rank=rank,
            scaling=SCALING,
            factors=lambda: (own.a, own.b),
        )

    tasks = [task(name, shape) for name, shape in SHAPES.items()]
    outcomes = engine.score_modules(tasks, pair[0], pair[1], workers=2, memory=watch)
    assert all(isinstance(outcome, Scored) for outcome in outcomes)


def dense(factors: Factors) -> torch.Tensor:
    return factors.scaling * (factors.b.double() @ factors.a.double())


def by_formula(method: Method, v: torch.Tensor, delta: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the repaired update of a full matrix, from the formulas of docs/repair.md."""
    new: torch.Tensor
    match method:
        case SafeLora():
            new = v @ v.T / v.norm() @ delta
        case Scale(factor=factor):
            new = factor * delta
        case Drop():
            new = torch.zeros_like(delta)
        case Project(top=top, energy=energy):
            u, s, _ = torch.linalg.svd(v, full_matrices=False)
            shares = s.square().cumsum(0) / s.square().sum()
            k = top if top is not None else int((shares < (energy or 0.0)).sum()) + 1
            new = u[:, :k] @ u[:, :k].T @ delta
        case Unrevert(keep=keep, most=most):
            rows = torch.linalg.svd(delta).Vh[:rank]
            within = v @ rows.T @ rows
            inner = float((delta * v).sum())
            c = min(most, (1 - keep) * -inner / float(within.square().sum()))
            new = delta + c * within if inner < 0 else delta
        case _:
            raise AssertionError(method)
    return new


METHODS: list[Method] = [
    SafeLora(),
    Project(top=1),
    Project(top=5),
    Project(energy=0.3),
    Project(energy=1.0),
    Scale(factor=0.25),
    Drop(),
    Unrevert(),
    Unrevert(keep=0.3),
    Unrevert(most=0.05),
]


@pytest.mark.parametrize("transposed", [False, True], ids=["linear", "conv1d"])
@pytest.mark.parametrize("kept", [True, False], ids=["whole", "in-blocks"])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_methods_equal_their_formulas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Method, kept: bool, transposed: bool
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 64)
    monkeypatch.setattr(blocks, "CACHE_ELEMENTS", 1 << 26 if kept else 0)
    watch = Watch(needs_of(method))
    watched(tmp_path, watch, transposed=transposed)
    for name, v in steps().items():
        module = name.removesuffix(".weight")
        task = factors_for(module)
        new = apply(method, Subject(module=module, factors=task, sight=watch.sights.get(module)))
        expected = by_formula(method, v, dense(task), 4)
        ours = dense(task) if new is None else dense(new)
        assert float((ours - expected).norm()) <= 1e-5 * float(dense(task).norm())


def test_unrevert_leaves_nothing_along_v_and_keeps_rank_and_row_space(tmp_path: Path) -> None:
    watch = Watch(Needs(along=True))
    watched(tmp_path, watch)
    walked = 0
    for name, v in steps().items():
        module = name.removesuffix(".weight")
        task = factors_for(module)
        new = apply(Unrevert(), Subject(module=module, factors=task, sight=watch.sights[module]))
        if float((dense(task) * v).sum()) >= 0:
            assert new is None
            continue
        walked += 1
        assert new is not None
        assert new.rank == task.rank
        assert abs(float((dense(new) * v).sum())) <= 1e-5 * float(dense(new).norm() * v.norm())
        rows = torch.linalg.qr(task.a.double().T).Q
        assert float((dense(new) - dense(new) @ rows @ rows.T).norm()) <= 1e-5 * float(v.norm())
    assert walked


@pytest.mark.parametrize("strength", [0.5, 3.0])
def test_attenuation_is_the_minimum_it_claims(tmp_path: Path, strength: float) -> None:
    """The objective, written out on full matrices, grows in every direction from the result."""
    watch = Watch(Needs(inside=True))
    watched(tmp_path, watch)
    generator = torch.Generator().manual_seed(9)
    for module in SHAPES:
        sight = watch.sights[module]
        task = factors_for(module)
        new = apply(Attenuate(strength=strength), Subject(module=module, factors=task, sight=sight))
        assert new is not None
        assert sight.inside is not None
        delta = sight.norm * sight.left.double() @ sight.right.double().T
        u, s, vh = torch.linalg.svd(delta, full_matrices=False)
        u, s, vh = u[:, :4], s[:4], vh[:4]
        inside = torch.linalg.svd(sight.inside.double(), full_matrices=False)
        basis = inside.U[:, 1e-6 * inside.S[0] < inside.S]
        shares = (u - basis @ (basis.T @ u)).square().sum(dim=0)

        def cost(x: torch.Tensor) -> float:
            parts = x @ vh.T - basis @ (basis.T @ (x @ vh.T))  # noqa: B023
            penalty = (shares * parts.square().sum(dim=0)).sum()  # noqa: B023
            return float((x - delta).square().sum() + strength * penalty)  # noqa: B023

        best = cost(dense(new))
        for _ in range(20):
            nudge = torch.randn(delta.shape, generator=generator, dtype=torch.float64)
            assert cost(dense(new) + 1e-3 * float(delta.norm()) * nudge / nudge.norm()) > best
        assert norm(new) < norm(task)


@pytest.mark.parametrize("rank", [4, 30], ids=["thin", "rank-above-inputs"])
@pytest.mark.parametrize(
    "method",
    [
        Unrevert(keep=0.5),
        Scale(factor=0.5),
        Attenuate(strength=2.0),
        SafeLora(),
        SafeMerge(merge=Merge(form="svd", rank=6)),
        SafeMerge(merge=Merge(form="cat", weights=(0.3, 0.7))),
    ],
    ids=repr,
)
def test_forecasts_are_what_measuring_gives(tmp_path: Path, method: Method, rank: int) -> None:
    """Repair, measure the repaired factors with V, and compare with the forecast."""
    safety = {module: factors_for(module, seed=8, rank=3) for module in SHAPES}
    watch = Watch(SEARCH, safety=safety.get)
    watched(tmp_path / "first", watch, rank=rank)
    for module in SHAPES:
        seen = watch.frames[module]
        task = factors_for(module, rank=rank)
        subject = Subject(
            module=module, factors=task, safety=safety[module], sight=watch.sights[module]
        )
        real, coordinates = apply(method, subject), apply(method, seen.subject)
        if real is None or coordinates is None:
            assert real is coordinates
            continue
        told = forecast.sums(seen, coordinates)
        assert told is not None
        delta, v = dense(real), steps()[f"{module}.weight"]
        image = v @ v.T / v.norm() @ delta
        size = float(delta.norm())
        assert told.norm == pytest.approx(size**2, rel=1e-4)
        assert told.inner == pytest.approx(float((image * delta).sum()), rel=1e-3)
        assert told.image == pytest.approx(float(image.square().sum()), rel=1e-3)
        assert told.against == pytest.approx(
            -float((delta * v).sum()), abs=1e-4 * size * float(v.norm())
        )
        assert told.null.cosines().std() > 0


def test_bit_equal_factors_are_recalled_and_others_are_not(tmp_path: Path) -> None:
    watch = Watch(Needs())
    watched(tmp_path, watch)
    name = next(iter(SHAPES))
    own = factors_for(name)

    def task(a: torch.Tensor, scaling: float) -> ModuleTask:
        return ModuleTask(
            module=name,
            weight=f"{name}.weight",
            shape=SHAPES[name],
            transposed=False,
            rank=4,
            scaling=scaling,
            factors=lambda: (a, own.b),
        )

    nudged = own.a.clone()
    nudged[0, 0] = torch.nextafter(nudged[0, 0], torch.tensor(10.0))
    assert watch.recall(task(own.a.clone(), SCALING)) is not None
    assert watch.recall(task(nudged, SCALING)) is None
    assert watch.recall(task(own.a, 1.0)) is None


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Project(),
        lambda: Project(top=1, energy=0.5),
        lambda: Project(top=0),
        lambda: Project(energy=1.5),
        lambda: Scale(factor=float("nan")),
        lambda: Scale(factor=1.5),
        lambda: Attenuate(strength=-1.0),
        lambda: Unrevert(keep=2.0),
    ],
)
def test_settings_out_of_range_are_refused(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(CannotRepair):
        wrong()
