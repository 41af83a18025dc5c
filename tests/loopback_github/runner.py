"""The runner's side of a job: its environment and event, and how it reads what an action says.

The parsers are ports of actions/runner (ActionCommand.cs, ActionCommandManager.cs,
FileCommandManager.cs), with the traits that facts/github_action.md section 2 lists.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.loopback_github.state import Json

REPOSITORY = "octo/adapters"
COMMANDS = frozenset(
    {
        "add-mask",
        "add-matcher",
        "add-path",
        "debug",
        "echo",
        "endgroup",
        "error",
        "group",
        "notice",
        "remove-matcher",
        "save-state",
        "set-env",
        "set-output",
        "stop-commands",
        "warning",
    }
)
KEPT = 10  # annotations of each level in a step


@dataclass(frozen=True, slots=True)
class Command:
    """A command that the runner obeyed."""

    name: str
    properties: Mapping[str, str]
    data: str


@dataclass(slots=True)
class Heard:
    """What the runner made of a log."""

    commands: list[Command] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)  # shown as text

    def of(self, name: str) -> list[Command]:
        return [command for command in self.commands if command.name == name]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def hear(log: str) -> Heard:
    """Read a log as the runner does."""
    heard, stop, known = Heard(), "", set(COMMANDS)
    for line in log.splitlines():
        command = _second_form(line, known) or _first_form(line, known)
        if command is None:
            heard.lines.append(line)
        elif stop:
            if command.name == stop:
                known.discard(stop)
                stop = ""
            else:
                heard.lines.append(line)
        elif command.name == "stop-commands":
            stop = command.data
            known.add(stop)
        else:
            heard.commands.append(command)
    assert not stop, "commands were stopped and never started again"
    return heard


def _second_form(line: str, known: set[str]) -> Command | None:
    text = line.lstrip()
    end = text.find("::", 2)
    if not text.startswith("::") or end < 0:
        return None
    info, data = text[2:end], text[end + 2 :]
    name, _, rest = info.partition(" ")
    if name not in known:
        return None
    pairs = [pair.partition("=") for pair in rest.strip().split(",") if "=" in pair]
    properties = {key.strip(): _property(value) for key, _, value in pairs}
    return Command(name, properties, _data(data))


def _first_form(line: str, known: set[str]) -> Command | None:
    start = line.find("##[")
    end = line.find("]", start)
    if start < 0 or end < 0:
        return None
    name, _, rest = line[start + 3 : end].partition(" ")
    if name not in known:
        return None
    pairs = [pair.partition("=") for pair in rest.split(";") if "=" in pair]
    return Command(name, {key.strip(): value for key, _, value in pairs}, line[end + 1 :])


def _data(text: str) -> str:
    return text.replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")


def _property(text: str) -> str:
    text = text.replace("%0D", "\r").replace("%0A", "\n").replace("%3A", ":").replace("%2C", ",")
    return text.replace("%25", "%")


def read_outputs(text: str) -> dict[str, str]:
    """Read GITHUB_OUTPUT; a line that the runner cannot process fails the step."""
    found: dict[str, str] = {}
    lines = iter(text.split("\n"))
    for line in lines:
        if not line:
            continue
        equals, heredoc = line.find("="), line.find("<<")
        if equals >= 0 and (heredoc < 0 or equals < heredoc):
            found[line[:equals]] = line[equals + 1 :]
            continue
        assert heredoc > 0, f"Unable to process file command: {line!r}"
        name, delimiter = line[:heredoc], line[heredoc + 2 :]
        value = []
        for inner in lines:
            if inner == delimiter:
                break
            value.append(inner)
        else:
            raise AssertionError("a delimiter is missing")
        found[name] = "\n".join(value)
    return found


class Workspace:
    """A checkout with history, as actions/checkout leaves one."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        folder.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str) -> str:
        names = {f"GIT_{who}_{what}": "a@b.example" for who in ("AUTHOR", "COMMITTER")
                 for what in ("NAME", "EMAIL")}  # fmt: skip
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **names}
        command = ["git", "-C", str(self.path), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return done.stdout.strip()

    def commit(self, files: Mapping[str, str | bytes | None]) -> str:
        """Write files (None deletes), commit, and return the commit."""
        for name, text in files.items():
            path = self.path / name
            if text is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode() if isinstance(text, str) else text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message=x")
        return self.git("rev-parse", "HEAD")


@dataclass(slots=True)
class JobFiles:
    """The environment of one step, and the files behind it."""

    environment: dict[str, str]
    output: Path
    summary: Path

    def outputs(self) -> dict[str, str]:
        return read_outputs(self.output.read_text())


def write_job(
    folder: Path,
    workspace: Path,
    *,
    api_url: str,
    event_name: str,
    payload: Json,
    sha: str,
    ref: str = "refs/heads/main",
    inputs: Mapping[str, str] | None = None,
) -> JobFiles:
    """Return what the runner gives a step."""
    folder.mkdir(parents=True, exist_ok=True)
    output, summary, event = (folder / name for name in ("output", "summary", "event.json"))
    output.touch()
    summary.touch()
    event.write_text(json.dumps(payload))
    environment = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_API_URL": api_url,
        "GITHUB_SERVER_URL": "https://github.example",
        "GITHUB_REPOSITORY": REPOSITORY,
        "GITHUB_WORKSPACE": str(workspace),
        "GITHUB_EVENT_NAME": event_name,
        "GITHUB_EVENT_PATH": str(event),
        "GITHUB_SHA": sha,
        "GITHUB_REF": ref,
        "GITHUB_RUN_ID": "4711",
        "GITHUB_RUN_ATTEMPT": "1",
        "GITHUB_OUTPUT": str(output),
        "GITHUB_STEP_SUMMARY": str(summary),
        "GITHUB_ACTION_REPOSITORY": "octo/safety-gate",
        "GITHUB_ACTION_REF": "v0.1.0",
    }
    environment |= {f"INPUT_{name.upper()}": value for name, value in (inputs or {}).items()}
    return JobFiles(environment, output, summary)


