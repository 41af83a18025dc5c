"""Speed and memory of `safety-gate check` on a 1.1B-shaped pair, as ratios within one run.

    python -m benchmarks.speed [--folder out/bench] [--layers 4]

Prints the time to read the weights once, the engine's time, the whole process, its peak anonymous
memory, the published formula written plainly (C and dW formed, float32) on one module of each
shape scaled up to all, the cosines' distance from a dense float64 formula, and what several
adapters cost in one pass. Then the same for the first layers of a 7B-shaped pair. Needs 5 GB of
disk, and 1 GB for each of these layers.

How fast the page cache gives bytes depends on how large its pages came to be: on one machine
8.8 GB/s just after writing the files and 25 GB/s after reading them from disk again. So look at
the rate beside each ratio.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open

from benchmarks.synthetic import ONE_BILLION, SEVEN_BILLION, Shape, build
from safety_gate.adapter.ledger import open_adapter
from safety_gate.checkpoint import Checkpoint
from safety_gate.engine import ModuleTask, Scored, score_modules
from safety_gate.records import Drift
from safety_gate.sources.folder import FolderSource
from safety_gate.tasks import tasks_of

REPEATS = 3
MANY = 16  # adapters of one base
RANKS = (8, 32)  # at which they are compared with one


@dataclass(frozen=True, slots=True)
class Times:
    """What a run took, the best of some."""

    wall: float  # seconds
    cpu: float  # seconds of all threads; what other processes take meanwhile is not in it


class Pair:
    """A synthetic pair and its adapter, open."""

    def __init__(self, folder: Path) -> None:
        """Open the folder that ``build`` wrote."""
        self.base = Checkpoint.open(FolderSource(folder / "base"), "base")
        self.aligned = Checkpoint.open(FolderSource(folder / "aligned"), "aligned")
        self._private = tempfile.TemporaryDirectory()
        self._adapter = open_adapter(
            FolderSource(folder / "adapter"),
            shapes=self.aligned.shapes,
            model_type=self.aligned.model_type,
            config=self.aligned.config,
            snapshot_dir=Path(self._private.name) / "adapter",
        )
        self.tasks = tasks_of(self._adapter)

    def adapters(self, count: int, rank: int) -> list[ModuleTask]:
        """Return the work of several adapters of a rank."""
        return [
            dataclasses.replace(task, rank=rank, factors=partial(_cut, task, rank, number))
            for number in range(count)
            for task in self.tasks
        ]

    def run(
        self, tasks: Sequence[ModuleTask], workers: int, *, quick: bool, repeats: int = REPEATS
    ) -> tuple[Times, dict[str, Drift]]:
        """Return the engine's time in this process, and every module's drift."""
        walls, cpus = [], []
        for _ in range(repeats):
            began, cpu = time.perf_counter(), time.process_time()
            outcomes = score_modules(tasks, self.base, self.aligned, workers=workers, quick=quick)
            walls.append(time.perf_counter() - began)
            cpus.append(time.process_time() - cpu)
        drifts = {o.score.module: o.score.drift for o in outcomes if isinstance(o, Scored)}
        return Times(min(walls), min(cpus)), drifts


def _cut(task: ModuleTask, rank: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first columns of an adapter, mixed so that no two adapters are equal."""
    a, b = task.factors()
    return a[:rank].roll(number, dims=1), b[:, :rank]


def moved(quick: dict[str, Drift], exact: dict[str, Drift], metric: str) -> float:
    """Return how far bfloat16 products move a metric, at most."""
    changes = (quick[m].values()[metric] - exact[m].values()[metric] for m in exact)
    return max(abs(change) for change in changes)


