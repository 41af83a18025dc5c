"""Checkpoints: one file or shards, joined by name; every mismatch is refused."""

import hashlib
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from safety_gate.checkpoint import Checkpoint, Role, natural
from safety_gate.errors import BadCheckpoint, BadTensorFile, GateError, MissingFile, SourceError
from safety_gate.sources.folder import FolderSource

INDEX = "model.safetensors.index.json"
CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}
SHARDS = {
    "model-00001-of-00002.safetensors": ("model.layers.10.w.weight", "model.embed.weight"),
    "model-00002-of-00002.safetensors": ("model.layers.2.w.weight", "lm_head.weight"),
}
ORDER = (
    "lm_head.weight",
    "model.embed.weight",
    "model.layers.2.w.weight",
    "model.layers.10.w.weight",
)


def value(name: str) -> torch.Tensor:
    """Return the weight that every checkpoint here has by this name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)


def write_json(path: Path, body: object) -> None:
    path.write_text(json.dumps(body))


def single(folder: Path) -> Path:
    folder.mkdir()
    save_file({name: value(name) for name in ORDER}, folder / "model.safetensors")
    write_json(folder / "config.json", CONFIG)
    return folder


def sharded(folder: Path) -> Path:
    folder.mkdir()
    for shard, names in SHARDS.items():
        save_file({name: value(name) for name in names}, folder / shard)
    weight_map = {name: shard for shard, names in SHARDS.items() for name in names}
    write_json(folder / INDEX, {"metadata": {"total_size": 192}, "weight_map": weight_map})
    write_json(folder / "config.json", CONFIG)
    return folder


def change_map(folder: Path, **changes: object) -> None:
    """Set entries of the weight map; None removes one."""
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"].update({name.replace("__", "."): to for name, to in changes.items()})
    index["weight_map"] = {k: v for k, v in index["weight_map"].items() if v is not None}
    write_json(folder / INDEX, index)


def refusal(folder: Path, role: Role = "base") -> GateError:
    with closing(FolderSource(folder)) as source, pytest.raises(GateError) as caught:
        Checkpoint.open(source, role)
    assert caught.value.where.startswith(str(folder))
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("build", [single, sharded])
def test_weights_are_found_by_name(build: Callable[[Path], Path], tmp_path: Path) -> None:
    scratch = torch.empty(6 * 4 * 2, dtype=torch.uint8)
    with closing(FolderSource(build(tmp_path / "it"))) as source:
        checkpoint = Checkpoint.open(source, "aligned")
        assert checkpoint.names == tuple(checkpoint.shapes) == ORDER
        assert checkpoint.role == "aligned"
        assert checkpoint.source is source
        for name in ORDER:
            assert checkpoint.has(name)
            assert checkpoint.shape(name) == checkpoint.shapes[name] == (6, 4)
            assert checkpoint.entry(name).dtype == "BF16"
            rows = checkpoint.rows(name, 1, 4, scratch)
            assert torch.equal(rows, value(name)[1:4])
        assert not checkpoint.has("model.layers.1.w.weight")


def test_natural_order() -> None:
    names = ["a.10.b", "a.2.b", "a.2", "a", "10", "9", "a.2.b2", "a.02.b", "²"]
    assert sorted(names, key=natural) == ["9", "10", "a", "a.2", "a.2.b", "a.02.b", "a.2.b2",
                                          "a.10.b", "²"]  # fmt: skip


def test_asking_for_what_is_not_there_names_it(tmp_path: Path) -> None:
    scratch = torch.empty(100, dtype=torch.uint8)
    with closing(FolderSource(single(tmp_path / "it"))) as source:
        checkpoint = Checkpoint.open(source, "base")
        for ask in (
            checkpoint.entry,
            checkpoint.shape,
            lambda n: checkpoint.rows(n, 0, 1, scratch),
        ):
            with pytest.raises(BadCheckpoint, match=r"gone\.weight.*base checkpoint has no tensor"):
                ask("gone.weight")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.bool, torch.complex64])
def test_undecoded_dtypes_are_refused_when_asked_for(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = single(tmp_path / "it")
    save_file(
        {"a": torch.zeros(2, 2).to(dtype), "b": torch.ones(2, 2)}, folder / "model.safetensors"
    )
    scratch = torch.empty(100, dtype=torch.uint8)
    with closing(FolderSource(folder)) as source:
        checkpoint = Checkpoint.open(source, "base")
        assert checkpoint.rows("b", 0, 2, scratch).tolist() == [[1.0, 1.0], [1.0, 1.0]]
        with pytest.raises(BadCheckpoint, match="a: a weight of the base.*not decoded"):
            checkpoint.rows("a", 0, 1, scratch)


# ---- shards that do not belong together

FIRST, SECOND = SHARDS


def save_again(folder: Path, shard: str, *names: str) -> None:
    save_file({name: value(name) for name in names}, folder / shard)


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "tensor-missing": (
        lambda f: save_again(f, FIRST, "model.embed.weight"),
        "not in it (got 1: model.layers.10.w.weight",
    ),
    "tensor-extra": (
        lambda f: save_again(f, FIRST, *SHARDS[FIRST], "extra"),
        "does not place in it (got 1: extra",
    ),
    "same-tensor-in-both": (
        lambda f: save_again(f, SECOND, *SHARDS[SECOND], "model.embed.weight"),
        "does not place in it (got 1: model.embed.weight",
    ),
    "shards-swapped": (
        lambda f: (
            (f / FIRST).rename(f / "x"),
            (f / SECOND).rename(f / FIRST),
            (f / "x").rename(f / SECOND),
        ),
        "not in it (got 2: model.embed.weight, model.layers.10.w.weight",
    ),  # fmt: skip
    "mapped-to-the-wrong-shard": (
        lambda f: change_map(f, lm_head__weight=FIRST),
        "not in it (got 1: lm_head.weight",
    ),
    "mapped-but-nowhere": (
        lambda f: change_map(f, ghost=SECOND),
        "not in it (got 1: ghost",
    ),
    "not-mapped": (
        lambda f: change_map(f, lm_head__weight=None),
        "does not place in it (got 1: lm_head.weight",
    ),
    "shard-missing": (lambda f: (f / SECOND).unlink(), "a shard that is not there"),
    "shard-outside": (lambda f: change_map(f, x="../model.safetensors"), "unsafe path"),
    "shard-absolute": (lambda f: change_map(f, x="/tmp/model.safetensors"), "unsafe path"),  # noqa: S108
    "shard-unc": (lambda f: change_map(f, x="\\\\host\\model.safetensors"), "unsafe path"),
    "shard-pickled": (lambda f: change_map(f, x="pytorch_model.bin"), "no safetensors file"),
    "shard-number": (lambda f: change_map(f, x=1), "not named by a string"),
    "map-empty": (lambda f: write_json(f / INDEX, {"weight_map": {}}), "weight_map is not"),
    "map-list": (lambda f: write_json(f / INDEX, {"weight_map": []}), "weight_map is not"),
    "map-absent": (lambda f: write_json(f / INDEX, {}), "weight_map is not"),
    "index-list": (lambda f: write_json(f / INDEX, []), "not a JSON object"),
    "index-twice": (
        lambda f: (f / INDEX).write_text('{"weight_map": {"a": "x", "a": "y"}}'),
        "stands twice",
    ),
    "single-file-too": (
        lambda f: save_again(f, "model.safetensors", *ORDER),
        "a single weights file and an index",
    ),
}


@pytest.mark.parametrize("breaks", BREAKS)
def test_shards_and_index_must_agree(breaks: str, tmp_path: Path) -> None:
    change, says = BREAKS[breaks]
    folder = sharded(tmp_path / "it")
    change(folder)
    error = refusal(folder)
    assert isinstance(error, BadCheckpoint)
    assert says in str(error)


def test_many_mismatches_are_counted_and_few_are_shown(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "it")
    change_map(folder, **{f"ghost{at}": SECOND for at in range(50)})
    assert "(got 50: ghost0, ghost1, ghost2)" in str(refusal(folder))


def test_a_shard_that_breaks_the_format_is_named_with_its_checkpoint(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "it")
    (folder / SECOND).write_bytes((folder / SECOND).read_bytes() + b"\0")
    error = refusal(folder)
    assert isinstance(error, BadTensorFile)
    assert error.where == f"{folder}: {SECOND}"


def test_weights_that_the_index_does_not_name_are_not_loaded(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "it")
    (folder / "consolidated.safetensors").write_bytes(b"not even one")
    with closing(FolderSource(folder)) as source:
        assert Checkpoint.open(source, "base").names == ORDER


# ---- no weights, no config


def test_only_pickled_weights(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    error = refusal(tmp_path)
    assert isinstance(error, BadCheckpoint)
    assert "only pickled weights" in error.what
    assert "save_pretrained" in error.hint


def test_no_weights(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", CONFIG)
    assert isinstance(refusal(tmp_path), MissingFile)
    save_again(tmp_path, "adapter_model.safetensors", "a")
    assert "adapter" in refusal(tmp_path).hint


def test_no_config(tmp_path: Path) -> None:
    folder = single(tmp_path / "it")
    (folder / "config.json").unlink()
    assert "no config.json" in refusal(folder).what


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "not a JSON object"),
        ("{", "not JSON"),
        ('{"model_type": "llama", "model_type": "qwen2"}', "stands twice"),
        ('{"time_step_limit": [0.0, Infinity]}', "not finite"),
        ('{"model_type": 1}', "model_type is not a string"),
        ('{"architectures": "LlamaForCausalLM"}', "not a list of strings"),
        ('{"architectures": [1]}', "not a list of strings"),
        ('{"tie_word_embeddings": "false"}', "neither true nor false"),
        ('{"tie_word_embeddings": 0}', "neither true nor false"),
        (" " * (4 * 2**20 + 1), "too large"),
    ],
)
def test_config_is_read_strictly(text: str, says: str, tmp_path: Path) -> None:
    folder = single(tmp_path / "it")
    (folder / "config.json").write_text(text)
    assert says in str(refusal(folder))


def opened(folder: Path, config: object) -> Checkpoint:
    write_json(folder / "config.json", config)
    with closing(FolderSource(folder)) as source:
        return Checkpoint.open(source, "base")


def test_what_the_config_says(tmp_path: Path) -> None:
    folder = single(tmp_path / "it")
    said = opened(folder, CONFIG)
    assert (said.model_type, said.architectures) == ("llama", ("LlamaForCausalLM",))
    assert said.tie_word_embeddings is True
    assert said.quantised is None
    assert said.config == CONFIG
    silent = opened(folder, {})
    assert (silent.model_type, silent.architectures) == (None, ())
    assert silent.tie_word_embeddings is None


@pytest.mark.parametrize(
    ("config", "method", "why"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 5}}, "gptq", "bits"),
        ({"quantization_config": {"quant_method": "aqlm"}}, "aqlm", "method is not known"),
        (
            {"compression_config": {"quant_method": "compressed-tensors"}},
            "compressed-tensors",
            "several ways",
        ),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "fp8", "no tensor"),
        ({"quantization_config": {"load_in_4bit": True}}, "bitsandbytes", "no tensor"),
        ({"quantization_config": {"load_in_4bit": True, "new": 1}}, "bitsandbytes", "the key new"),
        ({"quantization_config": {}}, "an unnamed method", "method is not known"),
    ],
)
def test_quantised_checkpoints_that_are_not_read_say_why(
    config: object, method: str, why: str, tmp_path: Path
) -> None:
    quantised = opened(single(tmp_path / "it"), config).quantised
    assert quantised is not None
    assert quantised.method == method
    assert why in quantised.refused


@pytest.mark.parametrize("config", [{"quantization_config": None}, {"text_config": {}}])
def test_checkpoints_that_are_not_quantised(config: object, tmp_path: Path) -> None:
    assert opened(single(tmp_path / "it"), config).quantised is None


# ---- the fact


def test_fact_has_digests_of_what_was_read(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "it")
    write_json(folder / "tokenizer.json", {"model": {}})
    (folder / "README.md").write_text("not part of the model")
    with closing(FolderSource(folder, name="acme/base")) as source:
        checkpoint = Checkpoint.open(source, "base")
        light = checkpoint.fact(hash_files=False)
        full = checkpoint.fact(hash_files=True)
    assert (light.role, light.name) == ("base", "acme/base")
    assert [f.path for f in light.files] == ["config.json", FIRST, SECOND, INDEX, "tokenizer.json"]
    for fact, whole in zip(light.files, full.files, strict=True):
        data = (folder / fact.path).read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        assert (fact.path, fact.size) == (whole.path, whole.size) == (fact.path, len(data))
        assert whole.sha256 == sha256
        if fact.path in SHARDS:
            header = data[: 8 + int.from_bytes(data[:8], "little")]
            assert fact.sha256 is None
            assert fact.header_sha256 == hashlib.sha256(header).hexdigest()
        else:
            assert (fact.sha256, fact.header_sha256) == (sha256, None)


def test_the_revision_says_what_it_covers(tmp_path: Path) -> None:
    folder = single(tmp_path / "it")

    def revisions() -> tuple[str, str]:
        with closing(FolderSource(folder)) as source:
            checkpoint = Checkpoint.open(source, "base")
            return (
                checkpoint.fact(hash_files=False).revision,
                checkpoint.fact(hash_files=True).revision,
            )

    headers, whole = revisions()
    assert headers.startswith("headers-sha256:")
    assert whole.startswith("sha256:")
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1  # one bit of one weight
    (folder / "model.safetensors").write_bytes(data)
    assert revisions()[0] == headers
    assert revisions()[1] != whole
    write_json(folder / "config.json", {})
    assert revisions()[0] != headers


def test_a_pinned_source_keeps_its_revision(tmp_path: Path) -> None:
    with closing(FolderSource(single(tmp_path / "it"), revision="a" * 40)) as source:
        assert Checkpoint.open(source, "base").fact(hash_files=True).revision == "a" * 40


def test_a_change_while_reading_is_noticed_and_named(tmp_path: Path) -> None:
    folder = single(tmp_path / "it")
    with closing(FolderSource(folder)) as source:
        checkpoint = Checkpoint.open(source, "aligned")
        with open(folder / "model.safetensors", "r+b") as writer:
            writer.truncate(500)
        with pytest.raises(SourceError) as caught:
            checkpoint.rows(ORDER[-1], 0, 6, torch.empty(48, dtype=torch.uint8))
    assert caught.value.where == f"{folder}: model.safetensors"