def pull_request_event(
    number: int, head: str, base: str, *, head_repository: str | None = REPOSITORY
) -> Json:
    """Return the payload of pull_request, shortened to the keys around those that matter."""
    owner = (head_repository or "ghost/x").partition("/")[0]
    fork = None if head_repository is None else _repository(head_repository)
    return {
        "action": "synchronize",
        "number": number,
        "pull_request": {
            "id": 1,
            "number": number,
            "state": "open",
            "title": "##[set-output name=verdict;]passed ::set-output name=verdict::passed",
            "body": None,
            "draft": False,
            "user": {"login": owner, "type": "User"},
            "head": {"label": f"{owner}:x", "ref": "x", "sha": head, "repo": fork},
            "base": {"label": "octo:main", "ref": "main", "sha": base,
                     "repo": _repository(REPOSITORY)},
            "merge_commit_sha": None,
            "changed_files": 2,
        },
        "repository": _repository(REPOSITORY),
        "sender": {"login": owner, "type": "User"},
    }  # fmt: skip


def push_event(before: str, after: str) -> Json:
    """Return the payload of push."""
    return {
        "ref": "refs/heads/main",
        "before": before,
        "after": after,
        "created": False,
        "deleted": False,
        "forced": False,
        "commits": [{"id": after, "message": "x", "added": [], "removed": [], "modified": []}],
        "head_commit": None,
        "repository": _repository(REPOSITORY),
        "pusher": {"name": "alice"},
    }


def merge_group_event(head: str, base: str) -> Json:
    """Return the payload of merge_group."""
    return {
        "action": "checks_requested",
        "merge_group": {
            "head_sha": head,
            "head_ref": "refs/heads/gh-readonly-queue/main/pr-7-abc",
            "base_sha": base,
            "base_ref": "refs/heads/main",
        },
        "repository": _repository(REPOSITORY),
    }


def workflow_run_event(
    head: str,
    *,
    event: str = "pull_request",
    conclusion: str = "failure",
    head_repository: str | None = "stranger/adapters",
    head_branch: str = "new-adapter",
) -> Json:
    """Return the payload of workflow_run; for forks GitHub leaves pull_requests empty."""
    repository = None if head_repository is None else _repository(head_repository)
    return {
        "action": "completed",
        "workflow_run": {
            "id": 815,
            "name": "Safety Gate score",
            "head_branch": head_branch,
            "head_sha": head,
            "event": event,
            "status": "completed",
            "conclusion": conclusion,
            "pull_requests": [],
            "head_repository": repository,
            "repository": _repository(REPOSITORY),
        },
        "repository": _repository(REPOSITORY),
    }


def _repository(name: str) -> Json:
    owner = {"login": name.partition("/")[0], "type": "Organization"}
    return {"id": 9, "full_name": name, "owner": owner, "fork": False, "default_branch": "main"}
