"""A repository with a pull request, checked out, beside a gate that answers as told."""

import datetime
import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from safety_gate.action.run import act
from safety_gate.action.task import Result, Task
from safety_gate.action.world import World
from safety_gate.publish.github import Patience
from safety_gate.records import Report
from tests.loopback_github.publications import QUICK, REPORTS
from tests.loopback_github.runner import (
    REPOSITORY,
    Heard,
    JobFiles,
    Workspace,
    hear,
    pull_request_event,
    write_job,
)
from tests.loopback_github.server import LoopbackGitHub
from tests.loopback_github.state import Json, Repository

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SAME_REPOSITORY = {"contents": "read", "pull-requests": "write", "checks": "write",
                   "statuses": "write", "security-events": "write"}  # fmt: skip
NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
NUMBER = 7


@dataclass
class Desk:
    """A repository with a pull request, checked out, and a gate that answers as told."""

    github: LoopbackGitHub
    hosted: Repository
    workspace: Workspace
    folder: Path
    base: str
    head: str
    merge: str
    permissions: Mapping[str, str] = field(default_factory=lambda: dict(SAME_REPOSITORY))
    verdicts: dict[str, str | Report | Exception] = field(default_factory=dict)
    tasks: list[Task] = field(default_factory=list)
    jobs: int = 0
    patience: Patience = replace(QUICK, tries=2)

    def judge(self, task: Task) -> Result:
        self.tasks.append(task)
        answer = self.verdicts.get(task.adapter, "passed")
        if isinstance(answer, Exception):
            raise answer
        return Result(report=REPORTS[answer]() if isinstance(answer, str) else answer)

    def job(
        self,
        event_name: str = "pull_request",
        payload: Json | None = None,
        *,
        sha: str = "",
        ref: str = "",
        **inputs: str,
    ) -> JobFiles:
        self.jobs += 1
        if payload is None:
            payload = pull_request_event(NUMBER, self.head, self.base)
        token = self.github.add_token(permissions=self.permissions)
        given = {"github-token": token, "base": "models/base", "aligned": "models/aligned"}
        given |= {name.replace("_", "-"): value for name, value in inputs.items()}
        return write_job(
            self.folder / f"job{self.jobs}",
            self.workspace.path,
            api_url=self.github.api_url,
            event_name=event_name,
            payload=payload,
            sha=sha or self.merge,
            ref=ref or f"refs/pull/{NUMBER}/merge",
            inputs=given,
        )

    def run(self, job: JobFiles) -> tuple[int, Heard]:
        stream = io.StringIO()
        world = World(stream=stream, judge=self.judge, now=NOW, patience=self.patience)
        status = act(job.environment, world)
        return status, hear(stream.getvalue())

    def output(self, name: str, job: JobFiles) -> str:
        return job.outputs()[name]


def make_desk(server: LoopbackGitHub, folder: Path) -> Desk:
    """Return a desk on a server that forgets what was there."""
    server.reset()
    workspace = Workspace(folder / "workspace")
    base = workspace.commit({"README.md": "x", f"adapters/old/{CONFIG}": "{}"})
    head = workspace.commit({f"adapters/a/{CONFIG}": "{}", f"adapters/a/{WEIGHTS}": "1"})
    merge = workspace.commit({"merged.txt": "x"})
    hosted = server.add_repository(REPOSITORY)
    hosted.commits.add(merge)
    hosted.add_pull(
        NUMBER, head=head, base=base, files=[f"adapters/a/{CONFIG}", f"adapters/a/{WEIGHTS}"]
    )
    return Desk(server, hosted, workspace, folder, base, head, merge)
