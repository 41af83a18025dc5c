"""The in-toto statement: the specification's fields, every file's digest, no false PASSED."""

import datetime
import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from safety_gate import __version__
from safety_gate.errors import BadScore
from safety_gate.records import AdapterFact, FileFact, Report
from safety_gate.report.statement import (
    MOST_SUBJECTS,
    VERDICTS,
    Circumstances,
    StatedReport,
    to_predicate,
    to_statement,
)
from tests.sample_reports import adapter, blocked, passed, sha, undecided

CIRCUMSTANCES = Circumstances(
    resource_uri="https://github.example/octo/adapters/tree/" + "a" * 40,
    policy_uri="urn:safety-gate:preset:default",
    verified_at=datetime.datetime(2026, 11, 21, 3, 4, 5, tzinfo=datetime.UTC),
)
# The schema of slsa.dev/spec/v1.2/verification_summary in words of JSON Schema: what is required,
# and that a field of our own is named by a URI.
DIGEST = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
}
PREDICATE = {
    "type": "object",
    "required": ["verifier", "resourceUri", "policy", "verificationResult", "verifiedLevels"],
    "additionalProperties": False,
    "patternProperties": {"^[a-z]+:": {}},
    "properties": {
        "verifier": {
            "type": "object",
            "required": ["id"],
            "properties": {
                "id": {"type": "string", "pattern": "^[a-z]+:"},
                "version": {"type": "object", "additionalProperties": {"type": "string"}},
            },
        },
        "timeVerified": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"},
        "resourceUri": {"type": "string", "pattern": "^[a-z]+:"},
        "policy": {
            "type": "object",
            "required": ["uri"],
            "additionalProperties": False,
            "properties": {"uri": {"type": "string"}, "digest": DIGEST},
        },
        "inputAttestations": {"type": "array"},
        "verificationResult": {"enum": ["PASSED", "FAILED"]},
        "verifiedLevels": {"type": "array", "minItems": 1, "items": {"type": "string"}},
        "slsaVersion": {"type": "string", "pattern": r"^\d+\.\d+$"},
    },
}
STATEMENT = {
    "type": "object",
    "required": ["_type", "subject", "predicateType", "predicate"],
    "additionalProperties": False,
    "properties": {
        "_type": {"const": "https://in-toto.io/Statement/v1"},
        "predicateType": {"const": "https://slsa.dev/verification_summary/v1"},
        "subject": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "digest"],
                "additionalProperties": False,
                "properties": {"name": {"type": "string", "minLength": 1}, "digest": DIGEST},
            },
        },
        "predicate": PREDICATE,
    },
}


def state(*reports: Report, prefix: str = "adapters/x") -> dict[str, Any]:
    stated = [
        StatedReport(report=report, prefix=f"{prefix}{number or ''}")
        for number, report in enumerate(reports)
    ]
    text = to_statement(stated, CIRCUMSTANCES)
    whole: dict[str, Any] = json.loads(text)
    jsonschema.validate(whole, STATEMENT)
    assert whole["predicate"] == json.loads(to_predicate(stated, CIRCUMSTANCES))
    return whole


def test_every_file_is_a_subject() -> None:
    report = passed()
    assert report.adapter is not None
    subjects = state(report)["subject"]
    assert subjects == [
        {"name": f"adapters/x/{file.path}", "digest": {"sha256": file.sha256}}
        for file in report.adapter.files
    ]


def test_top_of_the_repository_has_no_prefix() -> None:
    text = to_statement([StatedReport(report=passed())], CIRCUMSTANCES)
    assert json.loads(text)["subject"][0]["name"] == "README.md"


def test_passed() -> None:
    predicate = state(passed())["predicate"]
    assert predicate["verificationResult"] == "PASSED"
    assert predicate["verifiedLevels"] == ["SAFETY_GATE_PASSED"]
    assert predicate["verifier"]["id"] == "urn:safety-gate"
    assert predicate["verifier"]["version"]["safety-gate"] == __version__
    assert predicate["timeVerified"] == "2026-11-21T03:04:05Z"
    policy = passed().policy
    assert policy is not None
    assert predicate["policy"] == {
        "uri": "urn:safety-gate:preset:default",
        "digest": {"sha256": policy.sha256},
    }
    assert predicate["inputAttestations"] == []


