"""From labelled folders to specimens: every adapter judged as the gate judges it."""

import datetime
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from safety_gate import gate
from safety_gate.calibration.signals import ADAPTER, signals_of
from safety_gate.calibration.specimen import LeftOut, Specimen
from safety_gate.policy.builtin import COVERAGE_LOW, NOTHING_SCORED
from safety_gate.policy.file import LoadedPolicy
from safety_gate.policy.presets import load_preset
from safety_gate.policy.verdict import decide
from safety_gate.records import Blocked, Passed, Report

SPOKEN: Final = frozenset(rule.id for rule in load_preset("default").policy.rules)
ABOUT_ASKING: Final = {
    "model-not-asked",
    "few-refusals",
}  # findings about the pair, not one adapter
TOGETHER: Final = 16  # adapters that are copied and measured at a time
MODES: Final = ("openings", "answers")  # what the names of behaviour figures begin with


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """All adapters of a folder."""

    specimens: tuple[Specimen, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...] = ()  # our own words, such as why the model was not asked


def judged(
    folder: Path,
    labels: Mapping[str, bool],
    request: gate.Request,
    heard: Callable[[str], None] = lambda _: None,
) -> Judged:
    """Judge every labelled adapter; what cannot be judged is named and counts for nothing.

    Args:
        folder: of the adapters.
        labels: whether each is unsafe, by its folder below that one.
        request: base, aligned and what the model is asked; its adapter and policy are not read.
        heard: is told the name of each adapter when it has been judged.
    """
    specimens, left_out = [], []
    notes: dict[str, None] = {}  # in the order in which they first appear
    order = replace(request, policy=None, preset="default")
    for names in batched(labels, TOGETHER):
        for name, report in zip(names, _reports(order, [folder / n for n in names]), strict=True):
            if why := unusable(report):
                left_out.append(LeftOut(name=name, why=why))
            else:
                specimens.append(specimen(name, labels[name], report))
                notes |= dict.fromkeys(f.what for f in report.findings if f.rule in ABOUT_ASKING)
            heard(name)
    unlabelled = sorted(
        config.parent.relative_to(folder).as_posix()
        for config in folder.glob("*/adapter_config.json")
        if config.parent.relative_to(folder).as_posix() not in labels
    )
    left_out += [LeftOut(name=name, why="it has no label") for name in unlabelled]
    return Judged(specimens=tuple(specimens), left_out=tuple(left_out), notes=tuple(notes))


def _reports(request: gate.Request, places: Sequence[Path]) -> Sequence[Report]:
    """Judge some folders in one pass over the weights, each as one adapter."""
    reports = gate.judge_all(request, places)
    if len(reports) == len(places):
        return reports
    # One of them holds several adapters in subfolders, and a label is about one.
    return [gate.judge(replace(request, adapter=place)) for place in places]


def batched(names: Iterable[str], size: int) -> Iterator[list[str]]:
    """Yield the names in order, at most so many at a time."""
    rest = iter(names)
    while part := list(itertools.islice(rest, size)):
        yield part


def unusable(report: Report) -> str:
    """Return why a report says nothing about thresholds; empty where it was judged in full.

    What the policy found is no reason: only what could not be judged is.
    """
    open_ends = [finding for finding in report.findings if finding.severity == "undecided"]
    if open_ends:
        # The cause before its consequence: that nothing was scored says little by itself.
        return min(open_ends, key=lambda f: f.rule in {NOTHING_SCORED, COVERAGE_LOW}).what
    if report.total is None or not isinstance(report.verdict, Passed | Blocked):
        return "it could not be judged"
    return ""


def specimen(name: str, unsafe: bool, report: Report) -> Specimen:
    """Return what a calibration keeps of a report."""
    return Specimen(
        name=name, unsafe=unsafe, signals=signals_of(report), verdicts=verdicts_of(report)
    )


def verdicts_of(report: Report) -> dict[str, str]:
    """Return what the presets say on the weights, and on each way to ask the model."""
    default, paper = load_preset("default"), load_preset("paper")
    words = {
        "preset paper": word(report, paper, ()),
        "preset default, weights only": word(report, default, ()),
    }
    fact = report.behaviour
    if fact is None:
        return words
    words["preset default, openings asked"] = word(report, default, MODES[:1])
    words["openings rule alone"] = word(report, only_behaviour(default), MODES[:1])
    if fact.by_answers:
        words["preset default, openings and answers"] = word(report, default, MODES)
    return words


def word(report: Report, policy: LoadedPolicy, modes: Sequence[str]) -> str:
    """Return the verdict's word under another policy, with some of what the model said.

    Args:
        report: judged in full.
        policy: what decides.
        modes: beginnings of the behaviour figures that it may see; none: weights only.
    """
    figures = report.behaviour.figures(ADAPTER) if report.behaviour else {}
    seen = {name: value for name, value in figures.items() if name.startswith(tuple(modes))}
    fact = report.adapter
    verdict, _ = decide(
        policy,
        modules=report.modules,
        total=report.total,
        # The policy speaks again; what reading and pairing found stays.
        findings=[f for f in report.findings if f.rule not in SPOKEN],
        adapter_ids=(fact.digest, fact.revision) if fact else ("", ""),
        today=datetime.date.min,  # presets have no waivers, so no day matters
        behaviour=seen if modes and seen else None,
    )
    return verdict.word


def only_behaviour(loaded: LoadedPolicy) -> LoadedPolicy:
    """Return a policy without its rules on weights."""
    rules = tuple(rule for rule in loaded.policy.rules if rule.scope == "behaviour")
    return replace(loaded, policy=loaded.policy.model_copy(update={"rules": rules}))
