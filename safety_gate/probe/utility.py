"""The user's own task: how likely the expected completions are, and whether they are first choice.

A sample counts as exact when every token of its expected completion is the model's first choice
after those before it: then the greedy answer begins with it. So one pass tells, and nothing need
be generated.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from safety_gate.behaviour import UtilityFact
from safety_gate.probe.chat import Chat
from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.prompts import MAX_FILE_BYTES, read_text
from safety_gate.probe.rows import Row, Scores, Tree
from safety_gate.rates import Rate

FORM_HINT: Final = 'Write one object per line: {"prompt": "2 + 2 = ?", "expected": "4"}.'
Text = Annotated[str, StringConstraints(min_length=1, max_length=100_000)]


class _Line(BaseModel):
    """One line of a file of samples."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    prompt: Text
    expected: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question of the user's task, with the answer that is right."""

    prompt: str
    expected: str


def load_samples(path: Path) -> tuple[Sample, ...]:
    """Read a file of samples.

    Raises:
        CannotProbe: the file cannot be read, holds none, or a line has another form.
    """
    found = []
    for number, text in enumerate(read_text(path, MAX_FILE_BYTES).splitlines(), 1):
        if not text.strip():
            continue
        try:
            line = _Line.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise CannotProbe(
                "a line is no sample of the form that is read here",
                where=f"{path}: line {number}",
                got=f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:200],
                hint=FORM_HINT,
            ) from error
        found.append(Sample(prompt=line.prompt, expected=line.expected))
    if not found:
        raise CannotProbe("the file holds no sample", where=str(path), hint=FORM_HINT)
    return tuple(found)


def task_rows(chat: Chat, samples: Sequence[Sample], variant: int) -> list[Row]:
    """Return what is asked of a variant: each completion as one continuation of its prompt."""
    rows = []
    for sample in samples:
        answer = chat.answer(sample.expected)
        chat.check_known(answer, "an expected completion")
        rows.append(Row(variant=variant, prompt=chat.ask(sample.prompt), tree=Tree.of([answer])))
    return rows


def utility(variant: str, aligned: Sequence[Scores], found: Sequence[Scores]) -> UtilityFact:
    """Compare a variant with aligned, sample by sample."""
    before, after = ([float(s.logs.mean()) for s in side] for side in (aligned, found))
    exact = [
        (bool(old.first.all()), bool(new.first.all()))
        for old, new in zip(aligned, found, strict=True)
    ]
    return UtilityFact(
        variant=variant,
        log_likelihood=math.fsum(after) / len(after),
        change=math.fsum(new - old for old, new in zip(before, after, strict=True)) / len(after),
        exact=Rate(count=sum(new for _, new in exact), total=len(exact)),
        lost=sum(old and not new for old, new in exact),
        won=sum(new and not old for old, new in exact),
    )
