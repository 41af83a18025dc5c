"""The page in a real browser: light and dark, on a desk and on a phone of 390 pixels."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from safety_gate.jobs.sqlite import open_sqlite
from tests import chromium
from tests.bot_door import Door, sha
from tests.page_world import RULES, filled, shown
from tests.test_html_report_chromium import LEAST_CONTRAST, LOOK

WIDTHS = (390, 1200)
PATHS = {
    "home": "/",
    "queue": "/queue",
    "search": "/verdicts?q=lora",
    "owner": "/o/acme",
    "repository": "/r/acme/support-lora",
    "report": f"/r/acme/support-lora/{sha(2)}",
    "hostile": f"/r/mallory/evil.lora/{sha(4)}",
    "missing": "/r/acme/none",
}
GROUNDS = {False: "rgb(246, 247, 249)", True: "rgb(14, 17, 22)"}
# What the report's test looks at, and what only this page has: things to press and to jump to.
MORE = """
const pressed = [...page.querySelectorAll("nav a, nav input, nav button, .more a, .choices a")];
const heights = pressed.map((element) => element.getBoundingClientRect().height);
const names = [...page.querySelectorAll("a, button, input:not([type=radio]), img")].filter(
  (element) => !(element.textContent.trim() || element.alt || (element.labels || []).length));
const skip = page.querySelector("a.skip");
skip.focus();
const extra = {
  low: Math.min(...heights), nameless: names.length, skip: skip.getBoundingClientRect().left >= 0,
  target: page.querySelector(skip.getAttribute("href")) !== null,
  wide: [...page.querySelectorAll("body *")].filter((element) =>
    !element.closest(".wide, .tip, .skip, .unseen")
    && element.getBoundingClientRect().right > root.clientWidth + 1).length,
};
"""


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    chromium.require()
    store = open_sqlite(tmp_path_factory.mktemp("page") / "jobs.db", RULES)
    filled(store)
    with shown(store) as door:
        yield door
    store.close_store()


@pytest.fixture(scope="module", params=[False, True], ids=["light", "dark"])
def seen(
    request: pytest.FixtureRequest, door: Door, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    style = door.ask("GET", "/page.css").text
    link = '<link rel="stylesheet" href="/page.css">'
    pages = {}
    for name, path in PATHS.items():  # no page lets itself be framed, so its style goes inside
        text = door.ask("GET", path).text
        assert text.count(link) == 1
        pages[name] = text.replace(link, f"<style>{style}</style>")
    script = MORE + LOOK.replace("return {", "return { ...extra,", 1)
    look = script.replace("const page = view.document", "const _ = 0", 1)
    look = "const page = view.document, root = page.documentElement;" + look.replace(
        "const _ = 0, root = page.documentElement;", "", 1
    )
    found = chromium.measured(
        tmp_path_factory.mktemp("chromium"), pages, look, widths=WIDTHS, dark=request.param
    )
    assert len(found) == len(pages) * len(WIDTHS)
    for one in found:
        one["dark"] = request.param
    return found


def test_no_page_scrolls_sideways(seen: list[dict[str, Any]]) -> None:
    assert [(one["page"], one["width"]) for one in seen if one["scrolls"] or one["wide"]] == []


def test_every_text_can_be_read_in_light_and_dark(seen: list[dict[str, Any]]) -> None:
    for one in seen:
        assert one["ground"] == GROUNDS[one["dark"]]
        assert one["faint"] == [], one["page"]
        assert one["least"] >= LEAST_CONTRAST


def test_a_finger_and_a_keyboard_reach_everything(seen: list[dict[str, Any]]) -> None:
    for one in seen:
        assert one["low"] >= 24, one["page"]  # WCAG 2.2, 2.5.8
        assert one["nameless"] == 0
        assert one["skip"]
        assert one["target"]
        if one["page"] == "report":
            assert one["shown"] == ["01", "01", "01"]  # figures appear with the focus
            assert one["smallest"] >= 24


def test_nothing_runs(seen: list[dict[str, Any]]) -> None:
    assert {one["scripts"] for one in seen} == {0}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_policy_lets_the_style_and_the_badge_in(door: Door, tmp_path: Path, dark: bool) -> None:
    """As the browser gets it from the server: with headers, style sheet and picture."""
    picture = tmp_path / "page.png"
    options = (chromium.DARK,) if dark else ()
    address = f"http://127.0.0.1:{door.port}/r/acme/support-lora"
    chromium.run(tmp_path, *options, f"--screenshot={picture}", "--window-size=900,900", address)
    image = Image.open(io.BytesIO(picture.read_bytes())).convert("RGB")
    colours = {image.getpixel((5, 500))}
    assert colours == {(14, 17, 22) if dark else (246, 247, 249)}
    everywhere = {colour for _, colour in image.getcolors(2**24) or ()}
    assert (11, 87, 164) in everywhere  # the badge: the head is being judged
