"""Draw docs/pictures/repair.png: refusals that each repair leaves, against the skill it keeps.

python -m benchmarks.repair_picture
"""

import json
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont

from benchmarks.repair_page import ENOUGH, share

FACTS: Final = Path("examples/repair/FACTS.json")
PICTURE: Final = Path("docs/pictures/repair.png")
SIDE: Final = 330  # pixels of a panel's axes
LEFT, TOP, GAP, LEGEND, BOTTOM = 62, 48, 74, 190, 56
WHITE, INK, FAINT, GOOD = "#ffffff", "#1f2328", "#d8dee4", "#dafbe1"
# Okabe and Ito's colours, which the colour-blind tell apart; a shape each as well.
KINDS: Final = {
    "safemerge, mixed": ("#0072b2", "circle"),
    "safemerge, added": ("#009e73", "square"),
    "other forms of merging": ("#56b4e9", "circle"),
    "safelora, project": ("#cc79a7", "triangle"),
    "scale, drop": ("#999999", "square"),
    "attenuate, unrevert": ("#e69f00", "triangle"),
    "guard": ("#d55e00", "diamond"),
    "as it came": ("#000000", "cross"),
}


def kind(method: str) -> str:
    """Return the legend's entry for a repair."""
    first, _, rest = method.partition(" ")
    if first == "safemerge":
        if not rest.startswith(("cat", "svd")):
            return "other forms of merging"
        task, safety = (float(rest.split(", ")[1].split()[i]) for i in (0, 3))
        return "safemerge, mixed" if abs(task + safety - 1.0) < 1e-9 else "safemerge, added"
    word = first.rstrip(",")
    return next((name for name in KINDS if word in name.split(", ")), "as it came")


def drawn(facts: dict[str, Any]) -> Image.Image:
    """Return the picture."""
    width = LEFT + len(facts) * (SIDE + GAP) + LEGEND
    picture = Image.new("RGB", (width, TOP + SIDE + BOTTOM), WHITE)
    draw = ImageDraw.Draw(picture)
    for i, (name, fact) in enumerate(facts.items()):
        _panel(draw, LEFT + i * (SIDE + GAP), name, fact)
    _legend(draw, LEFT + len(facts) * (SIDE + GAP) - GAP // 2)
    return picture


def _panel(draw: ImageDraw.ImageDraw, left: int, name: str, fact: dict[str, Any]) -> None:
    """Draw the axes and the points of one adapter."""
    own = fact["as_it_came"]

    def at(skill: float, refused: float) -> tuple[float, float]:
        return left + SIDE * min(skill, 1.0), TOP + SIDE * (1.0 - refused)

    draw.rectangle((*at(ENOUGH, 1.0), *at(1.0, ENOUGH)), fill=GOOD)
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        draw.line((*at(tick, 0.0), *at(tick, 1.0)), fill=FAINT)
        draw.line((*at(0.0, tick), *at(1.0, tick)), fill=FAINT)
        x, y = at(tick, 0.0)
        draw.text((x, y + 8), f"{tick:.0%}", fill=INK, font=_font(13), anchor="mt")
        x, y = at(0.0, tick)
        draw.text((x - 8, y), f"{tick:.0%}", fill=INK, font=_font(13), anchor="rm")
    draw.rectangle((*at(0.0, 1.0), *at(1.0, 0.0)), outline=INK)
    draw.text((left, TOP - 30), f"{name}: refusals", fill=INK, font=_font(16))
    draw.text((left + SIDE, TOP + SIDE + 32), "skill kept", fill=INK, font=_font(16), anchor="rt")
    for repair in (*fact["repairs"], {"method": "as it came", **own}):
        skill = share(repair["skill"]) / share(own["skill"])
        _mark(draw, at(skill, share(repair["refused"])), kind(repair["method"]))


def _mark(draw: ImageDraw.ImageDraw, at: tuple[float, float], name: str) -> None:
    """Draw one point in the colour and shape of its kind."""
    color, shape = KINDS[name]
    x, y = at
    r = 5
    match shape:
        case "circle":
            draw.ellipse((x - r, y - r, x + r, y + r), fill=color, outline=WHITE)
        case "square":
            draw.rectangle((x - r, y - r, x + r, y + r), fill=color, outline=WHITE)
        case "triangle":
            draw.polygon([(x, y - r - 1), (x + r + 1, y + r), (x - r - 1, y + r)], fill=color)
        case "diamond":
            points = [(x, y - r - 1), (x + r + 1, y), (x, y + r + 1), (x - r - 1, y)]
            draw.polygon(points, fill=color)
        case _:
            draw.line((x - r - 2, y - r - 2, x + r + 2, y + r + 2), fill=color, width=3)
            draw.line((x - r - 2, y + r + 2, x + r + 2, y - r - 2), fill=color, width=3)


def _legend(draw: ImageDraw.ImageDraw, left: int) -> None:
    for i, name in enumerate(KINDS):
        y = TOP + 14 + 28 * i
        _mark(draw, (left, y), name)
        draw.text((left + 16, y), name, fill=INK, font=_font(14), anchor="lm")


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def main() -> None:
    """Write the picture."""
    drawn(json.loads(FACTS.read_text())).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