def read_once(folder: Path, shape: Shape) -> tuple[float, int]:
    """Return (seconds, bytes) of one sequential read of the weights that V is made of."""
    wanted = {f"{name}.weight" for name, _ in shape.modules()}
    spans: list[tuple[Path, int, int]] = []
    for role in ("base", "aligned"):
        for file in sorted((folder / role).glob("*.safetensors")):
            with file.open("rb") as stream:
                size = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(size))
            for name, entry in header.items():
                if name in wanted:
                    start, stop = entry["data_offsets"]
                    spans.append((file, 8 + size + start, stop - start))
    buffer = bytearray(8 << 20)
    began = time.perf_counter()
    for file, offset, count in spans:
        handle = os.open(file, os.O_RDONLY)
        done = 0
        while done < count:
            part = memoryview(buffer)[: min(len(buffer), count - done)]
            done += os.preadv(handle, [part], offset + done)
        os.close(handle)
    return time.perf_counter() - began, sum(count for _, _, count in spans)


def peak_anonymous(process: "subprocess.Popen[bytes]") -> int:
    """Return the highest RssAnon in bytes until the process ends, sampled every 5 ms."""
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        for line in status.splitlines():
            if line.startswith("RssAnon:"):
                peak = max(peak, int(line.split()[1]) * 1024)
        time.sleep(0.005)
    process.wait()
    return peak


