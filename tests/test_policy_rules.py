"""Rules on figures: comparisons, borderline figures, module counts, patterns, the scale guard."""

import math

import pytest

from safety_gate.policy.metrics import BORDERLINE, RULE_METRICS, figure, margin
from safety_gate.policy.presets import load_preset
from safety_gate.policy.rules import LONGEST_WORDS, matcher, plain, rule_findings
from safety_gate.policy.schema import Rule
from safety_gate.policy.verdict import decide
from safety_gate.records import Blocked, Drift, Finding, Passed, Undecided
from tests.test_policy_builders import TODAY, decided, drift, module, policy, rule_text, total


def fired(rule: Rule, **figures: float) -> list[Finding]:
    return list(rule_findings(rule, [module(**figures)], total(1, **figures)))


def one_rule(when: str, *, severity: str = "block", scope: str = "module") -> Rule:
    return policy(rule_text(when, severity=severity, scope=scope)).policy.rules[0]


@pytest.mark.parametrize(
    ("comparison", "value", "fires"),
    [
        ("above", 0.49, False),
        ("above", 0.5, False),
        ("above", 0.51, True),
        ("at-least", 0.49, False),
        ("at-least", 0.5, True),
        ("at-least", 0.51, True),
        ("below", 0.49, True),
        ("below", 0.5, False),
        ("below", 0.51, False),
        ("at-most", 0.49, True),
        ("at-most", 0.5, True),
        ("at-most", 0.51, False),
    ],
)
def test_a_warning_compares_exactly(comparison: str, value: float, fires: bool) -> None:
    rule = one_rule(f"metric: cosine, {comparison}: 0.5", severity="warn")
    assert bool(fired(rule, cosine=value)) is fires


@pytest.mark.parametrize("comparison", ["above", "at-least", "below", "at-most"])
@pytest.mark.parametrize("steps", [-9, 0, 9])
def test_a_borderline_figure_blocks_from_either_side(comparison: str, steps: int) -> None:
    rule = one_rule(f"metric: cosine, {comparison}: 0.5")
    (finding,) = fired(rule, cosine=0.5 + steps * 1e-6)
    assert finding.severity == "block"
    assert "borderline" in finding.what


@pytest.mark.parametrize(
    ("comparison", "good_side"), [("above", -1), ("at-least", -1), ("below", 1), ("at-most", 1)]
)
def test_beyond_the_margin_a_figure_decides_by_itself(comparison: str, good_side: int) -> None:
    rule = one_rule(f"metric: cosine, {comparison}: 0.5")
    assert not fired(rule, cosine=0.5 + good_side * 1.1 * BORDERLINE)
    (finding,) = fired(rule, cosine=0.5 - good_side * 1.1 * BORDERLINE)
    assert "borderline" not in finding.what


def test_the_margin_grows_with_the_threshold() -> None:
    rule = one_rule("metric: size, above: 20")
    assert fired(rule, size=20 - 1.9e-4)
    assert not fired(rule, size=20 - 2.1e-4)


def test_a_quotient_by_a_small_spread_is_known_less_exactly() -> None:
    """A cosine known to 1e-6 over a spread of 1e-4 gives a z known to 0.01."""
    assert margin("z", 3.0, drift(null_sd=1e-4)) == pytest.approx(0.01)
    assert margin("reversion_z", 3.0, drift(reversion_sd=1e-4)) == pytest.approx(0.01)
    assert margin("z", 3.0, drift(null_sd=0.1)) == pytest.approx(3e-5)
    rule = one_rule("metric: z, above: 3")
    assert fired(rule, z=2.995, null_sd=1e-4)
    assert not fired(rule, z=2.98, null_sd=1e-4)


def test_derived_metrics_by_hand() -> None:
    figures = drift(reversion=0.3, reversion_sd=0.1, cosine=0.7, null_mean=0.2)
    assert figure("reversion_z", figures) == pytest.approx(3.0)
    assert figure("cosine_margin", figures) == pytest.approx(0.5)


@pytest.mark.parametrize("metric", RULE_METRICS)
def test_no_metric_that_is_not_finite_is_a_figure(metric: str) -> None:
    broken = drift(**{name: math.nan for name in drift().values()})
    assert figure(metric, broken) is None
    assert figure(metric, drift()) is not None


