"""What the commands share: kinds of arguments, a progress bar, a report file that appears whole."""

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from safety_gate.sources.hub_names import BadLocation, HubPlace, parse_location

if TYPE_CHECKING:
    from safety_gate.asking import Ask
    from safety_gate.gate import Progress
    from safety_gate.probe.datasets import Dataset

F = TypeVar("F", bound=Callable[..., Any])

STATUS = (
    "Exit status: 0 passed, 1 blocked, 2 wrong usage, 3 undecided (could not judge),"
    " 70 a bug of Safety Gate."
)
PRESETS = ("default", "paper")
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


class PlaceType(click.ParamType["Path | HubPlace"]):
    """A folder, or org/name@revision on the Hub (docs/hub.md has the rules)."""

    name = "folder|org/name@revision"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> "Path | HubPlace":
        """Return a folder that exists, or the name of a repository."""
        if not isinstance(value, str):
            place: Path | HubPlace = value
            return place
        try:
            found = parse_location(value)
        except BadLocation as error:
            self.fail(f"{error.what}: {value!r}. {error.hint}", param, ctx)
        if isinstance(found, HubPlace):
            return found
        if not found.path.is_dir():
            self.fail(f"there is no folder {value!r}", param, ctx)
        return found.path


class GuardType(PlaceType):
    """The same, or the word default; its commit stands in the report."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> "Path | HubPlace":
        """Return the place of the guard model."""
        from safety_gate.probe.judges import DEFAULT_GUARD

        return super().convert(DEFAULT_GUARD if value == "default" else value, param, ctx)


class ReportFile(click.Path):
    """A file to be written; that its folder is missing is found before anything is judged."""

    def __init__(self) -> None:
        """Take a path that is no folder."""
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; its folder exists."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.parent.is_dir():
            self.fail(f"there is no folder {str(path.parent)!r}", param, ctx)
        return path


PLACE = PlaceType()
REPORT_FILE = ReportFile()
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class PromptsType(click.ParamType["Path | Dataset"]):
    """A file of questions, or one of a dataset on the Hub (docs/behaviour.md)."""

    name = "file|org/name@revision:file"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> "Path | Dataset":
        """Return a file that exists, or the place of a dataset."""
        from safety_gate.errors import GateError
        from safety_gate.probe.datasets import parse_prompts

        try:
            found = parse_prompts(str(value))
        except GateError as error:
            self.fail(f"{error} {error.hint}", param, ctx)
        if isinstance(found, Path) and not found.is_file():
            self.fail(f"there is no file {value!r}", param, ctx)
        return found


PROMPTS = PromptsType()


MAX_LIST_BYTES = 2**20  # some ten thousand places
_COMMENT = re.compile(r"(?:^|\s)#")


def listed_places(path: Path) -> "list[Path | HubPlace]":
    """Return the places that a file names, one on a line; empty lines and # comments are skipped.

    A comment begins a line or follows a blank: else the folder x#y would stand for the folder x.

    Raises:
        UsageError: the file is no text, is too long, or a line names no place.
    """
    if path.stat().st_size > MAX_LIST_BYTES:
        raise click.UsageError(f"{path} is longer than {MAX_LIST_BYTES} bytes.")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{path} is not UTF-8 text.") from error
    found = []
    for number, line in enumerate(lines, start=1):
        text = _COMMENT.split(line, maxsplit=1)[0].strip()
        if text:
            try:
                found.append(PLACE.convert(text, None, None))
            except click.BadParameter as error:
                raise click.UsageError(f"{path}, line {number}: {error.message}") from error
    return found


@contextlib.contextmanager
def progress_bar() -> "Iterator[Progress | None]":
    """Yield what shows a bar on a terminal, and None in a pipe."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    from safety_gate import gate

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("Measuring modules"), BarColumn(), MofNCompleteColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        line = bar.add_task("modules", total=None)

        class Shown(gate.Progress):
            def start(self, modules: int) -> None:
                bar.reset(line, total=modules)

            def done(self, module: str) -> None:
                bar.advance(line)

            def asking(self) -> None:
                bar.reset(line, description="Asking the model", total=None)

        yield Shown()


MODES = ("auto", "none", "openings", "generate")
JUDGE_KEY = "SAFETY_GATE_JUDGE_KEY"
_ASKING = (
    click.option(
        "--ask",
        type=click.Choice(MODES),
        default="auto",
        show_default=True,
        envvar="SAFETY_GATE_ASK",
        help="Ask the model itself: how it would begin its answers, or for written answers; auto"
        " asks for beginnings, and rests on the weights where the model cannot be asked.",
    ),
    click.option(
        "--prompts",
        type=PROMPTS,
        help="Questions to ask: JSONL, or a dataset on the Hub as org/name@revision:file?column=..."
        "  [default: built in]",
    ),
    click.option("--openings", type=FILE, help="Beginnings of answers, JSON.  [default: English]"),
    click.option("--task", type=FILE, help="Samples of your own task, JSONL: is the skill there?"),
    click.option("--device", default="cpu", show_default=True, help="Where the model runs."),
    click.option(
        "--baselines",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="SAFETY_GATE_BASELINES",
        help="Folder that keeps what the aligned model said, so that it is asked once.",
    ),
    click.option(
        "--guard",
        type=GuardType(),
        help="Guard model that judges written answers, or default: Qwen3Guard-Gen-0.6B.",
    ),
    click.option("--judge-url", default="", help="OpenAI-compatible endpoint that rates answers."),
    click.option("--judge-model", default="", help=f"Its model; its key comes from ${JUDGE_KEY}."),
    click.option("--show-answers", is_flag=True, help="Put written answers into the report."),
)


def asking(command: F) -> F:
    """Give a command the options that say what the model is asked."""
    for option in reversed(_ASKING):
        command = option(command)
    return command


def ask_from(given: Mapping[str, Any]) -> "Ask":
    """Return what those options say.

    Raises:
        click.UsageError: some of them mean nothing together.
    """
    from safety_gate.asking import Ask

    mode = given["ask"]
    written = {"--guard": given["guard"], "--judge-url": given["judge_url"]}
    written["--show-answers"] = given["show_answers"]
    if mode != "generate" and (wrong := [name for name, value in written.items() if value]):
        raise click.UsageError(f"{wrong[0]} needs --ask generate.")
    if bool(given["judge_url"]) != bool(given["judge_model"]):
        raise click.UsageError("--judge-url and --judge-model go together.")
    return Ask(
        mode=mode,
        prompts=given["prompts"],
        openings=given["openings"],
        task=given["task"],
        device=given["device"],
        baselines=given["baselines"],
        guard=given["guard"],
        judge_url=given["judge_url"],
        judge_model=given["judge_model"],
        judge_key=os.environ.get(JUDGE_KEY, ""),
        keep_text=given["show_answers"],
    )


def write_whole(path: Path, text: str) -> None:
    """Write beside, then rename, so that a half-written file never has the name."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
