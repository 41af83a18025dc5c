"""The commands as a user types them."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks.bot_client import SECRET, Server, event
from safety_gate.bot.secret import BadSecret
from safety_gate.cli import cli
from safety_gate.cli_bot import serve, worker
from safety_gate.cli_bot_parts import holder


def test_no_secret_no_start(tmp_path: Path) -> None:
    result = CliRunner(env={"SAFETY_GATE_WEBHOOK_SECRET": None}).invoke(
        serve, ["--database", f"{tmp_path}/jobs.db"]
    )
    assert isinstance(result.exception, BadSecret)
    assert result.exception.exit_code == 2  # wrong usage: nothing was begun
    assert list(tmp_path.iterdir()) == []  # nothing was opened


def test_help_names_the_secret() -> None:
    text = " ".join(CliRunner().invoke(serve, ["--help"]).output.split())
    assert "SAFETY_GATE_WEBHOOK_SECRET" in text
    assert "--database" in text
    assert CliRunner().invoke(worker, ["--help"]).exit_code == 0


def test_commands_load_nothing_heavy() -> None:
    code = (
        "import sys; import safety_gate.cli_bot;"
        "print(*[m for m in ('torch', 'fastapi', 'pydantic', 'psycopg', 'huggingface_hub')"
        " if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [(["--publish"], "--account"), (["--publish", "--account", "bot"], "WRITE_TOKEN")],
)
def test_publishing_needs_an_account_and_a_token(
    tmp_path: Path, arguments: list[str], missing: str
) -> None:
    result = CliRunner(env={"SAFETY_GATE_HUB_WRITE_TOKEN": None}).invoke(
        worker, ["--database", f"{tmp_path}/jobs.db", *arguments]
    )
    assert result.exit_code == 2
    assert missing in result.output


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["--executor", "jobs"], "--image"),
        (["--executor", "jobs", "--image", "x"], "SAFETY_GATE_JOBS_TOKEN"),
        (["--parallel", "2"], "--executor jobs"),
        (["--safety", "hf://acme/safety"], "--repair"),
        (["--judge-url", "http://x"], "--judge"),
    ],
)
def test_options_that_mean_nothing_together(
    tmp_path: Path, arguments: list[str], missing: str
) -> None:
    result = CliRunner(env={"SAFETY_GATE_JOBS_TOKEN": None}).invoke(
        worker, ["--database", f"{tmp_path}/jobs.db", *arguments]
    )
    assert result.exit_code == 2
    assert missing in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_worker_with_nothing_to_do_ends(tmp_path: Path) -> None:
    result = CliRunner().invoke(worker, ["--database", f"{tmp_path}/jobs.db", "--once"])
    assert result.exit_code == 0, result.exception


@pytest.mark.parametrize("name", ["serve", "worker", "audit", "hub-job", "webhook"])
def test_the_command_line_knows_them(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert CliRunner().invoke(command, ["--help"]).exit_code == 0


def test_every_worker_has_a_name_of_its_own() -> None:
    assert len({holder() for _ in range(100)}) == 100


def test_a_server_from_start_to_end(tmp_path: Path) -> None:
    database = tmp_path / "jobs.db"
    server = Server(f"sqlite:///{database}")
    server.start()
    address = f"http://127.0.0.1:{server.port}/webhook"
    request = urllib.request.Request(  # noqa: S310
        address, event("acme/lora", "1" * 40), {"X-Webhook-Secret": SECRET}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        assert answer.status == 202
    page = f"http://127.0.0.1:{server.port}/"
    with urllib.request.urlopen(page, timeout=10) as answer:  # noqa: S310
        assert b"acme/lora" in answer.read()  # on loopback the page is there
    request.add_header("X-Webhook-Secret", "wrong")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)  # noqa: S310
    with refused.value as error:
        assert error.code == 401
    server.kill()
    connection = sqlite3.connect(database)
    rows = connection.execute("select repo, sha, state from sg_job").fetchall()
    connection.close()
    assert rows == [("acme/lora", "1" * 40, "queued")]


def test_sigterm_ends_a_worker_politely(tmp_path: Path) -> None:
    code = (
        "import sys, threading, time\n"
        "from safety_gate.cli_bot_parts import stopped_by_signals\n"
        "stop = stopped_by_signals(); print('ready', flush=True)\n"
        "print('stopped' if stop.wait(20) else 'late', flush=True)\n"
        "time.sleep(20)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "stopped\n"
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)  # the second one does not wait for the job in hand
    _, errors = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors
