"""Strangers' regular expressions, read as Python's re reads them, within a time limit.

PEFT hands these to re without any limit, and a short one can run for hours. Here the PyPI regex
module runs them with a timeout. Two engines must not read one pattern differently, so only the
syntax that both share is taken (checked character by character), and re must compile it as well.
Refused although re takes them: back references, inline flags, sets within sets, braces that count
nothing (regex reads ``a{e<=1}`` as a fuzzy match), characters outside ASCII, and counts whose
product is above MAX_COUNT (regex unrolls nested counts: ``((((a{99}){99}){99}){99})`` ate 8 GB).
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

import regex

from safety_gate.adapter.remark import shown
from safety_gate.errors import BadAdapter

SECONDS = 0.2  # processor time for all patterns of one key over all names
MAX_LENGTH = 512  # characters of one pattern; the longest honest one we know has about 200
MAX_COUNT = 1000  # product of all counted repeats of one pattern
MAX_PATTERNS = 2000  # of one key: EVA writes one literal per module, about 1,000 at most
MAX_EXPRESSIONS = 256  # of these, ones that are not literals
PAIRS = ("--", "&&", "~~", "||")  # set operations of regex, and of re in the future
GROUPS = ("(?:", "(?=", "(?!", "(?<=", "(?<!", "(?P<", "(?>")  # the openings both engines share
COUNT = re.compile(r"\{(\d*)(?:,(\d*))?\}")
LITERAL = re.compile(r"(\^?)((?:[A-Za-z0-9_.-]|\\\.)+)(\$?)")
HINT = "Name the modules in a list instead of a regular expression, and save the config again."


class PatternRefused(BadAdapter):
    """A regular expression of the config cannot be judged."""

    rule = "pattern-refused"


class PatternTooSlow(PatternRefused):
    """A regular expression of the config takes unreasonably long: PEFT would hang on it."""

    rule = "pattern-too-slow"


@dataclass(frozen=True, slots=True)
class _Literal:
    """A pattern of plain characters: matched without an engine."""

    text: str  # "." stands for any character, "\\0" for a dot
    whole: bool  # began with ^: the name must match from its start

    def matches(self, name: str) -> bool:
        """Tell what re.match would, with the pattern in SUFFIX_FRAME."""
        before = len(name) - len(self.text)
        if before < 0 or (before and (self.whole or name[before - 1] != ".")):
            return False
        return all(
            own == "." or own == char or (own == "\0" and char == ".")
            for own, char in zip(self.text, name[before:], strict=True)
        )


class PatternSet:
    """The patterns of one key of adapter_config.json, with one time limit for all of them."""

    def __init__(
        self, key: str, patterns: Sequence[str], *, frame: str = "{}", fullmatch: bool = False
    ) -> None:
        """Check and compile.

        Args:
            key: the config key, for errors.
            patterns: as the stranger wrote them.
            frame: what PEFT builds around each, with {} where the pattern goes.
            fullmatch: match as re.fullmatch does, else as re.match does.

        Raises:
            PatternRefused: PEFT could not use it, or two engines could read it differently.
        """
        self._key = key
        self._left = SECONDS
        self._fullmatch = fullmatch
        self._patterns = tuple(patterns)
        if len(patterns) > MAX_PATTERNS:
            raise self._refused("there are too many patterns", f"{len(patterns)} patterns")
        literal = frame == SUFFIX_FRAME
        self._compiled = [
            (literal and _literal(pattern)) or self._compile(pattern, frame) for pattern in patterns
        ]
        engines = sum(not isinstance(each, _Literal) for each in self._compiled)
        if engines > MAX_EXPRESSIONS:
            raise self._refused("there are too many expressions", f"{engines} expressions")

    def first(self, name: str) -> int | None:
        """Return the index of the first pattern that matches, or None."""
        for index, each in enumerate(self._compiled):
            hit = each.matches(name) if isinstance(each, _Literal) else self._run(each, name)
            if hit:
                return index
        return None

    def first_group(self, name: str, group: str) -> str | None:
        """Return a named group of the first pattern that matches; None where there is none."""
        for each in self._compiled:
            if not isinstance(each, _Literal) and (match := self._run(each, name)):
                found: str | None = match.groupdict().get(group)
                return found
        return None

    def _run(self, compiled: "regex.Pattern[str]", name: str) -> "regex.Match[str] | None":
        start = time.thread_time()
        method = compiled.fullmatch if self._fullmatch else compiled.match
        try:
            if self._left <= 0:
                raise TimeoutError
            return method(name, timeout=self._left)
        except TimeoutError:
            raise PatternTooSlow(
                "matching the regular expressions takes too long, and PEFT would hang on them",
                where=self._key,
                got=shown(list(self._patterns)),
                expected=f"at most {SECONDS} s for all module names",
                hint=HINT,
            ) from None
        finally:
            self._left -= time.thread_time() - start

    def _compile(self, pattern: str, frame: str) -> "regex.Pattern[str]":
        if fault := _fault(pattern):
            raise self._refused(fault, shown(pattern))
        whole = frame.replace("{}", pattern)
        try:
            re.compile(whole)
            return regex.compile(whole, regex.VERSION0, cache_pattern=False)
        except (re.error, regex.error, OverflowError, RecursionError) as err:
            raise self._refused(
                "this is not a regular expression that PEFT could use", shown(pattern)
            ) from err

    def _refused(self, what: str, got: str) -> PatternRefused:
        return PatternRefused(
            what,
            where=self._key,
            got=got,
            expected=f"plain expressions of at most {MAX_LENGTH} characters",
            hint=HINT,
        )


SUFFIX_FRAME = r"(.*\.)?({})$"  # PEFT's get_pattern_key


def _literal(pattern: str) -> _Literal | None:
    """Return the pattern as a literal, if it is one; for SUFFIX_FRAME only."""
    if len(pattern) > MAX_LENGTH or not (found := LITERAL.fullmatch(pattern)):
        return None
    start, text, _ = found.groups()
    return _Literal(text.replace("\\.", "\0"), whole=bool(start))


def _fault(pattern: str) -> str:
    """Return why a pattern may mean different things to different engines, or nothing."""
    if len(pattern) > MAX_LENGTH:
        return "the pattern is too long"
    if not pattern.isascii() or not pattern.isprintable():
        return "the pattern holds characters outside printable ASCII"
    counts, at = 1, 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            if pattern[at + 1 : at + 2].isdigit():
                return "the pattern refers back to a group"
            at += 2
            continue
        if char == "[":
            at, fault = _end_of_set(pattern, at)
            if fault:
                return fault
            continue
        if char == "(" and pattern[at + 1 : at + 2] == "?" and not pattern.startswith(GROUPS, at):
            return "the pattern uses flags or special groups"
        if char == "{":
            found = COUNT.match(pattern, at)
            if not found or not (found[1] or found[2]):
                return "the pattern has a brace that counts nothing"
            counts *= max(1, int((found[2] or found[1])[:6]))
            if counts > MAX_COUNT:
                return "the pattern counts too high"
        at += 1
    return ""


def _end_of_set(pattern: str, start: int) -> tuple[int, str]:
    """Return the index behind a character set, and why it may be read differently."""
    at = start + 1
    if pattern[at : at + 1] == "^":
        at += 1
    first = at
    while at < len(pattern):
        if pattern[at] == "\\":
            at += 2
            continue
        if pattern[at] == "]" and at > first:
            return at + 1, ""
        if pattern[at] == "[" or pattern.startswith(PAIRS, at):
            return at, "the pattern has a set within a set"
        at += 1
    return at, "the pattern has a set without an end"
