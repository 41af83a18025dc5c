"""What the commands share: kinds of arguments, a progress bar, a report file that appears whole."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from safety_gate.sources.hub_names import BadLocation, HubPlace, parse_location

if TYPE_CHECKING:
    from safety_gate.gate import Progress

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


PLACE = PlaceType()
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


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

        yield Shown()


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
