"""GitHub's runner on a machine of our own: what it lays out, and how it starts a container action.

After actions/runner (ContainerActionHandler.cs, DockerCommandManager.cs): folders of the host are
mounted at fixed places, variables that name them are rewritten, and every input is a variable.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from tests.image.building import ROOT
from tests.image.engine import Engine
from tests.loopback_github.runner import Heard, JobFiles, hear

OWNER = 1001  # uid and gid of the runner's user; the container is root
TOKEN = "${{ github.token }}"  # noqa: S105  the expression, not a token


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What the runner made of one step."""

    status: int
    outputs: Mapping[str, str]
    summary: str
    heard: Heard
    log: str


@dataclass(frozen=True, slots=True)
class Host:
    """The runner's folders; ``work/adapters/adapters`` is the checkout."""

    work: Path

    @property
    def temp(self) -> Path:
        return self.work / "_temp"

    @property
    def workspace(self) -> Path:
        return self.work / "adapters" / "adapters"

    @property
    def mounts(self) -> dict[Path, str]:
        """Return where the container sees which folder; the narrow ones before the wide one."""
        return {
            self.temp / "_github_home": "/github/home",
            self.temp / "_github_workflow": "/github/workflow",
            self.temp / "_runner_file_commands": "/github/file_commands",
            self.workspace: "/github/workspace",
            self.temp: "/github/runner_temp",
        }

    def give(self, owner: int) -> None:
        """Make the folders, and give everything in them to this user and group."""
        for folder in self.mounts:
            folder.mkdir(parents=True, exist_ok=True)
        for path in (self.work, *self.work.rglob("*")):
            os.chown(path, owner, owner, follow_symlinks=False)

    def seen(self, value: str) -> str:
        """Return a variable's value as the container gets it."""
        for folder, place in self.mounts.items():
            if value == str(folder) or value.startswith(f"{folder}/"):
                return place + value.removeprefix(str(folder))
        return value

    def step(self, engine: Engine, image: str, job: JobFiles, token: str) -> Step:
        """Run ``uses: ./`` as the runner does, with event, inputs and token of this job."""
        action = YAML(typ="safe").load(ROOT / "action.yml")
        environment = {**_defaults(action["inputs"], token), **job.environment}
        environment |= {"HOME": "/github/home", "RUNNER_TEMP": str(self.temp), "CI": "true"}
        environment |= {"RUNNER_OS": "Linux", "RUNNER_TOOL_CACHE": "/opt/hostedtoolcache"}
        # The event lies with the workflow, the files for commands in a folder of their own.
        event = self.temp / "_github_workflow/event.json"
        event.parent.mkdir(exist_ok=True)
        shutil.move(environment["GITHUB_EVENT_PATH"], event)
        environment["GITHUB_EVENT_PATH"] = str(event)
        self.give(OWNER)
        environment = {name: self.seen(value) for name, value in environment.items()}
        done = engine.run(
            [*self._options(environment), image, *action["runs"]["args"]], environment
        )
        return Step(
            status=done.returncode,
            outputs=job.outputs(),
            summary=job.summary.read_text(),
            heard=hear(done.stdout),
            log=done.stdout + done.stderr,
        )

    def _options(self, environment: Mapping[str, str]) -> list[str]:
        options = ["--label=runner", "--workdir=/github/workspace"]
        for name in environment:
            options += ["-e", name]
        for folder, place in self.mounts.items():
            options += ["-v", f"{folder}:{place}"]
        return options


def _defaults(inputs: Mapping[str, Mapping[str, str]], token: str) -> dict[str, str]:
    """Return a variable for every input of action.yml; one without a default is empty."""
    found = {name: str(one.get("default", "")) for name, one in inputs.items()}
    return {f"INPUT_{k.upper()}": token if v == TOKEN else v for k, v in found.items()}
