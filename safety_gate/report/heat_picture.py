"""The heat map as a PNG, for places that show pictures and no tables of squares.

Pillow draws it (docs/decisions/0003-pictures.md).
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safety_gate.errors import GateError
from safety_gate.records import Report
from safety_gate.report.heat_ink import ink_of
from safety_gate.report.heatmap import Cell, HeatMap, Shade, Stack, heat_map
from safety_gate.report.inert import shown
from safety_gate.report.summary import summarise

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

PAPER, TEXT, SOFT = "#ffffff", "#1b1f24", "#525a64"
# Pixels; drawn large, since a discussion on the Hub shows pictures at half their width or less.
MARGIN, CELL, GAP, LINE = 48, 44, 4, 50
TITLE_SIZE, TEXT_SIZE, NUMBER_SIZE, MARK_SIZE = 46, 28, 22, 24
LONGEST_LABEL = 28  # characters
LONGEST_NAME = 70
NARROWEST = 1240  # the title, and half of the legend beside each other


class NoPictures(GateError):
    """Pillow is not installed."""

    rule = "no-pictures"


def heat_png(report: Report) -> bytes:
    """Return the heat map on a light ground; equal reports give equal bytes with one Pillow.

    Raises:
        NoPictures: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise NoPictures(
            "pictures need Pillow, which is not installed",
            where="the heat map",
            hint="Install it with pip install pillow.",
        ) from error
    heat = heat_map(report)
    fonts = {size: ImageFont.load_default(size) for size in _SIZES}
    labels = max((fonts[TEXT_SIZE].getlength(label) for label in _labels(heat)), default=0.0)
    left = MARGIN + math.ceil(labels) + 24
    image = Image.new("RGB", _size(heat, left), PAPER)
    pen = _Pen(draw=ImageDraw.Draw(image), fonts=fonts, left=left, width=image.width)
    bottom = pen.sheet(report, heat)
    file = io.BytesIO()
    # 64 colours hold every shade with its smoothed letters, in a third of the bytes.
    image.crop((0, 0, image.width, bottom)).quantize(64).save(file, "PNG", optimize=True)
    return file.getvalue()


def heat_alt(report: Report) -> str:
    """Return the picture in one sentence of plain words, for those who do not see it."""
    heat = heat_map(report)
    cells = [cell for stack in heat.stacks for row in stack.rows for cell in row.cells]
    cells = [cell for cell in (*cells, *heat.others) if cell.module]
    counts = [
        f"{sum(cell.shade is shade for cell in cells)} {shade.value}"
        for shade in Shade
        if any(cell.shade is shade for cell in cells)
    ]
    told = "; ".join(counts) or "no module was scored"
    return f"Heat map of the share of the alignment step that each module takes back: {told}."


_SIZES = (TITLE_SIZE, TEXT_SIZE, NUMBER_SIZE, MARK_SIZE)


def _labels(heat: HeatMap) -> Iterator[str]:
    names = (row.label for stack in heat.stacks for row in stack.rows)
    for name in (*names, *(cell.module for cell in heat.others)):
        yield shown(name, LONGEST_LABEL)


def _size(heat: HeatMap, left: int) -> tuple[int, int]:
    """Return a size that is wide enough, and at least as high as needed."""
    columns = max((len(stack.rows[0].cells) for stack in heat.stacks), default=0)
    rows = sum(len(stack.rows) + 3 for stack in heat.stacks) + len(heat.others) + len(Shade)
    width = max(NARROWEST, left + columns * (CELL + GAP) + MARGIN)
    return width, 2 * MARGIN + (rows + 8) * LINE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pen:
    """Draws from top to bottom; each method takes the top and returns the bottom, in pixels."""

    draw: "ImageDraw"
    fonts: "dict[int, FreeTypeFont | ImageFont]"
    left: int  # where the squares begin
    width: int

    def sheet(self, report: Report, heat: HeatMap) -> int:
        """Draw everything."""
        self.text(MARGIN, MARGIN, summarise(report).headline, size=TITLE_SIZE)
        top = MARGIN + LINE + 16
        if report.adapter is not None:
            name = shown(report.adapter.name, LONGEST_NAME)
            top = self.line(top, f"Adapter {name}")
        top = self.line(top, "Share of the alignment step that each module takes back", SOFT)
        top = self.legend(top + 14) + 14
        for stack in heat.stacks:
            top = self.stack(top, stack) + 20
        if heat.others:
            top = self.line(top, "Outside the layers", SOFT)
        for cell in heat.others:
            top = self.row(top, cell.module, (cell,))
        if heat.hidden_rows:
            top = self.line(top, f"And {heat.hidden_rows:,} more rows, none of them worse", SOFT)
        if not (heat.stacks or heat.others):
            top = self.line(top, "No module was scored.")
        return top + MARGIN // 2

    def text(
        self, x: float, y: float, text: str, fill: str = TEXT, *, size: int = TEXT_SIZE
    ) -> float:
        """Write, and return where the text ends."""
        self.draw.text((x, y), text, fill=fill, font=self.fonts[size])
        return x + self.draw.textlength(text, font=self.fonts[size])

    def line(self, top: int, text: str, fill: str = TEXT) -> int:
        """Write one line."""
        self.text(MARGIN, top, text, fill)
        return top + LINE - 6

    def legend(self, top: int) -> int:
        """Write what each shade means, in as many lines as it takes."""
        x: float = MARGIN
        for shade in Shade:
            length = self.draw.textlength(shade.value, font=self.fonts[TEXT_SIZE])
            if x + CELL + length + 60 > self.width - MARGIN:
                x, top = MARGIN, top + LINE
            self.square(int(x), top, shade)
            x = self.text(x + CELL + 12, top + 4, shade.value) + 36
        return top + LINE + 10

    def stack(self, top: int, stack: Stack) -> int:
        """Draw one run of layers, with their numbers above."""
        fold = f", {stack.fold} to a square, the worst shows" if stack.fold > 1 else ""
        prefix = shown(stack.prefix, LONGEST_NAME)
        top = self.line(top, f"{prefix}, layers {stack.first} to {stack.last}{fold}", SOFT)
        for column in range(len(stack.rows[0].cells)):
            number = str(stack.first + column * stack.fold)
            # From three digits on, every number would touch the next.
            if len(str(stack.last)) < 3 or column % 2 == 0:
                middle = self.left + column * (CELL + GAP) + CELL / 2
                length = self.draw.textlength(number, font=self.fonts[NUMBER_SIZE])
                self.text(middle - length / 2, top, number, SOFT, size=NUMBER_SIZE)
        top += 34
        for row in stack.rows:
            top = self.row(top, row.label, row.cells)
        return top

    def row(self, top: int, label: str, cells: tuple[Cell, ...]) -> int:
        """Draw one row of squares with its label."""
        self.text(MARGIN, top + 5, shown(label, LONGEST_LABEL))
        for column, cell in enumerate(cells):
            self.square(self.left + column * (CELL + GAP), top, cell.shade)
        return top + CELL + GAP

    def square(self, x: int, y: int, shade: Shade) -> None:
        """Draw one square with its letter in the middle."""
        ink = ink_of(shade)
        self.draw.rounded_rectangle((x, y, x + CELL - 1, y + CELL - 1), radius=6, fill=ink.fill)
        middle = (x + CELL / 2, y + CELL / 2)
        self.draw.text(middle, ink.mark, fill=ink.text, font=self.fonts[MARK_SIZE], anchor="mm")
