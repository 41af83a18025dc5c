"""Hostile adapters: one builder per attack, with the finding that must answer it.

Every builder starts from the same honest adapter of a two-layer Llama and spoils one thing. The
pickles are inert: they would create a file named canary in the current folder, and nothing else.
"""

import copy
import functools
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from safety_gate.records import Severity

HIDDEN, INNER, VOCAB, RANK = 32, 48, 64, 4
PREFIX = "base_model.model."
Q0 = f"{PREFIX}model.layers.0.self_attn.q_proj"
CONFIG: Mapping[str, Any] = {
    "alpha_pattern": {},
    "auto_mapping": None,
    "base_model_name_or_path": "example/aligned",
    "bias": "none",
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "peft_version": "0.21.2",
    "r": RANK,
    "rank_pattern": {},
    "revision": None,
    "target_modules": ["q_proj", "v_proj"],
    "task_type": "CAUSAL_LM",
    "use_dora": False,
    "use_rslora": False,
}


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the tensors of the aligned model."""
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCAB, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCAB, HIDDEN),
    }
    for layer in range(2):
        at = f"model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            found[f"{at}.self_attn.{name}.weight"] = (HIDDEN, HIDDEN)
        found[f"{at}.mlp.gate_proj.weight"] = (INNER, HIDDEN)
        found[f"{at}.mlp.up_proj.weight"] = (INNER, HIDDEN)
        found[f"{at}.mlp.down_proj.weight"] = (HIDDEN, INNER)
        found[f"{at}.input_layernorm.weight"] = (HIDDEN,)
        found[f"{at}.post_attention_layernorm.weight"] = (HIDDEN,)
    return found


def tensors() -> dict[str, torch.Tensor]:
    """Return the factors of the honest adapter."""
    generator = torch.Generator().manual_seed(3)
    found = {}
    for layer in range(2):
        for name in ("q_proj", "v_proj"):
            at = f"{PREFIX}model.layers.{layer}.self_attn.{name}"
            found[f"{at}.lora_A.weight"] = torch.randn(RANK, HIDDEN, generator=generator)
            found[f"{at}.lora_B.weight"] = torch.randn(HIDDEN, RANK, generator=generator)
    return found


def write(
    folder: Path,
    *,
    config: Mapping[str, Any] | None = None,
    extra: Mapping[str, torch.Tensor] | None = None,
    without: tuple[str, ...] = (),
) -> None:
    """Write the honest adapter with some config values, tensors more or tensors less."""
    folder.mkdir(exist_ok=True)
    values = {**copy.deepcopy(dict(CONFIG)), **(config or {})}
    (folder / "adapter_config.json").write_text(json.dumps(values, indent=2))
    kept = {**tensors(), **(extra or {})}
    kept = {name: tensor for name, tensor in kept.items() if name not in without}
    save_file(kept, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "README.md").write_text("# An adapter\n")


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack and its answer."""

    name: str
    build: Callable[[Path], None]
    rule: str
    severity: Severity


