"""The policy file: each key, wrong in each way, is refused with its path."""

import copy
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from safety_gate.errors import BadPolicy, GateError
from safety_gate.policy.builtin import RESERVED
from safety_gate.policy.file import load_policy, load_policy_file
from safety_gate.policy.metrics import RULE_METRICS
from safety_gate.policy.presets import PRESETS, load_preset
from safety_gate.policy.schema import Policy, allowed_keys
from safety_gate.policy.schema_file import SCHEMA_FILE, schema_text
from safety_gate.records import METRICS
from tests.test_policy_builders import COMMIT, DIGEST, HEAD, RULE, policy, rule_text

FULL: dict[str, Any] = {
    "version": 1,
    "name": "full",
    "rules": [
        {
            "id": "low-cosine",
            "scope": "module",
            "when": [{"metric": "cosine", "below": 0.35}, {"metric": "size", "at-least": 1}],
            "severity": "block",
            "modules": ["*.q_proj", "model.layers.?.*"],
            "at-least-modules": 2,
            "message": "Low",
            "hint": "Look",
        },
        {
            "id": "undone",
            "scope": "adapter",
            "when": [{"metric": "undone", "above": 0.1}],
            "severity": "warn",
            "message": "Undone",
        },
    ],
    "coverage": {"at-least": 0.9, "severity": "block"},
    "limits": {"size": 20},
    "waivers": [
        {
            "id": "w-1",
            "adapter": DIGEST,
            "rule": "low-cosine",
            "modules": ["*.q_proj"],
            "reason": "known",
            "owner": "someone",
            "expires": "2026-12-31",
        }
    ],
}


def load(tree: object) -> Policy:
    """Load through the YAML reader: JSON is YAML, NaN apart."""
    return load_policy(json.dumps(tree).encode(), "p.yml").policy


def changed(path: str, value: object) -> dict[str, Any]:
    """FULL with one value set; ``path`` is dotted, list items by number."""
    tree = copy.deepcopy(FULL)
    *way, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    node: Any = tree
    for step in way:
        node = node[step]
    node[last] = value
    return tree


