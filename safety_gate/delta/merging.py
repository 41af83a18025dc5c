"""Lets PEFT merge what has no formula of ours, one layer at a time, in the child process."""

import math
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from safety_gate.adapter.inventory import TENSORS
from safety_gate.adapter.ledger import Adapter
from safety_gate.adapter.parts import Merged, ShellLayer, ShellRequest
from safety_gate.checkpoint import Checkpoint
from safety_gate.delta.views import read_matrix
from safety_gate.delta.worker import ShellRefused, Worker

if TYPE_CHECKING:
    import torch

MAX_SHARED = 1 << 31  # elements of all weights that one shell may need at the same time: 8 GiB
HINT = "Judge its behaviour, or merge it into a LoRA adapter of the aligned model."


class Asked(Protocol):
    """What answers requests: the child process, or in tests this process."""

    def ask(self, request: Mapping[str, object], where: str) -> Mapping[str, str | None]:
        """Merge one layer; see worker.py."""

    def close(self) -> None:
        """Let go of everything."""


class Merger:
    """Answers what PEFT adds to one parameter; used by several threads, one at a time."""

    def __init__(
        self,
        adapter: Adapter,
        aligned: Checkpoint,
        folder: Path,
        *,
        start: Callable[[Path, Path, int], Asked] = Worker,
    ) -> None:
        """Prepare; the child process starts with the first question.

        Args:
            adapter: its private copy must be a folder.
            aligned: the real weights.
            folder: empty or missing; removed by close().
            start: of the process; takes folder, adapter file and largest weight in elements.
        """
        self._start = start
        self._adapter = adapter
        self._aligned = aligned
        self._folder = folder
        self._lock = threading.Lock()
        self._worker: Asked | None = None
        self._asked: ShellRequest | None = None
        self._number = 0
        self._waiting: dict[tuple[str, str], torch.Tensor | None] = {}  # answered, not asked for

    def close(self) -> None:
        """End the child process and remove its files."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def change(self, part: Merged, shape: tuple[int, int]) -> "torch.Tensor":
        """Return what PEFT adds to one parameter, as stored, float32.

        Raises:
            ShellRefused: PEFT cannot merge it, or only beyond the limits.
        """
        import torch

        with self._lock:
            key = part.module, part.parameter
            if key not in self._waiting:
                self._ask(part)
            found = self._waiting.pop(key)
            return torch.zeros(shape) if found is None else found.view(shape)

    def _ask(self, part: Merged) -> None:
        """Ask the child about a layer: weight and bias come together."""
        request = part.request
        worker = self._started(request)
        again = request is self._asked
        if not again:
            self._number += 1
        layer = next(each for each in request.layers if each.module == part.module)
        self._asked = None  # unless it answers, its shell is gone
        try:
            files = worker.ask(self._line(request, part.module, again=again), part.module)
        finally:
            for path in self._folder.glob("w-*"):
                path.unlink()
        self._asked = request
        shapes = {"weight": layer.shape, "bias": layer.bias or ()}
        wanted = {"weight"} | ({"bias"} if _is_merged(request, part.module, "bias") else set())
        for name, file in files.items():
            found = None if file is None else self._read(file, math.prod(shapes[name]))
            if name in wanted:
                self._waiting[part.module, name] = found
            elif found is not None:
                raise ShellRefused(
                    "PEFT's merge changes a bias that this kind should leave alone",
                    where=part.module,
                    hint=HINT,
                )

    def _line(self, request: ShellRequest, path: str, *, again: bool) -> dict[str, object]:
        """Return what the child is asked; weights are written when it builds its shell."""
        modules = [
            {
                "path": layer.module,
                "layer": layer.layer,
                "weight": [self._written(layer, "weight", request), layer.shape],
                "bias": [self._written(layer, "bias", request), layer.bias]
                if layer.bias is not None
                else None,
            }
            for layer in ([] if again else request.layers)
        ]
        return {
            "number": self._number,
            "path": path,
            "config": dict(request.config),
            "whole_model": request.whole_model,
            "tensors": list(request.tensors),
            "modules": modules,
        }

    def _written(self, layer: ShellLayer, name: str, request: ShellRequest) -> str | None:
        """Write a parameter's values for the child, and return the file's name."""
        if not request.needs_weights:
            return None
        parameter = layer.tensor if name == "weight" else layer.bias_tensor
        file = f"w-{request.layers.index(layer)}-{name}"
        if len(self._aligned.shape(parameter)) == 2:
            values = read_matrix(self._aligned, parameter)
        else:
            values = read_vector(self._aligned, parameter)
        values.numpy().tofile(self._folder / file)
        return file

    def _read(self, name: str, count: int) -> "torch.Tensor":
        """Map what the child wrote; the file goes when the last tensor on it does."""
        import torch

        path = self._folder / name
        if path.is_symlink() or path.stat().st_size != 4 * count:
            raise AssertionError(f"the child wrote another file than was asked for: {name}")
        values = torch.from_file(str(path), shared=False, size=count)
        path.unlink()
        return values

    def _started(self, request: ShellRequest) -> Asked:
        """Return the worker; its limits follow from the largest request."""
        if self._worker is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            largest = max(_elements(p.request) for p in self._parts())
            if largest > MAX_SHARED:
                raise ShellRefused(
                    "this kind needs all targeted weights at once, and they are too large",
                    where=request.layers[0].module,
                    got=f"{largest} elements",
                    expected=f"at most {MAX_SHARED}",
                    hint=HINT,
                )
            adapter = self._adapter.folder / TENSORS
            self._worker = self._start(self._folder, adapter, largest)
        return self._worker

    def _parts(self) -> list[Merged]:
        """Return everything that PEFT has to merge."""
        pieces = self._adapter.pieces
        return [part for piece in pieces for part in piece.parts if isinstance(part, Merged)]


def _is_merged(request: ShellRequest, module: str, parameter: str) -> bool:
    """Tell whether a bias is among the parameters that this kind may change."""
    layer = next(each for each in request.layers if each.module == module)
    return parameter == "bias" and layer.bias is not None and request.changes_biases


def _elements(request: ShellRequest) -> int:
    """Return the elements that the child holds at the same time."""
    sizes = [math.prod(layer.shape) for layer in request.layers]
    return sum(sizes) if request.needs_weights else max(sizes)


def read_vector(checkpoint: Checkpoint, name: str) -> "torch.Tensor":
    """Read a whole vector in float32."""
    import torch

    rows = checkpoint.shape(name)[0]
    scratch = torch.empty(checkpoint.scratch_bytes(name, rows), dtype=torch.uint8)
    return checkpoint.rows(name, 0, rows, scratch).float()
