"""SARIF 2.1.0: what code scanning needs, equal bytes for equal findings, nothing that acts."""

import json
import re
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_gate import __version__
from safety_gate.errors import UnsafePath
from safety_gate.records import FileFact, Finding, Place, PlaceKind, Report
from safety_gate.report.location import address_of, file_of
from safety_gate.report.sarif import SarifSource, level_of, to_sarif
from safety_gate.sources.paths import check_path
from tests.sample_reports import HOSTILE, adapter, blocked, hostile, passed, undecided

# The part of the SARIF 2.1.0 schema that this file uses, and GitHub's own demands on top of it.
# The whole output was checked once with the models of sarif-pydantic 0.6.2.
TEXT = {
    "type": "object",
    "required": ["text"],
    "additionalProperties": False,
    "properties": {"text": {"type": "string", "minLength": 1}},
}
LEVEL = {"enum": ["none", "note", "warning", "error"]}
URI = {"type": "string", "pattern": r"^(?!/)(?!.*\.\./)[A-Za-z0-9%._~/+@=,()!*'$;-]+$"}
RULE = {
    "type": "object",
    "required": ["id", "shortDescription", "fullDescription", "help", "defaultConfiguration"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "string", "minLength": 1},
        "name": {"type": "string", "maxLength": 255},
        "shortDescription": TEXT,
        "fullDescription": TEXT,
        "help": TEXT,
        "defaultConfiguration": {"type": "object", "properties": {"level": LEVEL}},
        "properties": {
            "type": "object",
            "properties": {"tags": {"type": "array", "maxItems": 20, "uniqueItems": True}},
        },
    },
}
RESULT = {
    "type": "object",
    "required": ["ruleId", "ruleIndex", "level", "message", "locations", "partialFingerprints"],
    "additionalProperties": False,
    "properties": {
        "ruleId": {"type": "string"},
        "ruleIndex": {"type": "integer", "minimum": 0},
        "level": LEVEL,
        "message": TEXT,
        "locations": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["physicalLocation", "logicalLocations"],
                "additionalProperties": False,
                "properties": {
                    "physicalLocation": {
                        "type": "object",
                        "required": ["artifactLocation", "region"],
                        "additionalProperties": False,
                        "properties": {
                            "artifactLocation": {
                                "type": "object",
                                "required": ["uri"],
                                "additionalProperties": False,
                                "properties": {"uri": URI},
                            },
                            "region": {"const": {"startLine": 1}},
                        },
                    },
                    "logicalLocations": {"type": "array", "minItems": 1},
                },
            },
        },
        "partialFingerprints": {
            "type": "object",
            "additionalProperties": {"type": "string", "minLength": 1},
        },
        "suppressions": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["kind"],
                "additionalProperties": False,
                "properties": {
                    "kind": {"enum": ["inSource", "external"]},
                    "status": {"enum": ["accepted", "underReview", "rejected"]},
                    "justification": {"type": "string"},
                },
            },
        },
        "properties": {"type": "object"},
    },
}
SARIF = {
    "type": "object",
    "required": ["$schema", "version", "runs"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"type": "string", "format": "uri"},
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["tool", "results", "automationDetails", "invocations"],
                "additionalProperties": False,
                "properties": {
                    "tool": {
                        "type": "object",
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "type": "object",
                                "required": ["name", "version", "semanticVersion", "rules"],
                                "properties": {
                                    "rules": {
                                        "type": "array",
                                        "items": RULE,
                                        "uniqueItems": True,
                                    }
                                },
                            }
                        },
                    },
                    "automationDetails": {"type": "object", "required": ["id"]},
                    "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
                    "invocations": {
                        "type": "array",
                        "items": {"type": "object", "required": ["executionSuccessful"]},
                    },
                    "results": {"type": "array", "items": RESULT},
                },
            },
        },
    },
}
SAMPLES = [passed, blocked, undecided, hostile]


def sarif_of(*reports: Report, folder: str = "adapters/x", **options: Any) -> dict[str, Any]:
    sources = [
        SarifSource(report=report, folder=folder if number == 0 else f"{folder}{number}")
        for number, report in enumerate(reports)
    ]
    text = to_sarif(sources, **options)
    assert text.isascii()
    whole: dict[str, Any] = json.loads(text)
    jsonschema.validate(whole, SARIF)
    return whole


