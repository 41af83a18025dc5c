"""Inputs: found where they should be, checked, and described alike in code, action.yml and docs."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from safety_gate.action.inputs import INPUTS, BadInput, choose, secret_variables
from safety_gate.action.options import Options, options, preset_of
from safety_gate.action.outputs import OUTPUTS
from safety_gate.errors import BadPolicy
from safety_gate.policy.action_settings import ActionSettings, read_settings

ROOT = Path(__file__).parent.parent
# As they were agreed; prompts and openings came with behaviour.
ISSUE_INPUTS = [
    "adapter",
    "base",
    "aligned",
    "safety-adapter",
    "policy",
    "preset",
    "behaviour",
    "prompts",
    "openings",
    "repair",
    "publish-repaired",
    "fail-on",
    "warn-only",
    "comment",
    "comment-id",
    "check-run",
    "commit-status",
    "sarif-file",
    "json-file",
    "cache-dir",
    "github-token",
    "hf-token",
]
ISSUE_OUTPUTS = [
    "verdict",
    "score",
    "report-path",
    "json-path",
    "sarif-path",
    "repaired-path",
    "repaired-url",
    "comment-url",
    "predicate-path",
    "adapter-sha256",
    "waived-count",
]


def action_yml() -> dict[str, Any]:
    tree: dict[str, Any] = YAML(typ="safe").load((ROOT / "action.yml").read_text())
    return tree


def test_inputs_are_exactly_those_that_were_agreed() -> None:
    assert list(action_yml()["inputs"]) == ISSUE_INPUTS
    assert [one.name for one in INPUTS if not one.hidden] == ISSUE_INPUTS


def test_outputs_are_exactly_those_that_were_agreed() -> None:
    assert list(action_yml()["outputs"]) == ISSUE_OUTPUTS == [one.name for one in OUTPUTS]


@pytest.mark.parametrize("one", [one for one in INPUTS if not one.hidden], ids=lambda o: o.name)
def test_action_yml_describes_inputs_as_the_code_does(one: Any) -> None:
    described = action_yml()["inputs"][one.name]
    assert described["description"] == one.description
    assert described["required"] is False
    expected = "${{ github.token }}" if one.name == "github-token" else None
    assert described.get("default") == expected
    assert set(described) <= {"description", "required", "default"}


@pytest.mark.parametrize("one", OUTPUTS, ids=lambda o: o.name)
def test_action_yml_describes_outputs_as_the_code_does(one: Any) -> None:
    assert action_yml()["outputs"][one.name] == {"description": one.description}


def test_action_is_a_container_with_branding() -> None:
    tree = action_yml()
    assert tree["runs"] == {"using": "docker", "image": "Dockerfile", "args": ["action"]}
    assert tree["branding"] == {"icon": "shield", "color": "green"}
    assert len(tree["description"]) <= 125  # the Marketplace cuts what is longer


def test_a_default_that_is_described_is_the_default() -> None:
    for one in INPUTS:
        if not one.hidden and one.default and one.name != "fail-on":
            assert f"Left out: {one.default}." in one.description


def test_documents_have_the_same_tables() -> None:
    text = (ROOT / "docs" / "github.md").read_text()
    for one in INPUTS:
        if not one.hidden:
            where = "yes" if one.in_policy else ""
            assert f"| `{one.name}` | {one.description} | {where} |" in text, one.name
    for output in OUTPUTS:
        assert f"| `{output.name}` | {output.description} |" in text, output.name
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", text, re.MULTILINE)
    assert set(ISSUE_INPUTS) | set(ISSUE_OUTPUTS) <= set(rows)


@pytest.mark.parametrize("workflow", sorted((ROOT / "examples/workflows").glob("*.yml")), ids=str)
def test_examples_use_inputs_and_outputs_that_exist(workflow: Path) -> None:
    text = workflow.read_text()
    for job in YAML(typ="safe").load(text)["jobs"].values():
        for step in job["steps"]:
            if "safety-gate@" in step["uses"]:
                assert set(step.get("with", {})) <= set(ISSUE_INPUTS)
    assert set(re.findall(r"steps\.gate\.outputs\.([a-z0-9-]+)", text)) <= set(ISSUE_OUTPUTS)


# Pins of facts that were looked up; nothing else may be pinned in an example.
PINS = {
    "actions/checkout": "3d3c42e5aac5ba805825da76410c181273ba90b1",
    "actions/upload-artifact": "bbbca2ddaa5d8feaa63e36b76fdaad77386f024f",
    "actions/download-artifact": "3e5f45b2cfb9172054b4087a40e8e0b5a5461e7c",
    "actions/attest": "1e69f48acb82d1966a394da916b4c1698aa569d6",
    "github/codeql-action/upload-sarif": "8aad20d150bbac5944a9f9d289da16a4b0d87c1e",
}


@pytest.mark.parametrize("workflow", sorted((ROOT / "examples/workflows").glob("*.yml")), ids=str)
def test_examples_are_pinned_and_ask_for_little(workflow: Path) -> None:
    tree = YAML(typ="safe").load(workflow.read_text())
    assert tree["permissions"] == {}
    assert "pull_request_target" not in tree["on"]
    for job in tree["jobs"].values():
        assert job["timeout-minutes"]
        assert "contents" not in job["permissions"] or job["permissions"]["contents"] == "read"
        for step in job["steps"]:
            name, _, ref = step["uses"].partition("@")
            assert PINS.get(name, "v0.1.0") == ref, step["uses"]
            if name == "actions/checkout":
                assert "workflow_run" not in tree["on"]
                assert step["with"]["persist-credentials"] is False


def test_the_fork_recipe_has_no_secret_and_no_right_to_write() -> None:
    text = (ROOT / "examples/workflows/score.yml").read_text()
    assert "secrets." not in text
    assert "write" not in set(YAML(typ="safe").load(text)["jobs"]["score"]["permissions"].values())


def test_input_beats_environment_beats_policy_beats_default() -> None:
    environment = {
        "INPUT_COMMENT": "never",
        "SAFETY_GATE_COMMENT": "always",
        "SAFETY_GATE_REPAIR": "auto",
    }
    policy = {"comment": "on-change", "repair": "scale", "check-run": "true"}
    chosen = choose(environment, policy)
    found = {name: (chosen[name].value, chosen[name].origin) for name in chosen}
    assert found["comment"] == ("never", "input")
    assert found["repair"] == ("auto", "environment")
    assert found["check-run"] == ("true", "policy file")
    assert found["commit-status"] == ("false", "default")


@pytest.mark.parametrize("name", ["INPUT_FAIL-ON", "INPUT_FAIL_ON"])
def test_input_is_found_with_dash_and_with_underscore(name: str) -> None:
    assert choose({name: "blocked"})["fail-on"].value == "blocked"


def test_dash_is_the_runners_own_and_wins() -> None:
    both = {"INPUT_FAIL_ON": "undecided", "INPUT_FAIL-ON": "blocked"}
    assert choose(both)["fail-on"].value == "blocked"


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_empty_means_missing(empty: str) -> None:
    chosen = choose({"INPUT_BASE": empty, "SAFETY_GATE_BASE": "models/base"})
    assert (chosen["base"].value, chosen["base"].origin) == ("models/base", "environment")


def test_policy_file_cannot_set_everything() -> None:
    policy = {one.name: "sneaky" for one in INPUTS if not one.in_policy}
    assert not [c for c in choose({}, policy).values() if c.value == "sneaky"]


def test_settings_and_table_agree_on_what_a_policy_may_set() -> None:
    keys = {field.alias for field in ActionSettings.model_fields.values()}
    assert keys == {one.name for one in INPUTS if one.in_policy}


def test_hidden_setting_is_no_input() -> None:
    assert choose({"INPUT_SARIF-UPLOAD": "true"})["sarif-upload"].value == "false"
    assert choose({"SAFETY_GATE_SARIF_UPLOAD": "true"})["sarif-upload"].value == "true"


def test_tokens_are_found_and_never_shown() -> None:
    chosen = choose({"GITHUB_TOKEN": "canary-1", "INPUT_HF-TOKEN": "canary-2", "HF_TOKEN": "x"})
    made = options(chosen)
    assert (made.github_token, made.hf_token) == ("canary-1", "canary-2")
    assert "canary" not in repr(made) + repr(chosen) + "".join(c.shown for c in chosen.values())
    assert {"GITHUB_TOKEN", "HF_TOKEN", "INPUT_HF-TOKEN", "INPUT_GITHUB_TOKEN"} <= set(
        secret_variables()
    )


def made(**values: str) -> Options:
    environment = {f"INPUT_{name.upper().replace('_', '-')}": v for name, v in values.items()}
    return options(choose(environment))


def test_defaults() -> None:
    usual = made()
    assert usual.fail_on == {"blocked", "undecided"}
    assert usual.tolerated == frozenset()
    assert (usual.comment, usual.gate_id) == ("always", "safety-gate")
    assert (usual.check_run, usual.commit_status, usual.sarif_upload) == (False, False, False)
    assert usual.adapter == ()
    assert (usual.behaviour, usual.repair, usual.publish_repaired) == ("auto", "off", "off")


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("blocked", {"blocked"}),
        ("undecided", {"undecided"}),
        ("blocked,undecided", {"blocked", "undecided"}),
        ("undecided, blocked", {"blocked", "undecided"}),
        ("blocked\nundecided\n", {"blocked", "undecided"}),
        ("none", set()),
    ],
)
def test_fail_on(text: str, fails: set[str]) -> None:
    assert made(fail_on=text).fail_on == fails


def test_warn_only_tolerates_everything() -> None:
    assert made(warn_only="true", fail_on="blocked").tolerated == {"blocked", "undecided"}


def test_adapters_may_be_several_lines() -> None:
    assert made(adapter="a/b\n\n  c/* \n").adapter == ("a/b", "c/*")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fail_on", "passed"),
        ("fail_on", "blocked,none"),
        ("fail_on", ","),
        ("warn_only", "yes"),
        ("check_run", "1"),
        ("commit_status", "on"),
        ("comment", "sometimes"),
        ("comment_id", "Nightly Gate"),
        ("comment_id", "x -->"),
        ("publish_repaired", "main"),
    ],
)
def test_values_that_cannot_be_followed(name: str, value: str) -> None:
    with pytest.raises(BadInput) as refused:
        made(**{name: value})
    assert refused.value.exit_code == 2
    assert refused.value.where == name.replace("_", "-")
    assert refused.value.expected
    assert refused.value.hint


@pytest.mark.parametrize("value", ["TRUE", "True", "true"])
def test_booleans_as_the_toolkit_reads_them(value: str) -> None:
    assert made(check_run=value).check_run


def test_presets() -> None:
    assert preset_of(choose({})) == ""
    assert preset_of(choose({"INPUT_PRESET": "paper"})) == "paper"
    with pytest.raises(BadInput):
        preset_of(choose({"INPUT_PRESET": "papers"}))
    with pytest.raises(BadInput, match="preset"):
        preset_of(choose({"INPUT_PRESET": "paper", "INPUT_POLICY": "gate.yml"}))


POLICY = b"""
version: 1
name: ours
rules: []
action:
  base: org/base@main
  fail-on: [blocked]
  warn-only: false
  comment: on-change
  check-run: true
"""


def test_policy_sets_the_action() -> None:
    found = read_settings(POLICY, "safety-gate.yml")
    assert found == {
        "base": "org/base@main",
        "fail-on": "blocked",
        "warn-only": "false",
        "comment": "on-change",
        "check-run": "true",
    }
    assert options(choose({}, found)).fail_on == {"blocked"}


def test_policy_without_the_section_sets_nothing() -> None:
    assert read_settings(b"version: 1\n", "x") == {}
    assert read_settings(b"- a\n", "x") == {}


def test_empty_fail_on_in_a_policy_is_none() -> None:
    assert read_settings(b"action: {fail-on: []}\n", "x") == {"fail-on": "none"}


@pytest.mark.parametrize(
    "section",
    [
        "{github-token: x}",
        "{adapter: x}",
        "{policy: x}",
        "{comment: sometimes}",
        "{check-run: yes}",
        "{fail-on: blocked}",
        "{base: 7}",
        "[]",
        "7",
    ],
)
def test_odd_sections_are_refused(section: str) -> None:
    with pytest.raises(BadPolicy) as refused:
        read_settings(f"action: {section}\n".encode(), "safety-gate.yml")
    assert refused.value.where.startswith("safety-gate.yml, action")
