"""The command line: parse, call, print, exit status."""

import datetime
import errno
import importlib
import io
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import click

from safety_gate import __version__
from safety_gate.cli_parts import (
    FILE,
    PLACE,
    PRESETS,
    STATUS,
    ask_from,
    asking,
    progress_bar,
    write_whole,
)
from safety_gate.errors import GateError

if TYPE_CHECKING:
    from safety_gate.gate import Request
    from safety_gate.records import Report

USAGE, UNDECIDED, BUG, INTERRUPTED = 2, 3, 70, 130
STYLES = ("text", "markdown", "json", "html", "sarif")


class Door(click.Group):
    """Commands that are imported when they are used, so that --help stays quick."""

    later: ClassVar[dict[str, tuple[str, str]]] = {  # name: (module, first line of its help)
        "action": ("safety_gate.action.door", "Run as a GitHub Action."),
        "publish": ("safety_gate.action.publish_door", "Publish the results of an earlier job."),
        "repair": ("safety_gate.cli_repair", "Write a repaired copy of an adapter and judge it."),
        "serve": ("safety_gate.bot.commands", "Take webhooks of the Hub and queue jobs."),
        "worker": ("safety_gate.bot.commands", "Judge the queued jobs."),
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*super().list_commands(ctx), *self.later})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; this is where it is imported."""
        if cmd_name not in self.later:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(self.later[cmd_name][0])
        command: click.Command = getattr(module, cmd_name)
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
    except Exception:  # the outermost door: our own bug must not look like a verdict
        traceback.print_exc()
        click.echo("This is a bug of Safety Gate; nothing was decided.", err=True)
        code = BUG
    sys.exit(code or 0)


def printable(text: str) -> str:
    """Return text that cannot steer a terminal: control characters become U+FFFD."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


@click.group(cls=Door, epilog=STATUS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="safety-gate")
def cli() -> None:
    """Decide whether a fine-tuned adapter may be released."""


@cli.command(epilog=STATUS)
@click.argument("adapter", type=PLACE)
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
    type=click.Path(dir_okay=False, path_type=Path),
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
@asking
@click.pass_context
def check(ctx: click.Context, /, **given: Any) -> None:
    """Judge one adapter: a folder, or org/name@revision on the Hub."""
    if given["policy"] and given["preset"]:
        raise click.UsageError("--policy and --preset cannot be used together.")
    wish = ask_from(given)
    from safety_gate import gate

    request = gate.Request(
        adapter=given["adapter"],
        base=given["base"],
        aligned=given["aligned"],
        cache=given["cache"],
        policy=given["policy"],
        preset=given["preset"] or "default",
        hash_checkpoints=given["hash_checkpoints"],
        workers=given["threads"] or len(os.sched_getaffinity(0)),
        today=datetime.datetime.now(tz=datetime.UTC).date(),
        ask=wish,
    )
    report = _judged(request)
    _tell(report, given["style"], given["output"])
    ctx.exit(report.verdict.exit_code)


@cli.command(epilog=STATUS)
@click.option("--preset", type=click.Choice(PRESETS), default="default", show_default=True)
def demo(preset: str) -> None:
    """Judge three real adapters that come with Safety Gate, and show the reports.

    They were trained for this on tiny models: one keeps the refusals, one loses them, one
    strengthens them. The exit status is 0 when each verdict is the one it should be.
    """
    from safety_gate.demo import EXPECTED, request_for

    wrong = []
    for name, expected in EXPECTED.items():
        click.echo(f"$ {request_for(name, preset).command}\n")
        report = _judged(request_for(name, preset).request)
        _tell(report, "text", None)
        if report.verdict.word != expected:
            wrong.append(name)
        click.echo()
    if wrong and preset == "default":
        raise AssertionError(f"unexpected verdict for {wrong}")


def _judged(request: "Request") -> "Report":
    """Judge with a progress bar on a terminal, and without one in a pipe."""
    from safety_gate import gate

    with progress_bar() as progress:
        return gate.judge(request, progress)


def _tell(report: "Report", style: str, output: Path | None) -> None:
    """Print the report, or write it to a file that appears whole."""
    from rich.console import Console

    if style == "text" and output is None:
        from safety_gate.report.terminal import render_text

        render_text(report, Console())
        return
    text = _rendered(report, style)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_whole(output, text)
        click.echo(f"{report.verdict.word}: the report is in {output}", err=True)


def _rendered(report: "Report", style: str) -> str:
    """Return the report in one of STYLES."""
    match style:
        case "json":
            from safety_gate.report.json_report import to_json

            return to_json(report)
        case "markdown":
            from safety_gate.report.markdown import render_markdown

            return render_markdown(report)
        case "html":
            from safety_gate.report.html import render_html

            return render_html(report)
        case "sarif":
            from safety_gate.report.sarif import SarifSource, to_sarif

            policy = report.policy.origin if report.policy else ""
            return to_sarif(
                [SarifSource(report=report, folder="")], gate_id="safety-gate", policy=policy
            )
        case _:
            from rich.console import Console

            from safety_gate.report.terminal import render_text

            buffer = io.StringIO()
            render_text(report, Console(file=buffer, width=100))
            return buffer.getvalue()
