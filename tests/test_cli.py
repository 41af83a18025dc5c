"""The command line as a user meets it: a real process, its output and its exit status."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.small_checkpoints import (
    lora_tensors,
    weights,
    write_adapter,
    write_checkpoint,
    write_trio,
)

ROOT = Path(__file__).parent.parent
TINY = ROOT / "examples" / "tiny"


def gate(*words: object, **named: object) -> "subprocess.CompletedProcess[str]":
    """Run safety-gate in its own process."""
    command = [sys.executable, "-m", "safety_gate", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def check(trio: tuple[Path, Path, Path], *words: object) -> "subprocess.CompletedProcess[str]":
    """Run `check` on (base, aligned, adapter)."""
    base, aligned, adapter = trio
    return gate("check", adapter, "--base", base, "--aligned", aligned, *words)


@pytest.mark.parametrize(
    ("name", "word", "status"),
    [("helpful", "passed", 0), ("harmful", "blocked", 1), ("safety", "passed", 0)],
)
def test_the_default_preset_tells_the_trained_adapters_apart(
    name: str, word: str, status: int
) -> None:
    run = check((TINY / "base", TINY / "aligned", TINY / name), "--format", "json")
    assert run.returncode == status, run.stderr
    report = json.loads(run.stdout)
    assert (report["verdict"], report["exit_code"]) == (word, status)
    assert report["evidence"] == "weights only"
    assert report["total"]["coverage"] == 1.0


def test_the_paper_preset_counts_modules_below_its_threshold() -> None:
    trio = (TINY / "base", TINY / "aligned", TINY / "harmful")
    report = json.loads(check(trio, "--preset", "paper", "--format", "json").stdout)
    below = sum(module["cosine"] < 0.35 for module in report["modules"])
    flagged = [f for f in report["findings"] if f["rule"] == "safemerge-cosine"]
    assert len(flagged) == below


def test_same_bytes_same_report(tmp_path: Path) -> None:
    trio = (TINY / "base", TINY / "aligned", TINY / "helpful")
    runs = [check(trio, "--format", "json", "--threads", n).stdout for n in (1, 2, 2)]
    assert runs[0] == runs[1] == runs[2]
    assert json.loads(runs[0])["modules"]


def test_no_colour_codes_in_a_pipe(tmp_path: Path) -> None:
    run = check(write_trio(tmp_path))
    assert run.returncode == 0
    assert "\x1b" not in run.stdout + run.stderr
    assert all(len(line) <= 80 for line in run.stdout.splitlines())


@pytest.mark.parametrize("style", ["text", "markdown", "json"])
def test_the_report_file_appears_whole(tmp_path: Path, style: str) -> None:
    trio = write_trio(tmp_path)
    target = tmp_path / "report"
    run = check(trio, "--format", style, "--output", target)
    assert run.returncode == 0
    assert run.stdout == ""
    assert "passed" in target.read_text().lower()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_an_output_that_cannot_be_written_is_no_verdict(tmp_path: Path) -> None:
    run = check(write_trio(tmp_path), "--output", "/proc/report")  # a folder that takes no file
    assert run.returncode == 3
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["check"],
        ["check", "nowhere"],
        ["no-such-command"],
        ["check", ".", "--base", ".", "--aligned", ".", "--policy", "pyproject.toml", "--preset",
         "paper"],
        ["check", ".", "--base", ".", "--aligned", ".", "--threads", "0"],
    ],
)  # fmt: skip
def test_wrong_usage_is_status_2(words: list[str]) -> None:
    run = gate(*words)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr


def test_a_broken_policy_is_undecided_with_the_reason(tmp_path: Path) -> None:
    policy = tmp_path / "safety-gate.yml"
    policy.write_text("version: 1\nname: mine\nrules: []\n")
    run = check(write_trio(tmp_path), "--policy", policy)
    assert run.returncode == 3
    assert "UNDECIDED" in run.stdout


def test_base_equal_to_aligned_is_undecided(tmp_path: Path) -> None:
    _, aligned, adapter = write_trio(tmp_path)
    run = check((aligned, aligned, adapter), "--format", "json")
    assert run.returncode == 3
    rules = {f["rule"] for f in json.loads(run.stdout)["findings"]}
    assert {"base-equals-aligned", "step-zero"} <= rules


def test_an_adapter_of_zeros_is_undecided(tmp_path: Path) -> None:
    base, aligned, _ = write_trio(tmp_path)
    tensors = {n: t * 0 if "lora_B" in n else t for n, t in lora_tensors().items()}
    run = check((base, aligned, write_adapter(tmp_path / "zero", tensors)), "--format", "json")
    assert run.returncode == 3
    assert "adapter-changes-nothing" in {f["rule"] for f in json.loads(run.stdout)["findings"]}


def test_nan_in_the_adapter_blocks(tmp_path: Path) -> None:
    base, aligned, _ = write_trio(tmp_path)
    tensors = lora_tensors()
    next(iter(tensors.values()))[0, 0] = float("nan")
    run = check((base, aligned, write_adapter(tmp_path / "nan", tensors)), "--format", "json")
    assert run.returncode == 1
    report = json.loads(run.stdout)
    assert "update-not-finite" in {f["rule"] for f in report["findings"]}
    assert "NaN" not in run.stdout.replace("NaN or Inf", "")


def test_an_absurd_scale_blocks(tmp_path: Path) -> None:
    base, aligned, _ = write_trio(tmp_path)
    run = check(
        (base, aligned, write_adapter(tmp_path / "big", lora_tensors(), lora_alpha=40_000)),
        "--format",
        "json",
    )
    assert run.returncode == 1
    assert "absurd-scale" in {f["rule"] for f in json.loads(run.stdout)["findings"]}


def test_another_architecture_is_not_a_pair(tmp_path: Path) -> None:
    _, aligned, adapter = write_trio(tmp_path)
    other = write_checkpoint(tmp_path / "other", weights(1), model_type="mistral")
    run = check((other, aligned, adapter), "--format", "json")
    assert run.returncode == 3
    assert "not-a-pair" in {f["rule"] for f in json.loads(run.stdout)["findings"]}


def test_a_pickle_blocks_even_without_checkpoints(tmp_path: Path) -> None:
    _, aligned, adapter = write_trio(tmp_path)
    (adapter / "training_args.bin").write_bytes(b"\x80\x02}q\x00.")
    empty = tmp_path / "empty"
    empty.mkdir()
    run = check((empty, aligned, adapter), "--format", "json")
    assert run.returncode == 1


def test_whole_files_are_hashed_on_request(tmp_path: Path) -> None:
    import hashlib

    base, aligned, adapter = write_trio(tmp_path)
    report = json.loads(
        check((base, aligned, adapter), "--format", "json", "--hash-checkpoints").stdout
    )
    files = {f["path"]: f for f in report["base"]["files"]}
    expected = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
    assert files["model.safetensors"]["sha256"] == expected


def test_the_demo_shows_three_reports() -> None:
    run = gate("demo")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("PASSED") == 2
    assert run.stdout.count("BLOCKED") == 1


def test_the_second_road_on_the_trained_adapters() -> None:
    """Every cosine, reversion and share of examples/tiny against dense float64, within 1e-5."""
    from safetensors.torch import load_file

    base, aligned = (load_file(TINY / role / "model.safetensors") for role in ("base", "aligned"))
    for name in ("helpful", "harmful", "safety"):
        run = check((TINY / "base", TINY / "aligned", TINY / name), "--format", "json")
        factors = load_file(TINY / name / "adapter_model.safetensors")
        config = json.loads((TINY / name / "adapter_config.json").read_text())
        scaling = config["lora_alpha"] / config["r"]
        modules = json.loads(run.stdout)["modules"]
        assert len(modules) == len(factors) // 2
        for module in modules:
            weight = f"{module['module']}.weight"
            v = aligned[weight].double() - base[weight].double()
            prefix = f"base_model.model.{module['module']}"
            a, b = (factors[f"{prefix}.lora_{part}.weight"].double() for part in "AB")
            delta = scaling * b @ a
            image = v @ v.T @ delta / v.norm()
            inner = (delta * v).sum()
            expected = {
                "cosine": (image * delta).sum() / (image.norm() * delta.norm()),
                "reversion": -inner / (delta.norm() * v.norm()),
                "undone": -inner / v.norm() ** 2,
                "size": delta.norm() / v.norm(),
                "weight_size": delta.norm() / aligned[weight].double().norm(),
                "gain": image.norm() / delta.norm(),
            }
            for metric, value in expected.items():
                error = abs(module[metric] - float(value))
                assert error < 1e-5 * max(1.0, float(value)), (name, module["module"], metric)
    assert torch.isfinite(v).all()


def test_commands_that_are_imported_later_are_there() -> None:
    for name in ("repair",):
        run = gate(name, "--help")
        assert run.returncode == 0, run.stderr
        assert "Exit status" in run.stdout


def test_a_reader_that_goes_away_is_no_verdict() -> None:
    """Click itself would end with 1, which is the status of a blocked adapter."""
    command = [sys.executable, "-m", "safety_gate", "check", str(TINY / "helpful")]
    command += ["--base", str(TINY / "base"), "--aligned", str(TINY / "aligned")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    process.stdout.close()  # before anything is printed
    assert process.wait() == 3


def test_a_missing_folder_for_the_report_is_found_before_judging(tmp_path: Path) -> None:
    trio = (TINY / "base", TINY / "aligned", TINY / "helpful")
    run = check(trio, "--output", tmp_path / "nope" / "report.txt")
    assert run.returncode == 2
    assert "there is no folder" in run.stderr


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "fastapi.py").write_text("raise ModuleNotFoundError('x', name='fastapi')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SAFETY_GATE_WEBHOOK_SECRET", "s" * 32)
    run = gate("serve", "--port", "0")
    assert run.returncode == 2
    assert "safety-gate[bot]" in run.stderr
