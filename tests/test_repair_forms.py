"""Merging two updates: against dense sums, and against PEFT's own add_weighted_adapter."""

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraModel
from peft.utils import merge_utils

from safety_gate.repair.factors import Factors, distance, norm, padded, truncated
from safety_gate.repair.forms import FORMS, SPARSE, Form, Merge, generator_for, merged
from safety_gate.repair.pruning import Majority, Operator, combined
from safety_gate.repair.refusal import CannotRepair
from tests.repair_models import calm, llama

SEEDS = (0, 1, 2)


@pytest.fixture(autouse=True)
def _calm() -> Iterator[None]:
    with calm():
        yield


def example(seed: int, rank: int, scaling: float, *, out: int = 24, inp: int = 20) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, inp, generator=generator)
    return Factors(a=a, b=torch.randn(out, rank, generator=generator), scaling=scaling)


def dense(factors: Factors) -> torch.Tensor:
    return factors.scaling * (factors.b.double() @ factors.a.double())


def nearest(whole: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the truncated SVD of a full matrix: the slow road."""
    u, s, vh = torch.linalg.svd(whole, full_matrices=False)
    best: torch.Tensor = (u[:, :rank] * s[:rank]) @ vh[:rank]
    return best


def assert_near(ours: torch.Tensor, theirs: torch.Tensor, relative: float) -> None:
    assert float((ours.double() - theirs.double()).norm()) <= relative * float(theirs.norm())


@pytest.mark.parametrize("weights", [(0.8, 0.2), (0.5, 0.5), (1.2, -0.4)])
@pytest.mark.parametrize("ranks", [(4, 4), (2, 6)])
def test_cat_is_the_weighted_sum(weights: tuple[float, float], ranks: tuple[int, int]) -> None:
    task, safety = example(1, ranks[0], 2.0), example(2, ranks[1], 0.5)
    new = merged("m", task, safety, Merge(form="cat", weights=weights))
    assert_near(dense(new), weights[0] * dense(task) + weights[1] * dense(safety), 1e-6)
    assert new.rank == sum(ranks)


@pytest.mark.parametrize("rank", [None, 1, 3, 40])
def test_svd_is_the_best_approximation_of_the_sum(rank: int | None) -> None:
    task, safety = example(1, 3, 2.0), example(2, 5, 0.5)
    new = merged("m", task, safety, Merge(form="svd", rank=rank))
    assert_near(dense(new), nearest(0.8 * dense(task) + 0.2 * dense(safety), rank or 5), 1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_safety_update_counts_as_zero(form: Form) -> None:
    task = example(1, 4, 2.0)
    merge = Merge(form=form, density=1.0 if form in SPARSE else None)
    assert_near(dense(merged("m", task, None, merge)), 0.8 * dense(task), 1e-5)


@pytest.mark.parametrize("form", ["linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"])
def test_forms_on_factors_refuse_other_ranks(form: Form) -> None:
    with pytest.raises(CannotRepair, match="equal ranks") as caught:
        merged("the.module", example(1, 4, 1.0), example(2, 6, 1.0), Merge(form=form, density=0.5))
    assert "cat" in caught.value.hint


def test_linear_has_cross_terms_and_cat_has_none() -> None:
    task, safety = example(1, 4, 2.0), example(2, 4, 2.0)
    exact = 0.8 * dense(task) + 0.2 * dense(safety)
    new = dense(merged("m", task, safety, Merge(form="linear")))
    b1, a1, b2, a2 = (t.double() for t in (task.b, task.a, safety.b, safety.a))
    cross = (0.8 * 0.2) ** 0.5 * 2.0 * (b1 @ a2 + b2 @ a1)
    assert_near(new, exact + cross, 1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weights": (float("nan"), 0.2)}, "not finite"),
        ({"form": "ties"}, "needs a density"),
        ({"density": 0.0}, "out of range"),
        ({"density": float("nan")}, "out of range"),
        ({"density": 1.5}, "out of range"),
        ({"rank": 0}, "too small"),
    ],
)
def test_settings_that_no_form_can_use_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(CannotRepair, match=words):
        Merge(**settings)


@pytest.mark.parametrize("majority", ["total", "frequency"])
@pytest.mark.parametrize(
    "operator", ["linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"]
)
@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_operators_equal_pefts(
    operator: Operator, majority: Majority, density: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(6, 9, generator=generator) for _ in range(2)]
    weights = [0.7, -0.4] if seed == 2 else [0.8, 0.2]
    ours = combined(
        operator,
        tensors,
        weights,
        density=density,
        majority=majority,
        generator=torch.Generator().manual_seed(seed),
    )
    torch.manual_seed(seed)
    scales = torch.tensor(weights)
    match operator:
        case "linear":
            theirs = merge_utils.task_arithmetic(tensors, scales)
        case "ties" | "dare_ties":
            own = merge_utils.ties if operator == "ties" else merge_utils.dare_ties
            theirs = own(tensors, scales, density, majority)
        case "dare_linear":
            theirs = merge_utils.dare_linear(tensors, scales, density)
        case "magnitude_prune":
            theirs = merge_utils.magnitude_prune(tensors, scales, density)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def peft_with_two(ranks: tuple[int, int]) -> Any:
    """Return a PEFT model with two random adapters."""
    torch.manual_seed(3)
    configs = [
        LoraConfig(r=r, lora_alpha=3 * r, target_modules=["q_proj", "up_proj"]) for r in ranks
    ]
    model = get_peft_model(llama(1), configs[0], adapter_name="task")
    model.add_adapter("safety", configs[1])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return model


def lora_layers(model: Any) -> dict[str, Any]:
    named = model.base_model.model.named_modules()
    return {name: module for name, module in named if "task" in getattr(module, "lora_A", {})}


def factors_in(layer: Any, adapter: str) -> Factors:
    return Factors(
        a=layer.lora_A[adapter].weight.detach(),
        b=layer.lora_B[adapter].weight.detach(),
        scaling=layer.scaling[adapter],
    )


def seed_each_layer(monkeypatch: pytest.MonkeyPatch, model: Any, seed: int) -> None:
    """Give PEFT, which draws from torch's global stream, the stream of each module in turn."""
    names = {id(layer): name for name, layer in lora_layers(model).items()}
    for method in (
        "_generalized_task_arithmetic_weighted_adapter",
        "_svd_generalized_task_arithmetic_weighted_adapter",
    ):
        real = getattr(LoraModel, method)

        @functools.wraps(real)
        def seeded(self: Any, *args: Any, real: Any = real, **named: Any) -> Any:
            target = next(arg for arg in args if id(arg) in names)
            torch.manual_seed(generator_for(names[id(target)], seed).initial_seed())
            return real(self, *args, **named)

        monkeypatch.setattr(LoraModel, method, seeded)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("weights", [(0.8, 0.2), (0.6, -0.3)], ids=["published", "negative"])
def test_every_form_equals_add_weighted_adapter(
    monkeypatch: pytest.MonkeyPatch, form: Form, weights: tuple[float, float]
) -> None:
    """On plain LoRA without rsLoRA, where peft 0.21.2 has no known fault (docs/repair.md)."""
    model = peft_with_two((4, 4))
    seed_each_layer(monkeypatch, model, 11)
    model.add_weighted_adapter(
        ["task", "safety"], list(weights), "new", combination_type=form, density=0.5
    )
    merge = Merge(form=form, weights=weights, density=0.5, seed=11)
    for name, layer in lora_layers(model).items():
        ours = merged(name, factors_in(layer, "task"), factors_in(layer, "safety"), merge)
        theirs = factors_in(layer, "new")
        # PEFT cuts in float32, where singular values that nearly meet turn into each other.
        assert_near(dense(ours), dense(theirs), 5e-5 if form.endswith("svd") else 1e-6)
        if not form.endswith("svd"):  # singular vectors have a free sign
            assert_near(ours.scaling * ours.a, theirs.scaling * theirs.a, 1e-6)


def test_other_ranks_equal_add_weighted_adapter() -> None:
    model = peft_with_two((2, 6))
    for form in ("cat", "svd"):
        model.add_weighted_adapter(["task", "safety"], [0.8, 0.2], form, combination_type=form)
        for name, layer in lora_layers(model).items():
            both = (factors_in(layer, "task"), factors_in(layer, "safety"))
            ours = merged(name, *both, Merge(form=form))
            assert_near(dense(ours), dense(factors_in(layer, form)), 1e-5)


def test_norms_hold_where_the_gram_sum_is_rounding() -> None:
    task = example(1, 4, 1.0)
    near = Factors(a=task.a, b=task.b.double() * (1 + 1e-9), scaling=1.0)
    assert distance(near, task) == pytest.approx(1e-9 * norm(task), rel=1e-4)
    assert norm(task) == pytest.approx(float(dense(task).norm()), rel=1e-12)


def test_padding_and_truncating_keep_the_update() -> None:
    task = example(1, 4, 2.0)
    wide = padded(task, 9)
    assert wide.rank == 9
    assert torch.equal(dense(wide), dense(task))
    assert_near(dense(truncated(wide, 4)), dense(task), 1e-12)


def test_each_module_has_its_own_stream() -> None:
    draws = {
        torch.rand(1, generator=generator_for(*key)).item()
        for key in (("a", 0), ("b", 0), ("a", 1))
    }
    assert len(draws) == 3
