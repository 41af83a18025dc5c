"""Several adapters at once: as each would be alone, or their sum; and how all of it is told."""

import datetime
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from referencing import Registry, Resource
from safetensors.torch import load_file, save_file

from safety_gate import engine, gate
from safety_gate.checkpoint import Checkpoint
from safety_gate.cli_reports import rendered
from safety_gate.places import Where
from safety_gate.records import Report
from safety_gate.report.json_report import report_schema, to_json
from safety_gate.report.several import gravest, reports_schema
from tests.small_checkpoints import lora_tensors, write_adapter, write_trio
from tests.test_cli import TINY
from tests.test_cli import gate as command
from tests.test_quick_products import write_large_trio

NAMES = ("helpful", "harmful", "safety")
TODAY = datetime.date(2026, 1, 1)


def request_for(
    base: Path, aligned: Path, adapter: Path, policy: Path | None = None
) -> gate.Request:
    """Return a request without any question to the model."""
    return gate.Request(adapter=adapter, base=base, aligned=aligned, policy=policy, today=TODAY)


def tiny() -> gate.Request:
    """Return a request on the trained pair."""
    return request_for(TINY / "base", TINY / "aligned", TINY / "helpful")


def agree(found: Report, alone: Report) -> None:
    """Hold a report of several against that of a run of its own."""
    assert found.verdict == alone.verdict
    assert found.adapter == alone.adapter
    assert [f.rule for f in found.findings] == [f.rule for f in alone.findings]
    assert [m.module for m in found.modules] == [m.module for m in alone.modules]
    for one, other in zip(found.modules, alone.modules, strict=True):
        assert one.drift.values() == pytest.approx(other.drift.values(), rel=1e-5, abs=1e-6)
    if alone.total is not None:
        assert found.total is not None
        expected = alone.total.drift.values()
        assert found.total.drift.values() == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert found.total.coverage == alone.total.coverage


def test_each_is_judged_as_it_would_be_alone() -> None:
    found = gate.judge_all(tiny(), [TINY / name for name in NAMES])
    assert [report.verdict.word for report in found] == ["passed", "blocked", "passed"]
    for report, name in zip(found, NAMES, strict=True):
        agree(report, gate.judge(replace(tiny(), adapter=TINY / name)))


def test_a_bad_adapter_stops_no_other(tmp_path: Path) -> None:
    base, aligned, adapter = write_trio(tmp_path)
    torn = shutil.copytree(adapter, tmp_path / "torn")
    (torn / "adapter_model.safetensors").write_bytes(b"\x00" * 64)
    empty = tmp_path / "empty"
    empty.mkdir()
    nan = lora_tensors(seed=8)
    next(iter(nan.values()))[0, 0] = float("nan")
    bad = write_adapter(tmp_path / "nan", nan)
    other = write_adapter(tmp_path / "other", lora_tensors(seed=9))
    request = request_for(base, aligned, adapter)
    places: list[Where] = [torn, adapter, tmp_path / "missing", empty, bad, other]
    found = gate.judge_all(request, places)
    words = [report.verdict.word for report in found]
    assert words == ["undecided", "passed", "undecided", "undecided", "blocked", "passed"]
    for place, report in zip(places, found, strict=True):
        agree(report, gate.judge(replace(request, adapter=place)))
    assert gravest(found).exit_code == 1


def test_adapters_in_subfolders_are_judged_too(tmp_path: Path) -> None:
    base, aligned, adapter = write_trio(tmp_path)
    write_adapter(adapter / "second", lora_tensors(seed=9))
    alone = gate.judge(request_for(base, aligned, adapter))
    assert alone.verdict.word == "undecided"  # one of its adapters was not looked at
    found = gate.judge_all(request_for(base, aligned, adapter), [adapter])
    assert [report.verdict.word for report in found] == ["passed", "passed"]
    names = [report.adapter.name for report in found if report.adapter]
    assert names == [str(adapter), f"{adapter}/second"]
    second = gate.judge(request_for(base, aligned, adapter / "second"))
    for one, other in zip(found[1].modules, second.modules, strict=True):
        assert one.drift.values() == pytest.approx(other.drift.values(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "data", "word"),
    [
        ("model.safetensors", None, "blocked"),
        ("adapter_model.bin", b"\x80\x04}.", "blocked"),
        ("other/run.py", b"import os\n", "blocked"),
        ("weights.dat", b"\x00\x01\x02\xff" * 64, "undecided"),
        ("README.md", b"# Two adapters\n", "passed"),
    ],
)
def test_what_lies_outside_the_subfolders_is_looked_at_too(
    tmp_path: Path, name: str, data: bytes | None, word: str
) -> None:
    base, aligned, adapter = write_trio(tmp_path)
    whole = tmp_path / "repository"
    shutil.copytree(adapter, whole / "first")
    path = whole / name
    path.parent.mkdir(exist_ok=True)
    if data is None:
        shutil.copy(aligned / "model.safetensors", path)
    else:
        path.write_bytes(data)
    found = gate.judge_all(request_for(base, aligned, whole), [whole])
    assert [report.verdict.word for report in found] == [word]


def test_a_pair_is_opened_and_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, aligned, adapter = write_trio(tmp_path)
    others: list[Where] = [
        write_adapter(tmp_path / f"{seed}", lora_tensors(seed=seed)) for seed in (11, 12, 13)
    ]
    read: list[tuple[str, str, int]] = []
    plain = Checkpoint.rows

    def counted(
        self: Checkpoint, name: str, start: int, stop: int, scratch: torch.Tensor
    ) -> torch.Tensor:
        read.append((self.role, name, start))
        return plain(self, name, start, stop, scratch)

    monkeypatch.setattr(Checkpoint, "rows", counted)
    found = gate.judge_all(request_for(base, aligned, adapter), [adapter, *others])
    assert all(report.total for report in found)
    assert len(read) == len(set(read)) > 0


@pytest.mark.parametrize("near", [0, 1])
def test_what_is_near_a_threshold_is_measured_again_for_that_adapter_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, near: int
) -> None:
    monkeypatch.setattr(engine, "has_bfloat16", lambda: True)
    base, aligned, first = write_large_trio(tmp_path)
    tensors = load_file(first / "adapter_model.safetensors")
    half = {name: t[:2] if "lora_A" in name else t[:, :2] for name, t in tensors.items()}
    second = write_adapter(
        tmp_path / "second",
        {name: tensor.contiguous() for name, tensor in half.items()},
        rank=2,
        target_modules=["q_proj"],
    )
    request = request_for(base, aligned, first)
    quick = gate.judge_all(request, [first, second])
    monkeypatch.setattr(engine, "has_bfloat16", lambda: False)
    exact = gate.judge_all(request, [first, second])
    monkeypatch.setattr(engine, "has_bfloat16", lambda: True)
    policy = tmp_path / "policy.yml"
    threshold = exact[near].modules[0].drift.cosine - 1e-5
    policy.write_text(
        "version: 1\nname: near\nrules:\n  - id: near\n    scope: module\n    severity: warn\n"
        f"    message: near\n    when: [{{metric: cosine, above: {threshold:.9f}}}]\n"
    )
    found = gate.judge_all(replace(request, policy=policy), [first, second])
    for at, report in enumerate(found):
        expected = (exact if at == near else quick)[at].modules[0].drift.values()
        assert report.modules[0].drift.values() == pytest.approx(expected, rel=1e-6, abs=1e-7)
        other = (quick if at == near else exact)[at].modules[0].drift.cosine
        assert abs(report.modules[0].drift.cosine - other) > 1e-6


def test_a_sum_has_the_figures_of_joined_factors(tmp_path: Path) -> None:
    base, aligned, first = write_trio(tmp_path)
    second = write_adapter(tmp_path / "second", lora_tensors(seed=9))
    one, two = lora_tensors(), lora_tensors(seed=9)
    joined = {
        name: torch.cat((one[name], two[name]), dim=0 if "lora_A" in name else 1).contiguous()
        for name in one
    }
    whole = write_adapter(tmp_path / "whole", joined, rank=8)
    request = request_for(base, aligned, first)
    found = gate.judge_sum(request, [first, second])
    expected = gate.judge(replace(request, adapter=whole))
    assert found.verdict == expected.verdict
    by_module = {score.module: score.drift.values() for score in found.modules}
    for score in expected.modules:
        assert by_module[score.module] == pytest.approx(score.drift.values(), rel=1e-4, abs=1e-6)
    assert found.total is not None
    assert found.total.coverage == 1.0
    assert found.adapter is not None
    assert found.adapter.name == f"{first} + {second}"
    assert {file.path.split("/")[0] for file in found.adapter.files} == {"1", "2"}
    jsonschema.validate(json.loads(to_json(found)), report_schema())


