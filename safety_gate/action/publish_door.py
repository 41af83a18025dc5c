"""The command ``safety-gate publish``: the publishing job outside of the container action."""

import os

import click


@click.command("publish")
@click.argument("run_json", metavar="RUN_JSON")
@click.pass_context
def publish(ctx: click.Context, run_json: str) -> None:
    """Comment what RUN_JSON says, in a job on workflow_run.

    RUN_JSON is the file that the scoring job left (safety-gate-report/run.json), relative to the
    workspace. The same as ``safety-gate action`` with the input json-file and no adapter.
    """
    if os.environ.get("GITHUB_EVENT_NAME") != "workflow_run":
        raise click.UsageError("this runs in a job on workflow_run; docs/github.md has it.")
    from safety_gate.action.door import enter

    ctx.exit(enter({"INPUT_JSON-FILE": run_json, "INPUT_ADAPTER": "", "SAFETY_GATE_ADAPTER": ""}))
