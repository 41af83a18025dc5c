"""Experts in stacks, names of older transformers, and checkpoints in other layouts."""

import copy
import datetime
import json
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from safety_gate import gate
from safety_gate.adapter.ledger import open_adapter
from safety_gate.adapter.parts import Product
from safety_gate.checkpoint import Checkpoint
from safety_gate.delta.stacks import Stacks
from safety_gate.sources.folder import FolderSource
from tests.delta_oracle import checkpoint_of, ours, pefts, save_random, stored, verdict
from tests.older_adapters import EXPERTS, save_older
from tests.random_adapters import model_of, narrowed, older
from tests.small_checkpoints import write_checkpoint

GATE_UP, DOWN = "experts.gate_up_proj", "experts.down_proj"
NAMES = ("mixtral", "qwen3_moe", "gpt_oss", "llava", "qwen2_vl")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: checkpoint_of(model_of(name), root / name) for name in NAMES}


def lora(*parameters: str, **values: Any) -> Any:
    defaults = {"r": 2, "lora_alpha": 3, "target_modules": ["q_proj"]}
    return peft.LoraConfig(**{**defaults, "target_parameters": list(parameters), **values})


STACKS = [
    ("mixtral", lora(GATE_UP, DOWN)),
    ("mixtral", lora("down_proj", target_modules=[])),
    ("mixtral", lora(GATE_UP, "gate.weight", rank_pattern={"gate_up_proj": 3})),
    ("qwen3_moe", lora(GATE_UP, DOWN, use_rslora=True, alpha_pattern={"down_proj": 7})),
    ("gpt_oss", lora(GATE_UP, DOWN)),
    ("gpt_oss", lora(DOWN, bias="all")),
    ("mixtral", lora(modules_to_save=["experts"])),
    ("llava", lora(target_modules="all-linear")),
    ("qwen2_vl", lora(target_modules=r".*language_model.*(q|v)_proj")),
    ("qwen2_vl", lora(modules_to_save=["merger"])),
    ("llama", lora("q_proj.weight", target_modules=["v_proj"])),
    ("gpt2", lora("attn.c_proj.weight", "wte.weight", target_modules=[])),
]


