"""The command ``calibrate``: parse, call, print."""

import datetime
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from safety_gate.cli_parts import FILE, FOLDER, PLACE, ask_from, asking, write_whole

if TYPE_CHECKING:
    from safety_gate.calibration.calibrate import Calibration

ENDS = (
    "Exit status: 0 the table was made, 2 wrong usage, 3 nothing can be said, 70 a bug of"
    " Safety Gate."
)


@click.command(epilog=ENDS)
@click.argument("folder", type=FOLDER)
@click.option("--base", type=PLACE, required=True, help="Checkpoint before alignment.")
@click.option("--aligned", type=PLACE, required=True, help="Checkpoint of the adapters.")
@click.option(
    "--labels",
    type=FILE,
    help="CSV or JSONL: adapter,label with safe or unsafe.  [default: labels.csv in FOLDER]",
)
@asking
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "markdown", "json"]),
    default="text",
    show_default=True,
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="File of it.")
@click.option(
    "--write-policy",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the proposed policy to this file.",
)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep bytes of checkpoints on the Hub in this folder.  [default: nothing on disk]",
)
@click.option("--threads", type=click.IntRange(1, 256), help="[default: all cores]")
def calibrate(folder: Path, **given: Any) -> None:
    """Measure how well the gate's figures tell the labelled adapters in FOLDER apart.

    Prints the table of docs/validation.md for your own base, and proposes thresholds as a policy.
    """
    from safety_gate import gate
    from safety_gate.calibration.calibrate import calibrate as run

    request = gate.Request(
        adapter=folder,
        base=given["base"],
        aligned=given["aligned"],
        cache=given["cache"],
        workers=given["threads"] or len(os.sched_getaffinity(0)),
        today=datetime.datetime.now(tz=datetime.UTC).date(),
        ask=ask_from(given),
    )
    found = run(folder, given["labels"], request, _hear)
    tell(found, given["style"], given["output"])
    if given["write_policy"] is not None:
        _write_policy(found, given["write_policy"])


def tell(found: "Calibration", style: str, output: Path | None) -> None:
    """Print the calibration, or write it to a file that appears whole."""
    from safety_gate.calibration import showing

    match style:
        case "json":
            text = showing.as_json(found)
        case "markdown":
            text = showing.markdown(found)
        case _:
            text = showing.text(found)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_whole(output, text)
        click.echo(f"the calibration is in {output}", err=True)


def _write_policy(found: "Calibration", path: Path) -> None:
    if found.policy is None:
        click.echo(f"no threshold is good enough for a policy: {path} was not written", err=True)
    else:
        write_whole(path, found.policy)
        click.echo(f"the proposed policy is in {path}", err=True)


def _hear(name: str) -> None:
    """Say on a terminal that an adapter was judged."""
    from safety_gate.report.inert import shown

    if sys.stderr.isatty():
        click.echo(f"judged {shown(name)}", err=True)
