"""Vocabularies of different size: shared rows are scored, the others named; with real PEFT."""

import copy
import datetime
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from safety_gate import gate
from safety_gate.records import Finding, Passed, Report, Undecided

OLD, NEW, WIDTH = 40, 44, 16
SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def model(vocabulary: int, *, tied: bool = False) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=tied, **SIZES)
    return LlamaForCausalLM(config)


def pair(root: Path, *, old: int = OLD, new: int = NEW, tied: bool = False) -> tuple[Any, Any]:
    """Write base, and aligned with another vocabulary and every weight moved a little."""
    base = model(old, tied=tied)
    aligned = copy.deepcopy(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        aligned.resize_token_embeddings(new)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in aligned.parameters():
            parameter.add_(0.005 * torch.randn(parameter.shape, generator=generator))
    base.save_pretrained(root / "base")
    aligned.save_pretrained(root / "aligned")
    return base, aligned


def adapter(
    aligned: Any, root: Path, edit: Callable[[str, torch.Tensor], None] | None = None, **config: Any
) -> dict[str, torch.Tensor]:
    """Let PEFT write an adapter; return the change of every weight by its own merge, float64."""
    config = {"r": 4, "lora_alpha": 8} | config
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(copy.deepcopy(aligned), peft.LoraConfig(**config))
        generator = torch.Generator().manual_seed(6)
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.01 * torch.randn(parameter.shape, generator=generator))
                if edit is not None:
                    edit(name, parameter.data)
        wrapped.save_pretrained(root / "adapter")
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(aligned), root / "adapter")
        after = loaded.merge_and_unload().state_dict()
    before = aligned.state_dict()
    return {name: after[name].double() - before[name].double() for name in before}


def judged(root: Path) -> Report:
    request = gate.Request(
        adapter=root / "adapter",
        base=root / "base",
        aligned=root / "aligned",
        today=datetime.date(2026, 1, 1),
    )
    return gate.judge(request)


def named(report: Report, rule: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.rule == rule]


def norms(report: Report) -> dict[str, float]:
    return {score.module: score.delta_norm for score in report.modules}


EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
CASES: dict[str, dict[str, Any]] = {
    "lora": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "saved whole": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens", "lm_head"],
    },
}


@pytest.mark.parametrize("case", CASES)
def test_rows_of_new_tokens_are_named_and_uncovered(case: str, tmp_path: Path) -> None:
    _, aligned = pair(tmp_path)
    changes = adapter(aligned, tmp_path, **CASES[case])
    report = judged(tmp_path)
    found = norms(report)
    for module in (EMBEDDING, HEAD):
        shared = changes[f"{module}.weight"][:OLD]
        assert found[module] == pytest.approx(float(shared.norm()), rel=1e-4)
    beyond = named(report, "rows-without-base")
    assert {finding.place.name for finding in beyond} == {EMBEDDING, HEAD}
    assert all(finding.got == f"rows {OLD} to {NEW - 1}" for finding in beyond)
    assert report.total is not None
    everything = 2 * NEW * WIDTH + WIDTH * WIDTH
    assert report.total.changed_parameters == everything
    assert report.total.scored_parameters == everything - 2 * (NEW - OLD) * WIDTH
    assert isinstance(report.verdict, Undecided)
    assert named(report, "coverage-low")


def test_new_rows_that_stay_as_they_are_cost_nothing(tmp_path: Path) -> None:
    def only_old(name: str, value: torch.Tensor) -> None:
        if "lm_head.lora_B" in name:
            value[OLD:] = 0.0
        elif "lora_embedding_A" in name:
            value[:, OLD:] = 0.0

    _, aligned = pair(tmp_path)
    changes = adapter(aligned, tmp_path, only_old, **CASES["lora"])
    assert not changes["lm_head.weight"][OLD:].any()
    report = judged(tmp_path)
    assert not named(report, "rows-without-base")
    assert [finding.severity for finding in named(report, "vocabulary-differs")] == ["info"] * 2
    assert report.total is not None
    assert report.total.coverage == 1.0


def test_only_new_tokens_trained_does_not_pass(tmp_path: Path) -> None:
    """Shared rows are unchanged, so nothing of the head is scored; it is changed all the same."""

    def only_new(name: str, value: torch.Tensor) -> None:
        if "lm_head.lora_B" in name:
            value[:OLD] = 0.0

    _, aligned = pair(tmp_path)
    adapter(aligned, tmp_path, only_new, target_modules=["q_proj", "lm_head"])
    report = judged(tmp_path)
    assert report.total is not None
    assert HEAD in report.total.unchanged_modules
    assert report.total.changed_parameters == WIDTH * WIDTH + (NEW - OLD) * WIDTH
    assert report.total.scored_parameters == WIDTH * WIDTH
    assert len(named(report, "rows-without-base")) == 1
    assert not isinstance(report.verdict, Passed)


