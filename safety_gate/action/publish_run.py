"""The publishing job: a report that another run has made, shown on its pull request.

The other run was a stranger's: on ``pull_request`` even the workflow file comes from the pull
request. So the file is validated and rendered anew, nothing in it chooses where it goes, and it
only ever becomes a comment. It never becomes a check or a status, which a branch could require.
"""

from safety_gate.action.event import WorkflowRun
from safety_gate.action.files import read_file
from safety_gate.action.job import Job
from safety_gate.action.repository import Repository, reading
from safety_gate.action.run_record import MAX_BYTES, read_run
from safety_gate.action.tell import Teller
from safety_gate.action.world import World
from safety_gate.errors import GateError, SourceError
from safety_gate.publish.publication import Judged, Publication
from safety_gate.publish.publisher import Wishes, publish

NOTE = "Shown as the pull request's own run reported it; nothing was judged again."
SCORED_BY = "pull_request"  # the event that the other run must have had
WORKFLOWS = ".github/"  # who changes files here chooses what the other run reports


def publish_run(job: Job, world: World, teller: Teller) -> int:
    """Publish the report in ``json-file``; return 0, or 3 where it is refused."""
    event, wanted = job.event, job.options
    if not isinstance(event, WorkflowRun):
        raise AssertionError("a run is published on workflow_run only")
    if event.event != SCORED_BY:
        teller.note("The other run was not for a pull request, so there is nothing to publish.")
        return 0
    if wanted.check_run or wanted.commit_status:
        teller.note(
            "Neither check run nor commit status is set from a report that another run has made."
        )
    try:
        judged = _report(job, event)
        with reading(job.address, world.patience) as repository:
            number = _pull_request(event, repository)
            caveats = () if number is None else _caveats(number, judged, event, repository)
    except GateError as error:
        return teller.refuse(error)
    if number is None:
        teller.note("The pull request is closed or has newer commits, so nothing is published.")
        return 0
    publication = Publication(
        gate_id=wanted.gate_id,
        commit=event.head,
        judged=judged,
        note=NOTE,
        tolerated=wanted.tolerated,
        run_url=job.runner.address_of_run(event.run_id),
        caveats=caveats,
    )
    wishes = Wishes(comment=wanted.comment, pull_request=number)
    published = publish(publication, wishes, job.address, patience=world.patience)
    teller.outputs({"verdict": publication.word, "comment-url": published.comment_url})
    teller.published(published)
    return 0


def _report(job: Job, event: WorkflowRun) -> tuple[Judged, ...]:
    """Return what the other run reports of its commit.

    Raises:
        GateError: there is no such file, it is not understood, or it is for another commit.
    """
    data = read_file(job.runner.workspace, job.options.json_file, most=MAX_BYTES)
    record, judged = read_run(data, where="json-file")
    if record.commit != event.head:
        raise SourceError(
            "the report is for another commit than the run that made it",
            where="json-file",
            got=record.commit,
            expected=event.head,
            hint="Download the artifact of the run that started this one (run-id).",
        )
    return judged


def _pull_request(event: WorkflowRun, repository: Repository) -> int | None:
    """Return the pull request whose head was judged; the artifact is not asked."""
    owner = (event.head_repository or "").partition("/")[0]
    return repository.pull_of(event.head, owner=owner, branch=event.head_branch)


def _caveats(
    number: int, judged: tuple[Judged, ...], event: WorkflowRun, repository: Repository
) -> tuple[str, ...]:
    """Return what a reader must know before the verdict."""
    found = []
    changes = repository.pull_files(number)
    if changes is None or any(path.startswith(WORKFLOWS) for path in changes.paths):
        found.append(
            "This pull request changes the workflows that made this report, or may do so."
            " Do not rely on the verdict: read the changes first."
        )
    passed = all(one.report.verdict.word == "passed" for one in judged)
    if passed and event.conclusion != "success":
        found.append(
            "The run that made this report did not succeed, which does not fit a verdict that"
            " passed. Read its log."
        )
    if not passed and event.conclusion == "success":
        found.append(
            "The run that made this report succeeded in spite of the verdict, since its workflow"
            " tolerates it, or hides it."
        )
    return tuple(found)
