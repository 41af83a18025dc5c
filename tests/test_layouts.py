"""Base and aligned in different layouts: each weight is the one that transformers loads there."""

import copy
import datetime
import shutil
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from safety_gate import gate
from safety_gate.checkpoint import Checkpoint
from safety_gate.naming.failure import NamesUnknown
from safety_gate.naming.layouts import in_layout_of
from safety_gate.sources.folder import FolderSource

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
Tensors = dict[str, torch.Tensor]


def mixtral() -> Any:
    return tf.MixtralForCausalLM(tf.MixtralConfig(**SIZES, num_local_experts=3))


def qwen_moe() -> Any:
    config = tf.Qwen2MoeConfig(
        **SIZES,
        num_experts=3,
        num_experts_per_tok=2,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
    )
    return tf.Qwen2MoeForCausalLM(config)


def llava() -> Any:
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
        "projection_dim": 8,
    }
    config = tf.LlavaConfig(
        text_config={"model_type": "llama", **SIZES},
        vision_config={"model_type": "clip_vision_model", **vision},
        image_token_index=3,
    )
    return tf.LlavaForConditionalGeneration(config)


def gpt2() -> Any:
    return tf.GPT2LMHeadModel(tf.GPT2Config(n_embd=16, n_layer=2, n_head=4, vocab_size=40))


MODELS: dict[str, Callable[[], Any]] = {
    "mixtral": mixtral,
    "qwen_moe": qwen_moe,
    "llava": llava,
    "gpt2": gpt2,
}


def as_hub(model: Any, folder: Path) -> Path:
    """Write a model as save_pretrained does: in the layout that the Hub's checkpoints have."""
    model.save_pretrained(folder)
    return folder


def as_loaded(model: Any, folder: Path) -> Path:
    """Write a model by the names of its own parameters."""
    model.save_pretrained(folder)  # for the config
    tied = set(model.all_tied_weights_keys)
    own = {k: v.clone().contiguous() for k, v in model.state_dict().items() if k not in tied}
    save_file(own, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def without_prefix(model: Any, folder: Path) -> Path:
    """Write only the model without its head, as AutoModel.save_pretrained does."""
    as_loaded(model, folder)
    prefix = f"{model.base_model_prefix}."
    own = load_file(folder / "model.safetensors")
    kept = {name.removeprefix(prefix): value for name, value in own.items()}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def read(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    """Read a weight in blocks of two rows."""
    rows = checkpoint.shape(name)[0]
    scratch = torch.empty(checkpoint.scratch_bytes(name, 2), dtype=torch.uint8)
    steps = [(start, min(start + 2, rows)) for start in range(0, rows, 2)]
    return torch.cat([checkpoint.rows(name, *step, scratch).clone() for step in steps])


@pytest.mark.parametrize("turned", [False, True], ids=["loaded-by-hub", "hub-by-loaded"])
@pytest.mark.parametrize("kind", MODELS)
def test_weights_are_those_that_transformers_saves(kind: str, turned: bool, tmp_path: Path) -> None:
    """The second road is save_pretrained of the same model in the other layout."""
    torch.manual_seed(3)
    model = MODELS[kind]()
    writers = (as_loaded, as_hub) if turned else (as_hub, as_loaded)
    if kind == "gpt2":  # transformers renames nothing here
        writers = (as_hub, without_prefix) if turned else (without_prefix, as_hub)
    base, aligned = (write(model, tmp_path / write.__name__) for write in writers)
    expected = load_file(aligned / "model.safetensors")
    with closing(FolderSource(base)) as one, closing(FolderSource(aligned)) as two:
        before, target = Checkpoint.open(one, "base"), Checkpoint.open(two, "aligned")
        renamed = [name for name in target.names if not before.has(name)]
        assert renamed
        found = in_layout_of(before, target, target.names)
        for name in target.names:
            assert found.shape(name) == target.shape(name)
            assert torch.equal(read(found, name), expected[name])


def test_a_head_of_its_own_is_compared_with_the_tied_one(tmp_path: Path) -> None:
    """Base shares one tensor between embedding and head; aligned has two."""
    torch.manual_seed(3)
    model = tf.LlamaForCausalLM(tf.LlamaConfig(**SIZES, tie_word_embeddings=True))
    as_hub(model, tmp_path / "base")
    untied = tf.LlamaForCausalLM(tf.LlamaConfig(**SIZES, tie_word_embeddings=False))
    as_hub(untied, tmp_path / "aligned")
    with (
        closing(FolderSource(tmp_path / "base")) as one,
        closing(FolderSource(tmp_path / "aligned")) as two,
    ):
        before, target = Checkpoint.open(one, "base"), Checkpoint.open(two, "aligned")
        assert not before.has("lm_head.weight")
        found = in_layout_of(before, target, target.names)
        assert torch.equal(read(found, "lm_head.weight"), model.model.embed_tokens.weight.data)


def test_equal_names_ask_nobody(tmp_path: Path) -> None:
    folder = as_hub(gpt2(), tmp_path / "it")
    (folder / "config.json").write_text('{"model_type": "nobody-knows"}')
    with closing(FolderSource(folder)) as source:
        it = Checkpoint.open(source, "base")
        assert in_layout_of(it, it, it.names) is it


def test_what_cannot_be_resolved_names_both(tmp_path: Path) -> None:
    base = as_hub(mixtral(), tmp_path / "base")
    aligned = Path(shutil.copytree(base, tmp_path / "aligned"))
    tensors = load_file(aligned / "model.safetensors")
    tensors["model.layers.0.odd.weight"] = tensors.pop("model.layers.0.input_layernorm.weight")
    save_file(tensors, aligned / "model.safetensors", metadata={"format": "pt"})
    with closing(FolderSource(base)) as one, closing(FolderSource(aligned)) as two:
        before, target = Checkpoint.open(one, "base"), Checkpoint.open(two, "aligned")
        with pytest.raises(NamesUnknown) as caught:
            in_layout_of(before, target, target.names)
    assert "only in aligned 1: model.layers.0.odd.weight" in caught.value.got
    assert "only in base 1: model.layers.0.input_layernorm.weight" in caught.value.got


def test_a_config_of_a_huge_model_is_refused(tmp_path: Path) -> None:
    base = as_hub(gpt2(), tmp_path / "base")
    aligned = without_prefix(gpt2(), tmp_path / "aligned")
    text = (aligned / "config.json").read_text()
    (aligned / "config.json").write_text(text.replace('"n_layer": 2', '"n_layer": 2000000000'))
    with closing(FolderSource(base)) as one, closing(FolderSource(aligned)) as two:
        before, target = Checkpoint.open(one, "base"), Checkpoint.open(two, "aligned")
        with pytest.raises(NamesUnknown, match="more layers than the checkpoint has tensors"):
            in_layout_of(before, target, target.names)


def test_foreign_code_is_never_asked(tmp_path: Path) -> None:
    base = as_hub(gpt2(), tmp_path / "base")
    aligned = without_prefix(gpt2(), tmp_path / "aligned")
    text = (aligned / "config.json").read_text()
    (aligned / "config.json").write_text(
        text.replace("{", '{"auto_map": {"AutoModelForCausalLM": "theirs.Model"},', 1)
    )
    with closing(FolderSource(base)) as one, closing(FolderSource(aligned)) as two:
        before, target = Checkpoint.open(one, "base"), Checkpoint.open(two, "aligned")
        with pytest.raises(NamesUnknown, match="code from its repository"):
            in_layout_of(before, target, target.names)


# ---- through the whole gate: the layout of base changes no figure


def moved(model: Any) -> Any:
    """Return the model with every weight moved a little: the aligned one."""
    found = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.003 * torch.randn(parameter.shape, generator=generator))
    return found


def save_adapter(model: Any, folder: Path, **config: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=2, **config))
        generator = torch.Generator().manual_seed(6)
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.data.copy_(0.01 * torch.randn(parameter.shape, generator=generator))
        wrapped.save_pretrained(folder)
    return folder


