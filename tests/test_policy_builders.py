"""Scores, findings and policies for the tests of the policy; figures are chosen by hand."""

from dataclasses import replace
from datetime import date

from safety_gate.policy.file import LoadedPolicy, load_policy
from safety_gate.policy.verdict import decide
from safety_gate.records import (
    AdapterScore,
    Drift,
    Finding,
    ModuleScore,
    Place,
    Severity,
    Verdict,
)

TODAY = date(2026, 11, 20)
DIGEST = "ab" * 32
COMMIT = "0123456789" * 4  # forty digits: a number to a careless YAML reader

CALM = Drift(
    cosine=0.5,
    null_mean=0.4,
    null_sd=0.1,
    z=1.0,
    reversion=0.01,
    reversion_sd=0.01,
    undone=0.02,
    size=0.5,
    weight_size=0.01,
    residual=0.3,
    gain=0.2,
)

HEAD = "version: 1\nname: test\n"
RULE = """
rules:
  - id: low-cosine
    scope: module
    when:
      - {metric: cosine, below: 0.35}
    severity: block
    message: The cosine is low
"""


def drift(**figures: float) -> Drift:
    return replace(CALM, **figures)


def module(name: str = "model.layers.0.self_attn.q_proj", /, **figures: float) -> ModuleScore:
    return ModuleScore(
        module=name,
        shape=(8, 8),
        rank=2,
        scaling=1.0,
        drift=drift(**figures),
        delta_norm=1.0,
        step_norm=2.0,
        weight_norm=100.0,
    )


def total(
    modules: int = 1, scored: int = 64, changed: int = 64, /, **figures: float
) -> AdapterScore:
    return AdapterScore(
        drift=drift(**figures),
        modules=modules,
        changed_parameters=changed,
        scored_parameters=scored,
        unchanged_modules=(),
    )


def finding(rule: str = "some-check", severity: Severity = "warn", name: str = "a") -> Finding:
    return Finding(
        rule=rule,
        severity=severity,
        place=Place(kind="module", name=name),
        what="something",
        hint="do something",
    )


def policy(text: str = RULE) -> LoadedPolicy:
    return load_policy((HEAD + text).encode(), "safety-gate.yml")


def rule_text(when: str, *, scope: str = "module", severity: str = "block", more: str = "") -> str:
    """One rule with id ``r``; ``when`` is the inside of a condition, ``more`` further keys."""
    return (
        f"rules:\n- {{id: r, scope: {scope}, severity: {severity}, message: m, "
        f"when: [{{{when}}}]{more}}}\n"
    )


def decided(
    text: str,
    modules: list[ModuleScore],
    whole: AdapterScore | None = None,
    *findings: Finding,
) -> tuple[Verdict, tuple[Finding, ...]]:
    return decide(
        policy(text),
        modules=modules,
        total=whole or (total(len(modules)) if modules else None),
        findings=findings,
        adapter_ids=(DIGEST, COMMIT),
        today=TODAY,
    )
