"""The doors: exit status as the runner sees it, tokens gone, our own bugs no verdict."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from safety_gate.action.door import action, enter
from safety_gate.action.inputs import secret_variables
from safety_gate.action.publish_door import publish
from tests.loopback_github import LoopbackGitHub
from tests.loopback_github.runner import (
    REPOSITORY,
    JobFiles,
    Workspace,
    hear,
    pull_request_event,
    read_outputs,
    write_job,
)

ROOT = Path(__file__).parent.parent
START = "from safety_gate.action.door import action; action()"


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackGitHub]:
    with LoopbackGitHub() as server:
        yield server


@pytest.fixture
def job(server: LoopbackGitHub, tmp_path: Path) -> JobFiles:
    server.reset()
    workspace = Workspace(tmp_path / "workspace")
    base = workspace.commit({"README.md": "x"})
    head = workspace.commit({"adapters/a/adapter_config.json": "{}"})
    hosted = server.add_repository(REPOSITORY)
    hosted.add_pull(7, head=head, base=base, files=["adapters/a/adapter_config.json"])
    token = server.add_token(permissions={"pull-requests": "write"})
    return write_job(
        tmp_path / "job",
        workspace.path,
        api_url=server.api_url,
        event_name="pull_request",
        payload=pull_request_event(7, head, base),
        sha=head,
        ref="refs/pull/7/merge",
        inputs={"github-token": token},
    )


def test_process_ends_with_the_verdict(job: JobFiles, server: LoopbackGitHub) -> None:
    """As the runner starts it: environment only, no base named, so that nothing can be judged."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **job.environment}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", START],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stderr == ""
    assert job.outputs()["verdict"] == "undecided"
    heard = hear(done.stdout)
    assert "does not say which model it was trained on" in heard.of("error")[1].data
    assert job.environment["INPUT_GITHUB-TOKEN"] not in heard.text
    assert len(server.world.repositories[REPOSITORY].comments[7]) == 1


def set_environment(monkeypatch: pytest.MonkeyPatch, job: JobFiles) -> None:
    for name in secret_variables():
        monkeypatch.setenv(name, "canary")
    for name, value in job.environment.items():
        monkeypatch.setenv(name, value)


def test_tokens_leave_the_environment(monkeypatch: pytest.MonkeyPatch, job: JobFiles) -> None:
    set_environment(monkeypatch, job)
    assert enter() == 3
    assert not [name for name in secret_variables() if name in os.environ]


def test_our_own_bug_is_no_verdict(
    monkeypatch: pytest.MonkeyPatch, job: JobFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> int:
        raise KeyError("::set-output name=verdict::passed\n##[set-output name=verdict;]passed")

    set_environment(monkeypatch, job)
    monkeypatch.setattr("safety_gate.action.run.act", broken)
    assert enter() == 70
    heard = hear(capsys.readouterr().out)
    assert [command.name for command in heard.commands] == ["error"]
    assert "bug of Safety Gate" in heard.commands[0].data
    assert "Traceback" in heard.text
    assert "verdict" not in read_outputs(job.output.read_text())


def test_work_is_done_in_the_workspace_and_left_again(
    monkeypatch: pytest.MonkeyPatch, job: JobFiles
) -> None:
    seen: list[Path] = []

    def look(*_: object) -> int:
        seen.append(Path.cwd())
        return 0

    set_environment(monkeypatch, job)
    monkeypatch.setattr("safety_gate.action.run.act", look)
    before = Path.cwd()
    assert enter() == 0
    assert seen == [Path(job.environment["GITHUB_WORKSPACE"])]
    assert Path.cwd() == before


@pytest.mark.parametrize("name", ["INPUT_CACHE-DIR", "SAFETY_GATE_CACHE_DIR"])
def test_cache_is_kept_in_the_workspace(
    monkeypatch: pytest.MonkeyPatch, job: JobFiles, name: str
) -> None:
    set_environment(monkeypatch, job)
    monkeypatch.setenv("HF_HOME", "/elsewhere")
    monkeypatch.setenv(name, ".cache/hub")
    monkeypatch.setattr("safety_gate.action.run.act", lambda *_: 0)
    enter()
    assert os.environ["HF_HOME"] == f"{job.environment['GITHUB_WORKSPACE']}/.cache/hub"


@pytest.mark.parametrize(("command", "arguments"), [(action, []), (publish, ["run.json"])])
def test_doors_translate(
    monkeypatch: pytest.MonkeyPatch, command: click.Command, arguments: list[str]
) -> None:
    asked: list[object] = []

    def entered(overrides: object = None) -> int:
        asked.append(overrides)
        return 3

    monkeypatch.setattr("safety_gate.action.door.enter", entered)
    monkeypatch.setenv("GITHUB_EVENT_NAME", "workflow_run")
    assert CliRunner().invoke(command, arguments).exit_code == 3
    if arguments:
        assert asked == [
            {"INPUT_JSON-FILE": "run.json", "INPUT_ADAPTER": "", "SAFETY_GATE_ADAPTER": ""}
        ]


def test_publishing_door_is_for_workflow_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_EVENT_NAME", "pull_request")
    assert CliRunner().invoke(publish, ["run.json"]).exit_code == 2


@pytest.mark.parametrize("command", [action, publish])
def test_help_loads_nothing_heavy(command: click.Command) -> None:
    module = f"safety_gate.action.{'door' if command is action else 'publish_door'}"
    heavy = "torch numpy pydantic jinja2 github requests jsonschema"
    code = f"import sys, {module}; print(*[m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == []
