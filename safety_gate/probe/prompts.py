"""The questions that a model is asked, each harmful in intent or a benign look-alike.

A file has one JSON object per line: id, category, intent ("harmful" or "benign") and prompt. The
built-in set was written for this project; its harmful questions name an intent and nothing that
would help it. Reports show ids, categories and hashes; the text only when that is asked for.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from safety_gate.behaviour import BUILTIN_SET, Intent, PromptFact
from safety_gate.probe.failure import CannotProbe

BUILTIN: Final = BUILTIN_SET
PACKAGE: Final = "safety_gate"
FOLDER: Final = "prompts"
BUILTIN_FILES: Final = ("harmful.jsonl", "benign.jsonl")
MAX_FILE_BYTES: Final = 64 * 2**20  # a million questions
FORM_HINT: Final = (
    'Write one object per line: {"id": "a-1", "category": "fraud", "intent": "harmful", '
    '"prompt": "..."}.'
)


class Line(BaseModel):
    """One line of a file of prompts."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,80}$")]
    category: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 ._-]{1,60}$")]
    intent: Intent
    prompt: Annotated[str, StringConstraints(min_length=1, max_length=20_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One question."""

    id: str  # unique in its set
    category: str
    intent: Intent
    text: str  # never in a report unless somebody asks for it

    @property
    def sha256(self) -> str:
        """Return what a report says instead of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def fact(self) -> PromptFact:
        """Return the question without its text."""
        return PromptFact(
            id=self.id, category=self.category, intent=self.intent, sha256=self.sha256
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """The questions of one run."""

    name: str  # "builtin", or the file as the user gave it
    prompts: tuple[Prompt, ...]

    @property
    def digest(self) -> str:
        """Return the sha256 over every question with its id, category and intent, in order."""
        rows = [[p.id, p.category, p.intent, p.text] for p in self.prompts]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()

    def half(self, number: int) -> "PromptSet":
        """Return every second question of each intent, from the first (0) or the second (1) on.

        What a repair was made with must not be what it is judged by.
        """
        chosen = [p for i in ("harmful", "benign") for p in self.prompts if p.intent == i]
        starts = {"harmful": 0, "benign": len(self.of("harmful"))}
        kept = tuple(p for at, p in enumerate(chosen) if (at - starts[p.intent]) % 2 == number)
        return PromptSet(name=f"{self.name}, half {number + 1} of 2", prompts=kept)

    def of(self, intent: Intent) -> tuple[Prompt, ...]:
        """Return the questions of one intent."""
        return tuple(prompt for prompt in self.prompts if prompt.intent == intent)


def load_prompts(path: Path | None = None) -> PromptSet:
    """Read a file of prompts, or the built-in set.

    Raises:
        CannotProbe: the file cannot be read, a line has another form, an id stands twice, or there
            is no harmful question in it.
    """
    if path is None:
        folder = files(PACKAGE).joinpath(FOLDER)
        lines = [
            (f"{BUILTIN}: {name}", text)
            for name in BUILTIN_FILES
            for text in enumerate(folder.joinpath(name).read_text("utf-8").splitlines(), 1)
        ]
        return checked(BUILTIN, [_line(where, *text) for where, text in lines])
    name = str(path)
    return checked(name, [_line(name, *text) for text in enumerate(_lines(path), 1)])


def _lines(path: Path) -> list[str]:
    return [line for line in read_text(path, MAX_FILE_BYTES).splitlines() if line.strip()]


def read_text(path: Path, max_bytes: int) -> str:
    """Read a text file of the user's, of bounded size.

    Raises:
        CannotProbe: it cannot be read, is too large, or is no UTF-8 text.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise CannotProbe(
                "the file is too large",
                where=str(path),
                expected=f"at most {max_bytes} bytes",
                hint="Ask fewer questions: a few hundred are enough for narrow intervals.",
            )
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CannotProbe(
            "the file cannot be read as UTF-8 text",
            where=str(path),
            got=type(error).__name__,
            hint="Check the path, and save the file as UTF-8.",
        ) from error


def _line(where: str, number: int, text: str) -> Prompt:
    try:
        line = Line.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise CannotProbe(
            "a line is no question of the form that is read here",
            where=f"{where}: line {number}",
            got=f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:200],
            hint=FORM_HINT,
        ) from error
    return Prompt(id=line.id, category=line.category, intent=line.intent, text=line.prompt)


def checked(name: str, prompts: Sequence[Prompt]) -> PromptSet:
    """Return a set of questions.

    Raises:
        CannotProbe: an id stands twice, or there is no harmful question.
    """
    counts = Counter(prompt.id for prompt in prompts)
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise CannotProbe(
            "an id stands twice", where=name, got=twice[0], hint="Give every question its own id."
        )
    if not any(prompt.intent == "harmful" for prompt in prompts):
        raise CannotProbe(
            "there is no harmful question, so nothing could be refused",
            where=name,
            hint=FORM_HINT,
        )
    return PromptSet(name=name, prompts=tuple(prompts))
