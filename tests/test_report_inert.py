"""Nothing that a stranger typed can act."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety_gate.report.inert import code_span, markdown_prose, plain_prose, shown

SPAN = re.compile(r"`[A-Za-z0-9._/\-:@ ,()=+%{}]+`")


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        pytest.param("model.layers.0.self_attn.q_proj", None, id="a module"),
        pytest.param("org/name@main", None, id="a repository"),
        pytest.param("", "{empty}", id="nothing"),
        pytest.param("{empty}", "%7Bempty%7D", id="the word for nothing"),
        pytest.param("a`b|c", "a%60b%7Cc", id="fence and cell"),
        pytest.param("<b>", "%3Cb%3E", id="a tag"),
        pytest.param("a::b:c", "a%3A%3Ab:c", id="a command of a log"),
        pytest.param(":", "%3A", id="half a command"),
        pytest.param(" a  b ", "%20a%20%20b%20", id="blanks that would not be seen"),
        pytest.param("a\u202eb", "a{U+202E}b", id="right to left"),
        pytest.param("\x1b[0m", "%1B%5B0m", id="ansi"),
        pytest.param("\ud800", "{U+D800}", id="half a character"),
        pytest.param("100%", "100%25", id="the escape itself"),
    ],
)
def test_names_are_shown_in_harmless_characters(text: str, seen: str | None) -> None:
    assert shown(text) == (text if seen is None else seen)


def test_a_long_name_loses_its_middle() -> None:
    assert shown("a" * 60 + "b" * 61) == "a" * 58 + "{...}" + "b" * 57
    assert shown("a" * 120) == "a" * 120
    assert shown("x" * 10_000_000 + ".q_proj", 20) == "xxxxxxxx{...}.q_proj"
    assert shown("\u202e" * 30, 20) == "{U+202E}{...}"  # an escape is never cut


@given(st.text(max_size=300), st.integers(min_value=12, max_value=200))
def test_a_name_is_one_short_code_span(text: str, limit: int) -> None:
    assert len(shown(text, limit)) <= limit
    assert SPAN.fullmatch(code_span(text))
    assert "::" not in shown(text)


@given(st.text(max_size=100))
def test_short_ascii_names_can_be_told_apart(text: str) -> None:
    """The escapes can be undone, so no two names look the same."""
    if len(visible := shown(text)) > 100 or not text:
        return
    pattern = r"%([0-9A-F]{2})|\{U\+([0-9A-F]{4,6})\}"
    assert re.sub(pattern, lambda m: chr(int(m[1] or m[2], 16)), visible) == text


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("Remove the file, or don't use it.", "Remove the file, or don't use it."),
        ("at most 0.35 (of ‖V‖)", "at most 0.35 (of ‖V‖)"),
        ("Give --base DIR", "Give `--base` DIR"),
        ("call save_pretrained() again", "call `save_pretrained()` again"),
        ("needs README.md.", "needs `README.md`."),
        ("(see adapter_config.json)", "(see `adapter_config.json`)"),
        ("as `lora_A` or `lora_B`, not", "as `lora_A` or `lora_B`, not"),
        ("z <= -3 & cosine < 0.2", "z &lt;= -3 &amp; cosine &lt; 0.2"),
        ("ask @acme about #1", "ask `@acme` about `%231`"),
        ("commit 0123abc", "commit `0123abc`"),
        ("GH-12 [x](y)", "`GH-12` `%5Bx%5D(y)`"),
        ("one\n\n# two", "one `%23` two"),
        ("`a``b`", "`a` `b`"),
        ("an odd ` mark", "an odd `%60` mark"),
    ],
)
def test_our_words_stay_a_sentence(text: str, markdown: str) -> None:
    assert markdown_prose(text) == markdown


@given(st.text(max_size=80))
def test_prose_is_plain_words_and_code_spans(text: str) -> None:
    markdown = markdown_prose(text)
    assert SPAN.sub("", markdown).count("`") == 0
    assert "``" not in markdown
    bare = re.sub(r"&(lt|gt|amp);", "", SPAN.sub("", markdown))
    assert not re.search(r"[|<>\[\]@#*_~$\\&{}\n]|://|www\.", bare)


@given(st.text(max_size=80), st.booleans())
def test_plain_prose_is_one_printable_line(text: str, ascii_only: bool) -> None:
    plain = plain_prose(text, ascii_only=ascii_only)
    assert plain.isprintable()
    assert "::" not in plain
    assert "##[" not in plain
    assert plain.isascii() or not ascii_only
