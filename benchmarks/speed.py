"""Speed and memory of `safety-gate check` on a 1.1B-shaped pair, as ratios within one run.

    python -m benchmarks.speed [--folder out/bench]

Prints the time to read the weights once, the engine's time, the whole process, its peak anonymous
memory, the published formula written plainly (C and dW formed, float32) on one module of each
shape scaled up to all, and the cosines' distance from a dense float64 formula.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors import safe_open

from benchmarks.synthetic import ONE_BILLION, Shape, build
from safety_gate.adapter.ledger import open_adapter
from safety_gate.checkpoint import Checkpoint
from safety_gate.engine import Scored, score_modules
from safety_gate.records import Drift
from safety_gate.sources.folder import FolderSource
from safety_gate.tasks import tasks_of

REPEATS = 3


def engine_run(folder: Path, workers: int, *, quick: bool) -> tuple[float, dict[str, Drift]]:
    """Return the engine's seconds, the best of three in this process, and every module's drift."""
    base = Checkpoint.open(FolderSource(folder / "base"), "base")
    aligned = Checkpoint.open(FolderSource(folder / "aligned"), "aligned")
    with tempfile.TemporaryDirectory() as private:
        adapter = open_adapter(
            FolderSource(folder / "adapter"),
            shapes=aligned.shapes,
            model_type=aligned.model_type,
            snapshot_dir=Path(private) / "adapter",
        )
        tasks = tasks_of(adapter)
        times = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            outcomes = score_modules(tasks, base, aligned, workers=workers, quick=quick)
            times.append(time.perf_counter() - began)
    return min(times), {o.score.module: o.score.drift for o in outcomes if isinstance(o, Scored)}


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


def whole_process(folder: Path, output: Path) -> tuple[float, int]:
    """Return (seconds, peak anonymous bytes) of the command as a user types it."""
    command = [sys.executable, "-m", "safety_gate", "check", str(folder / "adapter")]
    command += ["--base", str(folder / "base"), "--aligned", str(folder / "aligned")]
    command += ["--format", "json", "--output", str(output)]
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


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("out/bench"))
    folder = parser.parse_args().folder / ONE_BILLION.name
    build(ONE_BILLION, folder)
    report = folder / "report.json"
    read, count = min(read_once(folder, ONE_BILLION) for _ in range(REPEATS))
    whole, peak = min(whole_process(folder, report) for _ in range(REPEATS))
    one, _ = engine_run(folder, 1, quick=True)
    two, quick = engine_run(folder, 2, quick=True)
    slow, exact = engine_run(folder, 2, quick=False)
    dense = dense_road(folder, ONE_BILLION)
    error = cosine_error(folder, ONE_BILLION, report)
    rows = {
        "bytes of weights read (GB)": count / 1e9,
        "read the same bytes once (s)": read,
        "engine, 1 thread (s)": one,
        "engine, 2 threads (s)": two,
        "engine, 2 threads, float32 only (s)": slow,
        "engine / read, 2 threads": two / read,
        "whole process (s)": whole,
        "peak anonymous memory (MB)": peak / 1e6,
        "published formula, scaled up (s)": dense,
        "published formula / engine": dense / two,
        "--help beyond the interpreter (s)": help_time(),
        "largest cosine error against float64": error,
        "bfloat16 moves cosines by at most": moved(quick, exact, "cosine"),
        "bfloat16 moves reversions by at most": moved(quick, exact, "reversion"),
        "bfloat16 moves residuals by at most": moved(quick, exact, "residual"),
    }
    for label, value in rows.items():
        print(f"{label:40} {value:.3g}")


if __name__ == "__main__":
    main()
