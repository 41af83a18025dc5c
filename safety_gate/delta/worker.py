"""The child process in which PEFT merges: started late, walled in, killed when it is too slow."""

import contextlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from safety_gate.errors import BadAdapter, GateError

START_SECONDS = 120.0  # importing torch, transformers and PEFT takes 5 to 20 on a loaded machine
MIN_SECONDS = 60.0  # for one request
ELEMENTS_PER_SECOND = 1_000_000  # PiSSA's SVD of 4096 x 4096 took 28 s on one core
MAX_BROKEN = 3  # children; an adapter that breaks the limits in one module does so in others
WHY = 300  # characters of a refusal that a finding shows
HINT = "Judge its behaviour, or merge it into a LoRA adapter of the aligned model."


class ShellRefused(BadAdapter):
    """PEFT could not merge this adapter's update within the limits."""

    rule = "delta-refused"


class Worker:
    """One child process at a time; every request may be the last of it."""

    def __init__(self, folder: Path, adapter: Path, largest: int) -> None:
        """Prepare; nothing is started before the first request.

        Args:
            folder: private and empty; weights and results pass through it.
            adapter: adapter_model.safetensors, in the private copy.
            largest: elements of the largest weight, or of all weights of a shared shell.
        """
        self._folder, self._adapter, self._largest = folder, adapter, largest
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str] = queue.Queue()
        self._broken = 0  # children that a limit ended

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # a dead child's pipe cannot be flushed
                    pipe.close()

    def ask(self, request: Mapping[str, object], where: str) -> dict[str, str | None]:
        """Let PEFT merge one layer; return the files with what it added to weight and bias.

        Args:
            request: see child.py.
            where: the module, for errors.

        Raises:
            ShellRefused: PEFT refused it, or a limit was reached.
        """
        answer = self._answer(json.dumps(request), where)
        if "refused" in answer:
            raise _refused(where, "PEFT cannot merge this update", str(answer["refused"]))
        files = {}
        for name in ("weight", "bias"):
            file = answer.get(name)
            if file is not None and file != f"change-{name}":
                raise AssertionError("the child answered nonsense")
            files[name] = file if isinstance(file, str) else None
        return files

    def _answer(self, request: str, where: str) -> dict[str, object]:
        """Send one line and wait for one line."""
        if self._broken >= MAX_BROKEN:
            raise _refused(where, "merging broke the limits of the child process before", "")
        process = self._started(where)
        seconds = MIN_SECONDS + self._largest / ELEMENTS_PER_SECOND
        try:
            if process.stdin is None:
                raise AssertionError("the child has no input")
            process.stdin.write(request + "\n")
            process.stdin.flush()
            line = self._answers.get(timeout=seconds)
        except queue.Empty:
            self._broken += 1
            self.close()
            raise _refused(
                where, "merging this update takes too long", f"{seconds:.0f} s"
            ) from None
        except OSError:
            line = ""
        if not line:
            self._broken += 1
            self.close()
            raise _refused(where, "merging this update broke the limits of the child process", "")
        answer: dict[str, object] = json.loads(line)
        return answer

    def _started(self, where: str) -> "subprocess.Popen[str]":
        """Return the running child; start one where there is none."""
        if self._process is not None:
            return self._process
        if importlib.util.find_spec("peft") is None:
            raise ShellRefused(
                "PEFT is needed to merge this kind of adapter, and it is not installed",
                where=where,
                hint="Install it with: pip install peft",
            )
        command = [sys.executable, "-I", "-m", "safety_gate.delta.child"]
        process = subprocess.Popen(  # noqa: S603  our own module, no shell, no stranger's text
            [*command, str(self._folder), str(self._adapter), str(4 * self._largest)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=_environment(self._folder),
            cwd=self._folder,
        )
        self._process = process
        self._answers = queue.Queue()
        threading.Thread(target=_listen, args=(process, self._answers), daemon=True).start()
        try:
            ready = self._answers.get(timeout=START_SECONDS)
        except queue.Empty:
            ready = ""
        if ready.strip() != "ready":
            self._broken += 1
            self.close()
            raise _refused(where, "the child process that merges with PEFT did not start", "")
        return process


def _listen(process: "subprocess.Popen[str]", answers: "queue.Queue[str]") -> None:
    """Pass the child's lines on; an empty one says that it ended."""
    with contextlib.suppress(ValueError):  # the pipe was closed under us
        for line in process.stdout or ():
            answers.put(line)
    answers.put("")


def _environment(folder: Path) -> dict[str, str]:
    """Return an environment without tokens, proxies or paths of the user."""
    kept = {k: os.environ[k] for k in ("PATH", "LD_LIBRARY_PATH") if k in os.environ}
    return kept | {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "HF_HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _refused(where: str, what: str, got: str) -> GateError:
    return ShellRefused(what, where=where, got=got[:WHY], hint=HINT)
