"""What the runner says about the job, read once from its environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safety_gate.action.inputs import BadInput
from safety_gate.publish.github import API_URL
from safety_gate.publish.publication import COMMIT

SERVER_URL = "https://github.com"
_REPOSITORY = re.compile(r"[A-Za-z0-9_.-]{1,100}/[A-Za-z0-9_.-]{1,100}")
_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9/._-]*)?")
_NUMBER = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """The job, as GitHub's runner describes it."""

    workspace: Path
    repository: str  # "owner/name"
    event_name: str
    event_path: Path
    sha: str  # 40 hex; on pull_request the merge commit
    ref: str
    api_url: str
    server_url: str
    run_id: str
    run_attempt: str
    output: Path | None  # GITHUB_OUTPUT
    summary: Path | None  # GITHUB_STEP_SUMMARY
    action_repository: str = ""  # where this action was taken from
    action_ref: str = ""

    @property
    def run_url(self) -> str:
        """The address of the run, with its job summary."""
        return self.address_of_run(self.run_id)

    def address_of_run(self, run: str | int) -> str:
        """Return the address of any run of this repository."""
        return f"{self.server_url}/{self.repository}/actions/runs/{run}"

    @property
    def external_id(self) -> str:
        """What tells this run from every other."""
        return f"{self.run_id}-{self.run_attempt}"


def read_runner(environment: Mapping[str, str]) -> Runner:
    """Read the runner's variables.

    Raises:
        BadInput: one is missing or odd: this is no job of GitHub Actions.
    """

    def path(name: str) -> Path | None:
        return Path(environment[name]) if environment.get(name) else None

    def checked(name: str, pattern: "re.Pattern[str]", default: str = "") -> str:
        value = environment.get(name) or default
        if not pattern.fullmatch(value):
            raise _missing(name, value)
        return value

    workspace, event_path = path("GITHUB_WORKSPACE"), path("GITHUB_EVENT_PATH")
    if workspace is None or event_path is None:
        raise _missing("GITHUB_WORKSPACE and GITHUB_EVENT_PATH", "")
    return Runner(
        workspace=workspace,
        repository=checked("GITHUB_REPOSITORY", _REPOSITORY),
        event_name=environment.get("GITHUB_EVENT_NAME", ""),
        event_path=event_path,
        sha=checked("GITHUB_SHA", COMMIT),
        ref=environment.get("GITHUB_REF", ""),
        api_url=checked("GITHUB_API_URL", _PLAIN_URL, API_URL),
        server_url=checked("GITHUB_SERVER_URL", _PLAIN_URL, SERVER_URL).rstrip("/"),
        run_id=checked("GITHUB_RUN_ID", _NUMBER, "0"),
        run_attempt=checked("GITHUB_RUN_ATTEMPT", _NUMBER, "1"),
        output=path("GITHUB_OUTPUT"),
        summary=path("GITHUB_STEP_SUMMARY"),
        action_repository=environment.get("GITHUB_ACTION_REPOSITORY", ""),
        action_ref=environment.get("GITHUB_ACTION_REF", ""),
    )


def _missing(name: str, got: str) -> BadInput:
    return BadInput(
        "the runner's environment lacks something, or it is not as expected",
        where=name,
        got=got,
        expected="the environment of a job of GitHub Actions",
        hint="Run safety-gate action as an action; on a desk use safety-gate check.",
    )
