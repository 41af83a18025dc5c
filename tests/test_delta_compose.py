"""Several adapters of one repository, and their sum."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import save_file

from safety_gate.adapter.ledger import Adapter, open_adapter
from safety_gate.adapter.roots import adapter_roots
from safety_gate.checkpoint import Checkpoint
from safety_gate.delta.compose import changed_together, compose, compose_findings, lora_deltas
from safety_gate.delta.roads import Delta, Deltas, open_deltas
from safety_gate.sources.folder import FolderSource
from tests.delta_oracle import Inside, checkpoint_of
from tests.peft_adapters import lora, merged, model_of, save


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def two_adapters(folder: Path) -> None:
    """Write plain LoRA at the root, and DoRA with a saved norm in a subfolder."""
    save("llama", lora(target_modules=["q_proj", "v_proj"]), folder, seed=1)
    second = lora(target_modules=["q_proj"], use_dora=True, modules_to_save=["norm"])
    save("llama", second, folder / "second", seed=2)


def opened(folder: Path, private: Path, root: str) -> tuple[Adapter, Deltas, list[Delta]]:
    aligned = Checkpoint.open(FolderSource(folder.parent / "model"), "aligned")
    private.mkdir()
    adapter = open_adapter(
        FolderSource(folder),
        shapes=aligned.shapes,
        model_type="llama",
        snapshot_dir=private / "adapter",
        root=root,
        others_are_judged=True,
    )
    deltas = open_deltas(adapter, aligned, private / "merging", start=Inside)
    return adapter, deltas, [*lora_deltas(adapter), *deltas.items]


def update_of(delta: Delta) -> torch.Tensor:
    if delta.dense is not None:
        return delta.dense()
    assert delta.factors is not None
    a, b = delta.factors()
    return (delta.scaling * (b.double() @ a.double())).float()


def test_each_adapter_of_a_repository_is_read_on_its_own(tmp_path: Path) -> None:
    checkpoint_of(model_of("llama"), tmp_path / "model")
    two_adapters(tmp_path / "adapter")
    assert adapter_roots(FolderSource(tmp_path / "adapter")) == ("", "second")
    first, _, _ = opened(tmp_path / "adapter", tmp_path / "a", "")
    second, _, found = opened(tmp_path / "adapter", tmp_path / "b", "second")
    for adapter in (first, second):
        grave = {f.rule for f in adapter.findings if f.severity in ("block", "undecided")}
        assert grave == set()
    assert {f.rule for f in first.findings} >= {"adapter-beside"}
    assert second.fact.name.endswith("/second")
    theirs = merged("llama", tmp_path / "adapter" / "second")
    assert {delta.changes for delta in found} == theirs.keys()


def test_a_nested_adapter_that_nobody_judges_is_undecided(tmp_path: Path) -> None:
    two_adapters(tmp_path / "adapter")
    aligned = Checkpoint.open(
        FolderSource(checkpoint_of(model_of("llama"), tmp_path / "model")), "aligned"
    )
    adapter = open_adapter(
        FolderSource(tmp_path / "adapter"),
        shapes=aligned.shapes,
        model_type="llama",
        snapshot_dir=tmp_path / "private",
    )
    assert {f.rule: f.severity for f in adapter.findings}["adapter-nested"] == "undecided"


def test_the_sum_is_the_sum_of_both_updates(tmp_path: Path) -> None:
    checkpoint_of(model_of("llama"), tmp_path / "model")
    two_adapters(tmp_path / "adapter")
    parts = [
        opened(tmp_path / "adapter", tmp_path / f"p{i}", r)[2] for i, r in enumerate(("", "second"))
    ]
    total = {delta.changes: update_of(delta) for delta in compose(parts)}
    one = merged("llama", tmp_path / "adapter")
    two = merged("llama", tmp_path / "adapter" / "second")
    assert total.keys() == one.keys() | two.keys()
    for name, update in total.items():
        expected = sum(found[name] for found in (one, two) if name in found)
        assert isinstance(expected, torch.Tensor)
        assert (update.view(expected.shape) - expected).norm() <= 1e-5 * expected.norm()


def test_factors_are_joined_and_cancel_exactly(tmp_path: Path) -> None:
    checkpoint_of(model_of("llama"), tmp_path / "model")
    save("llama", lora(target_modules=["q_proj"]), tmp_path / "adapter")
    _, _, found = opened(tmp_path / "adapter", tmp_path / "p", "")
    (first, *_), (second, *_) = compose([found, found]), found
    assert first.factors is not None
    assert first.rank == 2 * second.rank
    assert torch.allclose(update_of(first), 2 * update_of(second))


def test_what_the_sum_changes_is_scored_where_every_part_is(tmp_path: Path) -> None:
    checkpoint_of(model_of("llama"), tmp_path / "model")
    two_adapters(tmp_path / "adapter")
    first, _, _ = opened(tmp_path / "adapter", tmp_path / "a", "")
    second, _, _ = opened(tmp_path / "adapter", tmp_path / "b", "second")
    doubted = replace(second, changed=tuple(replace(c, scored=False) for c in second.changed))
    changes = {change.name: change.scored for change in changed_together([first, doubted])}
    assert changes.keys() == {c.name for c in (*first.changed, *second.changed)}
    assert {name for name, scored in changes.items() if not scored} == {
        change.name for change in second.changed
    }
    assert compose_findings([first, second]) == []


def test_a_matrix_changed_whole_and_in_parts_is_named(tmp_path: Path) -> None:
    checkpoint_of(model_of("llama"), tmp_path / "model")
    two_adapters(tmp_path / "adapter")
    first, _, _ = opened(tmp_path / "adapter", tmp_path / "a", "")
    part = replace(first.changed[0], name=f"{first.changed[0].name} rows 0 to 15")
    (finding,) = compose_findings([first, replace(first, changed=(part,))])
    assert (finding.rule, finding.severity) == ("updates-collide", "undecided")
    assert finding.place.name == first.changed[0].name


def test_experts_of_x_lora_are_scored_and_their_mixture_is_named(tmp_path: Path) -> None:
    """A repository of X-LoRA: its own config at the root, and each expert as it was trained."""
    checkpoint_of(model_of("llama"), tmp_path / "model")
    experts = {}
    for at in ("0", "1"):
        experts[at] = f"somebody/expert-{at}"
        save("llama", lora(target_modules=["q_proj"]), tmp_path / "adapter" / at, seed=int(at))
    config = peft.XLoraConfig(task_type="CAUSAL_LM", hidden_size=32, adapters=experts)
    config.save_pretrained(tmp_path / "adapter")
    save_file({}, tmp_path / "adapter" / "adapter_model.safetensors")
    roots = adapter_roots(FolderSource(tmp_path / "adapter"))
    assert roots == ("", "0", "1")
    whole, *parts = (opened(tmp_path / "adapter", tmp_path / f"p{r}", r) for r in roots)
    assert {f.rule: f.severity for f in whole[0].findings}["kind-routed"] == "undecided"
    for at, (adapter, _, found) in zip(experts, parts, strict=True):
        assert not {f.rule for f in adapter.findings if f.severity in ("block", "undecided")}
        theirs = merged("llama", tmp_path / "adapter" / at)
        assert {delta.changes for delta in found} == theirs.keys()
        for delta in found:
            expected = theirs[delta.changes]
            assert (update_of(delta) - expected).norm() <= 1e-5 * expected.norm()
