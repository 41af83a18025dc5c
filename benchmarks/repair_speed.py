"""What `safety-gate repair` costs against `safety-gate check`, on a 1.1B-shaped pair, in one run.

    python -m benchmarks.repair_speed [--folder out/bench] [--repeats 3]

Whole commands as a user types them, in turns; the least of the repeats counts. CPU seconds stand
beside the wall clock, because another program on the machine moves the latter more.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.synthetic import ONE_BILLION, build

METHODS = (
    "safemerge --select all --form cat",
    "safemerge --select all --form linear",
    "safemerge --select all --form svd",
    "scale --factor 0.5 --select all",
    "safelora --select all",
    "attenuate --strength 4 --select all",
    "unrevert --select all",
)


def safety_adapter(folder: Path) -> Path:
    """Write another adapter of the same shape, unless it is there."""
    target = folder / "safety"
    if not target.exists():
        shutil.copytree(folder / "adapter", target)
        generator = torch.Generator().manual_seed(20_000)
        file = target / "adapter_model.safetensors"
        tensors = {
            name: tensor.std() * torch.randn(tensor.shape, generator=generator)
            for name, tensor in load_file(file).items()
        }
        save_file(tensors, file, metadata={"format": "pt"})
    return target


def seconds(words: list[str]) -> tuple[float, float]:
    """Run the program; return (wall clock, CPU) seconds.

    Raises:
        AssertionError: the program did not end with a verdict.
    """
    command = [sys.executable, "-m", "safety_gate", *words, "--ask", "none"]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 1, 3):
        raise AssertionError(f"exit status {code}: {' '.join(command)}")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime


def compared(folder: Path, method: str, repeats: int) -> list[float]:
    """Return wall clock and CPU seconds of check, then of repair."""
    pair = ["--base", str(folder / "base"), "--aligned", str(folder / "aligned")]
    adapter = str(folder / "adapter")
    if method.startswith("safemerge"):
        method += f" --safety-adapter {safety_adapter(folder)}"
    times = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for i in range(repeats):
            output = ["--output", f"{place}/{i}", "--method", *method.split()]
            check = seconds(["check", adapter, *pair, "--format", "json"])
            times.append((*check, *seconds(["repair", adapter, *pair, *output])))
    return [min(column) for column in zip(*times, strict=True)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("out/bench"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", type=int, default=len(METHODS), help="the first of them")
    given = parser.parse_args()
    folder = given.folder / ONE_BILLION.name
    build(ONE_BILLION, folder)
    print("| method | check (s) | repair (s) | ratio | of CPU seconds |")
    print("| :--- | ---: | ---: | ---: | ---: |")
    for method in METHODS[: given.methods]:
        check, check_cpu, repair, repair_cpu = compared(folder, method, given.repeats)
        ratios = f"{repair / check:.2f} | {repair_cpu / check_cpu:.2f}"
        print(f"| {method} | {check:.2f} | {repair:.2f} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
