"""The Markdown report, read back by a Markdown parser."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from safety_gate.records import AdapterFact, LedgerEntry, Report
from safety_gate.report import markdown
from safety_gate.report.markdown import inert, render_markdown
from tests.sample_reports import HOSTILE, blocked, hostile, llama, passed, score, undecided

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
SAMPLES = (passed, blocked, undecided, hostile)
COMMENT_LIMIT = 65_536  # characters of a comment on GitHub
NASTY = st.text("`|[]()<>!@#:*_~$\\&\n\r\t %-{}1a.\x1b\u202e\u2028", max_size=40)
TEXTS = st.lists(st.sampled_from(HOSTILE) | NASTY | st.text(max_size=40), min_size=3, max_size=5)


def walk(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from walk(token.children or [])


def columns(text: str) -> list[tuple[int, int]]:
    """Return (columns, rows) of every table, counted in the text and not by the parser."""
    lines = text.split("\n")
    sizes = []
    for token in PARSER.parse(text):
        if token.type == "table_open":
            assert token.map is not None
            table = [line for line in lines[slice(*token.map)] if line]
            assert len({line.count("|") for line in table}) == 1, table
            sizes.append((table[0].count("|") - 1, len(table) - 2))
    return sizes


def assert_inert(text: str) -> None:
    allowed = re.compile(r"<details><summary>[A-Za-z0-9,: ]+</summary>|</details>")
    for token in walk(PARSER.parse(text)):
        assert token.type not in ("link_open", "image", "html_inline", "s_open", "em_open")
        assert token.type not in ("fence", "code_block", "blockquote_open", "hr")
        if token.type == "html_block":
            assert allowed.fullmatch(token.content.strip())
        if token.type == "text":
            assert not re.search(r"@|#[0-9]|(?i:gh-[0-9])|://|www\.|[0-9a-f]{40}", token.content)
        if token.type == "heading_open":
            assert token.tag in ("h2", "h3")
    headings = re.findall("^## .*$", text, re.MULTILINE)
    assert len(headings) == 1
    assert "<!--" not in text
    assert "##[" not in text
    assert not any(line.lstrip().startswith("::") for line in text.splitlines())
    assert all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("sample", SAMPLES)
def test_samples_are_inert(sample: Callable[[], Report]) -> None:
    text = render_markdown(sample())
    assert_inert(text)
    assert text.startswith(f"## Safety Gate: {sample().verdict.word}\n")
    assert text.count("<details>") == text.count("</details>") >= 1


@settings(deadline=None, max_examples=150)
@given(TEXTS)
def test_no_text_of_a_stranger_acts(texts: list[str]) -> None:
    text = render_markdown(hostile(tuple(texts)))
    assert_inert(text)
    owners = len(set(texts))
    n = len(texts)
    said, *heat, worst, ledger, adapter, base, aligned = columns(text)
    assert said[0] == 3  # asked, aligned, adapter
    assert worst == (8, n + 1)
    assert ledger == (4, owners)
    assert adapter == base == aligned == (3, n)
    assert {width for width, _ in heat} == {2}


def test_the_first_lines_answer_what_why_and_what_next() -> None:
    first = render_markdown(blocked()).split("### ")[0]
    for part in ("## Safety Gate: blocked", "**Why:** ", "**Next:**", "the model itself was not"):
        assert part in first


def test_a_32_layer_model_is_seven_rows_of_32_squares() -> None:
    text = render_markdown(replace(passed(), modules=llama(32, lambda *_: 0.0)))
    assert text.count("🟩" * 32) == 7
    assert (2, 7) in columns(text)


def test_the_longest_report_fits_a_comment() -> None:
    names = [f"{i:03d}" + "\u202e" * 500 for i in range(200)]
    report = hostile(tuple(names))
    modules = tuple(
        score(f"{name}.{layer}.{name}{row}", 0.2, shape=(8, 8), wobble=0.0)
        for name in names[:5]
        for layer in (0, 126)
        for row in range(20)
    )
    assert len(render_markdown(replace(report, modules=modules))) < COMMENT_LIMIT


def test_a_hidden_rest_is_counted() -> None:
    report = blocked()
    entries = tuple(
        LedgerEntry(kind="file", name=f"f{i}", owner="nobody", accounted=False) for i in range(30)
    )
    text = render_markdown(replace(report, ledger=entries))
    assert "- and 10 more, all in the JSON report" in text
    assert "Ledger: 30 files, tensors and config keys, 30 without an owner" in text


def test_every_digest_of_the_adapter_is_there() -> None:
    report = blocked()
    assert isinstance(report.adapter, AdapterFact)
    text = render_markdown(report)
    for file in report.adapter.files:
        assert f"`{file.sha256}`" in text


def test_a_bare_string_counts_as_a_strangers() -> None:
    assert inert("<b>") == "`%3Cb%3E`"
    assert inert(12345) == "12,345"
    assert inert(1 / 3) == "0.333"
    assert inert(True) == "yes"
    with pytest.raises(TypeError, match="NoneType"):
        inert(None)
    with pytest.raises(jinja2.UndefinedError):
        inert(jinja2.StrictUndefined(name="x"))


def test_a_misspelt_name_in_a_template_is_an_error() -> None:
    template = markdown._environment().from_string("{{ reprot }}")
    with pytest.raises(jinja2.UndefinedError, match="reprot"):
        template.render(report=passed())


def test_an_installed_package_brings_its_own_templates(tmp_path: Path) -> None:
    """As in the wheel: templates inside the package, no repository around it; and no torch."""
    package = Path(markdown.__file__).parents[1]
    installed = tmp_path / "safety_gate"
    shutil.copytree(package / "report", installed / "report")
    for name in ("__init__.py", "errors.py", "rates.py", "behaviour.py", "records.py"):
        shutil.copy(package / name, installed / name)
    shutil.copytree(markdown.templates_folder(), installed / "templates")
    shutil.copy(Path(__file__).with_name("sample_reports.py"), tmp_path)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import sample_reports, safety_gate.report.terminal, safety_gate.report.json_report\n"
        "from safety_gate.report import markdown\n"
        "assert sys.argv[1] in str(markdown.templates_folder())\n"
        "assert 'torch' not in sys.modules\n"
        "print(markdown.render_markdown(sample_reports.undecided()).split(chr(10))[0])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "## Safety Gate: undecided\n"
