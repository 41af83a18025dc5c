"""The badge of a repository: an SVG of our own words, which loads nothing."""

from typing import Final, Literal, TypeAlias

Word: TypeAlias = Literal["passed", "blocked", "undecided", "judging", "unknown"]

LABEL: Final = "safety gate"
# White on each has a contrast of 4.5 or more (WCAG 2.2, 1.4.3).
FILLS: Final[dict[Word, str]] = {
    "passed": "#19703a",
    "blocked": "#a8201a",
    "undecided": "#855600",
    "judging": "#0b57a4",
    "unknown": "#525a64",
}
LETTER: Final = 6.6  # pixels of one letter at 11 px, about; textLength makes it exact
MARGIN: Final = 7  # pixels beside a word


def badge_svg(word: Word) -> str:
    """Return a picture of 20 pixels' height."""
    left, right = _width(LABEL), _width(word)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20"'
        f' role="img" aria-label="{LABEL}: {word}"><title>{LABEL}: {word}</title>'
        f'<rect width="{left + right}" height="20" rx="4" fill="#24292f"/>'
        f'<path d="M{left} 0h{right - 4}a4 4 0 0 1 4 4v12a4 4 0 0 1-4 4h-{right - 4}z"'
        f' fill="{FILLS[word]}"/>'
        '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">'
        f"{_text(LABEL, 0, left)}{_text(word, left, right)}</g></svg>\n"
    )


def _width(word: str) -> int:
    return round(len(word) * LETTER) + 2 * MARGIN


def _text(word: str, start: int, width: int) -> str:
    return f'<text x="{start + MARGIN}" y="14" textLength="{width - 2 * MARGIN}">{word}</text>'
