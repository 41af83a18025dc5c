"""deploy/: what stands there is what the program takes, and what the door tells."""

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import click
import pytest
from ruamel.yaml import YAML

from safety_gate.cli_bot import serve, worker
from safety_gate.jobs.sqlite import open_sqlite
from tests.bot_door import opened

DEPLOY = Path(__file__).parent.parent / "deploy"
COMMANDS = {"serve": serve, "worker": worker}
SECRET_NAMES = ("TOKEN", "SECRET", "PASSWORD")


def tree(name: str) -> Any:
    return YAML(typ="safe", pure=True).load((DEPLOY / name).read_text())


def known_variables() -> set[str]:
    """Return what our commands read from the environment."""
    options = [option for command in COMMANDS.values() for option in command.params]
    named = {str(option.envvar) for option in options if option.envvar}
    sources = (DEPLOY.parent / "safety_gate").rglob("*.py")
    return named | {
        name for file in sources for name in re.findall(r'"(SAFETY_GATE_\w+)"', file.read_text())
    }


def test_compose_starts_what_there_is() -> None:
    services = tree("compose.yml")["services"]
    assert {"database", "door", "worker-1", "worker-2", "prometheus"} <= services.keys()
    ours = [one for name, one in services.items() if name.startswith(("door", "worker"))]
    leases = set()
    for service in ours:
        name, *arguments = service["command"]
        COMMANDS[name].make_context(name, [str(word) for word in arguments], resilient_parsing=True)
        with click.Context(COMMANDS[name]) as ctx:
            parsed, *_ = COMMANDS[name].make_parser(ctx).parse_args([*map(str, arguments)])
        leases.add(parsed["lease"])
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        for variable in service["environment"]:
            if variable.startswith("SAFETY_GATE_"):
                assert variable in known_variables(), variable
    assert len(leases) == 1  # the same for all processes on one database


def test_no_secret_is_written_down_and_each_has_its_own_reader() -> None:
    services = tree("compose.yml")["services"]
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            if any(word in name for word in SECRET_NAMES):
                assert str(value).startswith("${"), name
    door, hand = services["door"]["environment"], services["worker-1"]["environment"]
    assert "SAFETY_GATE_HUB_WRITE_TOKEN" in hand
    assert "SAFETY_GATE_HUB_WRITE_TOKEN" not in door
    assert "SAFETY_GATE_WEBHOOK_SECRET" not in hand
    example = (DEPLOY / "env.example").read_text()
    used = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yml").read_text()))
    assert used == set(re.findall(r"^(\w+)=", example, re.M))
    for name, value in re.findall(r"^(\w+)=(.*)$", example, re.M):
        assert not (value and any(word in name for word in SECRET_NAMES))


def test_only_loopback_is_open() -> None:
    for service in tree("compose.yml")["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_prometheus_asks_for_what_the_door_tells(tmp_path: Path) -> None:
    (job,) = tree("prometheus.yml")["scrape_configs"]
    command = tree("compose.yml")["services"]["door"]["command"]
    port = command[command.index("--port") + 1]
    assert job["static_configs"][0]["targets"] == [f"door:{port}"]
    store = open_sqlite(tmp_path / "jobs.db")
    with opened(store) as door:
        door.post({}, secret="wrong")  # noqa: S106 - so that there is a count of refusals
        told = set(re.findall(r"^(safety_gate_\w+)", door.ask("GET", "/metrics").text, re.M))
    store.close_store()
    rules = tree("alerts.yml")["groups"][0]["rules"]
    asked = {name for rule in rules for name in re.findall(r"safety_gate_\w+", rule["expr"])}
    assert asked
    assert asked <= told
    assert all(rule["annotations"]["summary"] for rule in rules)


def test_the_space_has_its_front_matter() -> None:
    text = (DEPLOY / "space" / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    found = YAML(typ="safe", pure=True).load(front)
    assert (found["sdk"], found["license"]) == ("docker", "apache-2.0")
    assert len(found["short_description"]) <= 60  # the Hub's limit
    assert body.strip().startswith("# ")
    start = (DEPLOY / "space" / "start").read_text()
    dockerfile = (DEPLOY / "space" / "Dockerfile").read_text()
    assert f"--port {found['app_port']}" in start
    assert f"EXPOSE {found['app_port']}" in dockerfile


@pytest.mark.parametrize("first", ["serve", "worker"])
def test_a_space_ends_when_one_of_both_ends(tmp_path: Path, first: str) -> None:
    stub = tmp_path / "gate"
    stub.write_text(
        f'#!/bin/sh\nenv > {tmp_path}/$1.env\necho "$@" > {tmp_path}/$1.words\n'
        f"[ $1 = {first} ] && exit 0\nexec sleep 60\n"
    )
    stub.chmod(0o755)
    script = (DEPLOY / "space" / "start").read_text()
    assert script.count("/opt/safety-gate/bin/safety-gate") == 1
    script = script.replace("/opt/safety-gate/bin/safety-gate", str(stub)).replace(
        "sleep 2", "sleep .1"
    )
    secrets = {
        "SAFETY_GATE_HUB_WRITE_TOKEN": "w",
        "SAFETY_GATE_WEBHOOK_SECRET": "s",
        "SAFETY_GATE_PAGE_TOKEN": "p",
    }
    began = time.monotonic()
    ran = subprocess.run(
        ["sh", "-c", script], env={**os.environ, **secrets}, timeout=30, check=False
    )
    assert ran.returncode == 1  # the Space starts it again
    assert time.monotonic() - began < 25
    door, hand = ((tmp_path / f"{name}.env").read_text() for name in ("serve", "worker"))
    assert "WRITE_TOKEN" not in door
    assert "WEBHOOK_SECRET=s" in door
    assert "SAFETY_GATE_HUB_WRITE_TOKEN=w" in hand
    assert "WEBHOOK_SECRET" not in hand
    for name in ("serve", "worker"):
        words = (tmp_path / f"{name}.words").read_text().split()
        COMMANDS[name].make_context(name, words[1:], resilient_parsing=True)