def test_a_sum_can_be_harmful_where_no_part_is(tmp_path: Path) -> None:
    """Two halves of the harmful update, each too small for a rule that its sum breaks."""
    request = replace(tiny(), adapter=TINY / "harmful")
    whole = gate.judge(request)
    assert whole.total is not None
    tensors = load_file(TINY / "harmful" / "adapter_model.safetensors")
    halves: list[Where] = []
    for number in (1, 2):
        folder = shutil.copytree(TINY / "harmful", tmp_path / f"{number}")
        half = {n: 0.5 * t if "lora_B" in n else t for n, t in tensors.items()}
        save_file(half, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        halves.append(folder)
    policy = tmp_path / "policy.yml"
    limit = 0.75 * whole.total.drift.undone
    policy.write_text(
        "version: 1\nname: undone\nrules:\n  - id: undone\n    scope: adapter\n"
        "    severity: block\n    message: undone\n    when:\n"
        f"    - {{metric: undone, above: {limit}}}\n"
    )
    request = replace(request, policy=policy)
    assert [r.verdict.word for r in gate.judge_all(request, halves)] == ["passed", "passed"]
    found = gate.judge_sum(request, halves)
    assert found.verdict.word == "blocked"
    assert found.total is not None
    assert found.total.drift.undone == pytest.approx(whole.total.drift.undone, rel=1e-5)


def test_a_sum_with_an_unread_part_is_not_passed(tmp_path: Path) -> None:
    base, aligned, first = write_trio(tmp_path)
    request = request_for(base, aligned, first)
    found = gate.judge_sum(request, [first, tmp_path / "missing"])
    assert found.verdict.word == "undecided"
    assert found.total is None


def checked(*words: object) -> tuple[int, str]:
    """Run `check` on the trained pair; return the status and what was printed."""
    pair = ("--base", TINY / "base", "--aligned", TINY / "aligned", "--ask", "none")
    run = command("check", *words, *pair)
    assert "Traceback" not in run.stderr, run.stderr
    return run.returncode, run.stdout


def test_the_command_writes_one_json_for_all(tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text(
        f"# the others\n{TINY / 'harmful'}  # known to be bad\n\n{TINY / 'safety'}\n"
    )
    status, text = checked(TINY / "helpful", "--list", listing, "--format", "json")
    found = json.loads(text)
    assert (status, found["verdict"], found["exit_code"]) == (1, "blocked", 1)
    assert [r["verdict"] for r in found["reports"]] == ["passed", "blocked", "passed"]
    registry: Registry[bool | Mapping[str, Any]] = Registry().with_resource(
        "urn:safety-gate:report:v1", Resource.from_contents(report_schema())
    )
    jsonschema.Draft202012Validator(reports_schema(), registry=registry).validate(found)


def test_a_folder_with_a_sharp_sign_is_not_taken_for_another(tmp_path: Path) -> None:
    good, bad = tmp_path / "one", tmp_path / "one#two"
    shutil.copytree(TINY / "helpful", good)
    shutil.copytree(TINY / "harmful", bad)
    listing = tmp_path / "list.txt"
    listing.write_text(f"#{bad}\n{bad}\r\n")
    status, text = checked("--list", listing, "--format", "json")
    assert (status, json.loads(text)["adapter"]["name"]) == (1, str(bad))


@pytest.mark.parametrize(
    ("content", "words"),
    [("", []), ("/nowhere/at/all\n", []), ("\xff", []), (None, ["--compose", TINY / "helpful"])],
    ids=["empty", "no-place", "no-text", "one-summand"],
)
def test_wrong_usage_of_lists_is_status_2(
    tmp_path: Path, content: str | None, words: Sequence[object]
) -> None:
    listing = tmp_path / "list.txt"
    if content is not None:
        listing.write_bytes(content.encode("latin-1"))
        words = ["--list", listing]
    status, _ = checked(*words)
    assert status == 2


def test_the_sum_on_the_command_line() -> None:
    status, text = checked("--compose", TINY / "helpful", TINY / "safety", "--format", "json")
    found = json.loads(text)
    assert (status, found["verdict"]) == (found["exit_code"], found["verdict"])
    assert found["adapter"]["kind"].startswith("sum of ")
    assert found["total"]["coverage"] == 1.0


@pytest.fixture(scope="module")
def reports() -> tuple[Report, ...]:
    return gate.judge_all(tiny(), [TINY / name for name in NAMES])


@pytest.mark.parametrize("style", ["text", "markdown", "html"])
def test_every_form_tells_of_every_adapter(reports: tuple[Report, ...], style: str) -> None:
    text = rendered(reports, style)
    for name in NAMES:
        assert f"examples/tiny/{name}" in text.replace("\n", "")
    assert text == rendered(reports, style)


def test_the_page_of_several_has_no_name_twice(reports: tuple[Report, ...]) -> None:
    page = rendered(reports, "html")
    names = re.findall(r' id="([^"]+)"', page)
    assert len(names) == len(set(names)) > len(reports)
    assert set(re.findall(r' aria-labelledby="([^"]+)"', page)) <= set(names)
    assert "<!-- report" not in page
    assert page.count("<script") == 0


def test_sarif_of_several_keeps_them_apart(reports: tuple[Report, ...]) -> None:
    named = [
        replace(report, adapter=replace(report.adapter, name=f"adapters/{name}"))
        for report, name in zip(reports, NAMES, strict=True)
        if report.adapter is not None
    ]
    results = json.loads(rendered(named, "sarif"))["runs"][0]["results"]
    files = {
        result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for result in results
    }
    assert {file.rsplit("/", 1)[0] for file in files} >= {"adapters/harmful"}


def test_no_reports_are_no_pass() -> None:
    assert gravest([]).word == "undecided"
