"""What happened: the event of the workflow, from the runner's JSON file.

Branch names, titles and logins in it are strangers' texts; only numbers and commits are kept,
and names of repositories and branches where a question to the API needs them.
"""

from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, TypeVar, assert_never

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from safety_gate import strict_json
from safety_gate.action.inputs import BadInput
from safety_gate.action.runner import Runner

MAX_EVENT_BYTES = 25 * 1024 * 1024  # GitHub's own limit for a webhook's payload
MAX_EVENT_DEPTH = 64
NO_COMMIT = "0" * 40  # "before" of a new branch, "after" of a deleted one
MANUAL = ("workflow_dispatch", "schedule", "repository_dispatch")

Sha = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Text = Annotated[str, StringConstraints(max_length=1024)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRequest:
    """A pull request was opened or got commits; the workspace has its merge commit."""

    number: int
    head: str
    base: str
    from_fork: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """Commits came to a branch or tag."""

    before: str | None  # None: the branch is new
    after: str | None  # None: the branch was deleted


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeGroup:
    """A merge queue wants to know whether this group may be merged."""

    head: str
    base: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manual:
    """Somebody, or the clock, started the workflow on a branch."""

    name: str
    commit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowRun:
    """Another workflow has ended; this one runs on the default branch, with its secrets."""

    head: str  # of the branch that the other run was for
    head_repository: str | None  # "owner/name"; None: the fork was deleted
    head_branch: str  # a stranger's text
    event: str  # of the other run
    conclusion: str
    run_id: int
    commit: str  # of the default branch: what this job runs on


Event: TypeAlias = PullRequest | Push | MergeGroup | Manual | WorkflowRun


def commit_of(event: Event, runner: Runner) -> str:
    """Return the commit that a verdict belongs to; on a pull request its head."""
    match event:
        case PullRequest() | MergeGroup() | WorkflowRun():
            return event.head
        case Push():
            return event.after or runner.sha
        case Manual():
            return event.commit
        case _:
            assert_never(event)


def heads_of(event: Event, runner: Runner) -> frozenset[str]:
    """Return the commits of which one must be checked out for this event."""
    match event:
        case PullRequest():
            return frozenset({event.head, runner.sha})  # the merge commit, which is the default
        case WorkflowRun():
            return frozenset({event.head, event.commit})
        case _:
            return frozenset({commit_of(event, runner)})


class _Wire(BaseModel):
    """Part of a payload; GitHub adds keys as it likes, so unknown ones are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _Repo(_Wire):
    full_name: Text


class _Side(_Wire):
    sha: Sha
    repo: _Repo | None


class _Pull(_Wire):
    number: Annotated[int, Field(ge=1)]
    head: _Side
    base: _Side


class _PullEvent(_Wire):
    pull_request: _Pull


class _PushEvent(_Wire):
    before: Sha
    after: Sha


class _Group(_Wire):
    head_sha: Sha
    base_sha: Sha


class _GroupEvent(_Wire):
    merge_group: _Group


class _Run(_Wire):
    id: Annotated[int, Field(ge=1)]
    head_sha: Sha
    head_branch: Text | None
    head_repository: _Repo | None
    event: Text
    conclusion: Text | None


class _RunEvent(_Wire):
    workflow_run: _Run


WireT = TypeVar("WireT", bound=_Wire)


def read_event(runner: Runner) -> Event:
    """Read the event.

    Raises:
        BadInput: it is one that the action cannot serve, or its file is not understood.
    """
    name = runner.event_name
    if name == "pull_request":
        return _pull_request(_payload(runner, _PullEvent).pull_request, runner)
    if name == "push":
        return _push(_payload(runner, _PushEvent))
    if name == "merge_group":
        group = _payload(runner, _GroupEvent).merge_group
        return MergeGroup(head=group.head_sha, base=group.base_sha)
    if name == "workflow_run":
        return _workflow_run(_payload(runner, _RunEvent).workflow_run, runner)
    if name in MANUAL:
        return Manual(name=name, commit=runner.sha)
    raise _not_served(name)


def _not_served(name: str) -> BadInput:
    if name in ("pull_request_target", "issue_comment"):
        return BadInput(
            "this event is refused: it gives a stranger's pull request the secrets of the"
            " repository and a token that can write",
            where="event",
            got=name,
            expected="pull_request for the verdict, workflow_run for the comment",
            hint="Copy examples/workflows/score.yml and publish.yml; docs/github.md says why.",
        )
    return BadInput(
        "this event is not served",
        where="event",
        got=name,
        expected=", ".join(("pull_request", "push", "merge_group", *MANUAL, "workflow_run")),
        hint="Run the workflow on one of these events.",
    )


def _pull_request(pull: _Pull, runner: Runner) -> PullRequest:
    head = pull.head.repo.full_name if pull.head.repo else None
    return PullRequest(
        number=pull.number,
        head=pull.head.sha,
        base=pull.base.sha,
        from_fork=head != runner.repository,
    )


def _push(push: _PushEvent) -> Push:
    return Push(
        before=None if push.before == NO_COMMIT else push.before,
        after=None if push.after == NO_COMMIT else push.after,
    )


def _workflow_run(run: _Run, runner: Runner) -> WorkflowRun:
    return WorkflowRun(
        head=run.head_sha,
        head_repository=run.head_repository.full_name if run.head_repository else None,
        head_branch=run.head_branch or "",
        event=run.event,
        conclusion=run.conclusion or "",
        run_id=run.id,
        commit=runner.sha,
    )


def _payload(runner: Runner, kind: type[WireT]) -> WireT:
    """Return the part of the event's file that is needed."""
    where = "GITHUB_EVENT_PATH"
    try:
        with runner.event_path.open("rb") as file:
            data = file.read(MAX_EVENT_BYTES + 1)
    except OSError as error:
        got = error.strerror or type(error).__name__
        raise _odd(where, got) from error
    tree: Any = strict_json.parse(
        data, where=where, error=BadInput, max_bytes=MAX_EVENT_BYTES, max_depth=MAX_EVENT_DEPTH
    )
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise _odd(where, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _odd(where: str, got: str) -> BadInput:
    return BadInput(
        "the event is not as GitHub describes it",
        where=where,
        got=got,
        expected="the payload of the event",
        hint="Run the job again; if this repeats, report it as a bug of Safety Gate.",
    )
