"""The child process: the gate uses it, and it can neither leave its folder nor stay for ever."""

import copy
import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from safety_gate import gate
from safety_gate.delta import worker
from safety_gate.delta.worker import ShellRefused, Worker
from tests.delta_oracle import checkpoint_of
from tests.peft_adapters import lora, merged, model_of, save
from tests.small_checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return base and aligned: the aligned one is the tiny model itself."""
    root = tmp_path_factory.mktemp("pair")
    model = model_of("qwen2")
    aligned = checkpoint_of(model, root / "aligned")
    generator = torch.Generator().manual_seed(4)
    base = {
        name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in model.state_dict().items()
    }
    return write_checkpoint(root / "base", base, model_type="qwen2"), aligned


def judged(config: Any, pair: tuple[Path, Path], folder: Path) -> Any:
    save("qwen2", copy.deepcopy(config), folder / "adapter")
    base, aligned = pair
    return gate.judge(
        gate.Request(
            adapter=folder / "adapter",
            base=base,
            aligned=aligned,
            today=datetime.date(2026, 1, 1),
        )
    )


def test_the_gate_scores_dora_and_a_saved_head(pair: tuple[Path, Path], tmp_path: Path) -> None:
    config = lora(use_dora=True, target_modules=["q_proj"], modules_to_save=["lm_head", "norm"])
    report = judged(config, pair, tmp_path)
    assert {f.severity for f in report.findings} <= {"block", "warn", "info"}, [
        f for f in report.findings if f.severity == "undecided"
    ]
    theirs = merged("qwen2", tmp_path / "adapter")
    assert report.total is not None
    assert report.total.coverage == 1.0
    assert report.total.changed_parameters == sum(update.numel() for update in theirs.values())
    for score in report.modules:
        update = theirs.get(f"{score.module}.weight", theirs.get(score.module))
        assert update is not None
        assert score.delta_norm == pytest.approx(float(update.norm()), rel=1e-4)
    assert "model.norm.weight" in {score.module for score in report.modules}


def test_the_gate_scores_a_kind_with_shared_state(pair: tuple[Path, Path], tmp_path: Path) -> None:
    config = peft.VeraConfig(target_modules=["q_proj", "up_proj"], r=4)
    report = judged(config, pair, tmp_path)
    assert report.total is not None
    assert report.total.coverage == 1.0
    assert report.total.modules == 4


def test_what_pefts_loading_refuses_is_undecided(pair: tuple[Path, Path], tmp_path: Path) -> None:
    config = peft.HRAConfig(target_modules=["q_proj"], r=2)
    save("qwen2", config, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 3}))  # the file holds rank 2
    base, aligned = pair
    report = gate.judge(
        gate.Request(
            adapter=tmp_path / "adapter",
            base=base,
            aligned=aligned,
            today=datetime.date(2026, 1, 1),
        )
    )
    assert report.verdict.word == "undecided"
    assert "delta-refused" in {f.rule for f in report.findings}


WALLS = """
import sys
from pathlib import Path
from safety_gate.delta import walls
walls.limit(1 << 20)
walls.close(Path(sys.argv[1]))
for deed in sys.argv[2:]:
    try:
        exec(deed)
    except walls.WallError as error:
        print("wall:", error)
    except (MemoryError, RuntimeError, OSError) as error:
        print("limit:", type(error).__name__)
    else:
        print("nothing happened")
"""
DEEDS = [
    ("import socket; socket.create_connection(('127.0.0.1', 9))", "wall: socket."),
    ("import subprocess; subprocess.run(['true'])", "wall: subprocess"),
    ("import os; os.system('true')", "wall: os.system"),
    ("import os; os.fork()", "wall: os.fork"),
    ("import ctypes; ctypes.CDLL('libc.so.6')", "wall: ctypes.dlopen"),
    ("import hypothesis", "wall: importing hypothesis"),
    ("open('/tmp/out', 'w')", "wall: writing"),
    ("import os; os.open('/tmp/out', os.O_CREAT | os.O_WRONLY)", "wall: writing"),
    ("import pickle; pickle.loads(b'cos\\nsystem\\n.')", "wall: pickle.find_class"),
    ("open(sys.argv[1] + '/in', 'w').write('x')", "nothing happened"),
    ("import torch; torch.empty(1 << 40)", "limit: RuntimeError"),
    ("open(sys.argv[1] + '/in', 'wb', 0).write(bytes(1 << 22))", "nothing happened"),
]


def test_walls(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-I", "-c", WALLS, str(tmp_path), *(deed for deed, _ in DEEDS)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    lines = run.stdout.splitlines()
    assert len(lines) == len(DEEDS), run.stderr[-500:]
    for (deed, answer), line in zip(DEEDS, lines, strict=True):
        assert line.startswith(answer), deed
    assert (tmp_path / "in").stat().st_size == 1 << 20  # the kernel cut the last file off


def test_a_child_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "MIN_SECONDS", 0.0)
    child = Worker(tmp_path, tmp_path / "adapter.safetensors", 1)
    request = {"number": 1, "path": "a", "modules": [], "config": {}, "tensors": []}
    start = time.monotonic()
    with pytest.raises(ShellRefused, match="too long"):
        child.ask(request, "a")
    assert time.monotonic() - start < worker.START_SECONDS + 10
    child.close()


def test_the_child_sees_no_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary")
    monkeypatch.setenv("GITHUB_TOKEN", "canary")
    assert "canary" not in str(worker._environment(tmp_path))
    assert os.environ["HF_TOKEN"] == "canary"  # noqa: S105
