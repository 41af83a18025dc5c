"""One run of the action: read the job, judge, tell the runner, then tell GitHub, then end.

Outputs and summary are written before anything is published, and publishing changes neither the
verdict nor the exit status.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from safety_gate.action.adapters import Adapters, judge_adapters, stopped
from safety_gate.action.event import PullRequest, Push, WorkflowRun, read_event
from safety_gate.action.inputs import BadInput, choose
from safety_gate.action.job import Job
from safety_gate.action.options import options, preset_of
from safety_gate.action.outputs import path_outputs, verdict_outputs
from safety_gate.action.policy_source import find_policy
from safety_gate.action.publish_run import publish_run
from safety_gate.action.report_files import sarif_of, write_reports
from safety_gate.action.repository import Repository, reading
from safety_gate.action.run_record import exit_code_of
from safety_gate.action.runner import read_runner
from safety_gate.action.tell import Teller
from safety_gate.action.world import World
from safety_gate.errors import GateError
from safety_gate.policy.action_settings import read_settings
from safety_gate.publish.github import NotPublished
from safety_gate.publish.publication import Publication
from safety_gate.publish.publisher import Wishes, publish
from safety_gate.publish.sarif_upload import Analysis
from safety_gate.publish.told import Published, Told


def act(environment: Mapping[str, str], world: World) -> int:
    """Run the action; return the exit status: 0, 1, 2 or 3.

    Args:
        environment: of the process, as the runner has set it.
        world: everything else from outside.
    """
    teller = Teller.of(environment, world.stream)
    try:
        job = _job(environment)
        teller.mask(job.options.github_token, job.options.hf_token)
        if isinstance(job.event, WorkflowRun) and not job.options.adapter:
            teller.choices(choose(environment))
            return publish_run(job, world, teller)
        with _opened(job, world) as repository:
            job, adapters = _judged(environment, job, repository, world, teller)
    except BadInput as error:
        return teller.refuse(error)
    return _finish(job, adapters, world, teller)


def _job(environment: Mapping[str, str]) -> Job:
    """Read runner, event and inputs.

    Raises:
        BadInput: one of them cannot be followed; nothing has been read or judged then.
    """
    runner = read_runner(environment)
    choices = choose(environment)
    preset_of(choices)  # refuses an unknown one now, and one beside a policy
    return Job(runner=runner, event=read_event(runner), options=options(choices))


@contextmanager
def _opened(job: Job, world: World) -> Iterator[Repository | None]:
    """Open the repository for reading; None without a token."""
    if not job.address.token:
        yield None
        return
    with reading(job.address, world.patience) as repository:
        yield repository


def _judged(
    environment: Mapping[str, str],
    job: Job,
    repository: Repository | None,
    world: World,
    teller: Teller,
) -> tuple[Job, Adapters]:
    """Read the policy, let it choose what is still open, and judge by it.

    Raises:
        BadInput: the policy file sets what cannot be followed.
    """
    first = choose(environment)
    path, preset = first["policy"].value, preset_of(first)
    try:
        policy = find_policy(path, preset, job.event, job.runner, repository)
        settings = read_settings(policy.data, policy.origin)
    except GateError as error:
        teller.choices(first)
        return job, stopped(error, "policy")
    choices = choose(environment, settings)
    teller.choices(choices)
    teller.log.say(f"Policy: {policy.origin}")
    job = replace(job, options=options(choices), policy=policy)
    return job, judge_adapters(job, policy, repository, world, teller.log)


def _finish(job: Job, adapters: Adapters, world: World, teller: Teller) -> int:
    """Tell the runner everything, then GitHub; return the exit status."""
    publication = Publication(
        gate_id=job.options.gate_id,
        commit=job.commit,
        judged=adapters.judged,
        note=adapters.note,
        tolerated=job.options.tolerated,
        run_url=job.runner.run_url,
    )
    teller.outputs(verdict_outputs(publication))
    written = write_reports(publication, job, world.now)
    teller.outputs(path_outputs(written.paths, adapters.results))
    teller.announce(publication, policy=job.policy_path)
    teller.files_refused(written.refused)
    published = _publish(job, publication, world)
    teller.outputs({"comment-url": published.comment_url})
    teller.published(published)
    return exit_code_of(publication)


def _publish(job: Job, publication: Publication, world: World) -> Published:
    """Tell GitHub; nothing here raises."""
    wanted = job.options
    unknown: tuple[Told, ...] = ()
    number = None
    try:
        number = _pull_request(job, world)
    except NotPublished as error:
        failed = Told(channel="comment", state="failed", why=error.what, hint=error.hint)
        unknown = (failed,)
    wishes = Wishes(
        comment=wanted.comment,
        pull_request=number,
        check_run=wanted.check_run,
        commit_status=wanted.commit_status,
        external_id=job.runner.external_id,
        sarif=sarif_of(publication, job.policy_path) if wanted.sarif_upload else "",
        # On a pull request: the merge commit, which is what was checked out and judged.
        analysis=Analysis(commit=job.runner.sha, ref=job.runner.ref),
        policy=job.policy_path,
    )
    published = publish(publication, wishes, job.address, patience=world.patience)
    return Published(told=(*unknown, *published.told))


def _pull_request(job: Job, world: World) -> int | None:
    """Return the pull request to comment on; None where there is none.

    Raises:
        NotPublished: GitHub does not say which one.
    """
    event = job.event
    if job.options.comment == "never" or not job.address.token:
        return None
    owner, branch = "", ""
    match event:
        case PullRequest():
            return event.number
        case WorkflowRun():
            owner, branch = (event.head_repository or "").partition("/")[0], event.head_branch
        case Push():
            pass
        case _:
            return None
    with reading(job.address, world.patience) as repository:
        return repository.pull_of(job.commit, owner=owner, branch=branch)
