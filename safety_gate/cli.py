"""The command line: parse, call, print, exit status."""

import datetime
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import click

from safety_gate import __version__
from safety_gate.cli_parts import (
    FILE,
    PLACE,
    PRESETS,
    REPORT_FILE,
    STATUS,
    ask_from,
    asking,
    listed_places,
    progress_bar,
)
from safety_gate.cli_reports import STYLES, tell
from safety_gate.errors import GateError

if TYPE_CHECKING:
    from safety_gate.gate import Request
    from safety_gate.records import Report

USAGE, UNDECIDED, BUG, INTERRUPTED = 2, 3, 70, 130
EXTRAS = {  # what an extra of ours installs: its name in pyproject.toml
    "fastapi": "bot",
    "uvicorn": "bot",
    "procrastinate": "bot",
    "psycopg": "bot",
    "prometheus_client": "bot",
}


class Door(click.Group):
    """Commands that are imported when they are used, so that --help stays quick."""

    later: ClassVar[dict[str, tuple[str, str]]] = {  # name: (module, first line of its help)
        "action": ("safety_gate.action.door", "Run as a GitHub Action."),
        "audit": ("safety_gate.cli_audit", "Judge all adapters of an owner, or of a list."),
        "calibrate": ("safety_gate.cli_calibrate", "Find thresholds from labelled adapters."),
        "hub-job": ("safety_gate.cli_hub_job", "Judge one event inside a Job of the Hub."),
        "inspect": ("safety_gate.cli_inspect", "Run tasks of inspect_ai before and after."),
        "publish": ("safety_gate.action.publish_door", "Publish the results of an earlier job."),
        "repair": ("safety_gate.cli_repair", "Write a repaired copy of an adapter and judge it."),
        "serve": ("safety_gate.cli_bot", "Take webhooks of the Hub, show what came of them."),
        "webhook": ("safety_gate.cli_webhook", "Set up the webhook on the Hub."),
        "worker": ("safety_gate.cli_bot", "Judge the queued jobs."),
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*super().list_commands(ctx), *self.later})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; this is where it is imported."""
        if cmd_name not in self.later:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(self.later[cmd_name][0])
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        rows = []
        for name in self.list_commands(ctx):
            own = self.commands.get(name)
            rows.append((name, own.get_short_help_str(60) if own else self.later[name][1]))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def main() -> NoReturn:
    """Run the command line; the one place where errors become words and a status."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = USAGE
    except SystemExit:  # click ends like this, with 1, where the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = UNDECIDED
    except click.Abort:
        click.echo("Interrupted: nothing was decided.", err=True)
        code = INTERRUPTED
    except GateError as error:
        click.echo(f"Could not judge: {printable(str(error))}\nNext: {error.hint}", err=True)
        code = error.exit_code
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader of our output went away
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        click.echo(f"Could not judge: {printable(str(error))}", err=True)
        code = UNDECIDED
    except Exception as error:  # the outermost door: our own bug must not look like a verdict
        code = _unforeseen(error)
    sys.exit(code or 0)


def _unforeseen(error: Exception) -> int:
    """Say what is missing, or that this is our own bug."""
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        hint = f"pip install 'safety-gate[{EXTRAS[error.name]}]'"
        click.echo(f"This command needs {error.name}, which is missing.\nNext: {hint}", err=True)
        return USAGE
    traceback.print_exc()
    click.echo("This is a bug of Safety Gate; nothing was decided.", err=True)
    return BUG