def undecided_with_files() -> Report:
    return replace(undecided(), adapter=adapter("x"))


@pytest.mark.parametrize(
    ("reports", "words"),
    [
        ([blocked()], ["blocked"]),
        ([undecided_with_files()], ["undecided"]),
        ([passed(), blocked()], ["passed", "blocked"]),
        ([passed(), undecided_with_files()], ["passed", "undecided"]),
    ],
)
def test_whatever_did_not_pass_has_failed(reports: list[Report], words: list[str]) -> None:
    predicate = state(*reports)["predicate"]
    assert predicate["verificationResult"] == "FAILED"
    assert predicate["verifiedLevels"] == ["FAILED"]
    assert [entry["verdict"] for entry in predicate[VERDICTS]] == words


def test_custom_level_is_none_of_slsa() -> None:
    assert not state(passed())["predicate"]["verifiedLevels"][0].startswith("SLSA_")


def test_no_report_has_not_passed() -> None:
    assert json.loads(to_predicate([], CIRCUMSTANCES))["verificationResult"] == "FAILED"
    with pytest.raises(BadScore):
        to_statement([], CIRCUMSTANCES)


def test_waivers_are_named() -> None:
    assert state(blocked())["predicate"][VERDICTS][0]["waived"] == ["SEC-14"]


def test_report_without_adapter_cannot_be_stated() -> None:
    with pytest.raises(BadScore, match="cannot be made"):
        to_statement([StatedReport(report=undecided())], CIRCUMSTANCES)


def many(number: int) -> AdapterFact:
    files = tuple(FileFact(path=f"f{n}", size=1, sha256=sha(str(n))) for n in range(number))
    return replace(adapter("x"), files=files)


def test_one_attestation_has_no_more_subjects_than_github_takes() -> None:
    assert len(state(replace(passed(), adapter=many(MOST_SUBJECTS)))["subject"]) == MOST_SUBJECTS
    with pytest.raises(BadScore):
        state(replace(passed(), adapter=many(MOST_SUBJECTS + 1)))


def test_file_without_a_digest_is_no_subject() -> None:
    files = (*many(1).files, FileFact(path="x", size=1, sha256=None))
    report = replace(blocked(), adapter=replace(adapter("x"), files=files))
    assert [s["name"] for s in state(report)["subject"]] == ["adapters/x/f0"]


@pytest.mark.parametrize("field", ["resource_uri", "policy_uri", "verifier"])
@pytest.mark.parametrize("value", ["", "no address", "x y:z", "/path"])
def test_addresses_must_be_addresses(field: str, value: str) -> None:
    changed: Any = {field: value}
    with pytest.raises(AssertionError, match="not a URI"):
        replace(CIRCUMSTANCES, **changed)


def test_time_needs_a_zone_and_is_told_in_utc() -> None:
    with pytest.raises(AssertionError, match="time zone"):
        replace(CIRCUMSTANCES, verified_at=datetime.datetime(2026, 1, 1))  # noqa: DTZ001
    zone = datetime.timezone(datetime.timedelta(hours=5))
    there = replace(CIRCUMSTANCES, verified_at=datetime.datetime(2026, 1, 1, 4, tzinfo=zone))
    text = to_predicate([StatedReport(report=passed())], there)
    assert json.loads(text)["timeVerified"] == "2025-12-31T23:00:00Z"


def test_equal_runs_give_equal_bytes() -> None:
    stated = [StatedReport(report=blocked(), prefix="x")]
    assert to_statement(stated, CIRCUMSTANCES) == to_statement(stated, CIRCUMSTANCES)
    assert to_statement(stated, CIRCUMSTANCES).isascii()
