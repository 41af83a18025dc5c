"""The labels: which adapters are known to be unsafe.

A CSV file with the columns ``adapter`` and ``label``, or JSONL with the same keys; ``adapter`` is a
folder below the folder of adapters, ``label`` is ``safe`` or ``unsafe``.
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from safety_gate.calibration.failure import CannotCalibrate

NAMES: Final = ("labels.csv", "labels.jsonl")  # looked for in the folder of adapters
COLUMNS: Final = ("adapter", "label")
WORDS: Final = {"safe": False, "unsafe": True}
MAX_BYTES: Final = 16 * 2**20
FORM_HINT: Final = (
    "Write a CSV with the header adapter,label and one line per adapter, such as "
    "my-adapter,safe; or JSONL with those keys."
)


def read_labels(folder: Path, file: Path | None) -> dict[str, bool]:
    """Return whether each labelled adapter is unsafe, by folder.

    Args:
        folder: of the adapters.
        file: the labels; None: labels.csv or labels.jsonl in the folder.

    Raises:
        CannotCalibrate: there is no such file, a line has another form, a name stands twice or
            leads outside, or there is no such adapter.
    """
    path = file or _found(folder)
    rows = _jsonl(path) if path.suffix == ".jsonl" else _csv(path)
    labels: dict[str, bool] = {}
    for line, row in rows:
        name, unsafe = _read(f"{path.name}, line {line}", row)
        if name in labels:
            raise _refused("an adapter is labelled twice", path, line, name)
        if not (folder / name).is_dir():
            raise _refused("there is no such folder of an adapter", path, line, name)
        labels[name] = unsafe
    return labels


def _found(folder: Path) -> Path:
    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
    raise CannotCalibrate(
        "there is no file of labels",
        where=str(folder),
        expected=" or ".join(NAMES),
        hint=f"Give it with --labels. {FORM_HINT}",
    )


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise _refused(f"the file is larger than {MAX_BYTES} bytes", path, 1, "")
        return data.decode("utf-8-sig")  # a byte order mark, as spreadsheets write it
    except (OSError, UnicodeDecodeError) as error:
        raise CannotCalibrate(
            "the labels cannot be read as UTF-8 text",
            where=str(path),
            got=type(error).__name__,
            hint="Check the path, and save the file as UTF-8.",
        ) from error


def _csv(path: Path) -> list[tuple[int, Mapping[str, object]]]:
    reader = csv.DictReader(_text(path).splitlines(), strict=True)
    rows: list[tuple[int, Mapping[str, object]]] = []
    try:
        if sorted(reader.fieldnames or ()) != sorted(COLUMNS):
            raise _refused("the columns are others", path, 1, ", ".join(reader.fieldnames or ()))
        for row in reader:
            if set(row) != set(COLUMNS):  # a field more, under the key None
                raise _refused("a line has more columns", path, reader.line_num, "")
            rows.append((reader.line_num, row))
    except csv.Error as error:
        raise _refused("this is no CSV", path, reader.line_num, str(error)) from error
    return rows


def _jsonl(path: Path) -> list[tuple[int, Mapping[str, object]]]:
    rows: list[tuple[int, Mapping[str, object]]] = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _refused("a line is no JSON", path, number, line) from error
        if not isinstance(row, dict) or set(row) != set(COLUMNS):
            raise _refused("a line has other keys", path, number, line)
        rows.append((number, row))
    return rows


def _read(where: str, row: Mapping[str, object]) -> tuple[str, bool]:
    name, label = row["adapter"], row["label"]
    if not isinstance(name, str) or not _is_below(name):
        raise CannotCalibrate(
            "this names no folder below the folder of adapters",
            where=where,
            got=repr(name)[:80],
            expected="a relative path without ..",
            hint=FORM_HINT,
        )
    if not isinstance(label, str) or label not in WORDS:
        raise CannotCalibrate(
            "this is no label",
            where=where,
            got=repr(label)[:80],
            expected=" or ".join(WORDS),
            hint=FORM_HINT,
        )
    return PurePosixPath(name).as_posix(), WORDS[label]


def _is_below(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _refused(what: str, path: Path, line: int, got: str) -> CannotCalibrate:
    return CannotCalibrate(
        what,
        where=f"{path.name}, line {line}",
        got=got[:80],
        expected=f"the columns {' and '.join(COLUMNS)}" if "column" in what else "",
        hint=FORM_HINT,
    )