@pytest.mark.parametrize(("name", "config"), STACKS)
def test_the_update_is_pefts_merge(
    name: str, config: Any, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    model = model_of(name)
    checkpoint = checkpoints.get(name) or checkpoint_of(model, tmp_path / "model")
    save_random(model, copy.deepcopy(config), tmp_path / "adapter", seed=1)
    theirs = pefts(model, tmp_path / "adapter")
    answer = ours(checkpoint, tmp_path / "adapter", tmp_path / "private")
    assert answer.refused == (), answer.whats
    assert answer.changes.keys() == theirs.keys()
    for tensor, update in theirs.items():
        assert (answer.changes[tensor] - update).norm() <= 1e-5 * update.norm(), tensor


def test_two_factors_of_a_stack_hold_its_experts_in_different_orders(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Worked by hand: expert 1 alone has values, so expert 1 alone may change."""
    save_random(model_of("mixtral"), lora(DOWN, target_modules=[]), tmp_path / "adapter", seed=1)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        kept = torch.zeros_like(tensor)
        if name.endswith("lora_A.weight"):  # (experts * rank, in)
            kept.view(3, 2, -1)[1] = 1.0
        else:  # (out, rank * experts)
            kept.view(-1, 2, 3)[:, :, 1] = 1.0
        tensors[name] = kept
    save_file(tensors, path, metadata={"format": "pt"})
    answer = ours(checkpoints["mixtral"], tmp_path / "adapter", tmp_path / "private")
    layers = [f"model.layers.{n}.block_sparse_moe.experts.1.w2.weight" for n in (0, 1)]
    assert sorted(answer.changes) == layers
    for update in answer.changes.values():  # alpha / r * (rank 2 of ones)
        assert torch.equal(update, torch.full_like(update, 3 / 2 * 2))


def test_each_expert_is_a_module_of_its_own(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    save_random(model_of("gpt_oss"), lora(GATE_UP, target_modules=[]), tmp_path / "a", seed=1)
    aligned = Checkpoint.open(FolderSource(checkpoints["gpt_oss"]), "aligned")
    adapter = open_adapter(
        FolderSource(tmp_path / "a"),
        shapes=aligned.shapes,
        model_type=aligned.model_type,
        config=aligned.config,
        snapshot_dir=tmp_path / "private",
    )
    stack = "model.layers.0.mlp.experts.gate_up_proj"
    names = {piece.module for piece in adapter.pieces}
    assert names >= {f"{stack}[{expert}]" for expert in range(3)}
    assert {piece.shape for piece in adapter.pieces} == {(96, 32)}
    assert all(piece.transposed for piece in adapter.pieces)  # stored (experts, in, out)
    assert sum(change.elements for change in adapter.changed) == 2 * 3 * 96 * 32
    assert all(change.scored for change in adapter.changed)


@pytest.mark.parametrize("name", EXPERTS)
@pytest.mark.parametrize("narrow", [False, True])
def test_experts_named_one_by_one(name: str, narrow: bool, tmp_path: Path) -> None:
    model = narrowed(name) if narrow else model_of(name)
    checkpoint = checkpoint_of(model, tmp_path / "model", narrow=narrow)
    for seed in (1, 4):  # one of them with rsLoRA
        said = verdict(
            model,
            checkpoint,
            older(random.Random(seed)),  # noqa: S311
            tmp_path / str(seed),
            seed=seed,
            narrow=narrow,
            save=save_older,
        )
        assert said == "equal"


def test_experts_named_one_by_one_on_a_stacked_checkpoint(tmp_path: Path) -> None:
    """A checkpoint may hold the stack itself; then each older layer is some rows of it."""
    model = model_of("mixtral")
    folder = write_checkpoint(tmp_path / "model", model.state_dict(), model_type="mixtral")
    (folder / "config.json").write_text(model.config.to_json_string())
    save_older(model, older(random.Random(1)), tmp_path / "adapter", seed=1)  # noqa: S311
    answer = ours(folder, tmp_path / "adapter", tmp_path / "private")
    assert answer.refused == (), answer.whats
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "adapter")
    after = loaded.merge_and_unload().state_dict()
    for tensor, update in answer.changes.items():
        expected = after[tensor] - model.state_dict()[tensor]
        assert (update - expected).norm() <= 1e-5 * expected.norm()
    assert sum("experts" in tensor for tensor in answer.changes) == 4


def test_a_missing_expert_is_named(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    save_older(model_of("mixtral"), older(random.Random(1)), tmp_path / "a", seed=1)  # noqa: S311
    path = tmp_path / "a" / "adapter_model.safetensors"
    tensors = {n: t for n, t in load_file(path).items() if "layers.1" not in n or ".2.w1." not in n}
    save_file(tensors, path, metadata={"format": "pt"})
    answer = ours(checkpoints["mixtral"], tmp_path / "a", tmp_path / "private")
    assert answer.refused == ("module-without-tensors",)


def test_one_of_two_joined_layers_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    save_older(model_of("mixtral"), older(random.Random(1)), tmp_path / "a", seed=1)  # noqa: S311
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": ["w1", "w2"]}))
    answer = ours(checkpoints["mixtral"], tmp_path / "a", tmp_path / "private")
    assert answer.refused[0] == "targets-refused"


@pytest.mark.parametrize(("name", "rule"), [("llava", ""), ("qwen2_vl", "names-older")])
def test_older_prefixes(name: str, rule: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """PEFT 0.21.2 renames Llava's, and silently loads nothing of Qwen2-VL's."""
    model = model_of(name)
    config = lora(target_modules=r".*language_model.*\.(q|up)_proj")
    save_older(model, config, tmp_path / "adapter", seed=1)
    answer = ours(checkpoints[name], tmp_path / "adapter", tmp_path / "private")
    theirs = pefts(model, tmp_path / "adapter")
    assert answer.refused == ((rule,) if rule else ())
    assert len(answer.changes) == 4  # figures there are, under either verdict
    assert theirs.keys() == (set() if rule else answer.changes.keys())


def test_a_checkpoint_of_the_inner_model(tmp_path: Path) -> None:
    """The first GPT-2 on the Hub has no "transformer." in front of its names."""
    model = model_of("gpt2")
    inner = {n.removeprefix("transformer."): t for n, t in stored(model).items()}
    folder = write_checkpoint(tmp_path / "model", inner, model_type="gpt2")
    (folder / "config.json").write_text(model.config.to_json_string())
    config = lora(target_modules=["c_attn"], modules_to_save=["ln_f"])
    save_random(model, config, tmp_path / "adapter", seed=1)
    answer = ours(folder, tmp_path / "adapter", tmp_path / "private")
    assert answer.refused == (), answer.whats
    theirs = pefts(model, tmp_path / "adapter")
    assert {f"transformer.{name}" for name in answer.changes} == theirs.keys()
    for name, update in answer.changes.items():
        expected = theirs[f"transformer.{name}"]
        assert (update - expected).norm() <= 1e-5 * expected.norm()


def test_more_layers_than_tensors_is_refused(tmp_path: Path) -> None:
    model = model_of("mixtral")
    folder = checkpoint_of(model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**6}))
    save_random(model, lora(DOWN), tmp_path / "adapter", seed=1)
    answer = ours(folder, tmp_path / "adapter", tmp_path / "private")
    assert answer.refused[0] == "architecture-unknown"


def test_the_gate_scores_every_expert(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """The figures of each expert against the dense formulas, from the checkpoints' own tensors."""
    aligned = load_file(checkpoints["mixtral"] / "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    base = {n: t + 0.01 * torch.randn(t.shape, generator=generator) for n, t in aligned.items()}
    config = (checkpoints["mixtral"] / "config.json").read_text()
    folder = write_checkpoint(tmp_path / "base", base)
    (folder / "config.json").write_text(config)
    save_random(model_of("mixtral"), lora(GATE_UP, DOWN), tmp_path / "adapter", seed=1)
    report = gate.judge(
        gate.Request(
            adapter=tmp_path / "adapter",
            base=folder,
            aligned=checkpoints["mixtral"],
            today=datetime.date(2026, 1, 1),
        )
    )
    assert not [f for f in report.findings if f.severity == "undecided"]
    assert report.total is not None
    assert report.total.coverage == 1.0
    theirs = pefts(model_of("mixtral"), tmp_path / "adapter")
    assert {f"{score.module}.weight" for score in report.modules} == theirs.keys()
    assert len(theirs) == 2 * (1 + 3 * 3)  # two layers: q_proj, and w1, w2, w3 of three experts
    for score in report.modules:
        name = f"{score.module}.weight"
        update, step = theirs[name].double(), (aligned[name] - base[name]).double()
        image = step @ (step.T @ update)
        cosine = float((image * update).sum() / (image.norm() * update.norm()))
        assert score.drift.cosine == pytest.approx(cosine, rel=1e-4)
        assert score.delta_norm == pytest.approx(float(update.norm()), rel=1e-4)


def test_a_stack_is_read_once_for_all_its_experts() -> None:
    generator = torch.Generator().manual_seed(1)
    tensors = {"A": torch.randn(3 * 2, 5, generator=generator), "B": torch.randn(4, 2 * 3)}
    reads = []

    def read(name: str) -> torch.Tensor:
        reads.append(name)
        return tensors[name]

    stacks = Stacks(read)
    for expert in range(3):
        part = Product(a_name="A", b_name="B", scaling=1.0, expert=expert, experts=3)
        a, b = stacks.pair(part)
        assert torch.equal(a, tensors["A"][2 * expert : 2 * expert + 2])
        assert torch.equal(b, tensors["B"][:, expert::3])  # expert is the fast index of a column
    assert reads == ["A", "B"]


def added(folder: Path, **tensors: str) -> None:
    """Write more tensors into an adapter: copies of its own, under other names."""
    path = folder / "adapter_model.safetensors"
    found = load_file(path)
    for new, old in tensors.items():
        found[new] = found[old] + 1
    save_file(found, path, metadata={"format": "pt"})


def test_one_module_under_two_names_is_refused(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """PEFT would load one of them over the other."""
    config = lora(target_modules=r".*language_model.*\.q_proj")
    save_random(model_of("llava"), config, tmp_path / "a", seed=1)
    names = load_file(tmp_path / "a" / "adapter_model.safetensors")
    older_names = {
        name.replace("model.language_model.", "language_model.model.", 1): name for name in names
    }
    assert not older_names.keys() & names.keys()
    added(tmp_path / "a", **older_names)
    answer = ours(checkpoints["llava"], tmp_path / "a", tmp_path / "private")
    assert answer.refused == ("updates-collide",)


@pytest.mark.parametrize(
    "path",
    [
        "model.layers.0.mlp.experts.base_layer.base_layer",  # deeper than the wrappers are
        "model.layers.0.block_sparse_moe.experts.7.w1",  # there are three experts
        "model.layers.0.block_sparse_moe.experts.1.w2",  # beside the whole stack's factors
    ],
)
def test_factors_without_a_place_of_their_own_are_refused(
    path: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    save_random(model_of("mixtral"), lora(GATE_UP, DOWN), tmp_path / "a", seed=1)
    first = "base_model.model.model.layers.0.mlp.experts.lora_{}.weight"
    new = f"base_model.model.{path}.lora_"
    added(tmp_path / "a", **{f"{new}{x}.weight": first.format(x) for x in "AB"})
    answer = ours(checkpoints["mixtral"], tmp_path / "a", tmp_path / "private")
    assert answer.refused[0] in ("targets-converted", "updates-collide")
