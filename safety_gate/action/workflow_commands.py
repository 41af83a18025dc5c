"""How the action talks to the runner: log, annotations, outputs, job summary.

The runner obeys ``::name::`` at the start of a line and, of old, ``##[name]`` anywhere in one. So
everything is printed between ``::stop-commands::`` with a token that nobody can guess, and made
inert besides.
"""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TextIO, TypeAlias

from safety_gate.publish import limits

Level: TypeAlias = Literal["error", "warning", "notice"]

_PLAIN_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/ +@=-]{0,400}")
LONGEST_ANNOTATION = 2000  # bytes of one message


class Log:
    """The log of the step.

    Use ``lines`` for everything; commands go out between two stretches of lines.
    """

    def __init__(self, stream: TextIO) -> None:
        """Write to ``stream``; nothing is printed yet."""
        self._stream = stream
        self._counts: dict[Level, int] = {"error": 0, "warning": 0, "notice": 0}

    def say(self, text: str) -> None:
        """Print text that may hold anything; the runner obeys none of it."""
        with self.stopped():
            for line in text.splitlines():
                self._write(inert_line(line))

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Let the runner pass over commands until the block ends."""
        token = secrets.token_hex(20)  # hex, and so never the name of a command
        self._write(f"::stop-commands::{token}")
        try:
            yield
        finally:
            self._write(f"::{token}::")

    def annotate(self, level: Level, title: str, message: str, *, path: str = "") -> bool:
        """Show a message beside the run, and beside a file where its path is a plain one.

        The runner keeps ten of a level; what comes after is left out, and False returned.
        """
        self._counts[level] += 1
        if self._counts[level] > limits.ANNOTATIONS_PER_KIND:
            return False
        fields = [f"title={_property(title)}"]
        if path and _PLAIN_PATH.fullmatch(path):
            fields.insert(0, f"file={_property(path)}")
        text = _data(limits.clipped(message, LONGEST_ANNOTATION))
        self._write(f"::{level} {','.join(fields)}::{text}")
        return True

    def room(self, level: Level) -> int:
        """Return how many annotations of a level the runner would still show."""
        return max(0, limits.ANNOTATIONS_PER_KIND - self._counts[level])

    def mask(self, secret: str) -> None:
        """Ask the runner to hide a secret; it hides its own tokens anyway."""
        for line in secret.splitlines():
            if len(line) >= 8:  # hiding "1" would hide half the log
                self._write(f"::add-mask::{_data(line)}")

    def _write(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()  # a command must not wait behind a line of another stream


def inert_line(text: str) -> str:
    """Return one line that no runner obeys and no terminal is steered by."""
    visible = "".join(c if c.isprintable() or c == "\t" else f"{{U+{ord(c):04X}}}" for c in text)
    return visible.replace("::", ":%3A").replace("##[", "##%5B")


def _data(text: str) -> str:
    """Escape a message as the runner reads it."""
    plain = "".join(c if c.isprintable() or c in "\r\n\t" else f"{{U+{ord(c):04X}}}" for c in text)
    # "##[" can stand here: the runner tries the "::" form of a line first, and this has it.
    return plain.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escape a property as the runner reads it."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")


class Outputs:
    """The outputs of the step (GITHUB_OUTPUT)."""

    def __init__(self, path: Path | None) -> None:
        """Append to the runner's file; None where there is no runner."""
        self._path = path
        self.values: dict[str, str] = {}

    def set(self, name: str, value: str) -> None:
        """Set one output; a later value of the same name wins."""
        if limits.size(value) > limits.OUTPUT:
            raise AssertionError(f"output {name} is too large")
        self.values[name] = value
        if self._path is None:
            return
        text = value.encode("utf-8", "replace").decode()
        delimiter = f"safety_gate_{secrets.token_hex(20)}"
        append(self._path, f"{name}<<{delimiter}\n{text}\n{delimiter}\n")


class Summary:
    """The job summary of the step (GITHUB_STEP_SUMMARY)."""

    def __init__(self, path: Path | None) -> None:
        """Append to the runner's file; None where there is no runner."""
        self._path = path

    @property
    def room(self) -> int:
        """The bytes that still fit; beyond its limit the runner drops the whole summary."""
        used = self._path.stat().st_size if self._path and self._path.exists() else 0
        return max(0, limits.SUMMARY - used)

    def add(self, markdown: str) -> bool:
        """Append Markdown; False, and nothing written, where it does not fit."""
        if limits.size(markdown) + 2 > self.room:
            return False
        if self._path is not None:
            append(self._path, f"{markdown.rstrip()}\n\n")
        return True


def append(path: Path, text: str) -> None:
    """Append to a file of the runner; it exists, and it is a regular file."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(path, flags, 0o644)
    with os.fdopen(handle, "w", encoding="utf-8", errors="replace", newline="\n") as file:
        file.write(text)
