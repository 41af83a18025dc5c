"""Judging every adapter of a run; whatever stops that leaves an undecided report."""

from dataclasses import dataclass

from safety_gate.action import git
from safety_gate.action.against import check_against
from safety_gate.action.changed import Found, find_adapters, is_hub, nothing_seen
from safety_gate.action.event import heads_of
from safety_gate.action.job import Job
from safety_gate.action.policy_source import PolicySource
from safety_gate.action.questions import Questions, read_questions
from safety_gate.action.repository import Repository
from safety_gate.action.task import Result, Task, undecided
from safety_gate.action.workflow_commands import Log
from safety_gate.action.world import World
from safety_gate.errors import GateError, SourceError
from safety_gate.publish.publication import Judged
from safety_gate.records import PlaceKind

WORKSPACE = "workspace"  # stands for an adapter where none could be looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """What was judged."""

    judged: tuple[Judged, ...]  # empty: it is known that there was nothing to judge
    results: tuple[Result, ...]
    note: str  # our own words: how the adapters were found


def stopped(error: GateError, place: PlaceKind = "adapter") -> Adapters:
    """Return what a run comes to that could not get as far as an adapter."""
    result = Result(report=undecided(error, place))
    judged = Judged(name=WORKSPACE, report=result.report)
    return Adapters(judged=(judged,), results=(result,), note="no adapter could be judged")


def judge_adapters(
    job: Job, policy: PolicySource, repository: Repository | None, world: World, log: Log
) -> Adapters:
    """Find what is to be judged, and judge it by this policy."""
    try:
        found = find_adapters(job.options.adapter, job.event, job.runner.workspace, repository)
        _check_head(job, log)
        if found.adapters:
            check_against(job, policy, repository)
        questions = read_questions(job, repository)
    except GateError as error:
        return stopped(error)
    log.say(f"To judge: {found.how}.")
    names = list(found.adapters)
    results = [_judged(name, job, policy, questions, world, log) for name in names]
    if not found.seen:
        names.append(WORKSPACE)
        results.append(Result(report=undecided(nothing_seen(found))))
    return Adapters(
        judged=tuple(Judged(name=n, report=r.report) for n, r in zip(names, results, strict=True)),
        results=tuple(results),
        note=_note(found),
    )


def _note(found: Found) -> str:
    if found.adapters or not found.seen:
        return f"Judged: {found.how}."
    return f"No adapter has changed: {found.how}. Nothing was judged, and nothing has passed."


def _check_head(job: Job, log: Log) -> None:
    """Refuse a workspace with another commit than the event speaks of.

    Otherwise the adapter of the base branch would be judged in place of the changed one. A named
    adapter may come from anywhere, another step of the job for one; then the log only says so.
    """
    head, expected = git.head(job.runner.workspace), heads_of(job.event, job.runner)
    if head is None or head in expected:
        return
    error = SourceError(
        "another commit is checked out than the one that the event speaks of",
        where=WORKSPACE,
        got=head,
        expected=" or ".join(sorted(expected)),
        hint="Leave out ref: in actions/checkout, or name the adapter with adapter:.",
    )
    if not job.options.adapter:
        raise error
    log.say(f"Note: {error}")


def _judged(  # noqa: PLR0913
    name: str, job: Job, policy: PolicySource, questions: Questions, world: World, log: Log
) -> Result:
    """Judge one adapter; the gate's own output may hold a stranger's text."""
    log.say(f"Judging {name}")
    try:
        with log.stopped():
            result = world.judge(_task(name, job, policy, questions, world))
    except GateError as error:
        result = Result(report=undecided(error))
    log.say(f"{name}: {result.report.verdict.word}")
    for note in result.notes:
        log.say(f"{name}: {note}")
    return result


def _task(name: str, job: Job, policy: PolicySource, questions: Questions, world: World) -> Task:
    wanted = job.options
    return Task(
        adapter=name,
        on_hub=is_hub(name),
        base=wanted.base,
        aligned=wanted.aligned,
        safety_adapter=wanted.safety_adapter,
        behaviour=wanted.behaviour,
        prompts=questions.prompts,
        openings=questions.openings,
        repair=wanted.repair,
        publish_repaired=wanted.publish_repaired,
        policy=policy.data,
        policy_origin=policy.origin,
        workspace=job.runner.workspace,
        cache_dir=wanted.cache_dir,
        today=world.now.date(),
        hf_token=wanted.hf_token,
    )