def printable(text: str) -> str:
    """Return text that cannot steer a terminal: control characters become U+FFFD."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


@click.group(cls=Door, epilog=STATUS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="safety-gate")
def cli() -> None:
    """Decide whether a fine-tuned adapter may be released."""


@cli.command(epilog=STATUS)
@click.argument("adapters", metavar="[ADAPTER]...", type=PLACE, nargs=-1)
@click.option("--list", "listed", type=FILE, help="File that names more adapters, one on a line.")
@click.option(
    "--compose", is_flag=True, help="Judge the sum of the adapters, as if all were active at once."
)
@click.option(
    "--base", type=PLACE, help="Checkpoint before alignment.  [default: of the known pair]"
)
@click.option(
    "--aligned",
    type=PLACE,
    help="Checkpoint that the adapter was trained on.  [default: of the known pair]",
)
@click.option("--policy", type=FILE, help="Policy file (safety-gate.yml) that decides.")
@click.option(
    "--preset",
    type=click.Choice(PRESETS),
    help="Policy that comes with Safety Gate.  [default: default]",
)
@click.option(
    "--format",
    "style",
    type=click.Choice(STYLES),
    default="text",
    show_default=True,
    help="Form of the report.",
)
@click.option(
    "--output",
    type=REPORT_FILE,
    help="Write the report to this file.  [default: standard output]",
)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep bytes of checkpoints on the Hub in this folder.  [default: nothing on disk]",
)
@click.option("--hash-checkpoints", is_flag=True, help="Give the sha256 of whole checkpoint files.")
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    help="Modules measured at the same time; the report is the same.  [default: all cores]",
)
@click.option(
    "--repair",
    "wish",
    metavar="METHOD",
    help="Repair what does not pass, and judge that: a method of the command repair, with its"
    ' options, as in "scale --factor 0.5". The exit status is that of the repaired adapter then.',
)
@click.option(
    "--repair-output", type=click.Path(path_type=Path), help="New folder of the repaired adapter."
)
@asking
@click.pass_context
def check(ctx: click.Context, /, **given: Any) -> None:
    """Judge adapters: folders, or org/name@revision on the Hub; those in subfolders as well.

    All adapters of one pair are measured in one pass over its weights. The exit status is that of
    the gravest verdict: blocked, else undecided, else passed.
    """
    if given["policy"] and given["preset"]:
        raise click.UsageError("--policy and --preset cannot be used together.")
    if (given["wish"] is None) != (given["repair_output"] is None):
        raise click.UsageError("--repair and --repair-output go together.")
    adapters = [*given["adapters"], *(listed_places(given["listed"]) if given["listed"] else ())]
    if not adapters:
        raise click.UsageError("Name an adapter, or give --list.")
    if given["wish"] is not None and (len(adapters) > 1 or given["compose"]):
        raise click.UsageError("--repair works on one adapter.")
    if given["compose"] and len(adapters) < 2:
        raise click.UsageError("--compose needs two adapters at least.")
    ask = ask_from(given)
    from safety_gate import gate

    request = gate.Request(
        adapter=adapters[0],
        base=given["base"],
        aligned=given["aligned"],
        cache=given["cache"],
        policy=given["policy"],
        preset=given["preset"] or "default",
        hash_checkpoints=given["hash_checkpoints"],
        workers=given["threads"] or len(os.sched_getaffinity(0)),
        today=datetime.datetime.now(tz=datetime.UTC).date(),
        ask=ask,
    )
    if given["wish"] is not None:
        ctx.exit(_repaired(request, given))
    with progress_bar() as progress:
        if given["compose"]:
            reports: Sequence[Report] = [gate.judge_sum(request, adapters, progress)]
        else:
            reports = gate.judge_all(request, adapters, progress)
    ctx.exit(tell(reports, given["style"], given["output"]))


def _repaired(request: "Request", given: Mapping[str, Any]) -> int:
    """Judge, repair what does not pass, judge that; return the status."""
    from safety_gate.cli_repair import order_of
    from safety_gate.cli_repair_show import tell as tell_repair

    order = order_of(given["wish"], given["repair_output"])
    from safety_gate.repairing import repair_and_judge

    with progress_bar() as progress:
        repaired = repair_and_judge(request, order, progress)
    tell_repair(repaired, given["style"], given["output"])
    return repaired.exit_code


@cli.command(epilog=STATUS)
@click.option("--preset", type=click.Choice(PRESETS), default="default", show_default=True)
def demo(preset: str) -> None:
    """Judge three real adapters that come with Safety Gate, and show the reports.

    They were trained for this on tiny models: one keeps the refusals, one loses them, one
    strengthens them. The exit status is 0 when each verdict is the one it should be.
    """
    from safety_gate import gate
    from safety_gate.demo import EXPECTED, request_for

    wrong = []
    for name, expected in EXPECTED.items():
        click.echo(f"$ {request_for(name, preset).command}\n")
        with progress_bar() as progress:
            report = gate.judge(request_for(name, preset).request, progress)
        tell([report], "text", None)
        if report.verdict.word != expected:
            wrong.append(name)
        click.echo()
    if wrong and preset == "default":
        raise AssertionError(f"unexpected verdict for {wrong}")
