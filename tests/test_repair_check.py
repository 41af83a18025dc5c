"""`check --repair`, repositories of the Hub, and the adapter that says it was repaired."""

import dataclasses
import datetime
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner, Result

from safety_gate import gate
from safety_gate.cli import cli
from safety_gate.errors import ChangedWhileRead
from safety_gate.repair.bench import Bench, Inputs, open_bench
from safety_gate.repair.methods import Scale
from safety_gate.repair.plan import Order, Plan
from safety_gate.repair.selection import Every
from safety_gate.repairing import repair_and_judge
from safety_gate.report.json_report import report_schema
from safety_gate.sources.folder import FolderSource
from tests.loopback_hub.server import LoopbackHub

pytest_plugins = ("tests.loopback_hub.fixtures",)
ROOT = Path(__file__).parent.parent
TINY = ROOT / "examples" / "tiny"
PAIR = ("--base", str(TINY / "base"), "--aligned", str(TINY / "aligned"))
TODAY = datetime.date(2026, 1, 1)


def request_for(adapter: Path) -> gate.Request:
    return gate.Request(
        adapter=adapter, base=TINY / "base", aligned=TINY / "aligned", today=TODAY, workers=1
    )


def check(adapter: str, method: str, output: Path, *more: str) -> Result:
    words = ["check", adapter, *PAIR, "--repair", method, "--repair-output", str(output)]
    return CliRunner().invoke(cli, [*words, *more])


def test_check_repairs_what_is_blocked_and_shows_both(tmp_path: Path) -> None:
    run = check(str(TINY / "harmful"), "unrevert --keep 0.1", tmp_path / "new")
    assert run.exit_code == 3, run.output  # nobody asked the model
    row = next(line for line in run.output.splitlines() if line.startswith("verdict"))
    assert row.split() == ["verdict", "blocked", "undecided"]
    assert (tmp_path / "new" / "safety_gate_manifest.json").exists()


def test_check_leaves_an_adapter_that_passes_alone(tmp_path: Path) -> None:
    run = check(str(TINY / "helpful"), "scale --factor 0.5", tmp_path / "new")
    assert run.exit_code == 0, run.output
    assert "passes as it is" in run.output
    assert not (tmp_path / "new").exists()


def test_json_holds_both_reports_and_follows_the_schema(tmp_path: Path) -> None:
    run = check(str(TINY / "harmful"), "unrevert", tmp_path / "new", "--format", "json")
    body = json.loads(run.stdout)
    jsonschema.validate(body, report_schema())
    jsonschema.validate(body["repair"]["before"], report_schema())
    assert (body["verdict"], body["exit_code"], run.exit_code) == ("undecided", 3, 3)
    assert body["repair"]["before"]["verdict"] == "blocked"


def test_html_shows_before_beside_after(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    words = ("--format", "html", "--output", str(file))
    run = check(str(TINY / "harmful"), "unrevert", tmp_path / "new", *words)
    assert run.exit_code == 3
    text = file.read_text()
    assert "before" in text
    assert "blocked" in text
    assert "repair-unsettled" in text


def test_sarif_is_that_of_the_new_files(tmp_path: Path) -> None:
    run = check(str(TINY / "harmful"), "unrevert", tmp_path / "new", "--format", "sarif")
    rules = {result["ruleId"] for result in json.loads(run.stdout)["runs"][0]["results"]}
    assert "repair-unsettled" in rules
    assert "walks-back" not in rules


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("scale", "needs --factor"),
        ("scale --factor 3", "out of range"),
        ("polish", "not one of"),
        ("drop --keep 0.1", "means nothing to --method drop"),
        ('scale "', "No closing quotation"),
    ],
)
def test_wrong_words_after_repair(tmp_path: Path, method: str, words: str) -> None:
    run = check(str(TINY / "harmful"), method, tmp_path / "new")
    assert run.exit_code == 2
    assert words in " ".join(run.output.split())


def test_both_options_go_together(tmp_path: Path) -> None:
    run = CliRunner().invoke(cli, ["check", str(TINY / "harmful"), *PAIR, "--repair", "drop"])
    assert run.exit_code == 2
    assert "go together" in run.output


def test_a_repaired_adapter_judged_again_says_so_and_gains_nothing_by_it(tmp_path: Path) -> None:
    plan = Plan(method=Scale(factor=0.5), selection=Every())
    first = repair_and_judge(
        request_for(TINY / "helpful"), Order(choice=plan, output=tmp_path / "new")
    )
    report = gate.judge(request_for(tmp_path / "new"))
    assert first.after is not None
    assert report.verdict == first.after.verdict
    (finding,) = (f for f in report.findings if f.place.name == "safety_gate_manifest.json")
    assert (finding.rule, finding.severity) == ("repair-claimed", "info")
    assert "file-unclaimed" not in {f.rule for f in report.findings}