def whole_process(folder: Path, output: Path, adapters: int = 1) -> tuple[float, int]:
    """Return (seconds, peak anonymous bytes) of the command as a user types it."""
    command = [sys.executable, "-m", "safety_gate", "check", *[str(folder / "adapter")] * adapters]
    command += ["--base", str(folder / "base"), "--aligned", str(folder / "aligned")]
    command += ["--ask", "none", "--format", "json", "--output", str(output)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    peak = peak_anonymous(process)
    return time.perf_counter() - began, peak


def tensors_of(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """Return base, aligned, A and B of one module, by the safetensors library."""
    found = {}
    for role in ("base", "aligned"):
        index = json.loads((folder / role / "model.safetensors.index.json").read_text())
        file = index["weight_map"][f"{name}.weight"]
        with safe_open(folder / role / file, framework="pt") as stream:
            found[role] = stream.get_tensor(f"{name}.weight")
    with safe_open(folder / "adapter" / "adapter_model.safetensors", framework="pt") as stream:
        for part in ("A", "B"):
            found[part] = stream.get_tensor(f"base_model.model.{name}.lora_{part}.weight")
    return found


def published(parts: dict[str, torch.Tensor], dtype: torch.dtype) -> float:
    """Return the cosine by the published formula written plainly: C and dW are formed."""
    step = parts["aligned"].to(dtype) - parts["base"].to(dtype)
    c = step @ step.T / step.norm()
    delta = parts["B"].to(dtype) @ parts["A"].to(dtype)
    image = c @ delta
    cosine: float = ((image * delta).sum() / (image.norm() * delta.norm())).item()
    return cosine


def dense_road(folder: Path, shape: Shape) -> float:
    """Return the seconds that the published formula takes for all modules."""
    total = 0.0
    for name in shape.projections():
        parts = tensors_of(folder, f"model.layers.1.{name}")
        began = time.perf_counter()
        published(parts, torch.float32)
        total += (time.perf_counter() - began) * shape.layers
    return total


def cosine_error(folder: Path, shape: Shape, report: Path) -> float:
    """Return the largest distance of the report's cosines from dense float64, for one layer."""
    modules = json.loads(report.read_text())["modules"]
    scores: dict[str, float] = {m["module"]: m["cosine"] for m in modules}
    errors = []
    for name in shape.projections():
        module = f"model.layers.{shape.layers - 1}.{name}"
        errors.append(abs(published(tensors_of(folder, module), torch.float64) - scores[module]))
    return max(errors)


def help_time() -> float:
    """Return the seconds that --help takes beyond the interpreter's own start, the best of ten."""

    def best(words: list[str]) -> float:
        times = []
        for _ in range(10):
            began = time.perf_counter()
            subprocess.run([sys.executable, *words], capture_output=True, check=True)
            times.append(time.perf_counter() - began)
        return min(times)

    return best(["-m", "safety_gate", "--help"]) - best(["-c", "pass"])


def one_billion(folder: Path) -> Iterator[tuple[str, float]]:
    """Yield the figures of the 1.1B-shaped pair."""
    build(ONE_BILLION, folder)
    report = folder / "report.json"
    read, count = min(read_once(folder, ONE_BILLION) for _ in range(REPEATS))
    whole, peak = min(whole_process(folder, report) for _ in range(REPEATS))
    pair = Pair(folder)
    one, _ = pair.run(pair.tasks, 1, quick=True)
    two, quick = pair.run(pair.tasks, 2, quick=True)
    slow, exact = pair.run(pair.tasks, 2, quick=False)
    half, _ = pair.run(pair.tasks[: len(pair.tasks) // 2], 2, quick=True)
    dense = dense_road(folder, ONE_BILLION)
    yield "bytes of weights read (GB)", count / 1e9
    yield "read the same bytes once (s)", read
    yield "the same (GB/s)", count / read / 1e9
    yield "engine, 1 thread (s)", one.wall
    yield "engine, 2 threads (s)", two.wall
    yield "engine, 2 threads, float32 only (s)", slow.wall
    yield "the same in CPU seconds, 1 thread", one.cpu
    yield "... 2 threads", two.cpu
    yield "... 2 threads, float32 only", slow.cpu
    yield "engine / read, 2 threads", two.wall / read
    yield "engine / read, 2 threads, float32 only", slow.wall / read
    yield "1 thread / 2 threads", one.wall / two.wall
    yield "half of the bytes / all, in time", half.wall / two.wall
    yield "whole process (s)", whole
    yield "whole process - engine (s)", whole - two.wall
    yield "peak anonymous memory (MB)", peak / 1e6
    yield "published formula, scaled up (s)", dense
    yield "published formula / engine", dense / two.wall
    yield "--help beyond the interpreter (s)", help_time()
    yield "largest cosine error against float64", cosine_error(folder, ONE_BILLION, report)
    for metric in ("cosine", "reversion", "residual"):
        yield f"bfloat16 moves {metric}s by at most", moved(quick, exact, metric)
    yield from many(pair, folder)


def many(pair: Pair, folder: Path) -> Iterator[tuple[str, float]]:
    """Yield what several adapters of one base cost."""
    for rank in RANKS:
        one, _ = pair.run(pair.adapters(1, rank), 2, quick=True)
        all_of_them, _ = pair.run(pair.adapters(MANY, rank), 2, quick=True, repeats=1)
        yield f"{MANY} adapters / 1, rank {rank}", all_of_them.wall / one.wall
        yield "... in CPU seconds", all_of_them.cpu / one.cpu
    whole, peak = whole_process(folder, folder / "reports.json", MANY)
    yield f"whole process, {MANY} adapters, rank 32 (s)", whole
    yield "... peak anonymous memory (MB)", peak / 1e6


def seven_billion(folder: Path, layers: int) -> Iterator[tuple[str, float]]:
    """Yield the figures of the first layers of a 7B-shaped pair."""
    shape = dataclasses.replace(SEVEN_BILLION, layers=layers)
    build(shape, folder)
    whole, peak = whole_process(folder, folder / "report.json")
    read, count = min(read_once(folder, shape) for _ in range(REPEATS))
    pair = Pair(folder)
    two, _ = pair.run(pair.tasks, 2, quick=True)
    yield "layers of 32", layers
    yield "bytes of weights read (GB)", count / 1e9
    yield "read the same bytes once (s)", read
    yield "engine, 2 threads (s)", two.wall
    yield "engine, 2 threads, per GB (s)", two.wall / count * 1e9
    yield "whole process (s)", whole
    yield "peak anonymous memory (MB)", peak / 1e6


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("out/bench"))
    parser.add_argument("--layers", type=int, default=4, help="of the 7B pair; 0: leave it out")
    given = parser.parse_args()
    parts = [("1.1B", one_billion(given.folder / ONE_BILLION.name))]
    if given.layers:
        name = f"{SEVEN_BILLION.name}-{given.layers}-layers"
        parts.append((name, seven_billion(given.folder / name, given.layers)))
    for name, rows in parts:
        print(f"# {name}")
        for label, value in rows:
            print(f"{label:42} {value:.3g}", flush=True)


if __name__ == "__main__":
    main()