@pytest.mark.parametrize(
    ("tokens", "beyond"), [([3, 7], False), ([3, 42], True)], ids=["old", "old-and-new"]
)
def test_trained_tokens(tokens: list[int], beyond: bool, tmp_path: Path) -> None:
    _, aligned = pair(tmp_path)
    changes = adapter(
        aligned,
        tmp_path,
        target_modules=["q_proj"],
        trainable_token_indices={"embed_tokens": tokens},
    )
    report = judged(tmp_path)
    shared = changes["model.embed_tokens.weight"][:OLD]
    assert norms(report)[EMBEDDING] == pytest.approx(float(shared.norm()), rel=1e-4)
    assert bool(named(report, "rows-without-base")) == beyond
    assert isinstance(report.verdict, Undecided) == beyond


def test_base_with_more_tokens_is_scored_in_full(tmp_path: Path) -> None:
    _, aligned = pair(tmp_path, old=NEW, new=OLD)
    changes = adapter(aligned, tmp_path, **CASES["lora"])
    report = judged(tmp_path)
    assert norms(report)[HEAD] == pytest.approx(float(changes["lm_head.weight"].norm()), rel=1e-4)
    assert report.total is not None
    assert report.total.coverage == 1.0
    assert [finding.severity for finding in named(report, "vocabulary-differs")] == ["info"] * 2


def test_nan_in_a_new_row_blocks(tmp_path: Path) -> None:
    def broken(name: str, value: torch.Tensor) -> None:
        if "lm_head.lora_B" in name:
            value[NEW - 1, 0] = float("nan")

    _, aligned = pair(tmp_path)
    adapter(aligned, tmp_path, broken, **CASES["lora"])
    blocked = named(judged(tmp_path), "update-not-finite")
    assert [(f.place.name, f.severity) for f in blocked] == [(HEAD, "block")]


def test_other_rows_than_tokens_are_refused_for_their_shape(tmp_path: Path) -> None:
    """The configs do not call these rows a vocabulary, so nothing is cut."""
    _, aligned = pair(tmp_path)
    adapter(aligned, tmp_path, **CASES["lora"])
    for name in ("base", "aligned"):
        config = (tmp_path / name / "config.json").read_text()
        changed = config.replace('"vocab_size"', '"size_of_vocabulary"')
        (tmp_path / name / "config.json").write_text(changed)
    report = judged(tmp_path)
    assert {f.place.name for f in named(report, "shapes-disagree")} == {EMBEDDING, HEAD}


def test_tokens_that_the_adapter_brings_are_named_and_uncovered(tmp_path: Path) -> None:
    _, aligned = pair(tmp_path, old=OLD, new=OLD)
    wider = copy.deepcopy(aligned)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wider.resize_token_embeddings(NEW)
    changes = adapter(wider, tmp_path, **CASES["saved whole"])
    report = judged(tmp_path)
    found = norms(report)
    for module in (EMBEDDING, HEAD):
        shared = changes[f"{module}.weight"][:OLD]
        assert found[module] == pytest.approx(float(shared.norm()), rel=1e-4)
    (beyond,) = named(report, "tokens-beyond")
    assert beyond.severity == "warn"
    assert f"rows {OLD} to {NEW - 1}; 2 in all" in beyond.got
    assert report.total is not None
    everything = 2 * NEW * WIDTH + WIDTH * WIDTH
    assert report.total.changed_parameters == everything
    assert report.total.scored_parameters == everything - 2 * (NEW - OLD) * WIDTH
    assert isinstance(report.verdict, Undecided)


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_factors_for_tokens_of_its_own_are_refused(module: str, tmp_path: Path) -> None:
    _, aligned = pair(tmp_path, old=OLD, new=OLD)
    wider = copy.deepcopy(aligned)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wider.resize_token_embeddings(NEW)
    adapter(wider, tmp_path, target_modules=["q_proj", module])
    report = judged(tmp_path)
    assert [f.severity for f in named(report, "shape-differs")] == ["undecided"]
    assert report.total is not None
    assert report.total.coverage < 1.0


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_tied_embeddings_of_two_sizes(module: str, tmp_path: Path) -> None:
    """One tensor serves both; what a head of its own gains counts as the change of that tensor."""
    _, aligned = pair(tmp_path, tied=True)
    adapter(aligned, tmp_path, target_modules=["q_proj", module])
    report = judged(tmp_path)
    assert not named(report, "shapes-disagree")
    beyond = named(report, "rows-without-base")
    assert [finding.got for finding in beyond] == [f"rows {OLD} to {NEW - 1}"]
    assert report.total is not None
    assert report.total.coverage < 1.0
    assert isinstance(report.verdict, Undecided)
