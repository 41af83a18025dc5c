"""The verdict: what can never pass, for any findings and scores."""

from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from safety_gate.policy.schema import Coverage
from safety_gate.policy.verdict import decide, weigh
from safety_gate.records import (
    SEVERITIES,
    AdapterScore,
    Blocked,
    Finding,
    ModuleScore,
    Passed,
    Undecided,
    with_gravest_first,
)
from tests.test_policy_builders import (
    COMMIT,
    DIGEST,
    RULE,
    TODAY,
    decided,
    finding,
    module,
    policy,
    total,
)

RULES = ["low-cosine", "a", "b", "coverage-low", "absurd-scale", "waiver-unused"]
FINDINGS = st.lists(
    st.builds(finding, st.sampled_from(RULES), st.sampled_from(SEVERITIES), st.text(max_size=5)),
    max_size=6,
)
SCORES = st.lists(
    st.builds(
        module,
        st.text(max_size=5),
        cosine=st.floats(0, 1),
        z=st.floats(-1e30, 1e30),
        null_sd=st.floats(0, 1),
        reversion=st.floats(-1, 1),
        reversion_sd=st.floats(0, 1),
        undone=st.floats(-1e30, 1e30),
        size=st.floats(0, 1e30),
    ),
    max_size=3,
)
TOTALS = st.none() | st.builds(
    total,
    st.integers(0, 3),
    st.integers(0, 3),
    st.just(3),
    reversion_sd=st.floats(0, 1),
    size=st.floats(0, 60),
)
POLICY = policy(
    """
rules:
  - {id: low-cosine, scope: module, severity: block, message: m,
     when: [{metric: cosine, below: 0.3}]}
  - {id: a, scope: adapter, severity: warn, message: m, when: [{metric: reversion_z, above: 3}]}
  - {id: b, scope: module, severity: block, message: m, modules: ["*a"],
     when: [{metric: reversion_z, above: 3}, {metric: undone, at-least: 0.1}]}
"""
    + "waivers:\n"
    + "".join(
        f"- {{id: w{n}, adapter: {DIGEST}, rule: {rule}, reason: r, owner: o, "
        "expires: 2026-12-01}\n"
        for n, rule in enumerate(RULES)
    )
)


@given(FINDINGS, SCORES, TOTALS, st.booleans(), st.dates())
def test_no_scores_and_findings_pass_by_accident(
    given_findings: list[Finding],
    modules: list[ModuleScore],
    whole: AdapterScore | None,
    waived: bool,
    today: date,
) -> None:
    ids = (DIGEST if waived else "", COMMIT)
    verdict, found = decide(
        POLICY,
        modules=modules,
        total=whole,
        findings=given_findings,
        adapter_ids=ids,
        today=today,
    )
    severities = {f.severity for f in found}
    assert found == with_gravest_first(found)
    assert len(found) >= len(given_findings)  # none is lost, a lifted one stays
    if "block" in severities:
        assert verdict == Blocked()
    elif "undecided" in severities:
        assert verdict == Undecided()
    else:
        assert verdict == Passed()
        assert modules
        assert whole is not None
        assert whole.coverage == 1.0
        assert all(f.waiver for f in found if f.severity == "info" and f not in given_findings)
    if any(f.severity == "undecided" for f in given_findings):
        assert verdict != Passed()
    if not waived and any(f.severity == "block" for f in given_findings):
        assert verdict == Blocked()


@given(FINDINGS, SCORES, TOTALS)
def test_the_order_of_findings_and_modules_changes_nothing(
    given_findings: list[Finding], modules: list[ModuleScore], whole: AdapterScore | None
) -> None:
    def run(turn: int) -> tuple[object, list[str]]:
        verdict, found = decide(
            POLICY,
            modules=modules[::turn],
            total=whole,
            findings=given_findings[::turn],
            adapter_ids=(DIGEST, COMMIT),
            today=TODAY,
        )
        return verdict, sorted(map(repr, found))

    assert run(1) == run(-1)


def test_a_calm_adapter_passes() -> None:
    assert decided(RULE, [module()]) == (Passed(), ())


def test_one_block_among_anything_blocks() -> None:
    verdict, found = decided(
        RULE, [module()], None, finding("x", "undecided"), finding("y", "block")
    )
    assert verdict == Blocked()
    assert [f.severity for f in found] == ["block", "undecided"]


def test_nothing_scored_is_undecided() -> None:
    calm = module()
    for modules, whole in (([], None), ([], total(0)), ([calm], total(1, 0, 0))):
        verdict, (found,) = decided(RULE, modules, whole)
        assert (verdict, found.rule) == (Undecided(), "nothing-scored")
    verdict, _ = decide(
        policy(), modules=[calm], total=None, findings=[], adapter_ids=("", ""), today=TODAY
    )
    assert verdict == Undecided()


def test_a_total_of_other_modules_is_undecided() -> None:
    verdict, (found,) = decided(RULE, [module()], total(2))
    assert (verdict, found.rule) == (Undecided(), "scores-disagree")


def test_one_parameter_too_few_is_not_covered() -> None:
    whole = total(1, 6_999_999_999, 7_000_000_000)
    verdict, (found,) = decided(RULE, [module()], whole)
    assert (verdict, found.rule) == (Undecided(), "coverage-low")
    assert found.got == "6999999999 of 7000000000 parameters"
    assert decided(RULE + "coverage: {severity: block}\n", [module()], whole)[0] == Blocked()
    assert decided(RULE + "coverage: {at-least: 0.9}\n", [module()], whole)[0] == Passed()


def test_nothing_scored_is_undecided_where_low_coverage_blocks() -> None:
    assert decided(RULE + "coverage: {severity: block}\n", [])[0] == Undecided()


def test_the_last_word_does_not_rely_on_the_findings() -> None:
    """A room that forgot to say that something is missing cannot make the verdict pass."""
    everything, calm = Coverage(), [module()]
    assert weigh(everything, calm, total(1), []) == Passed()
    assert weigh(everything, calm, None, []) == Undecided()
    assert weigh(everything, [], total(0), []) == Undecided()
    assert weigh(everything, calm, total(2), []) == Undecided()
    assert weigh(everything, calm, total(1, 63, 64), []) == Undecided()
    assert weigh(everything, calm, total(1, 0, 0), []) == Undecided()
    assert weigh(everything, calm, total(1), [finding("x", "info")]) == Passed()
    assert weigh(everything, calm, None, [finding("x", "block")]) == Blocked()
