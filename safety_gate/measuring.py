"""Measure the adapters of one pair in one pass over its weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from safety_gate import engine
from safety_gate.case import Case
from safety_gate.checkpoint import Checkpoint
from safety_gate.engine import ModuleTask, Outcome, Scored
from safety_gate.outcomes import Memory
from safety_gate.places import plan_reads
from safety_gate.policy.nearness import close_modules, is_total_close
from safety_gate.rounding import rounding_findings
from safety_gate.weights import Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """Cases that agree on what each weight name means, and the two checkpoints by these names."""

    cases: Sequence[Case]
    base: Checkpoint
    aligned: Checkpoint


def measure(
    cases: Sequence[Case],
    *,
    workers: int,
    on_done: Callable[[str], None],
    memory: Memory | None,
) -> None:
    """Measure the tasks of cases of one pair, and put the outcomes into them.

    Args:
        cases: with tasks, base and aligned; all of one pair.
        workers: weights measured at the same time.
        on_done: called with the module path after each task, from any thread.
        memory: watches the pass; for a single case.
    """
    for each in _passes(cases):
        if not _is_planned(each):
            continue
        tasks = [case.tasks for case in each.cases]
        found = _scored(each, tasks, workers, on_done=on_done, memory=memory, quick=True)
        for case, outcomes in zip(each.cases, found, strict=True):
            case.outcomes = outcomes
        _measure_close_ones(each, workers)
        for case in each.cases:
            if case.base is not None and case.aligned is not None:  # whole: norms count as well
                pair = case.base, case.aligned
                case.findings += rounding_findings(case.tasks, case.outcomes, pair)
            case.measured = True


def _passes(cases: Sequence[Case]) -> list[_Pass]:
    """Put together all cases for which a name means the same weight; mostly that is one pass."""
    found: list[_Pass] = []
    left = [case for case in cases if case.base is not None and case.aligned is not None]
    while left:
        taken: list[Case] = []
        names: dict[str, tuple[Weight | None, Weight | None]] = {}
        for case in left:
            own = _named(case)
            if all(names.get(name, pair) == pair for name, pair in own.items()):
                names |= own
                taken.append(case)
        found.append(_pass_of(taken, names))
        left = [case for case in left if not any(case is other for other in taken)]
    return found


def _named(case: Case) -> dict[str, tuple[Weight | None, Weight | None]]:
    """Return the weights of base and aligned that a case's tasks name."""
    if case.base is None or case.aligned is None:
        raise AssertionError("a case without its pair")
    base, aligned = case.base.weights, case.aligned.weights
    names = dict.fromkeys(task.weight for task in case.tasks)
    return {name: (base.get(name), aligned.get(name)) for name in names}


def _pass_of(cases: Sequence[Case], names: dict[str, tuple[Weight | None, Weight | None]]) -> _Pass:
    """Return both checkpoints with every weight that the cases name."""
    base, aligned = cases[0].base, cases[0].aligned
    if base is None or aligned is None:
        raise AssertionError("a case without its pair")
    if len(cases) > 1:
        base = base.with_weights({n: own for n, (own, _) in names.items() if own is not None})
        aligned = aligned.with_weights({n: own for n, (_, own) in names.items() if own is not None})
    return _Pass(cases=cases, base=base, aligned=aligned)


def _is_planned(one: _Pass) -> bool:
    """Hold what will be read against the budgets; False where it is too much."""
    weights = [task.weight for case in one.cases for task in case.tasks]
    first = one.cases[0]
    before = len(first.findings)
    for checkpoint in (one.aligned, one.base):
        first.noted("checkpoint", partial(plan_reads, checkpoint, weights))
    found = first.findings[before:]
    for other in one.cases[1:]:
        other.findings += found
    return not found


def _scored(  # noqa: PLR0913
    one: _Pass,
    tasks: Sequence[Sequence[ModuleTask]],
    workers: int,
    *,
    on_done: Callable[[str], None] = lambda _: None,
    memory: Memory | None = None,
    quick: bool = False,
) -> list[tuple[Outcome, ...]]:
    """Measure some tasks of each case; the outcomes stand in the same order."""
    outcomes = iter(
        engine.score_modules(
            [task for own in tasks for task in own],
            one.base,
            one.aligned,
            workers=workers,
            on_done=on_done,
            memory=memory,
            quick=quick,
        )
    )
    return [tuple(next(outcomes) for _ in own) for own in tasks]


def _measure_close_ones(one: _Pass, workers: int) -> None:
    """Measure again, in float32, what bfloat16 products left near a threshold of the policy.

    So the verdict does not depend on which products the processor is quick at.
    """
    again = [_close_tasks(case) for case in one.cases]
    exact = _scored(one, again, workers)
    for case, tasks, outcomes in zip(one.cases, again, exact, strict=True):
        by_module = {task.module: outcome for task, outcome in zip(tasks, outcomes, strict=True)}
        case.outcomes = tuple(
            by_module.get(task.module, outcome)
            for task, outcome in zip(case.tasks, case.outcomes, strict=True)
        )


def _close_tasks(case: Case) -> list[ModuleTask]:
    """Return the tasks that stand near a threshold."""
    if case.policy is None:
        return []
    policy = case.policy.policy
    scores = [outcome.score for outcome in case.outcomes if isinstance(outcome, Scored)]
    close = close_modules(policy, scores)
    total = case.noted("adapter", case.total)
    if total is not None and is_total_close(policy, total):
        close = frozenset(score.module for score in scores)
    return [task for task in case.tasks if task.module in close]
