"""The HTML report in a real browser: what a reader sees, in light and dark, wide and narrow."""

from pathlib import Path
from typing import Any

import pytest

from safety_gate.report.html import render_html
from tests import chromium
from tests.sample_reports import blocked, hostile, passed, undecided
from tests.test_html_report import read, repaired

WIDTHS = (360, 1200)
LEAST_CONTRAST = 4.5  # WCAG 2.2, 1.4.3

# Runs outside of the page, and looks into it.
LOOK = """
const page = view.document, root = page.documentElement;
const style = (element) => view.getComputedStyle(element);
const channels = (colour) => colour.match(/[0-9.]+/g).map(Number);
const light = (colour) => {
  const [r, g, b] = channels(colour).slice(0, 3).map((c) => {
    c /= 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = channels(style(e).backgroundColor);
    if (colour.length < 4 || colour[3] === 1) return style(e).backgroundColor;
    if (colour[3] !== 0) throw new Error("a colour that is half there");
  }
};
const faint = [], contrasts = [];
const texts = page.createTreeWalker(page.body, view.NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  if (!texts.currentNode.data.trim()) continue;
  const element = texts.currentNode.parentElement;
  const [a, b] = [light(style(element).color), light(ground(element))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  contrasts.push(contrast);
  if (contrast < 4.5) faint.push(element.className + " " + texts.currentNode.data.trim());
}
const squares = [...page.querySelectorAll("label.square")];
const tip = (label) => style(label.querySelector(".tip"));
const shown = squares.slice(0, 3).map((label) => {
  const before = tip(label).opacity;
  label.querySelector("input").focus();
  return before + tip(label).opacity;
});
const tips = squares.map((label) => label.querySelector(".tip").getBoundingClientRect());
return {
  elements: page.querySelectorAll("*").length,
  scripts: page.scripts.length,
  scrolls: root.scrollWidth > root.clientWidth,
  styled: style(page.querySelector("main")).display,
  ground: style(page.body).backgroundColor,
  faint: faint.slice(0, 5), least: Math.min(...contrasts),
  shown: shown,
  smallest: Math.min(...squares.map((label) => label.getBoundingClientRect().width)),
  tipsFit: tips.every((box) => box.left >= 0 && box.right <= root.clientWidth && box.height < 400),
};
"""


@pytest.fixture(scope="module", params=[False, True], ids=["light", "dark"])
def seen(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    chromium.require()
    pages = {
        "blocked": render_html(blocked(32)),
        "undecided": render_html(undecided()),
        "repaired": repaired(),
        "hostile": render_html(hostile()),
        "passed": render_html(passed()),
    }
    found = chromium.measured(
        tmp_path_factory.mktemp("chromium"), pages, LOOK, widths=WIDTHS, dark=request.param
    )
    assert len(found) == len(pages) * len(WIDTHS)
    for one in found:
        one["dark"] = request.param
        one["text"] = pages[one["page"]]
    return found


def test_the_policy_of_the_page_lets_its_own_style_in(seen: list[dict[str, Any]]) -> None:
    assert {one["styled"] for one in seen} == {"flex"}
    grounds = {one["ground"] for one in seen}
    assert grounds == ({"rgb(14, 17, 22)"} if seen[0]["dark"] else {"rgb(246, 247, 249)"})


def test_chromium_finds_the_elements_that_are_written(seen: list[dict[str, Any]]) -> None:
    """Its parser repairs what is broken; here it has nothing to repair."""
    for one in seen:
        assert one["elements"] == len(read(one["text"]).elements), one["page"]
        assert one["scripts"] == 0


def test_every_text_can_be_read(seen: list[dict[str, Any]]) -> None:
    for one in seen:
        assert one["faint"] == [], one["page"]
        assert one["least"] >= LEAST_CONTRAST


def test_a_page_fits_the_screen(seen: list[dict[str, Any]]) -> None:
    assert [one["page"] for one in seen if one["scrolls"]] == []


def test_figures_appear_with_the_keyboard_focus(seen: list[dict[str, Any]]) -> None:
    for one in seen:
        if one["page"] == "undecided":
            continue
        assert one["shown"] == ["01", "01", "01"], one["page"]
        assert one["tipsFit"], (one["page"], one["width"])
        assert one["smallest"] >= 24  # WCAG 2.2, 2.5.8: a finger meets it


def test_a_picture_can_be_taken(tmp_path: Path) -> None:
    chromium.require()
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text(render_html(blocked()), encoding="utf-8")
    chromium.run(tmp_path, f"--screenshot={picture}", "--window-size=1200,1000", page.as_uri())
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_ci_does_not_pass_without_chromium(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(chromium, "BINARY", tmp_path / "chromium")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="is missing"):
        chromium.require()
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception):
        chromium.require()
