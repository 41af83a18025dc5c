"""The report on a terminal and in a pipe."""

import io
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from safety_gate.records import Report
from safety_gate.report.terminal import render_text
from tests.sample_reports import HOSTILE, blocked, hostile, llama, passed, undecided

SAMPLES = (passed, blocked, undecided, hostile)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def printed(report: Report, *, width: int = 80, colours: bool = False) -> str:
    file = io.StringIO()
    system = "truecolor" if colours else None
    render_text(
        report,
        Console(file=file, width=width, force_terminal=colours, color_system=system),  # type: ignore[arg-type]
    )
    return file.getvalue()


def assert_inert(text: str) -> None:
    assert all(line.isprintable() for line in text.split("\n"))
    assert "::" not in text
    assert "##[" not in text


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("sample", SAMPLES)
def test_a_pipe_gets_plain_lines_that_fit(sample: Callable[[], Report], width: int) -> None:
    text = printed(sample(), width=width)
    assert_inert(text)
    assert max(map(cell_len, text.split("\n"))) <= width


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_terminal_gets_the_same_words_in_colours(sample: Callable[[], Report]) -> None:
    coloured = printed(sample(), colours=True)
    assert "\x1b[" in coloured
    plain = COLOUR.sub("", coloured)
    assert_inert(plain)
    assert plain.split() == printed(sample()).split()


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(HOSTILE) | st.text(max_size=60), min_size=3, max_size=5))
def test_no_text_of_a_stranger_acts(texts: list[str]) -> None:
    assert_inert(printed(hostile(tuple(texts))))


def test_the_first_screen_answers_what_why_and_what_next() -> None:
    first = printed(blocked()).split("\n")[:24]
    words = "\n".join(first)
    for part in (" BLOCKED ", "Why", "Next", "the model itself was not asked", "training_args.bin"):
        assert part in words


def test_a_32_layer_model_fits_80_columns() -> None:
    text = printed(replace(passed(), modules=llama(32, lambda *_: 0.0)))
    assert ". " * 31 + "." in text


def test_a_narrow_console_still_works() -> None:
    assert "BLOCKED" in printed(blocked(), width=40)


def test_an_ascii_console_gets_ascii() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    render_text(replace(passed(), evidence="weights, ‖V‖"), Console(file=file, width=80))
    file.flush()
    assert b"weights, {U+2016}V{U+2016}" in raw.getvalue()