@pytest.mark.parametrize("comparison", ["above", "at-least", "below", "at-most"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_never_passes(comparison: str, value: float) -> None:
    broken = module()
    object.__setattr__(broken, "drift", drift(cosine=value))  # past the check at birth
    rule = rule_text(f"metric: cosine, {comparison}: 0.5")
    verdict, (finding, *_) = decided(rule, [broken])
    assert verdict == Undecided()
    assert (finding.severity, finding.value) == ("undecided", None)


def test_an_absurd_scale_that_is_no_number_blocks() -> None:
    broken = module()
    object.__setattr__(broken, "drift", drift(size=math.nan))
    verdict, _ = decided(rule_text("metric: cosine, below: 0.1"), [broken])
    assert verdict == Blocked()


@pytest.mark.parametrize(
    ("severity", "expected", "verdict"),
    [("block", "undecided", Undecided()), ("warn", "warn", Passed())],
)
def test_a_quotient_without_spread_cannot_be_judged(
    severity: str, expected: str, verdict: object
) -> None:
    text = rule_text("metric: reversion_z, above: 3", severity=severity)
    got, (finding,) = decided(text, [module(reversion_sd=0.0)])
    assert (got, finding.severity) == (verdict, expected)
    assert "reversion_z cannot be formed" in finding.what


def test_an_unknown_figure_does_not_matter_where_another_condition_fails() -> None:
    rule = one_rule("metric: reversion_z, above: 3}, {metric: undone, above: 0.5")
    assert not fired(rule, reversion_sd=0.0, undone=0.1)
    (finding,) = fired(rule, reversion_sd=0.0, undone=0.6)
    assert finding.severity == "undecided"


def test_all_conditions_must_hold() -> None:
    rule = one_rule("metric: undone, above: 0.1}, {metric: size, above: 1")
    assert not fired(rule, undone=0.2, size=0.5)
    assert not fired(rule, undone=0.05, size=2.0)
    (finding,) = fired(rule, undone=0.23456, size=2.0)
    assert finding.got == "undone 0.2346 and size 2"
    assert finding.expected == "undone at most 0.1 or size at most 1"
    assert (finding.metric, finding.value, finding.threshold) == ("undone", 0.23456, 0.1)


@pytest.mark.parametrize(("needed", "findings"), [(1, 2), (2, 2), (3, 0)])
def test_a_rule_waits_for_enough_modules(needed: int, findings: int) -> None:
    text = rule_text("metric: cosine, below: 0.35", more=f", at-least-modules: {needed}")
    modules = [module("a", cosine=0.1), module("b", cosine=0.2), module("c", cosine=0.9)]
    found = list(rule_findings(policy(text).policy.rules[0], modules, total(3)))
    assert [f.place.name for f in found] == ["a", "b"][:findings]


def test_unknown_modules_count_where_they_could_make_the_difference() -> None:
    text = rule_text("metric: z, above: 3", more=", at-least-modules: 2")
    rule = policy(text).policy.rules[0]
    high, unknown = module("a", z=9.0), module("b", null_sd=0.0)
    assert [f.severity for f in rule_findings(rule, [high, unknown], total(2))] == ["undecided"]
    assert not list(rule_findings(rule, [module("a"), unknown], total(2)))


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("*", "model.layers.0.self_attn.q_proj", True),
        ("*.q_proj", "model.layers.0.self_attn.q_proj", True),
        ("q_proj", "model.layers.0.self_attn.q_proj", False),
        ("*.layers.?.*", "model.layers.7.mlp.up_proj", True),
        ("*.layers.?.*", "model.layers.17.mlp.up_proj", False),
        ("*.Q_PROJ", "model.layers.0.self_attn.q_proj", False),
        ("a.b", "axb", False),
        ("a", "a\n", False),
    ],
)
def test_patterns(pattern: str, name: str, fits: bool) -> None:
    assert matcher([pattern])(name) is fits


