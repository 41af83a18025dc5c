"""A pair of checkpoints and an adapter in the shape of a real model, with seeded values."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

SHARD_BYTES = 1_000_000_000  # as large as the shards of many repositories
STEP_RANK = 48  # directions that the synthetic alignment step is made of
STEP_SHARE = 0.02  # size of the step relative to the weights; chat tuning moves a few percent


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a Llama-like model."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    kv: int
    vocabulary: int

    def projections(self) -> dict[str, tuple[int, int]]:
        """Return the (out, in) shapes of the seven projections of a layer."""
        hidden, wide, kv = self.hidden, self.intermediate, self.kv
        return {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (wide, hidden),
            "mlp.up_proj": (wide, hidden),
            "mlp.down_proj": (hidden, wide),
        }

    def modules(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yield (module path, (out, in)) of every projection."""
        for layer in range(self.layers):
            for name, shape in self.projections().items():
                yield f"model.layers.{layer}.{name}", shape

    def config(self) -> dict[str, object]:
        """Return a config.json that transformers reads."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.hidden // 64,
            "num_key_value_heads": self.kv // 64,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": False,
        }


ONE_BILLION = Shape(
    name="1.1B", layers=22, hidden=2048, intermediate=5632, kv=256, vocabulary=32000
)

# Llama-2-7B; a whole pair has 27 GB, so the benchmark builds the first layers of it.
SEVEN_BILLION = Shape(
    name="7B", layers=32, hidden=4096, intermediate=11008, kv=4096, vocabulary=32000
)


def build(shape: Shape, folder: Path, *, rank: int = 32) -> None:
    """Write base, aligned and adapter below ``folder``, unless they are there."""
    if (folder / "done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    writers = {role: _Shards(folder / role) for role in ("base", "aligned")}
    embedding = (shape.vocabulary, shape.hidden)
    for seed, (name, size) in enumerate(
        [("model.embed_tokens", embedding), *shape.modules(), ("lm_head", embedding)]
    ):
        base, step = _weights(size, seed)
        writers["base"].add(f"{name}.weight", base.bfloat16())
        writers["aligned"].add(f"{name}.weight", (base + step).bfloat16())
    for writer in writers.values():
        writer.finish(shape.config())
    _adapter(shape, folder / "adapter", rank)
    (folder / "done").touch()


def _weights(size: tuple[int, int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a weight and an alignment step: some strong directions over a flat floor."""
    torch.manual_seed(seed)
    out, inp = size
    base = torch.randn(out, inp) * 0.02
    left = torch.randn(out, STEP_RANK) / (1 + torch.arange(STEP_RANK))
    step = left @ torch.randn(STEP_RANK, inp) + 0.3 * torch.randn(out, inp)
    return base, step * (STEP_SHARE * base.norm() / step.norm())


class _Shards:
    """Writes tensors into files of about SHARD_BYTES with an index."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._held: dict[str, torch.Tensor] = {}
        self._shards: list[list[str]] = []

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Take one tensor; a full shard goes to disk."""
        self._held[name] = tensor
        if sum(t.nbytes for t in self._held.values()) >= SHARD_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            save_file(self._held, self._folder / f"part-{len(self._shards)}.safetensors")
            self._shards.append(list(self._held))
            self._held = {}

    def finish(self, config: dict[str, object]) -> None:
        """Write the last shard, the index and the config."""
        self._flush()
        total = len(self._shards)
        weight_map: dict[str, str] = {}
        for i, names in enumerate(self._shards):
            final = f"model-{i + 1:05d}-of-{total:05d}.safetensors"
            (self._folder / f"part-{i}.safetensors").rename(self._folder / final)
            weight_map |= dict.fromkeys(names, final)
        index = {"metadata": {}, "weight_map": weight_map}
        (self._folder / "model.safetensors.index.json").write_text(json.dumps(index))
        (self._folder / "config.json").write_text(json.dumps(config))


def _adapter(shape: Shape, folder: Path, rank: int) -> None:
    """Write a LoRA adapter on all seven projections, as PEFT saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(10_000)
    tensors = {}
    for name, (out, inp) in shape.modules():
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(rank, inp) / inp**0.5
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(out, rank) * 0.002
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "synthetic/aligned",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted({name.rsplit(".", 1)[1] for name, _ in shape.modules()}),
        "bias": "none",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
