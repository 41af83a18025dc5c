"""The heat map as a PNG, decoded again."""

import io
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from safety_gate.records import Report
from safety_gate.report.heat_ink import Ink, ink_of
from safety_gate.report.heat_picture import CELL, GAP, PAPER, NoPictures, heat_alt, heat_png
from safety_gate.report.heatmap import Shade, heat_map
from tests.sample_reports import blocked, hostile, llama, passed, undecided

LEAST_CONTRAST = 4.5  # WCAG 2.2, 1.4.3
CORNER = 8  # pixels from the edge of a square, where no letter is


def opened(report: Report) -> Image.Image:
    image = Image.open(io.BytesIO(heat_png(report)))
    assert image.format == "PNG"
    assert image.info == {}  # no time, no name of a program
    return image.convert("RGB")


def rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue


def luminance(colour: str) -> float:
    """Return the relative luminance as WCAG 2.2 defines it."""
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (channel / 255 for channel in rgb(colour))
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def near(image: Image.Image, x: int, y: int, colour: str) -> bool:
    pixel = image.getpixel((x, y))
    assert isinstance(pixel, tuple)
    return all(abs(one - other) <= 6 for one, other in zip(pixel, rgb(colour), strict=True))


@pytest.mark.parametrize("ink", [ink_of(shade) for shade in Shade], ids=lambda ink: ink.name)
def test_letters_can_be_read_on_their_squares(ink: Ink) -> None:
    low, high = sorted((luminance(ink.fill), luminance(ink.text)))
    assert (high + 0.05) / (low + 0.05) >= LEAST_CONTRAST


def test_every_square_has_the_colour_of_its_shade() -> None:
    report = blocked(32)
    image = opened(report)
    (stack,) = heat_map(report).stacks
    # The last rows of squares end above "Outside the layers" and its one square.
    rows = [row.cells for row in stack.rows]
    left, top = first_square(image, ink_of(rows[0][0].shade).fill, len(rows[0]))
    for number, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            x = left + column * (CELL + GAP) + CORNER
            y = top + number * (CELL + GAP) + CORNER
            assert near(image, x, y, ink_of(cell.shade).fill), (number, column)


def first_square(image: Image.Image, fill: str, columns: int) -> tuple[int, int]:
    """Find the top left corner of the first full row of squares, by looking for its colour."""
    for y in range(0, image.height, 4):
        for x in range(0, image.width - columns * (CELL + GAP), 4):
            steps = range(x + CORNER, x + columns * (CELL + GAP), CELL + GAP)
            if all(near(image, step, y, fill) for step in steps):
                while near(image, x - 1, y + CELL // 2 - 4, fill):
                    x -= 1
                while near(image, x + CELL // 2 - 8, y - 1, fill):
                    y -= 1
                return x, y
    raise AssertionError("no row of squares")


def test_the_ground_is_light_and_the_sheet_is_not_cut() -> None:
    image = opened(hostile())
    border = [(x, y) for x in range(image.width) for y in (0, image.height - 1)]
    border += [(x, y) for y in range(image.height) for x in (0, image.width - 1)]
    assert {image.getpixel(at) for at in border} == {rgb(PAPER)}


def test_equal_reports_give_equal_bytes() -> None:
    assert heat_png(blocked()) == heat_png(blocked())
    assert heat_png(blocked()) != heat_png(passed())


@pytest.mark.parametrize(
    "report", [undecided(), replace(passed(), modules=llama(300, lambda *_: 0.3))], ids=["0", "300"]
)
def test_every_report_gives_a_picture_of_a_bearable_size(report: Report) -> None:
    data = heat_png(report)
    image = opened(report)
    assert len(data) < 300_000
    assert max(image.size) < 4000


@settings(deadline=None, max_examples=15)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_no_text_of_a_stranger_breaks_the_picture(texts: list[str]) -> None:
    report = hostile(tuple(texts))
    opened(report)
    assert re.fullmatch("[A-Za-z0-9 .,:;-]+", heat_alt(report))


def test_the_words_say_what_the_picture_shows() -> None:
    alt = heat_alt(blocked())
    assert "7 0.25 or more" in alt
    assert "1 not scored" in alt
    assert heat_alt(undecided()).endswith("no module was scored.")


def test_without_pillow_the_next_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(NoPictures) as caught:
        heat_png(blocked())
    assert "pip install pillow" in caught.value.hint


def test_pillow_is_loaded_only_when_a_picture_is_drawn() -> None:
    script = "import sys, safety_gate.report.heat_picture; assert 'PIL' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