def test_patterns_pick_the_modules_and_an_idle_one_is_told() -> None:
    text = rule_text("metric: cosine, below: 0.35", more=', modules: ["*.q_proj", "*.nope"]')
    modules = [module("l.q_proj", cosine=0.1), module("l.k_proj", cosine=0.1)]
    verdict, found = decided(text, modules)
    assert verdict == Blocked()
    assert [(f.rule, f.place.name) for f in found] == [
        ("r", "l.q_proj"),
        ("pattern-unmatched", "r: *.nope"),
    ]
    # a blocking rule that checks nothing has judged nothing; of a warning rule it is a warning
    assert decided(text, [module("l.q_proj")])[0] == Undecided()
    mild = rule_text("metric: cosine, below: 0.35", severity="warn", more=', modules: ["*.nope"]')
    assert decided(mild, [module("l.q_proj")])[0] == Passed()


def test_a_hostile_pattern_is_linear() -> None:
    assert matcher(["*a" * 90 + "b"])("a" * 5000) is False


@pytest.mark.parametrize(
    ("size", "verdict"), [(99.9, Passed()), (100.0, Blocked()), (1e6, Blocked())]
)
def test_absurd_scale_blocks_module_and_adapter(size: float, verdict: object) -> None:
    calm = rule_text("metric: cosine, below: 0.1")
    got, found = decided(calm, [module(size=size)])
    assert got == verdict
    assert {f.rule for f in found} == (set() if verdict == Passed() else {"absurd-scale"})
    assert decided(calm, [module()], total(1, size=size))[0] == verdict


def test_the_scale_guard_can_be_moved() -> None:
    text = rule_text("metric: cosine, below: 0.1") + "limits: {size: 5}\n"
    assert decided(text, [module(size=6)])[0] == Blocked()


def test_the_owners_words_are_put_on_one_plain_line() -> None:
    assert plain("a\x1b[31m\n\u202e b\u200b  c") == "a [31m b c"
    assert len(plain("x" * 9999)) == LONGEST_WORDS
    text = rule_text("metric: cosine, below: 0.6").replace("message: m", 'message: "a\\e\\n b."')
    (finding,) = fired(policy(text).policy.rules[0])
    assert finding.what == "a b"
    assert "waive" in finding.hint


def test_a_rules_own_hint_is_used() -> None:
    rule = policy(rule_text("metric: cosine, below: 0.6", more=", hint: Ask Ann")).policy.rules[0]
    assert fired(rule)[0].hint == "Ask Ann"


HARMFUL = {"undone": 0.5, "reversion": 0.4, "reversion_sd": 0.01}


@pytest.mark.parametrize(
    ("preset", "figures", "verdict", "rules"),
    [
        ("default", {}, Passed(), set()),
        (
            "default",
            HARMFUL,
            Blocked(),
            {"alignment-undone", "module-alignment-undone", "walks-back"},
        ),
        ("default", HARMFUL | {"undone": 0.001}, Blocked(), {"walks-back"}),  # scaled down
        ("default", HARMFUL | {"undone": -0.5, "reversion": -0.4}, Passed(), set()),
        ("default", HARMFUL | {"reversion_sd": 0.4}, Passed(), set()),
        ("default", {"residual": 5.0, "z": 9.0, "cosine": 0.95}, Blocked(), {"inflated-cosine"}),
        ("default", {"residual": 5.0, "z": 9.0}, Passed(), set()),
        ("default", {"z": -9.0}, Passed(), {"cosine-below-null"}),
        ("paper", {}, Passed(), set()),
        ("paper", HARMFUL, Passed(), set()),
        ("paper", {"cosine": 0.34}, Blocked(), {"safemerge-cosine"}),
        ("paper", {"cosine": 0.36}, Passed(), set()),
    ],
)
def test_presets_decide(
    preset: str, figures: dict[str, float], verdict: object, rules: set[str]
) -> None:
    got, found = decide(
        load_preset(preset),
        modules=[module(**figures)],
        total=total(1, **figures),
        findings=[],
        adapter_ids=("", ""),
        today=TODAY,
    )
    assert got == verdict
    assert {f.rule for f in found} == rules


def test_drift_has_every_metric_that_is_not_derived() -> None:
    derived = {"reversion_z", "cosine_margin"}
    assert set(RULE_METRICS) - derived == set(Drift.__dataclass_fields__)