class Canary:
    """Creates a file named canary when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, ("canary", "w")


def _pickled(protocol: int) -> bytes:
    return pickle.dumps(Canary(), protocol=protocol)


def _torch_zip() -> bytes:
    buffer = io.BytesIO()
    torch.save({"canary": Canary()}, buffer)
    return buffer.getvalue()


def _torch_legacy() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(2)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Canary()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _appended_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", _pickled(2))
    return b"harmless words\n" * 10 + buffer.getvalue()


def _padded_pickle() -> bytes:
    return b"N" + b"20" * 100_000 + _pickled(0)


def _safetensors() -> bytes:
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return len(header).to_bytes(8, "little") + header + bytes(4)


def _file(
    path: str, data: bytes | Callable[[], bytes], rule: str, severity: Severity = "block"
) -> Attack:
    def build(folder: Path) -> None:
        write(folder)
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data() if callable(data) else data)

    return Attack(f"file {path}", build, rule, severity)


def _tensor(
    name: str,
    rule: str,
    extra: Mapping[str, tuple[int, ...]],
    severity: Severity = "block",
    **config: Any,
) -> Attack:
    def build(folder: Path) -> None:
        more = {key: torch.full(shape, 0.5) for key, shape in extra.items()}
        write(folder, extra=more, config=config)

    return Attack(f"tensor {name}", build, rule, severity)


def _without(name: str, rule: str, *names: str) -> Attack:
    return Attack(f"without {name}", lambda folder: write(folder, without=names), rule, "undecided")


def _dtype(dtype: torch.dtype) -> Attack:
    def build(folder: Path) -> None:
        write(folder, extra={f"{Q0}.lora_A.weight": torch.ones(RANK, HIDDEN).to(dtype)})

    return Attack(f"dtype {dtype}", build, "dtype-not-read", "undecided")


def _nested(folder: Path) -> None:
    write(folder)
    write(folder / "checkpoint-10")


def _only_nested(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    write(folder / "second")


def _only_pickle(folder: Path) -> None:
    write(folder)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(_torch_zip())


def _weights_are_pickle(folder: Path) -> None:
    write(folder)
    (folder / "adapter_model.safetensors").write_bytes(_pickled(4))


def _zip_behind_weights(folder: Path) -> None:
    write(folder)
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes() + _appended_zip())


def _other_model(folder: Path) -> None:
    config = {"target_modules": ["query_key_value"]}
    at = f"{PREFIX}transformer.h.0.attention.query_key_value"
    extra = {f"{at}.lora_A.weight": torch.ones(4, 8), f"{at}.lora_B.weight": torch.ones(8, 4)}
    write(folder, config=config, extra=extra, without=tuple(tensors()))


def _empty(folder: Path) -> None:
    write(folder, without=tuple(tensors()), config={"target_modules": "dummy-target-modules"})


UP0 = "model.layers.0.mlp.up_proj"
SQUARE, WIDE = (HIDDEN, HIDDEN), (INNER, HIDDEN)
LORA_UP0 = {
    f"{PREFIX}{UP0}.lora_A.weight": (RANK, HIDDEN),
    f"{PREFIX}{UP0}.lora_B.weight": (INNER, RANK),
}
LORA_NORM = {
    f"{PREFIX}model.norm.lora_A.weight": (RANK, HIDDEN),
    f"{PREFIX}model.norm.lora_B.weight": (HIDDEN, RANK),
}
LORA_GHOST = {
    f"{PREFIX}model.layers.9.self_attn.q_proj.lora_A.weight": (RANK, HIDDEN),
    f"{PREFIX}model.layers.9.self_attn.q_proj.lora_B.weight": (HIDDEN, RANK),
}

FILES = [
    *(
        _file(f"state{protocol}.txt", functools.partial(_pickled, protocol), "file-pickle")
        for protocol in range(6)
    ),
    _file("adapter_model.bin", _torch_zip, "file-pickle"),
    _file("optimizer.pt", _torch_legacy, "file-pickle"),
    _file("training_args.bin", b"", "file-pickle"),
    _file("rng_state.pth", _torch_zip, "file-pickle"),
    _file("notes.md", _torch_zip, "file-pickle"),
    _file("notes", _torch_legacy, "file-pickle"),
    _file("other.safetensors", lambda: _pickled(2), "file-pickle"),
    _file("tokenizer.model", lambda: _pickled(4), "file-pickle"),
    _file("README.md", lambda: _pickled(0) + b"\n# An adapter\n", "file-pickle"),
    _file("table.csv", _npy, "file-pickle"),
    _file("words.txt", _appended_zip, "file-pickle"),
    _file("long.txt", _padded_pickle, "file-pickle"),
    _file("model.json", b"\x89HDF\r\n\x1a\n" + bytes(100), "file-pickle"),
    _file("data.dat", b"x\x9c" + bytes(range(200)), "file-pickle"),
    _file("cache.dat", b"\xa7\x0d\x0d\x0a" + bytes(100), "file-pickle"),
    _file("handler.py", b"print('hello')\n", "file-code"),
    _file("code/Deep.PY", b"", "file-code"),
    _file("run", b"#!/bin/sh\necho hello\n", "file-code"),
    _file("setup.sh", b"echo hello\n", "file-code"),
    _file("demo.ipynb", b"{}", "file-code"),
    _file("picture.png", b"\x7fELF" + bytes(100), "file-code"),
    _file("libfast.so", bytes(10), "file-code"),
    _file("tool.dat", b"MZ" + bytes(100), "file-code"),
    _file("backup.zip", b"", "file-archive"),
    _file("backup.dat", b"\x1f\x8b" + bytes(100), "file-archive"),
    _file("backup", b"a" * 257 + b"ustar" + bytes(100), "file-archive"),
    _file("model.safetensors", _safetensors, "weights-unexpected"),
    _file("adapter_model-00001-of-00002.safetensors", _safetensors, "weights-unexpected"),
    _file("old/adapter_model.safetensors", _safetensors, "weights-unexpected"),
    _file("weights.txt", _safetensors, "weights-unexpected"),
    _file("model.gguf", b"GGUF", "weights-unexpected"),
    _file("words.md", b"GGUF" + bytes(10), "weights-unexpected"),
    _file("model.safetensors.index.json", b"{}", "weights-unexpected"),
    _file("blob.dat", bytes(range(100, 200)), "file-unknown", "undecided"),
    _file("picture.jpg", bytes(range(100, 200)), "file-unknown", "undecided"),
    _file("config.json", b'{"auto_map": {"AutoModel": "code.Model"}}', "config-imports-code"),
    _file("tokenizer_config.json", b'{"auto_map": {}}', "config-imports-code"),
    _file("tokenizer_config.json", b'{"a": 1, "a": 2}', "file-unreadable", "undecided"),
    _file("config.json", b'{"model_type": "llama"}', "model-config", "warn"),
    _file("generation_config.json", b"{}", "model-config", "warn"),
    _file("chat_template.jinja", b"{{ messages }}", "tokenizer-not-compared", "warn"),
    _file("notes.txt", b"harmless", "file-unclaimed", "info"),
    Attack("nested adapter", _nested, "adapter-nested", "undecided"),
    Attack("only a nested adapter", _only_nested, "adapter-nested", "undecided"),
    Attack("only pickled weights", _only_pickle, "file-pickle", "block"),
    Attack("pickle named as weights", _weights_are_pickle, "file-pickle", "block"),
    Attack("zip behind the weights", _zip_behind_weights, "file-pickle", "block"),
]

TENSORS = [
    _tensor("base weight", "tensor-overwrites-base", {f"{PREFIX}{UP0}.weight": WIDE}),
    _tensor("base layer", "tensor-overwrites-base", {f"{Q0}.base_layer.weight": SQUARE}),
    _tensor("wrapped weight", "tensor-overwrites-base", {f"{Q0}.weight": SQUARE}),
    _tensor("norm", "tensor-overwrites-base", {f"{PREFIX}model.norm.weight": (HIDDEN,)}),
    _tensor("head", "tensor-overwrites-base", {f"{PREFIX}lm_head.weight": (VOCAB, HIDDEN)}),
    _tensor(
        "embedding",
        "tensor-overwrites-base",
        {f"{PREFIX}model.embed_tokens.weight": (VOCAB, HIDDEN)},
    ),
    _tensor(
        "base weight of another kind",
        "tensor-overwrites-base",
        {f"{PREFIX}{UP0}.weight": WIDE},
        peft_type="LOHA",
    ),
    _tensor(
        "module saved, but another one",
        "tensor-overwrites-base",
        {f"{PREFIX}{UP0}.weight": WIDE},
        modules_to_save=["lm_head"],
    ),
    _tensor(
        "module saved with more tokens",
        "tokens-beyond",
        {f"{PREFIX}lm_head.weight": (VOCAB + 1, HIDDEN)},
        "warn",
        modules_to_save=["lm_head"],
    ),
    _tensor(
        "original of a module saved",
        "tensor-unexplained",
        {f"{PREFIX}lm_head.original_module.weight": (VOCAB, HIDDEN)},
        modules_to_save=["lm_head"],
    ),
    _tensor("padding", "lora-not-loaded", LORA_UP0),
    _tensor("module that is not there", "module-missing", LORA_GHOST, "undecided"),
    _tensor(
        "factors of a norm",
        "target-not-linear",
        LORA_NORM,
        "undecided",
        target_modules=["q_proj", "v_proj", "norm"],
    ),
    _tensor("no prefix", "tensor-unexplained", {"model.norm.weight": (HIDDEN,)}),
    _tensor("adapter name inside", "tensor-unexplained", {f"{Q0}.lora_A.default.weight": (4, 32)}),
    _tensor("magnitude without DoRA", "tensor-unexplained", {f"{Q0}.lora_magnitude_vector": (32,)}),
    _tensor("bias of B", "tensor-unexplained", {f"{Q0}.lora_B.bias": (32,)}),
    _tensor("embedding factor", "lora-not-loaded", {f"{Q0}.lora_embedding_A": (4, 32)}),
    _tensor("a name of its own", "tensor-unexplained", {"canary": (1,)}),
    _tensor("rank", "rank-differs", {f"{Q0}.lora_A.weight": (3, HIDDEN)}, "undecided"),
    _tensor("width", "shape-differs", {f"{Q0}.lora_A.weight": (RANK, INNER)}, "undecided"),
    _tensor("height", "shape-differs", {f"{Q0}.lora_B.weight": (INNER, RANK)}, "undecided"),
    _tensor("one dimension", "shape-differs", {f"{Q0}.lora_A.weight": (HIDDEN,)}, "undecided"),
    _tensor("no elements", "rank-differs", {f"{Q0}.lora_A.weight": (0, HIDDEN)}, "undecided"),
    _without("B", "factor-missing", f"{Q0}.lora_B.weight"),
    _without("A", "factor-missing", f"{Q0}.lora_A.weight"),
    _without("both", "module-without-tensors", f"{Q0}.lora_A.weight", f"{Q0}.lora_B.weight"),
    *map(
        _dtype,
        (torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.complex64, torch.int64),
    ),
    Attack("another model", _other_model, "module-missing", "undecided"),
    Attack("no update", _empty, "adapter-changes-nothing", "undecided"),
]
