"""The HTML report, read back by an HTML parser."""

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from safety_gate.records import LedgerEntry, Report
from safety_gate.report import html
from safety_gate.report.heat_ink import ink_of
from safety_gate.report.heatmap import Shade
from safety_gate.report.html import Token, html_prose, inert, render_html
from safety_gate.report.inert import Name, Prose
from tests.sample_reports import HOSTILE, blocked, hostile, llama, passed, total, undecided

GOLDEN = Path(__file__).parent / "golden"
UPDATE = os.environ.get("SAFETY_GATE_UPDATE_GOLDENS") == "1"
VOID = frozenset({"link", "img", "meta", "input"})
NASTY = st.text("<>\"'&/=`!-# \n\t;:a1.{}%\x1b\u202e\u2028\x00", max_size=40)
TEXTS = st.lists(st.sampled_from(HOSTILE) | NASTY | st.text(max_size=40), min_size=3, max_size=5)


def repaired() -> str:
    modules = llama(6, lambda layer, _: 0.01 * layer)
    return render_html(replace(passed(), modules=modules, total=total(modules)), blocked())


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    path: tuple[str, ...]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """Reads a page strictly: every element must be closed where it was opened."""

    elements: list[Element] = field(default_factory=list)
    open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice: {tag} {attrs}"
        path = tuple(element.tag for element in self.open)
        element = Element(tag=tag, attributes={k: v or "" for k, v in attrs}, path=path)
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]


def read(text: str) -> Page:
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    return page


def facts(page: Page) -> set[tuple[str, str, str]]:
    """Return every element, and every attribute with its value; numbers are all the same.

    Code may stand wherever words do, so only its own path is left out.
    """
    found = {
        (element.tag, "", "" if element.tag == "code" else "/".join(element.path))
        for element in page.elements
    }
    for element in page.elements:
        found |= {(element.tag, n, re.sub("[0-9]+", "0", v)) for n, v in element.attributes.items()}
    return found


def every_sample() -> Iterator[str]:
    yield from (render_html(sample()) for sample in (passed, blocked, undecided))
    yield repaired()
    plain = tuple(f"name{i}" for i in range(8))
    yield render_html(hostile(plain), hostile(plain))
    yield render_html(hostile(("same", *plain, "name0.5.x", "")))


KNOWN = set[tuple[str, str, str]]().union(*(facts(read(page)) for page in every_sample()))


@settings(deadline=None, max_examples=100)
@given(TEXTS)
def test_no_text_of_a_stranger_becomes_an_element_or_an_attribute(texts: list[str]) -> None:
    text = render_html(hostile(tuple(texts)), hostile(tuple(texts)))
    assert facts(read(text)) <= KNOWN
    assert all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("sample", [passed, blocked, undecided, hostile])
