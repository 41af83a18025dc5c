"""The grid of layers and projections."""

from dataclasses import replace

import pytest

from safety_gate.records import LedgerEntry, Report
from safety_gate.report.heatmap import (
    MOST_COLUMNS,
    MOST_ROWS,
    HeatMap,
    Shade,
    heat_map,
    module_of,
    shade_of,
)
from tests.sample_reports import blocked, drift, llama, passed, score, total, undecided


def report_of(names: dict[str, float], unchanged: tuple[str, ...] = ()) -> Report:
    modules = tuple(score(n, u, shape=(8, 8), wobble=0.0) for n, u in names.items())
    whole = replace(total(modules), unchanged_modules=unchanged)
    return replace(passed(), modules=modules, total=whole, ledger=())


def drawn(heat: HeatMap) -> dict[str, dict[str, list[Shade]]]:
    return {
        stack.prefix: {row.label: [cell.shade for cell in row.cells] for row in stack.rows}
        for stack in heat.stacks
    }


def test_layers_are_columns_and_projections_are_rows() -> None:
    heat = heat_map(replace(passed(), modules=llama(3, lambda layer, _: 0.2 * layer)))
    (stack,) = heat.stacks
    assert (stack.prefix, stack.first, stack.last, stack.fold) == ("model.layers", 0, 2, 1)
    assert [row.label for row in stack.rows][:2] == ["q_proj", "k_proj"]
    assert [cell.undone for cell in stack.rows[0].cells] == [0.0, 0.2, 0.4]
    assert stack.rows[0].cells[2].module == "model.layers.2.self_attn.q_proj"


@pytest.mark.parametrize(
    ("undone", "shade"),
    [
        (-0.021, Shade.FORWARD),
        (-0.02, Shade.NONE),
        (0.0, Shade.NONE),
        (0.02, Shade.LITTLE),
        (0.1, Shade.SOME),
        (0.25, Shade.MUCH),
        (7.0, Shade.MUCH),
        (float("nan"), Shade.MUCH),
    ],
)
def test_shades_begin_at_their_threshold(undone: float, shade: Shade) -> None:
    assert shade_of(undone) is shade


def test_stacks_experts_and_modules_without_a_layer() -> None:
    heat = heat_map(
        report_of(
            {
                "encoder.block.0.layer.0.SelfAttention.q": 0.0,
                "decoder.block.0.layer.0.SelfAttention.q": 0.0,
                "decoder.block.0.layer.1.EncDecAttention.q": 0.3,
                "transformer.h.4.attn.c_attn": 0.0,
                "model.layers.1.mlp.experts.0.w1": 0.0,
                "model.layers.1.mlp.experts.7.w1": 0.12,
                "lm_head": 0.05,
            }
        )
    )
    assert drawn(heat) == {
        "encoder.block": {"q": [Shade.NONE]},
        "decoder.block": {
            "layer.SelfAttention.q": [Shade.NONE],
            "layer.EncDecAttention.q": [Shade.MUCH],
        },
        "transformer.h": {"c_attn": [Shade.NONE]},
        "model.layers": {"w1": [Shade.SOME]},
    }
    assert heat.stacks[3].rows[0].cells[0].module == "model.layers.1.mlp.experts.7.w1"
    assert [cell.module for cell in heat.others] == ["lm_head"]


def test_black_is_not_scored_and_white_is_unchanged() -> None:
    report = report_of({"m.layers.0.q": 0.0, "m.layers.3.q": 0.0}, ("m.layers.1.q",))
    tensors = ("base_model.model.m.layers.1.q.lora_A.weight", "base_model.model.m.layers.3.q.bias")
    report = replace(
        report,
        ledger=tuple(
            LedgerEntry(kind="tensor", name=name, owner="x", accounted=True) for name in tensors
        ),
    )
    assert drawn(heat_map(report)) == {
        "m.layers": {"q": [Shade.NONE, Shade.UNCHANGED, Shade.UNCHANGED, Shade.NOT_SCORED]}
    }


def test_deep_models_are_folded_and_the_worst_shows() -> None:
    heat = heat_map(replace(passed(), modules=llama(126, lambda layer, _: 0.3 * (layer == 77))))
    (stack,) = heat.stacks
    assert (stack.fold, stack.first, stack.last) == (2, 0, 125)
    assert len(stack.rows[0].cells) == 63
    reds = [i for i, cell in enumerate(stack.rows[0].cells) if cell.shade is Shade.MUCH]
    assert reds == [77 // 2]
    first, second = stack.pieces(32)
    assert (first.first, first.last, second.first, second.last) == (0, 63, 64, 125)
    assert len(second.rows[0].cells) == 31


def test_absurd_layer_numbers_cost_nothing() -> None:
    heat = heat_map(report_of({"m.0.q": 0.0, "m.999999.q": 0.4, f"m.{'9' * 5000}.q": 0.0}))
    (stack,) = heat.stacks
    assert len(stack.rows[0].cells) <= MOST_COLUMNS
    assert stack.rows[0].cells[-1].shade is Shade.MUCH
    assert len(heat.others) == 1


def test_too_many_rows_keep_the_worst() -> None:
    names = {f"m.0.p{i}": 0.3 if i == 70 else 0.0 for i in range(80)}
    heat = heat_map(report_of(names))
    labels = [row.label for row in heat.stacks[0].rows]
    assert len(labels) == MOST_ROWS
    assert labels[-1] == "p70"
    assert heat.hidden_rows == 80 - MOST_ROWS


def test_nothing_read_is_an_empty_map() -> None:
    assert heat_map(undecided()) == HeatMap(stacks=(), others=(), hidden_rows=0)


def test_an_unknown_tensor_is_black_although_nothing_scored_it() -> None:
    (other,) = heat_map(blocked()).others
    assert (other.module, other.shade) == ("lm_head", Shade.NOT_SCORED)


@pytest.mark.parametrize(
    ("tensor", "module"),
    [
        ("base_model.model.m.0.q.lora_A.weight", "m.0.q"),
        ("base_model.model.m.0.q.lora_magnitude_vector", "m.0.q"),
        ("base_model.model.m.0.q.base_layer.weight", "m.0.q"),
        ("base_model.model.lm_head.modules_to_save.weight", "lm_head"),
        ("m.0.q", "m.0.q"),
        ("weight", "weight"),
        ("", ""),
    ],
)
def test_tensors_belong_to_modules(tensor: str, module: str) -> None:
    assert module_of(tensor) == module


def test_drift_of_the_samples_is_valid() -> None:
    drift(0.5).check("sample")
