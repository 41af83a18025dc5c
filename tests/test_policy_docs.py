"""docs/policy.md: its examples load, its tables are complete, its links exist."""

import re
from pathlib import Path

import pytest

from safety_gate.policy import builtin
from safety_gate.policy.file import load_policy
from safety_gate.policy.metrics import BEHAVIOUR_METRICS, BORDERLINE, METRIC_FACTS
from safety_gate.policy.part import Part
from safety_gate.policy.presets import PRESETS
from safety_gate.policy.schema import Condition, Coverage, Limits, Policy, Rule, Waiver
from tests.test_policy_builders import HEAD, RULE

PAGE = (Path(__file__).parents[1] / "docs" / "policy.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def whole(example: str) -> str:
    """Add to a part of a policy what it leaves out."""
    text = example if "rules:" in example else example + RULE
    return text if "version:" in text else HEAD + text


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_loads(example: str) -> None:
    load_policy(whole(example).encode(), "docs/policy.md")


def test_there_is_a_full_example() -> None:
    assert len(EXAMPLES) >= 2
    policy = load_policy(EXAMPLES[0].encode(), "docs/policy.md").policy
    assert policy.model_fields_set == set(Policy.model_fields)


@pytest.mark.parametrize("part", [Policy, Rule, Condition, Coverage, Limits, Waiver])
def test_every_key_is_explained(part: type[Part]) -> None:
    for field in part.model_fields.values():
        assert f"`{field.alias}`" in PAGE


@pytest.mark.parametrize(
    "metric",
    [
        name
        for name in METRIC_FACTS
        if not (name in BEHAVIOUR_METRICS and name.endswith(("_low", "_high")))
    ],
)
def test_every_metric_is_explained_in_the_same_words(metric: str) -> None:
    assert f"| `{metric}` | {METRIC_FACTS[metric].meaning} |" in PAGE


def test_presets_and_built_in_ids_are_named() -> None:
    own = {
        value for name, value in vars(builtin).items() if name.isupper() and isinstance(value, str)
    }
    assert len(own) == 8
    for word in [*PRESETS, *own]:
        assert f"`{word}`" in PAGE
    assert f"{BORDERLINE:g}".replace("e-05", "e-5") in PAGE