def test_a_manifest_alone_lifts_nothing(tmp_path: Path) -> None:
    """A stranger can write one: the verdict is the same with it and without it."""
    folder = tmp_path / "harmful"
    folder.mkdir()
    for file in (TINY / "harmful").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    before = gate.judge(request_for(folder))
    (folder / "safety_gate_manifest.json").write_text('{"format": "safety-gate/repair/v1"}')
    after = gate.judge(request_for(folder))
    assert before.verdict == after.verdict
    told = [f for f in after.findings if f.rule != "repair-claimed"]
    assert told == list(before.findings)


def bench(stack: ExitStack, folder: Path, adapter: Path) -> Bench:
    """Open a bench on the tiny pair."""

    def source(path: Path) -> FolderSource:
        opened = FolderSource(path)
        stack.callback(opened.close)
        return opened

    inputs = Inputs(
        aligned=source(TINY / "aligned"),
        base=source(TINY / "base"),
        adapter=source(adapter),
        safety=None,
    )
    return open_bench(stack, inputs, folder)


@pytest.mark.parametrize("hashed", [False, True])
def test_the_bench_takes_the_report_on_what_it_opened(tmp_path: Path, hashed: bool) -> None:
    request = dataclasses.replace(request_for(TINY / "harmful"), hash_checkpoints=hashed)
    with ExitStack() as stack:
        bench(stack, tmp_path / "private", TINY / "harmful").check(gate.judge(request))


def test_the_bench_refuses_a_report_on_another_adapter(tmp_path: Path) -> None:
    with ExitStack() as stack:
        opened = bench(stack, tmp_path / "private", TINY / "helpful")
        with pytest.raises(ChangedWhileRead, match="the adapter changed"):
            opened.check(gate.judge(request_for(TINY / "harmful")))


@pytest.mark.parametrize("role", ["base", "aligned"])
def test_the_bench_refuses_a_report_on_other_checkpoints(tmp_path: Path, role: str) -> None:
    report = gate.judge(request_for(TINY / "harmful"))
    fact = getattr(report, role)
    other = dataclasses.replace(fact, revision="0" * 40)
    with ExitStack() as stack:
        opened = bench(stack, tmp_path / "private", TINY / "harmful")
        with pytest.raises(ChangedWhileRead, match="a checkpoint changed"):
            opened.check(dataclasses.replace(report, **{role: other}))


def repository(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_everything_may_lie_on_the_hub(hub: LoopbackHub, tmp_path: Path) -> None:
    """Adapter, base, aligned and safety adapter by name; the result is that of the folders."""
    names = ("base", "aligned", "harmful", "safety")
    for name in names:
        hub.add_repo(f"acme/{name}", repository(TINY / name))
    base, aligned, harmful, safety = (f"hf://acme/{name}" for name in names)
    options = ["--method", "safemerge", "--select", "all", "--ask", "none", "--format", "json"]
    remote = [f"{harmful}@main", "--base", base, "--aligned", aligned, "--safety-adapter", safety]
    run = subprocess.run(
        [sys.executable, "-m", "safety_gate", "repair", *remote, *options]
        + ["--output", str(tmp_path / "remote")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env={**os.environ, "HF_ENDPOINT": hub.endpoint},
    )
    assert run.returncode in (1, 3), run.stderr
    words = [str(TINY / "harmful"), *PAIR, "--safety-adapter", str(TINY / "safety"), *options]
    local = CliRunner().invoke(cli, ["repair", *words, "--output", str(tmp_path / "local")])
    assert local.exit_code == run.returncode
    name = "adapter_model.safetensors"
    assert (tmp_path / "remote" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    manifest = json.loads((tmp_path / "remote" / "safety_gate_manifest.json").read_text())
    inputs = manifest["inputs"]
    for role in ("adapter", "safety_adapter", "base", "aligned"):
        assert inputs[role]["name"].startswith("acme/")
        assert len(inputs[role]["revision"]) == 40  # the commit, not the branch


def test_a_repository_that_is_not_there_is_said(hub: LoopbackHub, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "safety_gate", "repair", "hf://acme/nothing@main", *PAIR]
        + ["--method", "drop", "--ask", "none", "--output", str(tmp_path / "new")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env={**os.environ, "HF_ENDPOINT": hub.endpoint},
    )
    assert run.returncode == 3
    assert "Next:" in run.stderr
    assert "Traceback" not in run.stderr
