"""Hands the aligned model, and it with an adapter, to tasks of inspect_ai, and reads its logs.

inspect_ai loads whole models, so both are written to a private folder first (probe/merged.py). It
runs in a process of its own, with the tasks and the keys of the user. What it finds is reported and
decides nothing: a task's score is no share of refusals that a policy could rule on.
"""

import hashlib
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safety_gate.adapter.ledger import open_adapter
from safety_gate.behaviour import check_finite
from safety_gate.checkpoint import Checkpoint
from safety_gate.delta.roads import open_deltas
from safety_gate.places import Opener, Where, plan_all
from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.merged import write_merged
from safety_gate.probe.variants import ALIGNED, Variant, variant_of

INSTALL_HINT: Final = "pip install inspect-ai, and inspect-evals for tasks such as xstest."
SHOWN: Final = 300  # characters of what the child said last


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What to run."""

    tasks: tuple[str, ...]  # as `inspect eval` takes them
    device: str = "cpu"
    limit: int | None = None  # samples of each task; None: all
    settings: tuple[str, ...] = ()  # key=value, for the tasks
    tokens: int = 256  # of an answer at most


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectFact:
    """What one task found of one model."""

    variant: str  # "aligned" or "adapter"
    task: str  # as its log names it
    samples: int
    metrics: Mapping[str, float]  # by "scorer/metric"
    inspect_version: str
    log_sha256: str

    def __post_init__(self) -> None:
        """Refuse NaN and Inf."""
        check_finite(f"{self.task} of {self.variant}", self.metrics)


def inspect(
    wish: Wish, *, aligned: Where, adapter: Where, opener: Opener
) -> tuple[InspectFact, ...]:
    """Run the tasks on the aligned model and on it with the adapter.

    Args:
        wish: the tasks.
        aligned: the checkpoint that the adapter applies to.
        adapter: the adapter.
        opener: opens both; the caller closes it.

    Returns:
        Aligned's facts, then the adapter's, in the order of the tasks.

    Raises:
        CannotProbe: inspect_ai is missing or fails, or the adapter cannot be merged exactly.
        GateError: files cannot be read.
    """
    _check_installed()
    checkpoint = Checkpoint.open(opener.open(aligned, whole=False), "aligned")
    plan_all(checkpoint)
    with tempfile.TemporaryDirectory(prefix="safety-gate-") as name:
        private = Path(name)
        own = open_adapter(
            opener.open(adapter, whole=True),
            shapes=checkpoint.shapes,
            model_type=checkpoint.model_type,
            config=checkpoint.config,
            snapshot_dir=private / "copy",
        )
        deltas = open_deltas(own, checkpoint, private / "merging")
        try:
            variant = variant_of("adapter", own, deltas)
            facts = [_asked(wish, checkpoint, one, private) for one in (ALIGNED, variant)]
        finally:
            deltas.close()
            own.close()
    return tuple(fact for found in facts for fact in found)


def _check_installed() -> None:
    from importlib.util import find_spec

    if find_spec("inspect_ai") is None:
        raise CannotProbe(
            "inspect_ai is not installed", where="the command inspect", hint=INSTALL_HINT
        )


def _asked(
    wish: Wish, checkpoint: Checkpoint, variant: Variant, private: Path
) -> list[InspectFact]:
    """Write one model, run all tasks on it, read their logs; the model goes again."""
    logs = private / f"logs-{variant.name}"
    logs.mkdir()
    with tempfile.TemporaryDirectory(dir=private) as model:
        write_merged(checkpoint, variant, Path(model))
        for task in wish.tasks:
            _run(_command(wish, task, Path(model), logs), task)
    files = sorted(logs.iterdir(), key=lambda file: file.name)  # names begin with the time
    if len(files) != len(wish.tasks):
        raise _failed("a task left no log", variant.name, f"{len(files)} of {len(wish.tasks)}")
    return [_read(file, variant.name) for file in files]


def _command(wish: Wish, task: str, model: Path, logs: Path) -> list[str]:
    """Return the command line of one task; greedy, so that it can be repeated."""
    fixed = ["--display", "none", "--log-format", "json", "--log-dir", str(logs)]
    said = ["-M", f"device={wish.device}", "-M", "do_sample=false"]
    limit = [] if wish.limit is None else ["--limit", str(wish.limit)]
    settings = [part for setting in wish.settings for part in ("-T", setting)]
    own = [sys.executable, "-m", "inspect_ai", "eval", task, "--model", f"hf/{model}"]
    return [*own, *said, *fixed, "--max-tokens", str(wish.tokens), *limit, *settings]


def _run(command: Sequence[str], task: str) -> None:
    """Run inspect_ai with the user's own environment: a task's judge may need a key."""
    done = subprocess.run(  # noqa: S603 - the task is the user's own choice
        command,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise _failed("inspect_ai ended with an error", task, (lines or [""])[-1][-SHOWN:])


def _failed(what: str, where: str, got: str) -> CannotProbe:
    return CannotProbe(
        what,
        where=where,
        got=got,
        hint="Run the task with `inspect eval` by itself on any model, and read what it says.",
    )


def _read(file: Path, variant: str) -> InspectFact:
    """Read a log.

    Raises:
        CannotProbe: the task did not come to its end.
    """
    from inspect_ai import __version__
    from inspect_ai.log import read_eval_log

    log: Any = read_eval_log(str(file), header_only=True)
    if log.status != "success" or log.results is None:
        said = log.error.message if log.error else log.status
        raise _failed("a task of inspect_ai did not succeed", log.eval.task, said[-SHOWN:])
    return InspectFact(
        variant=variant,
        task=log.eval.task,
        samples=log.results.completed_samples,
        metrics={
            f"{score.name}/{name}": float(metric.value)
            for score in log.results.scores
            for name, metric in score.metrics.items()
            if isinstance(metric.value, int | float) and math.isfinite(metric.value)
        },
        inspect_version=__version__,
        log_sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
    )