def figures(base: Path, aligned: Path, adapter: Path) -> tuple[dict[str, float], set[str]]:
    """Return the cosine of every module, and the findings that stop a verdict."""
    request = gate.Request(
        adapter=adapter, base=base, aligned=aligned, today=datetime.date(2026, 1, 1)
    )
    report = gate.judge(request)
    assert report.total is not None
    assert report.total.coverage == 1.0
    grave = {f.rule for f in report.findings if f.severity == "undecided"}
    return {score.module: score.drift.cosine for score in report.modules}, grave


TARGETS: dict[str, dict[str, Any]] = {
    "mixtral": {
        "target_modules": ["q_proj"],
        "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    },
    "qwen_moe": {"target_modules": ["q_proj", "shared_expert.down_proj"]},
    "llava": {"target_modules": r".*language_model.*\.(q_proj|down_proj)"},
}


@pytest.mark.parametrize("stored", [as_hub, as_loaded], ids=["aligned-hub", "aligned-loaded"])
@pytest.mark.parametrize("kind", TARGETS)
def test_the_layout_of_base_changes_no_figure(
    kind: str, stored: Callable[[Any, Path], Path], tmp_path: Path
) -> None:
    torch.manual_seed(3)
    model = MODELS[kind]()
    tuned = moved(model)
    aligned = stored(tuned, tmp_path / "aligned")
    adapter = save_adapter(tuned, tmp_path / "adapter", **TARGETS[kind])
    bases = [write(model, tmp_path / write.__name__) for write in (as_hub, as_loaded)]
    first, grave = figures(bases[0], aligned, adapter)
    second, also = figures(bases[1], aligned, adapter)
    assert first
    assert first == second
    assert grave == also
    assert "names-unknown" not in grave
