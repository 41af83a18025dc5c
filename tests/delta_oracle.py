"""PEFT's own merge against ours: one adapter, both roads, every changed parameter."""

import copy
import json
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file

from safety_gate.adapter.architecture import KNOWN
from safety_gate.adapter.ledger import Adapter, factors, open_adapter
from safety_gate.checkpoint import Checkpoint
from safety_gate.delta.child import Shell
from safety_gate.delta.roads import open_deltas
from safety_gate.delta.views import with_views
from safety_gate.delta.worker import ShellRefused
from safety_gate.errors import GateError
from safety_gate.sources.folder import FolderSource
from tests.small_checkpoints import write_checkpoint

GRAVE = ("block", "undecided")


@dataclass(frozen=True)
class Answer:
    """What we make of an adapter."""

    changes: Mapping[str, torch.Tensor]  # by parameter, as stored
    refused: tuple[str, ...]  # rules of the findings that make the verdict Undecided or Blocked
    whats: tuple[str, ...]


class Inside:
    """Answers in this process what the child answers: it would take seconds to start."""

    def __init__(self, folder: Path, adapter: Path, _: int) -> None:
        self._folder, self._adapter = folder, adapter
        self._shell: tuple[object, Shell] | None = None

    def ask(self, request: Mapping[str, Any], where: str) -> Mapping[str, str | None]:
        asked = json.loads(json.dumps(request))
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if self._shell is None or self._shell[0] != asked["number"]:
                    self._shell = asked["number"], Shell(asked, self._folder, str(self._adapter))
                answer = self._shell[1].change(asked["path"], self._folder)
        except Exception as error:
            answer = {"refused": f"{type(error).__name__}: {error}"}
        if "refused" in answer:
            raise ShellRefused("refused", where=where, got=answer["refused"][:300], hint="none")
        return answer

    def close(self) -> None:
        self._shell = None


def is_plain(model: Any) -> bool:
    """Tell whether a checkpoint of this model has the model's own names."""
    return model.config.model_type in KNOWN


def checkpoint_of(model: Any, folder: Path, *, narrow: bool = False) -> Path:
    """Write a model as a checkpoint holds it: shared weights once, in transformers' layout."""
    if narrow:
        model = copy.deepcopy(model).bfloat16()
    if is_plain(model):
        write_checkpoint(folder, stored(model), model_type=model.config.model_type)
        config = model.config.to_dict() | {"architectures": [type(model).__name__]}
        (folder / "config.json").write_text(json.dumps(config))
        return folder
    model.save_pretrained(folder)
    return folder