def paths(node: Any = FULL, at: str = "") -> list[str]:
    """Every path of FULL, mappings and lists included."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    found = []
    for key, value in items:
        path = f"{at}.{key}" if at else str(key)
        found += [path, *(paths(value, path) if isinstance(value, dict | list) else [])]
    return found


KEY_PATHS = [path for path in paths() if not path.split(".")[-1].isdigit()]


def test_the_full_policy_is_read() -> None:
    policy = load(FULL)
    assert policy.rules[0].when[1].threshold == 1.0
    assert policy.rules[0].when[1].comparison == "at-least"
    assert policy.waivers[0].expires.isoformat() == "2026-12-31"
    assert policy.coverage.severity == "block"
    assert policy.limits.size == 20.0
    jsonschema.validate(FULL, json.loads(schema_text()))


def test_defaults_are_the_strict_ones() -> None:
    loaded = policy().policy
    assert (loaded.coverage.at_least, loaded.coverage.severity) == (1.0, "undecided")
    assert loaded.limits.size == 100.0
    assert loaded.rules[0].modules == ("*",)


def test_the_digest_is_of_the_bytes() -> None:
    data = (HEAD + RULE).encode()
    fact = load_policy(data, "gate/safety-gate.yml").fact
    assert fact.sha256 == hashlib.sha256(data).hexdigest()
    assert (fact.name, fact.origin) == ("test", "gate/safety-gate.yml")


@pytest.mark.parametrize("path", paths())
@pytest.mark.parametrize("wrong", [None, True, [], {}, [[]], "", " \u200b", {"x": 1}, -7, 1e300])
def test_every_key_refuses_what_it_is_not(path: str, wrong: object) -> None:
    allowed_empty = wrong == [] and path == "waivers"
    defaulted = wrong == {} and path in ("coverage", "limits")
    negative = wrong == -7 and path == "rules.1.when.0.above"  # undone may be negative
    if allowed_empty or defaulted or negative:
        load(changed(path, wrong))
        return
    with pytest.raises(BadPolicy) as caught:
        load(changed(path, wrong))
    assert "p.yml, line" in caught.value.where
    assert caught.value.hint


@pytest.mark.parametrize("path", KEY_PATHS)
def test_every_misspelt_key_is_refused_with_the_right_one(path: str) -> None:
    tree = copy.deepcopy(FULL)
    *way, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    node: Any = tree
    for step in way:
        node = node[step]
    node[f"{last}x"] = node.pop(last)
    with pytest.raises(BadPolicy, match="no such key") as caught:
        load(tree)
    assert f"'{last}'" in caught.value.hint
    assert f"{last}x" in caught.value.where


@pytest.mark.parametrize("path", ["version", "name", "rules", "rules.0.id", "rules.0.when"])
def test_a_missing_key_is_named(path: str) -> None:
    tree = copy.deepcopy(FULL)
    *way, last = path.split(".")
    node: Any = tree
    for step in way:
        node = node[int(step) if step.isdigit() else step]
    del node[last]
    with pytest.raises(BadPolicy, match="a key is missing") as caught:
        load(tree)
    assert last in caught.value.expected


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", 2),
        ("version", 1.0),
        ("version", "1"),
        ("rules.0.id", "Low_Cosine"),
        ("rules.0.id", "undone"),
        ("rules.0.id", "absurd-scale"),
        ("rules.0.id", "could-not-judge"),
        ("rules.0.scope", "adapters"),
        ("rules.0.severity", "undecided"),
        ("rules.0.severity", "info"),
        ("rules.0.when.0.metric", "cosin"),
        ("rules.0.when.0.metric", "coverage"),
        ("rules.0.when.0.below", 1.01),
        ("rules.0.when.0.below", 35),
        ("rules.0.when.0.above", 0.1),
        ("rules.0.when.0.below", "0.3"),
        ("rules.0.when", [{"metric": "cosine"}]),
        ("rules.0.when", [{"metric": "cosine", "above": 0.5}, {"metric": "cosine", "below": 0.4}]),
        ("rules.0.when", [{"metric": "z", "at-least": 5}, {"metric": "z", "below": 5}]),
        ("rules.0.modules", ["a[0-9]"]),
        ("rules.0.modules", ["a b"]),
        ("rules.0.at-least-modules", 0),
        ("rules.0.at-least-modules", 2.0),
        ("rules.1.modules", ["*"]),
        ("rules.1.at-least-modules", 1),
        ("coverage.at-least", 0),
        ("coverage.at-least", 1.1),
        ("coverage.severity", "warn"),
        ("limits.size", 0),
        ("limits.size", 1001),
        ("waivers.0.adapter", "main"),
        ("waivers.0.adapter", "abc123"),
        ("waivers.0.adapter", DIGEST + "0"),
        ("waivers.0.expires", "2026-02-30"),
        ("waivers.0.expires", "20261231"),
        ("waivers.0.expires", "2026-12-31T00:00:00Z"),
        ("waivers.0.expires", "never"),
        ("waivers.0.owner", "x" * 81),
    ],
)
def test_out_of_range_is_refused(path: str, value: object) -> None:
    with pytest.raises(BadPolicy):
        load(changed(path, value))


@pytest.mark.parametrize("bad", [".nan", ".inf", "-.inf", "1e400", "010", "1_0", "yes", "", "~"])
def test_thresholds_are_plain_finite_numbers(bad: str) -> None:
    with pytest.raises(BadPolicy, match=r"rules\[0\]\.when\[0\]\.above"):
        policy(rule_text(f"metric: undone, above: {bad}"))


def test_the_message_tells_line_path_and_nearest_key() -> None:
    with pytest.raises(BadPolicy) as caught:
        policy(RULE.replace("severity:", "severty:"))
    error = caught.value
    assert error.where == "safety-gate.yml, line 9, rules[0].severty"
    assert error.what == "the policy has no such key"
    assert error.hint.startswith("Did you mean 'severity'?")
    with pytest.raises(BadPolicy, match="the nearest is cosine"):
        policy(rule_text("metric: cosin, below: 0.3"))


def test_a_long_wrong_value_is_cut() -> None:
    with pytest.raises(BadPolicy) as caught:
        load(changed("version", "x" * 5000))
    assert len(caught.value.got) < 100


def test_a_commit_of_digits_and_an_unquoted_day_are_read() -> None:
    waiver = (
        f"waivers:\n- {{id: w, adapter: {COMMIT}, rule: low-cosine, reason: a, owner: b, "
        "expires: 2026-12-31}\n"
    )
    read = policy(RULE + waiver).policy.waivers[0]
    assert read.adapter == COMMIT
    assert read.expires.isoformat() == "2026-12-31"


def test_a_contradiction_is_seen_only_where_there_is_one() -> None:
    between = "metric: z, at-least: 1}, {metric: z, at-most: 1"
    assert len(policy(rule_text(between)).policy.rules[0].when) == 2


def test_empty_rules_are_refused() -> None:
    with pytest.raises(BadPolicy):
        policy("rules: []\n")


def test_a_file_that_cannot_be_read_is_a_policy_error(tmp_path: Path) -> None:
    with pytest.raises(BadPolicy, match="cannot be read"):
        load_policy_file(tmp_path / "none.yml")
    with pytest.raises(BadPolicy, match="cannot be read"):
        load_policy_file(tmp_path)
    file = tmp_path / "safety-gate.yml"
    file.write_text(HEAD + RULE)
    assert load_policy_file(file).fact.origin == str(file)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_load_and_fit_the_schema(name: str) -> None:
    loaded = load_preset(name)
    assert loaded.policy.name == name
    assert loaded.fact.origin == f"preset {name}"
    assert loaded.policy.coverage.at_least == 1.0


def test_presets_are_the_shipped_files() -> None:
    folder = SCHEMA_FILE.parents[1] / "policies"
    assert {file.stem for file in folder.glob("*")} == set(PRESETS)
    with pytest.raises(BadPolicy) as caught:
        load_preset("defualt")
    assert "default" in caught.value.hint
    with pytest.raises(BadPolicy):
        load_preset("../policies/default")


def test_the_paper_preset_is_the_published_criterion() -> None:
    (rule,) = load_preset("paper").policy.rules
    (condition,) = rule.when
    assert (condition.metric, condition.below, rule.severity) == ("cosine", 0.35, "block")
    assert rule.at_least_modules == 1


def test_every_metric_of_the_records_may_be_used() -> None:
    assert set(RULE_METRICS) == {*METRICS, "reversion_z", "cosine_margin"}


def test_the_ids_of_errors_are_reserved() -> None:
    assert {GateError.rule, BadPolicy.rule} <= RESERVED


def test_allowed_keys_follow_the_path() -> None:
    assert "at-least-modules" in allowed_keys(("rules", 3))
    assert allowed_keys(("rules", 0, "when", 1))[0] == "metric"
    assert allowed_keys(("rules", 0, "id")) == ()
    assert allowed_keys(("nonsense", "x")) == ()


def test_the_shipped_schema_is_the_exported_one() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), (
        "run: python -m safety_gate.policy.schema_file"
    )


@pytest.mark.parametrize(
    "tree",
    [
        changed("rules", []),
        changed("rules.0.when.0.above", 0.1),
        changed("rules.0.when", [{"metric": "cosine"}]),
        changed("rules.0.when.0.metric", "cosin"),
        changed("rules.0.when.0.below", None),
        changed("rules.1.modules", ["*"]),
        changed("rules.0.treshold", 1),
        changed("version", 2),
    ],
)
def test_the_schema_refuses_as_well(tree: dict[str, Any]) -> None:
    schema = json.loads(schema_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tree, schema)
    with pytest.raises(BadPolicy):
        load(tree)


def test_the_policy_needs_no_torch() -> None:
    code = (
        "import pkgutil, sys, safety_gate.policy as p\n"
        "from importlib import import_module\n"
        "for m in pkgutil.iter_modules(p.__path__): import_module(f'{p.__name__}.{m.name}')\n"
        "sys.exit(any(n in sys.modules for n in ('torch', 'numpy', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