def results(whole: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = whole["runs"][0]["results"]
    return found


def uri(result: dict[str, Any]) -> str:
    return str(result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"])


@pytest.mark.parametrize("report", SAMPLES)
def test_every_finding_is_a_result_with_its_rule(report: Any) -> None:
    made = report()
    whole = sarif_of(made)
    assert len(results(whole)) == len(made.findings)
    driver = whole["runs"][0]["tool"]["driver"]
    assert driver["name"] == "Safety Gate"
    assert driver["semanticVersion"] == __version__
    for result in results(whole):
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    assert {rule["id"] for rule in driver["rules"]} == {r["ruleId"] for r in results(whole)}


@pytest.mark.parametrize(
    ("severity", "level"),
    [("block", "error"), ("undecided", "error"), ("warn", "warning"), ("info", "note")],
)
def test_levels(severity: Any, level: str) -> None:
    assert level_of(severity) == level
    finding = Finding(
        rule="a-rule",
        severity=severity,
        place=Place(kind="adapter", name="x"),
        what="something",
        hint="Do something.",
    )
    (result,) = results(sarif_of(replace(blocked(), findings=(finding,))))
    assert (result["level"], result["properties"]["severity"]) == (level, severity)


@pytest.mark.parametrize(
    ("kind", "name", "path"),
    [
        ("adapter", "examples/tiny/harmful", "adapters/x/adapter_config.json"),
        ("config", "lora_alpha", "adapters/x/adapter_config.json"),
        ("file", "README.md", "adapters/x/README.md"),
        ("file", "sub/a b.bin", "adapters/x/sub/a b.bin"),
        ("file", "../../etc/passwd", "adapters/x/adapter_config.json"),
        ("file", "/etc/passwd", "adapters/x/adapter_config.json"),
        ("tensor", "lora_A.weight", "adapters/x/adapter_model.safetensors"),
        ("module", "model.layers.0", "adapters/x/adapter_model.safetensors"),
        ("checkpoint", "org/base", "adapters/x/adapter_config.json"),
        ("policy", "SEC-1", "safety-gate.yml"),
    ],
)
def test_places_have_files(kind: PlaceKind, name: str, path: str) -> None:
    finding = Finding(
        rule="a-rule", severity="warn", place=Place(kind=kind, name=name), what="w", hint="h"
    )
    report = replace(blocked(), findings=(finding,))
    found = file_of(finding, report, folder="adapters/x", policy="safety-gate.yml")
    assert found == path
    (result,) = results(sarif_of(report, policy="safety-gate.yml"))
    assert unquote(uri(result)) == path


def test_the_one_weights_file_is_named_as_it_is() -> None:
    files = (FileFact(path="weights/w.safetensors", size=1, sha256=None),)
    report = replace(blocked(), adapter=replace(adapter("x"), files=files))
    finding = Finding(
        rule="r", severity="warn", place=Place(kind="tensor", name="t"), what="w", hint="h"
    )
    assert file_of(finding, report, folder="") == "weights/w.safetensors"
    none = replace(report, adapter=None)
    assert file_of(finding, none, folder="") == "adapter_model.safetensors"
    assert file_of(finding, none, folder=".", policy="p") == "adapter_model.safetensors"


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_paths_stay_in_the_repository(name: str) -> None:
    finding = Finding(
        rule="r", severity="warn", place=Place(kind="file", name=name), what="w", hint="h"
    )
    path = file_of(finding, blocked(), folder="adapters/x")
    check_path(path)
    assert path.startswith("adapters/x/")
    assert re.fullmatch(r"[A-Za-z0-9%._~/-]+", address_of(path))


def test_unsafe_paths_are_known() -> None:
    with pytest.raises(UnsafePath):
        check_path("../x")


def test_fingerprints_outlive_figures_and_order() -> None:
    report = blocked()
    moved = tuple(
        replace(f, value=None if f.value is None else f.value + 1, got="other")
        for f in reversed(report.findings)
    )
    prints = {
        json.dumps(r["partialFingerprints"], sort_keys=True) for r in results(sarif_of(report))
    }
    later = results(sarif_of(replace(report, findings=moved)))
    assert {json.dumps(r["partialFingerprints"], sort_keys=True) for r in later} == prints
    assert len(prints) == len(report.findings)


def test_fingerprints_tell_adapters_and_twins_apart() -> None:
    twice = replace(blocked(), findings=blocked().findings[:1] * 2)
    found = results(sarif_of(twice, twice))
    prints = {r["partialFingerprints"]["primaryLocationLineHash"] for r in found}
    assert len(prints) == 4
    assert {p.rpartition(":")[2] for p in prints} == {"1", "2"}


def test_waived_findings_are_suppressed_notes() -> None:
    found = [r for r in results(sarif_of(blocked())) if "suppressions" in r]
    waived = [f for f in blocked().findings if f.waiver]
    assert len(found) == len(waived) > 0
    assert found[0]["level"] == "note"
    assert "SEC-14" in found[0]["suppressions"][0]["justification"]


def test_category_is_the_gate() -> None:
    whole = sarif_of(blocked(), gate_id="nightly")
    assert whole["runs"][0]["automationDetails"]["id"] == "nightly/"


def test_too_many_results_keep_the_gravest_and_say_so() -> None:
    whole = sarif_of(blocked(), hostile(), most=5)
    kept = results(whole)
    assert len(kept) == 5
    assert all(result["level"] == "error" for result in kept)
    left = len(blocked().findings) + len(hostile().findings) - 5
    (note,) = whole["runs"][0]["invocations"][0]["toolExecutionNotifications"]
    assert note["message"]["text"].startswith(f"{left} results were left out")


def test_equal_reports_give_equal_bytes() -> None:
    source = [SarifSource(report=blocked(), folder="a")]
    again = [SarifSource(report=blocked(), folder="a")]
    assert to_sarif(source) == to_sarif(again)


def test_no_report_is_an_empty_run() -> None:
    assert results(json.loads(to_sarif([]))) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(HOSTILE) | st.text(max_size=40), min_size=3, max_size=5))
def test_texts_cannot_act(texts: list[str]) -> None:
    """No link of SARIF's own kind, no command of a runner, whatever strangers write."""
    report = hostile(tuple(texts))
    text = to_sarif([SarifSource(report=report, folder="x")])
    assert "##[" not in text
    for result in results(json.loads(text)):
        message = result["message"]["text"]
        assert not re.search(r"(?<!\\)\[[^\]]*(?<!\\)\]\(", message)
        assert "::" not in message
        assert message.isprintable()


def test_sentences_are_whole() -> None:
    for rule in sarif_of(blocked())["runs"][0]["tool"]["driver"]["rules"]:
        for key in ("shortDescription", "fullDescription", "help"):
            assert re.fullmatch(r"[A-Z].*\.", rule[key]["text"])
    for result in results(sarif_of(blocked())):
        assert result["message"]["text"][0].isupper()
