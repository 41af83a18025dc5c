"""Products of V that follow from others equal those that are multiplied anew."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from safety_gate import drift
from safety_gate.drift import Block, StepProducts, Update
from safety_gate.outcomes import Measured, ModuleTask, Outcome, Unchanged
from safety_gate.repair import span

OUT, IN, RANK = 60, 40, 5


class Pass:
    """V in one block; counts how many columns it was multiplied with."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.v = torch.randn(OUT, IN, generator=generator)
        self.passes = 0

    def blocks(self) -> Iterator[Block]:
        self.passes += 1
        yield Block(0, OUT, self.v, float(self.v.square().sum()), 1.0)


def update(a: torch.Tensor, b: torch.Tensor) -> Update:
    found = drift.factored(a, b, 1.0)
    assert found is not None
    return found


def measured(over: Pass, own: Update, a: torch.Tensor, b: torch.Tensor) -> Measured:
    task = ModuleTask(
        module="m",
        weight="m.weight",
        shape=(OUT, IN),
        transposed=False,
        rank=RANK,
        scaling=1.0,
        factors=lambda: (a, b),
    )

    def score(_: ModuleTask, __: Update, ___: StepProducts) -> Outcome:
        return Unchanged("m")

    columns = torch.cat((own.left, drift.null_columns(OUT)), dim=1)
    products = drift.step_products(over.blocks, columns, own.right, transposed=False)
    over.passes = 0
    return Measured(
        task=task,
        factors=(a, b),
        update=own,
        products=products,
        outcome=Unchanged("m"),
        blocks=over.blocks,
        whole=True,
        quick=False,
        score=score,
    )


def factors(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(RANK, IN, generator=generator),
        torch.randn(OUT, RANK, generator=generator),
    )


def new_factors(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    (a, b), (other_a, other_b) = factors(2), factors(3)
    match name:
        case "scaled":
            return a, 0.3 * b
        case "merged":
            return torch.cat((0.8 * a, 0.2 * other_a)), torch.cat((b, other_b), dim=1)
        case "added a little":
            return torch.cat((a, 1e-3 * other_a)), torch.cat((b, other_b), dim=1)
        case "less of some directions":
            return a, b * torch.tensor([1.0, 1.0, 0.5, 1e-3, 0.0])
        case "rounded":
            return a.bfloat16().float(), b.bfloat16().float()
        case "merged in bfloat16":
            a, other_a = (0.8 * a).bfloat16().float(), (0.2 * other_a).bfloat16().float()
            return torch.cat((a, other_a)), torch.cat((b, other_b), dim=1)
        case "merged with its own inputs":
            return torch.cat((a, a)), torch.cat((b, other_b), dim=1)
        case "taken away":
            return torch.cat((-0.8 * a, other_a)), torch.cat((b, other_b), dim=1)
        case "added to":
            return a + other_a, b + other_b
        case _:
            return other_a, other_b


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("scaled", 0),
        ("less of some directions", 0),
        ("merged", 2),
        ("added a little", 2),
        ("rounded", 2),
        ("another", 2),
    ],
)
def test_products_equal_the_dense_ones(name: str, passes: int) -> None:
    """``passes`` is how often V is gone through: not at all for what is in the span."""
    over, (a, b) = Pass(), factors(2)
    seen = measured(over, update(a, b), a, b)
    new = update(*new_factors(name))
    found = span.products(seen, new)
    assert over.passes == passes
    assert_dense(over, seen, new, found)


def assert_dense(over: Pass, seen: Measured, new: Update, found: StepProducts) -> None:
    v = over.v.double()
    columns = torch.cat((new.left, drift.null_columns(OUT)), dim=1).double()
    size = float(v.norm())
    dense = ((found.x, v.T @ columns), (found.u, v @ (v.T @ columns) / size))
    for (got, want), scale in zip(dense, (1.0, size), strict=True):
        off = (got.double() / scale - want).norm(dim=0)
        assert float((off / (size * columns.norm(dim=0).clamp(min=0.1))).max()) < 2e-5
    off = (found.vq.double() - v @ new.right.double()).norm() / size
    assert float(off) < 2e-5
    assert found.step_norm == seen.products.step_norm


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("merged", RANK),  # only what was put behind
        ("added a little", RANK),
        ("merged in bfloat16", 2 * RANK),
        ("merged with its own inputs", 2 * RANK),
        ("taken away", RANK),  # the sign goes into R
        ("added to", RANK),
        ("another", RANK),
    ],
)
def test_products_of_merged_updates_equal_the_dense_ones(
    name: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``columns`` are the left ones that V was multiplied with."""
    over, (a, b) = Pass(), factors(2)
    seen = measured(over, update(a, b), a, b)
    new = update(*new_factors(name))
    widths: list[int] = []
    real = drift.step_products

    def counted(blocks: Any, left: torch.Tensor, *rest: Any, **settings: Any) -> StepProducts:
        widths.append(left.shape[1])
        return real(blocks, left, *rest, **settings)

    monkeypatch.setattr(drift, "step_products", counted)
    found = span.products(seen, new, apart=True)
    assert widths == [columns]
    assert over.passes == 2
    assert_dense(over, seen, new, found)


def test_weak_directions_are_multiplied_again() -> None:
    """Enlarging the product of a weak direction would enlarge its rounding too."""
    over, (a, b) = Pass(), factors(2)
    weak = b * torch.tensor([1.0, 1.0, 1.0, 1.0, 1e-4])
    seen = measured(over, update(a, weak), a, weak)
    found = span.products(seen, update(a, b))
    assert over.passes == 2
    v, new = over.v.double(), update(a, b)
    off = (found.x[:, :RANK].double() - v.T @ new.left.double()).norm() / v.norm()
    assert float(off) < 1e-6


def test_quick_blocks_are_multiplied_as_the_pass_itself_does() -> None:
    """In bfloat16, as `check` does on large modules: as near to float32 as a fresh pass."""
    over, (a, b) = Pass(), factors(2)
    own = update(a, b)
    exact = measured(over, own, a, b)
    columns = torch.cat((own.left, drift.null_columns(OUT)), dim=1)

    def blocks() -> Iterator[Block]:
        for block in over.blocks():
            yield replace(block, step=block.step.bfloat16())

    quick = replace(
        exact,
        products=drift.step_products(blocks, columns, own.right, transposed=False, quick=True),
        blocks=blocks,
        quick=True,
    )
    new = update(*new_factors("merged"))
    wide = torch.cat((new.left, drift.null_columns(OUT)), dim=1)
    fresh = drift.step_products(over.blocks, wide, new.right, transposed=False)
    found = span.products(quick, new)
    for got, want in ((found.x, fresh.x), (found.u, fresh.u), (found.vq, fresh.vq)):
        assert float((got[:, :RANK] - want[:, :RANK]).norm() / want[:, :RANK].norm()) < 2e-2
