"""The command ``safety-gate action``: the runner's environment in, exit status out."""

import contextlib
import datetime
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping

import click

BUG = 70  # exit status: our own bug, which must not look like a verdict


@click.command("action")
@click.pass_context
def action(ctx: click.Context) -> None:
    """Run as a GitHub Action: inputs, event and token come from the runner.

    On workflow_run without the input adapter this publishes the report of another run (the file
    that json-file names) as a comment; docs/github.md has the workflows.
    """
    ctx.exit(enter())


def enter(overrides: Mapping[str, str] | None = None) -> int:
    """Run the action in the runner's workspace; return the exit status.

    Args:
        overrides: variables that stand in for those of the environment.
    """
    from safety_gate.action.inputs import choose, secret_variables
    from safety_gate.action.judging import judge_with_gate
    from safety_gate.action.run import act
    from safety_gate.action.workflow_commands import Log
    from safety_gate.action.world import World

    environment = {**os.environ, **(overrides or {})}
    for name in secret_variables():  # nothing that we start inherits a token
        os.environ.pop(name, None)
    _use_cache(environment, choose(environment)["cache-dir"].value)
    for library in ("github", "urllib3"):  # they log refusals outside of ::stop-commands::
        logging.getLogger(library).setLevel(logging.CRITICAL)
    world = World(
        stream=sys.stdout,
        judge=judge_with_gate,
        now=datetime.datetime.now(tz=datetime.UTC),
    )
    try:
        with _workspace(environment):
            return act(environment, world)
    except Exception:  # the outermost door; a traceback may quote a stranger, so it goes through
        Log(sys.stdout).say(traceback.format_exc())
        Log(sys.stdout).annotate(
            "error", "Safety Gate", "This is a bug of Safety Gate; nothing was decided."
        )
        return BUG


@contextlib.contextmanager
def _workspace(environment: dict[str, str]) -> Iterator[None]:
    """Work in the workspace, so that folders are called as the workflow calls them."""
    workspace = environment.get("GITHUB_WORKSPACE", "")
    if not os.path.isdir(workspace):
        yield  # act() says what is missing
        return
    with contextlib.chdir(workspace):
        yield


def _use_cache(environment: dict[str, str], folder: str) -> None:
    """Let Hugging Face libraries keep their files where actions/cache can find them."""
    if folder:
        os.environ["HF_HOME"] = os.path.join(environment.get("GITHUB_WORKSPACE", ""), folder)
