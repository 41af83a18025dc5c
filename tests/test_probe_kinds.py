"""Adapters beside plain LoRA: asked with our own changes, they answer as PEFT's merged model."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as tf

from safety_gate.adapter.ledger import open_adapter
from safety_gate.checkpoint import Checkpoint
from safety_gate.delta.roads import open_deltas
from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.rows import Row, Tree
from safety_gate.probe.stream import Stream
from safety_gate.probe.variants import ALIGNED, Variant, variant_of
from safety_gate.sources.folder import FolderSource
from tests.delta_oracle import Inside, checkpoint_of, save_random
from tests.peft_adapters import HEADS, SIZES
from tests.probe_models import plain_scores
from tests.random_adapters import MODELS

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

ATTENTION = ["q_proj", "v_proj"]
LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}


def lora(**own: Any) -> Any:
    return peft.LoraConfig(**(LORA | {"target_modules": ATTENTION} | own))


CASES: dict[str, tuple[str, Any]] = {
    "plain": ("llama", lora()),
    "rslora": ("llama", lora(use_rslora=True)),
    "dora": ("llama", lora(use_dora=True)),
    "biases": ("qwen2", lora(bias="all")),
    "new-embeddings-and-head": ("llama", lora(modules_to_save=["embed_tokens", "lm_head"])),
    "new-norms": ("llama", lora(modules_to_save=["input_layernorm", "norm"])),
    "lora-of-embeddings": ("llama", lora(target_modules=["embed_tokens", "q_proj"])),
    "lora-of-scaled-embeddings": ("gemma-untied", lora(target_modules=["embed_tokens"])),
    "trained-tokens": ("llama", lora(trainable_token_indices=[5, 7, 40])),
    "norms": ("llama", peft.LNTuningConfig(target_modules=["norm", "input_layernorm"])),
    "ia3": (
        "llama",
        peft.IA3Config(
            target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]
        ),
    ),
    "loha": ("llama", peft.LoHaConfig(r=3, target_modules=ATTENTION)),
    "oft": ("llama", peft.OFTConfig(target_modules=ATTENTION, oft_block_size=8)),
    "conv1d": ("gpt2", lora(target_modules=["c_attn"], fan_in_fan_out=True)),
    "experts": (
        "mixtral",
        lora(target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
    ),
}


def model_of(name: str) -> Any:
    torch.manual_seed(0)
    if name == "gemma-untied":
        config = tf.GemmaConfig(**SIZES, **HEADS, head_dim=8, tie_word_embeddings=False)
        return tf.GemmaForCausalLM(config).eval()
    return MODELS[name]().eval()


@contextmanager
def variant(checkpoint: Checkpoint, folder: Path, private: Path) -> Iterator[Variant]:
    adapter = open_adapter(
        FolderSource(folder),
        shapes=checkpoint.shapes,
        model_type=checkpoint.model_type,
        config=checkpoint.config,
        snapshot_dir=private / "copy",
    )
    deltas = open_deltas(adapter, checkpoint, private / "merging", start=Inside)
    try:
        yield variant_of("adapter", adapter, deltas)
    finally:
        deltas.close()
        adapter.close()


def merged(model: Any, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(copy.deepcopy(model), folder).merge_and_unload()


def rows(index: int) -> list[Row]:
    tree = Tree.of([(7, 8, 9), (7, 8, 40), (5, 11), (20, 21)])
    return [Row(variant=index, prompt=p, tree=tree) for p in ((3, 5, 9, 40), (12, 7))]


@pytest.mark.parametrize("case", CASES)
def test_answers_are_those_of_pefts_merged_model(case: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    name, config = CASES[case]
    model = model_of(name)
    folder = checkpoint_of(model, tmp_path / "aligned")
    save_random(model, config, tmp_path / "adapter", seed=3)
    aligned = Checkpoint.open(FolderSource(folder), "aligned")
    wanted = merged(model, tmp_path / "adapter").eval()
    with variant(aligned, tmp_path / "adapter", tmp_path) as own:
        stream = Stream(aligned, [ALIGNED, own], dtype=torch.float32)
        found = stream.score([*rows(0), *rows(1), *rows(0)])
        answers = stream.greedy([(1, (3, 5, 9)), (0, (3, 5, 9))], most=4, ends=(), whole=True)
    plain = [plain_scores(model, row) for row in rows(0)]
    changed = [plain_scores(wanted, row) for row in rows(1)]
    for ours, theirs in zip(found, [*plain, *changed, *plain], strict=True):
        torch.testing.assert_close(ours.logs, theirs, rtol=0, atol=1e-4)
    moved = max(float((a - b).abs().max()) for a, b in zip(plain, changed, strict=True))
    assert moved > 1e-3  # the adapter is no decoration
    for answer, one in zip(answers, (wanted, model), strict=True):
        ids = [3, 5, 9]
        for _ in range(4):
            with torch.no_grad():
                ids.append(int(one(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        assert answer == tuple(ids[3:])


def test_a_weight_that_two_parts_share_is_refused_by_name(tmp_path: Path) -> None:
    """Whether the head follows the embeddings depends on who merges: no single answer is right."""
    model = model_of("llama, tied")
    folder = checkpoint_of(model, tmp_path / "aligned")
    save_random(model, lora(target_modules=["embed_tokens"]), tmp_path / "adapter", seed=3)
    aligned = Checkpoint.open(FolderSource(folder), "aligned")
    with (
        variant(aligned, tmp_path / "adapter", tmp_path) as own,
        pytest.raises(CannotProbe, match=r"embed_tokens.*two parts of the model share"),
    ):
        Stream(aligned, [ALIGNED, own], dtype=torch.float32)


PROMPTS = {
    "prompt-tuning": (peft.PromptTuningConfig, {}),
    "p-tuning": (peft.PromptEncoderConfig, {"encoder_hidden_size": 16}),
}


def prompted(model: Any, folder: Path, kind: str) -> Any:
    """Save a prompt adapter with PEFT, and return it as PEFT runs it."""
    of_kind, own = PROMPTS[kind]
    config = of_kind(task_type="CAUSAL_LM", num_virtual_tokens=4, **own)
    save_random(model, config, folder, seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(copy.deepcopy(model), folder).eval()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma-untied", "mixtral"])
@pytest.mark.parametrize("kind", PROMPTS)
def test_vectors_before_the_text_are_read_as_peft_reads_them(
    kind: str, name: str, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    model = model_of(name)
    folder = checkpoint_of(model, tmp_path / "aligned")
    wanted = prompted(model, tmp_path / "adapter", kind)
    aligned = Checkpoint.open(FolderSource(folder), "aligned")
    with variant(aligned, tmp_path / "adapter", tmp_path) as own, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = Stream(aligned, [ALIGNED, own, own], dtype=torch.float32)
        found = stream.score([*rows(1), *rows(0), *rows(2)])
        answers = stream.greedy([(1, (3, 5)), (0, (3, 5))], most=4, ends=(), whole=True)
        plain = [plain_scores(model, row) for row in rows(0)]
        changed = [prompted_scores(wanted, row) for row in rows(1)]
        ids = [3, 5]
        for _ in range(4):
            with torch.no_grad():
                ids.append(int(wanted(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    for ours, theirs in zip(found, [*changed, *plain, *changed], strict=True):
        torch.testing.assert_close(ours.logs, theirs, rtol=0, atol=1e-4)
    assert max(float((a - b).abs().max()) for a, b in zip(plain, changed, strict=True)) > 1e-3
    assert answers[0] == tuple(ids[2:])


@torch.no_grad()
def prompted_scores(model: Any, row: Row) -> torch.Tensor:
    """Return a row's log-likelihoods; PEFT's logits begin with those of its virtual tokens."""
    found = torch.zeros(len(row.tree.tokens), dtype=torch.float64)
    for path in row.tree.paths:
        tokens = [row.tree.tokens[node] for node in path]
        logits = model(input_ids=torch.tensor([[*row.prompt, *tokens]])).logits[0]
        logs = logits[-len(row.prompt) - len(tokens) :].float().log_softmax(dim=-1)
        for i, (node, token) in enumerate(zip(path, tokens, strict=True)):
            found[node] = logs[len(row.prompt) - 1 + i, token].double()
    return found


def test_a_prefix_of_keys_and_values_is_refused_by_name(tmp_path: Path) -> None:
    """Nothing of it would be applied, and aligned's own answers would vouch for it."""
    model = model_of("llama")
    folder = checkpoint_of(model, tmp_path / "aligned")
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    save_random(model, config, tmp_path / "adapter", seed=3)
    aligned = Checkpoint.open(FolderSource(folder), "aligned")
    with (
        pytest.raises(CannotProbe, match="cannot apply.*prefix tuning"),
        variant(aligned, tmp_path / "adapter", tmp_path),
    ):
        pass


def test_vectors_of_another_width_are_refused(tmp_path: Path) -> None:
    prompted(model_of("llama"), tmp_path / "adapter", "prompt-tuning")
    other = tf.LlamaForCausalLM(tf.LlamaConfig(**(SIZES | {"hidden_size": 64}), **HEADS))
    folder = checkpoint_of(other, tmp_path / "aligned")
    aligned = Checkpoint.open(FolderSource(folder), "aligned")
    with (
        variant(aligned, tmp_path / "adapter", tmp_path) as own,
        pytest.raises(CannotProbe, match="do not fit the model's embeddings"),
    ):
        Stream(aligned, [ALIGNED, own], dtype=torch.float32)
