"""Questions from a dataset on the Hub: JSONL, JSON, CSV or Parquet, one column of it.

Written as ``org/name@revision:file?column=prompt&category=kind&intent=harmful&rows=200``:

- ``column`` holds the questions; else it is ``prompt``.
- ``category`` is a column, too; without it the file's name stands for all.
- ``intent`` is ``harmful`` (also without it), ``benign``, or a column that holds these words.
- ``rows`` takes the first so many.

Where the dataset has no benign question, the built-in look-alikes are asked as well, so that
over-refusal is still seen.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import parse_qsl, urlencode

from safety_gate.behaviour import Intent
from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.prompts import Prompt, PromptSet, checked, load_prompts
from safety_gate.sources.hub_dataset import DatasetPlace, parse_dataset, read_dataset

MAX_BYTES: Final = 256 * 2**20  # of one file
MAX_ROWS: Final = 100_000  # a hundred thousand questions take hours; a few hundred are enough
MAX_LETTERS: Final = 20_000  # of one question
KEYS: Final = ("column", "category", "intent", "rows")
UNKIND: Final = re.compile(r"[^A-Za-z0-9 ._-]+")  # what a category may not hold
INTENTS: Final[tuple[Intent, ...]] = ("harmful", "benign")
HINT: Final = "docs/behaviour.md tells how questions of a dataset are named."
PARQUET_HINT: Final = "Install pyarrow, or give a JSONL or CSV file of the dataset."

Row = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A dataset's file, and what is taken from it."""

    place: DatasetPlace
    column: str = "prompt"
    category: str = ""  # column; empty: the file's name
    intent: str = "harmful"  # or "benign", or a column
    rows: int = MAX_ROWS

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"{self.place}?column={self.column}"

    @property
    def text(self) -> str:
        """Return all of it, as ``parse_prompts`` reads it."""
        own = {key: str(getattr(self, key)) for key in KEYS if getattr(self, key)}
        return f"{self.place}?{urlencode(own)}"


def parse_prompts(text: str) -> Path | Dataset:
    """Tell what a user's text names: a file, or a dataset on the Hub.

    Raises:
        CannotProbe: a setting of a dataset is none.
        SourceError: it is no file, and names no dataset either.
    """
    path = Path(text)
    if path.is_file() or ":" not in text.removeprefix("hf://"):
        return path
    name, _, query = text.partition("?")
    given = parse_qsl(query, keep_blank_values=True)
    settings = dict(given)
    wrong = [key for key, _ in given if key not in KEYS]
    if wrong or len(settings) != len(given) or not all(settings.values()):
        raise CannotProbe(
            "a setting of a dataset is unknown, empty or given twice",
            where=text[:200],
            got=query[:200],
            expected=" and ".join(f"{key}=..." for key in KEYS),
            hint=HINT,
        )
    rows = settings.get("rows", str(MAX_ROWS))
    if not re.fullmatch(r"[0-9]{1,6}", rows) or not 1 <= int(rows) <= MAX_ROWS:
        raise CannotProbe(
            "the number of rows is out of range",
            where=text[:200],
            got=rows,
            expected=f"1 to {MAX_ROWS}",
            hint=HINT,
        )
    return Dataset(
        place=parse_dataset(name),
        column=settings.get("column", "prompt"),
        category=settings.get("category", ""),
        intent=settings.get("intent", "harmful"),
        rows=int(rows),
    )


def load_dataset(dataset: Dataset) -> PromptSet:
    """Read the questions of a dataset, at the commit that its revision is now.

    Raises:
        SourceError: the Hub does not give it; a gated one needs the user's token.
        CannotProbe: it holds no such column, or no question.
    """
    found = read_dataset(dataset.place, max_bytes=MAX_BYTES)
    place = f"{dataset.place.repo_id}@{found.sha}:{dataset.place.path}"
    prompts = [
        _prompt(dataset, row, f"{place}: row {number}", number)
        for number, row in enumerate(_rows(found.data, dataset.place.path, place), 1)
        if number <= dataset.rows
    ]
    name = f"{place}?column={dataset.column}"
    if all(prompt.intent == "harmful" for prompt in prompts):
        prompts += load_prompts().of("benign")
        name += ", and built-in look-alikes"
    return checked(name, prompts)


def _rows(data: bytes, path: str, where: str) -> Iterator[Row]:
    """Yield the rows of a file, as its ending says."""
    kind = PurePosixPath(path).suffix.lower()
    if kind == ".parquet":
        yield from _parquet(data, where)
        return
    try:
        text = data.decode("utf-8-sig")
        if kind == ".csv":
            yield from csv.DictReader(io.StringIO(text, newline=""), strict=True)
            return
        rows = json.loads(text) if kind == ".json" else _lines(text)
    except (UnicodeDecodeError, ValueError, csv.Error, RecursionError) as error:
        raise _unreadable(where, f"{type(error).__name__}: {str(error)[:120]}") from error
    if kind not in (".json", ".jsonl", ".ndjson"):
        raise _unreadable(where, kind or "no ending")
    for row in rows if isinstance(rows, list) else [rows]:
        if not isinstance(row, dict):
            raise _unreadable(where, type(row).__name__)
        yield row


def _lines(text: str) -> list[object]:
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _parquet(data: bytes, where: str) -> Iterator[Row]:
    """Yield the rows of a Parquet file."""
    try:
        from pyarrow import ArrowException, BufferReader, parquet
    except ImportError as error:
        raise CannotProbe(
            "reading Parquet needs pyarrow, which is not installed",
            where=where,
            hint=PARQUET_HINT,
        ) from error
    try:
        for batch in parquet.ParquetFile(BufferReader(data)).iter_batches(batch_size=1024):
            yield from batch.to_pylist()
    except ArrowException as error:
        raise _unreadable(where, f"{type(error).__name__}: {str(error)[:120]}") from error


def _unreadable(where: str, got: str) -> CannotProbe:
    return CannotProbe(
        "the dataset's file cannot be read",
        where=where,
        got=got,
        expected="rows of JSONL, JSON, CSV or Parquet",
        hint="Choose another file of the dataset, or convert it.",
    )


def _prompt(dataset: Dataset, row: Row, where: str, number: int) -> Prompt:
    """Return one row as a question."""
    category = PurePosixPath(dataset.place.path).stem
    if dataset.category:
        category = _text(row, dataset.category, where)
    intent = dataset.intent
    if intent not in INTENTS:
        intent = _text(row, intent, where)
    return Prompt(
        id=f"row-{number}",
        category=UNKIND.sub("-", category)[:60] or "-",
        intent=_intent(intent, where),
        text=_text(row, dataset.column, where),
    )


def _intent(text: str, where: str) -> Intent:
    for intent in INTENTS:
        if text == intent:
            return intent
    raise CannotProbe(
        "this is no intent", where=where, got=text[:80], expected="harmful or benign", hint=HINT
    )


def _text(row: Row, column: str, where: str) -> str:
    """Return a row's text in one column."""
    value = row.get(column)
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_LETTERS:
        there = ", ".join(str(key)[:40] for key in list(row)[:12])
        raise CannotProbe(
            "a row holds no text in this column",
            where=where,
            got=f"columns {there}" if column not in row else type(value).__name__,
            expected=f"text of at most {MAX_LETTERS} letters in {column[:80]}",
            hint=HINT,
        )
    return value
