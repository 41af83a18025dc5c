"""Run as a process of its own: PEFT merges one weight, and what changed is written to a file.

Why a process: the adapter's values and (checked) config drive PEFT's own code, and a mistake there
must cost neither the gate's memory nor its time, nor reach the network. The parent is worker.py.

Protocol: one JSON object per line on standard input, one answer per line on the file descriptor
that was standard output; PEFT's own printing goes to standard error. Weights and results are flat
float32 files in one private folder: no format that could be misread, and their size must fit.

A request:  {"number": int, "path": the layer to merge, "config": {...}, "whole_model": bool,
             "tensors": [names in the file],
             "modules": [{"path", "layer", "weight": [file, shape], "bias": [file, shape] | null}]}
            A request with the number of the one before it asks about another layer of its shell.
An answer:  {"weight": file | null, "bias": file | null} or {"refused": why}
"""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

PREFIX = "base_model.model."
MAX_LINE = 64 * 2**20  # characters of a request: a token pattern of 100,000 indices has 1 MB
MAX_WHY = 300  # characters of an error of PEFT's


def build(modules: list[dict[str, Any]], folder: Path) -> Any:
    """Return the shell: only the named layers, at their real paths, with their real weights."""
    import torch
    from torch import nn

    shell = nn.Module()
    for module in modules:
        parent = shell
        *parts, last = module["path"].split(".")
        for part in parts:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        with torch.device("meta"):
            layer = _layer(module["layer"], module["weight"][1], module["bias"] is not None)
        for name in ("weight", "bias"):
            if module[name] is not None:
                values = nn.Parameter(_load(folder, *module[name]), requires_grad=False)
                setattr(layer, name, values)
        parent.add_module(last, layer)
    return shell


def _layer(kind: str, shape: list[int], has_bias: bool) -> Any:
    """Return a layer of the class that transformers would build; its values come later."""
    from torch import nn

    if kind == "conv1d":
        from transformers.pytorch_utils import Conv1D

        return Conv1D(shape[1], shape[0])
    if kind == "embedding":
        return nn.Embedding(shape[0], shape[1])
    return nn.Linear(shape[1], shape[0], bias=has_bias)


def _load(folder: Path, name: str | None, shape: list[int]) -> Any:
    """Return a weight; without a file one without values: every element is the same zero."""
    import torch

    if name is None:
        return torch.zeros(1).expand(shape)
    count = 1
    for size in shape:
        count *= size
    # A private mapping: what PEFT writes into the weight never reaches the file.
    return torch.from_file(str(folder / name), shared=False, size=count).view(shape)


class Shell:
    """The wrapped and loaded layers of one request; asked about one path at a time."""

    def __init__(self, request: dict[str, Any], folder: Path, adapter: str) -> None:
        import peft

        shell = build(request["modules"], folder)
        self._values = {
            m["path"]: {
                name: each.detach() if each.stride() == (0,) * each.dim() else each.detach().clone()
                for name, each in shell.get_submodule(m["path"]).named_parameters()
            }
            for m in request["modules"]
        }
        config = peft.get_peft_config(dict(request["config"]))
        if request["whole_model"]:
            model: Any = peft.get_peft_model(shell, config)
            self._root = model.base_model.model
        else:
            model = self._root = peft.inject_adapter_in_model(config, shell)
        state = _tensors(adapter, request["tensors"], bare=not request["whole_model"])
        _load_strictly(model, state)
        model.eval()  # as PEFT loads it; some kinds merge a random sample while they train

    def change(self, path: str, folder: Path) -> dict[str, Any]:
        """Merge one layer and write what PEFT added to it."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        layer, found = self._root.get_submodule(path), self._values[path]
        if not isinstance(layer, BaseTunerLayer):
            return {"refused": f"PEFT does not wrap {path}"}
        _own_values(layer.get_base_layer())
        layer.merge()
        files = _written(path, found, layer.get_base_layer(), folder)
        layer.get_base_layer().weight.data = found["weight"]  # lets go of the merged one
        return files


def _own_values(layer: Any) -> None:
    """Give a weight without values of its own some to merge into."""
    for parameter in layer.parameters():
        if not parameter.is_contiguous():
            parameter.data = parameter.data.contiguous()


def _tensors(adapter: str, names: list[str], *, bare: bool) -> dict[str, Any]:
    """Read the tensors of this request, by the names that the model without PEFT's wrapper has."""
    from safetensors import safe_open

    with safe_open(adapter, framework="pt") as file:
        return {
            name.removeprefix(PREFIX) if bare else name: file.get_tensor(name) for name in names
        }


def _load_strictly(model: Any, state: dict[str, Any]) -> None:
    """Load exactly the tensors that PEFT itself would save for this model; else ValueError."""
    import peft

    saved = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    expected = {name.removeprefix(PREFIX) for name in saved}
    given = {name.removeprefix(PREFIX) for name in state}
    if expected != given:
        odd = sorted(expected ^ given)
        raise ValueError(f"{len(odd)} tensors too many or too few, such as {odd[0]}")
    result = peft.set_peft_model_state_dict(model, state)
    if result.unexpected_keys:
        raise ValueError(f"PEFT has no place for {sorted(result.unexpected_keys)[0]}")


def _written(path: str, found: dict[str, Any], layer: Any, folder: Path) -> dict[str, Any]:
    """Write what was added to each parameter; None where nothing was."""
    import torch

    after = dict(layer.named_parameters())
    if after.keys() != found.keys():
        raise ValueError(f"the merged layer {path} has other parameters than before")
    files: dict[str, Any] = {"weight": None, "bias": None}
    for name, old in found.items():
        new = after[name].detach()
        if new.shape != old.shape:
            raise ValueError(f"the merged {path}.{name} has another shape than before")
        added = new.to(torch.float32) - old
        if bool((added != 0).any()):  # NaN counts: it is not 0
            files[name] = f"change-{name}"
            added.contiguous().numpy().tofile(folder / files[name])
    return files


def main() -> None:
    """Answer requests until the input ends."""
    folder, adapter = Path(sys.argv[1]), sys.argv[2]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints must not be taken for an answer
    warnings.simplefilter("ignore")
    from safety_gate.delta.walls import close, limit

    limit(int(sys.argv[3]))
    close(folder)
    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    answers.write("ready\n")
    answers.flush()
    shell: tuple[int, Shell] | None = None
    while line := sys.stdin.readline(MAX_LINE):
        torch.manual_seed(0)
        try:
            request = json.loads(line)
            if shell is None or shell[0] != request["number"]:
                shell = None  # lets go of the memory first
                shell = request["number"], Shell(request, folder, adapter)
            answer = shell[1].change(request["path"], folder)
        except Exception as error:  # noqa: BLE001  whatever PEFT raises, the parent refuses by name
            answer = {"refused": f"{type(error).__name__}: {error}"[:MAX_WHY]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
