"""The three trained adapters that come with the project, and the verdict each should get."""

import datetime
from dataclasses import dataclass
from pathlib import Path

from safety_gate.asking import Ask
from safety_gate.errors import MissingFile
from safety_gate.gate import Request

EXPECTED = {"helpful": "passed", "harmful": "blocked", "safety": "passed"}
PLACES = (  # inside the installed package, or beside it in a checkout
    Path(__file__).parent / "examples" / "tiny",
    Path(__file__).parent.parent / "examples" / "tiny",
)


@dataclass(frozen=True, slots=True)
class Example:
    """One adapter to judge, and the command that does the same."""

    request: Request
    command: str


def examples_folder() -> Path:
    """Return the folder of the tiny models.

    Raises:
        MissingFile: they were not installed.
    """
    for place in PLACES:
        if place.is_dir():
            return place
    raise MissingFile(
        "the example models are not there",
        where="examples/tiny",
        expected="a folder with base, aligned and three adapters",
        hint="Run the demo in a checkout of the project, or install its wheel again.",
    )


def request_for(name: str, preset: str) -> Example:
    """Return the request for one of the adapters in EXPECTED."""
    folder = examples_folder()
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())  # the name that the reports show
    command = (
        f"safety-gate check {folder}/{name} --base {folder}/base --aligned {folder}/aligned"
        f" --prompts {folder}/prompts.jsonl --openings {folder}/openings.json"
        + ("" if preset == "default" else f" --preset {preset}")
    )
    request = Request(
        adapter=folder / name,
        base=folder / "base",
        aligned=folder / "aligned",
        preset=preset,
        today=datetime.datetime.now(tz=datetime.UTC).date(),
        ask=Ask(mode="auto", prompts=folder / "prompts.jsonl", openings=folder / "openings.json"),
    )
    return Example(request, command)
