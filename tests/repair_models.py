"""A real tiny Llama pair and adapters saved by PEFT: the ground that repairs are tested on."""

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

TARGETS = ("q_proj", "v_proj", "down_proj")
LAYERS = 3


@dataclass(frozen=True, slots=True)
class Pair:
    """Folders of a base and an aligned checkpoint."""

    base: Path
    aligned: Path


@contextlib.contextmanager
def calm() -> Iterator[None]:
    """Silence what transformers and PEFT say about themselves, and use one thread.

    Decompositions of tiny matrices would wait for each other's threads.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


def llama(seed: int) -> Any:
    """Return a seeded tiny model."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


@calm()
def write_pair(root: Path) -> Pair:
    """Write base, and aligned = base + a step of falling spectrum."""
    model = llama(1)
    model.save_pretrained(root / "base")
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                u, s, vh = torch.linalg.svd(
                    torch.randn(*parameter.shape, generator=generator), full_matrices=False
                )
                falling = (1.0 + torch.arange(len(s))) ** -1.0
                parameter += 0.05 * (u * falling) @ vh * parameter.norm()
    model.save_pretrained(root / "aligned")
    return Pair(root / "base", root / "aligned")


@calm()
def write_adapter(
    pair: Pair,
    folder: Path,
    *,
    seed: int,
    rank: int = 4,
    targets: Sequence[str] = TARGETS,
    back: float = 0.0,
    **config: Any,
) -> Path:
    """Train nothing, save with PEFT: seeded factors, with a share ``back`` of V taken back."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM.from_pretrained(pair.aligned)
    settings = {"lora_alpha": 2 * rank, "init_lora_weights": False} | config
    peft = get_peft_model(model, LoraConfig(r=rank, target_modules=list(targets), **settings))
    steps = alignment_steps(pair)
    with torch.no_grad():
        for name, module in peft.base_model.model.named_modules():
            if "default" not in getattr(module, "lora_A", {}):
                continue
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            b *= 0.1
            if back:
                _walk_back(a, b, steps[name], back, module.scaling["default"])
    peft.save_pretrained(folder)
    body = json.loads((folder / "adapter_config.json").read_text())
    body |= {"base_model_name_or_path": "acme/tiny-chat", "init_lora_weights": True}
    (folder / "adapter_config.json").write_text(json.dumps(body, indent=2))
    return folder


def _walk_back(
    a: torch.Tensor, b: torch.Tensor, step: torch.Tensor, share: float, scaling: float
) -> None:
    """Put the leading part of -V into the factors, beside some noise."""
    u, s, vh = torch.linalg.svd(step, full_matrices=False)
    rank = a.shape[0]
    a.copy_(vh[:rank] + 0.05 * torch.randn_like(a))
    b.copy_(-share * u[:, :rank] * s[:rank] / scaling + 0.02 * s[0] * torch.randn_like(b))


def alignment_steps(pair: Pair) -> dict[str, torch.Tensor]:
    """Return V of every matrix, by module path."""
    base, aligned = (
        load_file(folder / "model.safetensors") for folder in (pair.base, pair.aligned)
    )
    return {
        name.removesuffix(".weight"): aligned[name] - base[name]
        for name in base
        if base[name].ndim == 2
    }


@calm()
def merged_updates(pair: Pair, adapter: Path) -> dict[str, torch.Tensor]:
    """Return what PEFT adds to each weight when it merges the saved adapter, in float64."""
    model = LlamaForCausalLM.from_pretrained(pair.aligned, dtype=torch.float32)
    before = {name: p.detach().clone().double() for name, p in model.named_parameters()}
    peft = PeftModel.from_pretrained(model.double(), adapter)
    after = dict(peft.merge_and_unload().named_parameters())
    found = {}
    for name, old in before.items():
        delta = after[name].detach() - old
        if bool(delta.any()):
            found[name.removesuffix(".weight")] = delta
    return found


def factors_of(adapter: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return (A, B) by module path, as the safetensors library reads them."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    modules = {name.rpartition(".lora_")[0] for name in tensors}
    return {
        module.removeprefix("base_model.model."): (
            tensors[f"{module}.lora_A.weight"],
            tensors[f"{module}.lora_B.weight"],
        )
        for module in sorted(modules)
    }


def recast(adapter: Path, dtype: torch.dtype) -> Path:
    """Store the adapter's tensors in another dtype."""
    file = adapter / "adapter_model.safetensors"
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    return adapter


def raw(adapter: Path) -> Mapping[str, tuple[str, bytes]]:
    """Return dtype and bytes of every tensor, read from the file itself."""
    data = (adapter / "adapter_model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    return {
        name: (entry["dtype"], data[8 + size :][slice(*entry["data_offsets"])])
        for name, entry in header.items()
        if name != "__metadata__"
    }