def test_a_page_is_complete_in_itself(sample: Callable[[], Report]) -> None:
    page = read(render_html(sample()))
    (style,) = page.all("style")
    digest = base64.b64encode(hashlib.sha256(style.text.encode()).digest()).decode()
    (policy,) = [
        e.attributes["content"]
        for e in page.all("meta")
        if e.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert "url(" not in style.text
    assert "@import" not in style.text
    tags = {element.tag for element in page.elements}
    assert not tags & {"script", "img", "link", "iframe", "object", "form", "svg", "base"}
    names = {name for element in page.elements for name in element.attributes}
    assert not [name for name in names if name.startswith("on") or name in ("src", "style")]
    assert {e.attributes["href"] for e in page.elements if "href" in e.attributes} == {"#why"}


@pytest.mark.parametrize("page", [*every_sample(), render_html(hostile())])
def test_a_page_tells_its_structure(page: str) -> None:
    parsed = read(page)
    for tag in ("html", "header", "main", "footer", "h1", "title"):
        assert len(parsed.all(tag)) == 1, tag
    assert parsed.all("html")[0].attributes["lang"] == "en"
    headings = [int(e.tag[1]) for e in parsed.elements if re.fullmatch("h[1-6]", e.tag)]
    assert all(after <= before + 1 for before, after in pairwise(headings))
    ids = [e.attributes["id"] for e in parsed.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    named = {e.attributes["aria-labelledby"] for e in parsed.all("section")}
    assert named <= set(ids)
    assert all("scope" in e.attributes for e in parsed.all("th"))
    for region in (e for e in parsed.elements if "tabindex" in e.attributes):
        assert region.attributes["role"] == "region"
        assert region.attributes["aria-labelledby"] in ids
    for label in parsed.all("label"):
        assert len(label.text.strip()) > 2, "a square without words"


def test_the_answer_comes_first() -> None:
    page = render_html(blocked())
    places = [
        page.index(part)
        for part in (
            "<h1>blocked</h1>",
            "<code>examples/tiny/harmful</code>",
            "takes back a significant share",
            "Retrain with alignment data",
            "the model itself was not asked",
            "Where the alignment step is taken back",
            ">Findings<",
            ">Worst modules<",
            ">Ledger<",
            ">Provenance<",
        )
    ]
    assert places == sorted(places)


def test_every_square_has_its_figures_and_a_letter() -> None:
    report = blocked(32)
    labels = read(render_html(report)).all("label")
    assert len(labels) == len(report.modules) + 1  # lm_head is not scored
    for score in report.modules:
        (label,) = [e for e in labels if f" {score.module} " in f" {e.text[1:]} "]
        for figure in (score.drift.undone, score.drift.reversion, score.drift.cosine):
            assert f" {figure:.3g}" in label.text
        shade = next(s for s in Shade if ink_of(s).mark == label.text[0])
        assert label.attributes["class"] == f"square {ink_of(shade).name}"
    assert {e.text[0] for e in labels} <= {ink_of(shade).mark for shade in Shade}


def test_one_press_of_tab_reaches_a_row_and_arrows_its_squares() -> None:
    """A group of radio buttons is one stop; a group is a row."""
    page = read(render_html(blocked(32), blocked(6)))
    groups = [e.attributes["name"] for e in page.all("input")]
    assert {e.attributes["type"] for e in page.all("input")} == {"radio"}
    sizes = sorted(groups.count(name) for name in set(groups))
    assert sizes == [1] * 2 + [6] * 7 + [32] * 7


def test_marks_and_colours_tell_shades_apart() -> None:
    inks = [ink_of(shade) for shade in Shade]
    for attribute in ("mark", "name", "fill"):
        assert len({getattr(ink, attribute) for ink in inks}) == len(inks)


def test_before_and_after_stand_side_by_side() -> None:
    text = repaired()
    page = read(text)
    rows = {
        cells[0]: cells[1:]
        for cells in (
            [e.strip() for e in re.findall(r"<t[hd][^>]*>(?:<b>)?([^<]*)", row)]
            for row in re.findall("<tr>(.*?)</tr>", text)
        )
    }
    assert rows["verdict"][:2] == ["blocked", "passed"]
    assert rows["findings that block"][:2] == ["2", "0"]
    assert rows["undone"][:2] == ["0.109", "0.025"]
    titles = [e.text for e in page.all("h3")]
    assert titles[:2] == ["Before the repair", "After the repair"]
    assert "before" not in {e.text for e in read(render_html(passed())).all("th")}


def test_an_adapter_that_was_not_read_before_or_after_the_repair() -> None:
    for text in (render_html(undecided(), blocked()), render_html(passed(), undecided())):
        assert "<td>–</td>" in text or "<td><b>–</b></td>" in text
        read(text)


def test_a_hidden_rest_is_counted() -> None:
    entries = tuple(
        LedgerEntry(kind="file", name=f"f{i}", owner=f"o{i}", accounted=False) for i in range(230)
    )
    text = render_html(replace(blocked(300), ledger=entries))
    assert "<li>and 30 more, all in the JSON report</li>" in text
    assert "<p>And 180 more, all in the JSON report.</p>" in text
    assert "230 entries, <b>230 without an owner</b>" in text
    assert re.search("and [0-9]+ more, all in the JSON report</li>\n</ul>\n</details>", text)


def test_a_hostile_repository_cannot_make_a_page_that_no_browser_opens() -> None:
    names = tuple(f"{i:05d}" + "\u202e" * 500 for i in range(3000))
    assert len(render_html(hostile(names))) < 4_000_000


def test_a_bare_string_counts_as_a_strangers() -> None:
    assert inert("<b>") == "<code>%3Cb%3E</code>"
    assert inert(Markup("<b>")) == "<code>%3Cb%3E</code>"
    assert inert(Name('"')) == "<code>%22</code>"
    assert inert(12345) == "12,345"
    assert inert(1 / 3) == "0.333"
    assert inert(True) == "yes"
    with pytest.raises(TypeError, match="NoneType"):
        inert(None)
    with pytest.raises(jinja2.UndefinedError):
        inert(jinja2.StrictUndefined(name="x"))


def test_our_words_stay_a_sentence() -> None:
    assert html_prose("z <= -3 & call f() again") == (
        "z &lt;= -3 &amp; call <code>f()</code> again"
    )
    assert inert(Prose("an odd ` mark")) == "an odd <code>%60</code> mark"


@pytest.mark.parametrize("word", ["", "a b", '"', "a>", "ä", "a\n"])
def test_an_attribute_takes_plain_words_only(word: str) -> None:
    with pytest.raises(AssertionError, match="not a word"):
        Token(word)


def test_a_misspelt_name_in_a_template_is_an_error() -> None:
    template = html.environment().from_string("{{ reprot }}")
    with pytest.raises(jinja2.UndefinedError, match="reprot"):
        template.render(report=passed())


@pytest.mark.parametrize("sample", [blocked, undecided])
def test_page_is_as_agreed(sample: Callable[[], Report]) -> None:
    text = render_html(sample())
    golden = GOLDEN / f"report_{sample.__name__}.html"
    if UPDATE:
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")
