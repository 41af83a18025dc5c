"""The JSON report and its schema."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from safety_gate.errors import BadScore
from safety_gate.records import METRICS, Report
from safety_gate.report.json_report import report_schema, to_json
from tests.sample_reports import HOSTILE, blocked, hostile, llama, passed, undecided

SAMPLES = (passed, blocked, undecided, hostile)


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = report_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("sample", SAMPLES)
def test_samples_follow_the_schema(
    sample: Callable[[], Report], validator: Draft202012Validator
) -> None:
    text = to_json(sample())
    assert text.endswith("}\n")
    assert text.isascii()
    assert "##[" not in text
    assert all(line.isprintable() for line in text.split("\n"))
    validator.validate(json.loads(text))


def test_equal_reports_are_equal_bytes() -> None:
    shuffled = replace(blocked(), versions=dict(reversed(list(blocked().versions.items()))))
    assert to_json(blocked()) == to_json(shuffled)


def test_figures_read_back_exactly() -> None:
    report = blocked()
    read = json.loads(to_json(report))
    for score, shown in zip(report.modules, read["modules"], strict=True):
        assert {name: shown[name] for name in METRICS} == score.drift.values()
        assert shown["shape"] == list(score.shape)
    assert list(read["modules"][0])[:5] == ["module", "shape", "rank", "scaling", "cosine"]
    assert list(read)[:4] == ["schema", "verdict", "exit_code", "evidence"]
    assert read["total"]["coverage"] == report.total.coverage if report.total else False


def test_names_read_back_exactly() -> None:
    read = json.loads(to_json(hostile()))
    assert [file["path"] for file in read["adapter"]["files"]] == list(HOSTILE)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_figure_that_failed_stops_the_report(bad: float) -> None:
    broken = replace(llama(1, lambda *_: 0.0)[0], scaling=bad)
    with pytest.raises(BadScore, match="not finite"):
        to_json(replace(passed(), modules=(broken,)))


def put(*path: str | int, value: Any) -> Callable[[Any], None]:
    def mutate(report: Any) -> None:
        *way, last = path
        for step in way:
            report = report[step]
        report[last] = value

    return mutate


def drop(*path: str | int) -> Callable[[Any], None]:
    def mutate(report: Any) -> None:
        *way, last = path
        for step in way:
            report = report[step]
        del report[last]

    return mutate


MUTATIONS = {
    "unknown key": put("note", value="x"),
    "unknown metric": put("modules", 0, "cosinus", value=0.1),
    "other format": put("schema", value="safety-gate/report/v2"),
    "verdict of another status": put("verdict", value="passed"),
    "status of another verdict": put("exit_code", value=0),
    "figure that failed": put("modules", 0, "cosine", value=None),
    "figure as text": put("modules", 0, "z", value="4.2"),
    "cosine above one": put("modules", 0, "cosine", value=1.2),
    "negative size": put("total", "size", value=-0.1),
    "coverage above one": put("total", "coverage", value=1.01),
    "metric left out": drop("modules", 0, "undone"),
    "total left out": drop("total"),
    "shape of three": put("modules", 0, "shape", value=[1, 2, 3]),
    "digest cut short": put("adapter", "files", 0, "sha256", value="abc"),
    "digest as null": put("base", "files", 1, "sha256", value=None),
    "severity unheard of": put("findings", 0, "severity", value="fatal"),
    "finding without hint": drop("findings", 0, "hint"),
    "waiver that still blocks": put("findings", 0, "waiver", value="W-1"),
    "nothing blocks": put("findings", value=[]),
    "no adapter as false": put("adapter", value=False),
    "bool as count": put("total", "modules", value=True),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_schema_refuses(name: str, validator: Draft202012Validator) -> None:
    report = json.loads(to_json(blocked()))
    validator.validate(report)
    mutant = copy.deepcopy(report)
    MUTATIONS[name](mutant)
    assert not validator.is_valid(mutant)


@pytest.mark.parametrize("key", ["adapter", "base", "aligned", "policy", "total"])
def test_nothing_unjudged_passes_the_schema(key: str, validator: Draft202012Validator) -> None:
    report = json.loads(to_json(passed()))
    report[key] = None
    assert not validator.is_valid(report)