def stored(model: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of a model's checkpoint, in memory of their own."""
    if not is_plain(model):
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            return {n: t.clone() for n, t in load_file(f"{folder}/model.safetensors").items()}
    seen = set()
    state = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            state[name] = tensor.detach().clone().contiguous()
    return state


def ours(checkpoint: Path, folder: Path, private: Path, start: Any = Inside) -> Answer:
    """Return the exact change of each parameter, or why it is refused."""
    private.mkdir(parents=True, exist_ok=True)
    aligned = Checkpoint.open(FolderSource(checkpoint), "aligned")
    adapter = open_adapter(
        FolderSource(folder),
        shapes=aligned.shapes,
        model_type=aligned.model_type,
        config=aligned.config,
        snapshot_dir=private / "adapter",
    )
    try:
        return _answer(adapter, aligned, private, start)
    finally:
        adapter.close()


def _answer(adapter: Adapter, aligned: Checkpoint, private: Path, start: Any) -> Answer:
    deltas = open_deltas(adapter, aligned, private / "merging", start=start)
    found: dict[str, torch.Tensor] = {}
    grave = [f for f in (*adapter.findings, *deltas.findings) if f.severity in GRAVE]
    rules, whats = [f.rule for f in grave], [f"{f.what} {f.got}" for f in grave]
    for module in adapter.modules:
        a, b = factors(adapter, module)
        update = module.scaling * (b.double() @ a.double())
        found[module.weight] = (update.T if module.transposed else update).float()
    seen = with_views(aligned, deltas.views)
    for item in deltas.items:
        try:
            if item.dense is not None:
                update = item.dense().clone()
            else:
                assert item.factors is not None
                a, b = item.factors()
                update = (item.scaling * (b.double() @ a.double())).float()
                update = update.T if item.transposed else update
        except GateError as error:
            rules.append(error.rule)
            whats.append(str(error))
            continue
        assert tuple(update.shape) == seen.shape(item.weight)
        view = deltas.views[item.weight]
        tied = item.changes not in aligned.shapes and view.whole == view.shape
        tensor = item.changes if tied else view.tensor
        place = found.setdefault(tensor, torch.zeros(view.whole))
        start = view.start
        place.view(-1)[start : start + update.numel()] += update.reshape(-1)
    deltas.close()
    changes = {name: update for name, update in found.items() if bool((update != 0).any())}
    return Answer(changes, tuple(rules), tuple(whats))


TOLERANCE = 1e-4  # relative, of each parameter's change


def save_random(model: Any, config: Any, folder: Path, *, seed: int) -> None:
    """Let PEFT write an adapter with small random values: exponentials stay finite."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(copy.deepcopy(model), config)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.data.add_(noise, alpha=0.1 if ".lora_" not in name else 0.5)
        wrapped.save_pretrained(folder)


def pefts(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """Return what PEFT's merge adds to each stored parameter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = stored(model)
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), folder)
        merged = loaded.merge_and_unload()
        after = merged.state_dict() if is_plain(model) else stored(merged)
    return {
        name: after[name] - tensor
        for name, tensor in before.items()
        if not torch.equal(after[name], tensor)
    }


def in_bfloat16(folder: Path) -> None:
    """Store the values of an adapter in bfloat16."""
    path = folder / "adapter_model.safetensors"
    tensors = {
        name: tensor.bfloat16() if tensor.is_floating_point() else tensor
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path, metadata={"format": "pt"})


def verdict(  # noqa: PLR0913
    model: Any,
    checkpoint: Path,
    config: Any,
    folder: Path,
    *,
    seed: int,
    narrow: bool = False,
    save: Any = save_random,
) -> str:
    """Return "equal", "refused: rule", "PEFT refuses", or what is wrong.

    A head that shares the embedding's weight changes on its own in a model that PEFT wraps, and
    together with the embedding where PEFT merges. We take the first; both names count as one.

    Args:
        model: with the values of the checkpoint, in float32.
        checkpoint: its folder.
        config: of the adapter.
        folder: empty; for the adapter and all else.
        seed: of its values.
        narrow: store the adapter in bfloat16; PEFT loads it in float32.
        save: writes the adapter.
    """
    try:
        save(model, config, folder / "adapter", seed=seed)
        if narrow:
            in_bfloat16(folder / "adapter")
        theirs = pefts(model, folder / "adapter")
    except Exception as error:  # PEFT raises all sorts
        return f"PEFT refuses: {type(error).__name__}"
    answer = ours(checkpoint, folder / "adapter", folder / "private")
    if answer.refused:
        return f"refused: {answer.refused[0]}: {answer.whats[0]}"
    if model.config.tie_word_embeddings and "lm_head.weight" in answer.changes:
        return "equal" if answer.changes.keys() - theirs.keys() <= {"lm_head.weight"} else "tied"
    if answer.changes.keys() != theirs.keys():
        return f"WRONG parameters: {sorted(answer.changes.keys() ^ theirs.keys())[:3]}"
    far = [
        name
        for name, update in theirs.items()
        if not (answer.changes[name] - update).norm() <= TOLERANCE * update.norm()
    ]
    return f"WRONG values: {far[:3]}" if far else "equal"
