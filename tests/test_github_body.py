"""The words of a comment: whole where they fit, shorter by whole parts where they do not."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from safety_gate.publish import limits
from safety_gate.publish.body import DROPPED_FIRST, comment_body, parts_of, summary_text
from safety_gate.publish.marker import Said, is_marked, read_said
from safety_gate.publish.publication import (
    Judged,
    Publication,
    count,
    headline,
    worst,
)
from safety_gate.records import Blocked, Passed, Report, Undecided
from safety_gate.report.markdown import render_markdown
from tests.loopback_github.publications import HEAD, OTHER, RUN_URL, publication
from tests.sample_reports import HOSTILE, blocked, hostile, passed, undecided

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
OUR_HTML = re.compile(
    r"<details><summary>[A-Za-z0-9,: ]+</summary>|</details>|<!-- safety-gate:[a-z0-9 -]+ -->"
)
NASTY = st.text("`|[]()<>!@#:*_~$\\&\n\r\t %-{}1a.\x1b\u202e\u2028", max_size=40)


def walk(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from walk(token.children or [])


def assert_inert(text: str) -> None:
    """Nothing acts but our own markers, folds and the two links to the run."""
    for token in walk(PARSER.parse(text)):
        assert token.type not in ("image", "html_inline", "s_open", "fence", "code_block", "hr")
        if token.type == "link_open":
            assert token.attrs["href"] == RUN_URL
        if token.type == "html_block":
            for line in token.content.strip().splitlines():
                assert OUR_HTML.fullmatch(line), line
        if token.type == "text":
            assert not re.search(r"@|#[0-9]|(?i:gh-[0-9])|://|www\.|[0-9a-f]{40}", token.content)


def assert_whole(text: str) -> None:
    """No table, list or fold was cut in its middle."""
    assert text.count("<details>") == text.count("</details>")
    for token in PARSER.parse(text):
        if token.type == "table_open":
            assert token.map is not None
            rows = [line for line in text.split("\n")[slice(*token.map)] if line]
            assert len({row.count("|") for row in rows}) == 1
    assert text.rstrip().endswith((".", "run](" + RUN_URL + ")."))


def huge() -> Report:
    """A report that fills a comment: every cap of the Markdown is reached."""
    return blocked(layers=200)


def test_a_usual_report_is_told_whole() -> None:
    text = comment_body(publication("blocked"), None)
    whole = render_markdown(blocked()).partition("\n")[2].strip()
    assert whole in text
    assert "Left out" not in text
    assert is_marked(text, "safety-gate")
    assert text.count("## Safety Gate: ") == 1


def test_parts_are_those_of_the_report() -> None:
    """Each name of a part stands for a heading that the report's templates really make."""
    seen: set[str] = set()
    for sample in (blocked(), hostile()):  # the second one was asked, and its answers are shown
        report = render_markdown(sample)
        names = [part.name for part in parts_of(report)]
        assert names[0] == ""
        seen |= set(names[1:])
        assert "".join(part.text for part in parts_of(report)) == report.partition("\n")[2]
    assert seen == set(DROPPED_FIRST) - {"other parts"}


def test_a_heading_that_is_not_known_is_a_part_as_well() -> None:
    assert [p.name for p in parts_of("## x\nhead\n### Before and after\ntable\n")] == [
        "",
        "other parts",
    ]


def test_what_is_dropped_comes_in_order_and_is_named() -> None:
    what = publication("blocked")
    sizes, seen = range(9_000, 1_500, -150), []
    for size in sizes:
        text = comment_body(what, None, limit=size)
        assert limits.size(text) <= size
        assert_whole(text)
        assert_inert(text)
        left_out = re.search(r"Left out for length: (.*?)\. The whole report", text)
        seen.append(tuple(left_out[1].split(", ")) if left_out else ())
    stages = list(dict.fromkeys(seen))
    there = {part.name for part in parts_of(render_markdown(blocked()))}
    order = [name for name in DROPPED_FIRST if name in there]
    expected = [tuple(order[:n]) for n in range(len(order) + 1)]
    assert stages[: len(expected)] == expected
    assert stages[len(expected) :] in ([], [(*order, "reasons")])


def test_the_pointer_names_job_summary_and_json() -> None:
    text = comment_body(publication(huge(), huge(), huge(), huge(), huge()), None, limit=9_000)
    assert f"[job summary]({RUN_URL})" in text
    assert "JSON report" in text


def test_passing_adapters_lose_their_detail_first() -> None:
    what = publication("passed", "blocked")
    for size in range(12_000, 6_000, -100):
        text = comment_body(what, None, limit=size)
        of_blocked, _, of_passed = text.partition("## Adapter `adapters/a0`")
        if "Provenance" not in of_passed:
            assert "Provenance" in of_blocked
            return
    raise AssertionError("provenance was never dropped for one of them alone")


def test_gravest_adapter_comes_first() -> None:
    text = comment_body(publication("passed", "undecided", "blocked"), None)
    order = re.findall(r"^## Adapter `(.*?)`: (.*)$", text, re.MULTILINE)
    assert [verdict for _, verdict in order] == ["blocked", "undecided", "passed"]
    assert text.index("| `adapters/a2` | blocked |") < text.index("| `adapters/a0` | passed |")


def test_many_huge_reports_fit_a_comment_and_a_summary() -> None:
    what = publication(*[huge()] * 12)
    comment = comment_body(what, None)
    summary = summary_text(what)
    assert limits.size(comment) <= limits.COMMENT
    assert limits.size(summary) <= limits.SUMMARY
    for text in (comment, summary):
        assert "adapters/a11" in text
        assert_inert(text)
        assert_whole(text)


def test_even_fifty_names_can_be_too_many() -> None:
    what = publication(*["blocked"] * 50)
    text = comment_body(what, None, limit=1_600)
    assert "And 30 more adapters, all in the JSON report." in text
    shortest = comment_body(what, None, limit=760)
    assert "And 50 more adapters" in shortest


@pytest.mark.parametrize("report", [passed, blocked, undecided, hostile])
def test_comments_are_inert(report: Callable[[], Report]) -> None:
    assert_inert(comment_body(publication(report()), None))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(HOSTILE) | NASTY | st.text(max_size=40), min_size=3, max_size=4))
def test_names_of_adapters_are_inert(texts: list[str]) -> None:
    judged = tuple(Judged(name=text, report=hostile(tuple(texts))) for text in texts)
    text = comment_body(replace(publication("passed"), judged=judged), None)
    assert_inert(text)
    assert is_marked(text, "safety-gate")
    assert read_said(text) is not None


def test_a_hostile_note_and_caveat_stay_words() -> None:
    nothing = publication(note=HOSTILE[0] + HOSTILE[2], caveats=(HOSTILE[1],))
    assert_inert(comment_body(nothing, None))


@pytest.mark.parametrize(
    ("before", "now", "resolved"),
    [
        ("blocked", "passed", True),
        ("undecided", "passed", True),
        ("blocked", "undecided", False),
        ("passed", "passed", False),
        ("nothing-to-judge", "passed", False),
    ],
)
def test_resolved_is_said_where_it_is_true(before: str, now: str, resolved: bool) -> None:
    words = {one: one for one in ("blocked", "undecided", "passed", "nothing-to-judge")}
    said = Said(word=words[before], commit=OTHER, digest="0" * 64)  # type: ignore[arg-type]
    text = comment_body(publication(now), said)
    assert ("**Resolved:** commit `dddddddddddd` was" in text) == resolved


def test_tolerated_verdict_is_told_as_such() -> None:
    text = comment_body(publication("blocked", tolerated=("blocked",)), None)
    assert "## Safety Gate: blocked" in text
    assert "**Tolerated:**" in text


def test_gate_with_another_id_is_named() -> None:
    assert "Gate `second`" in comment_body(publication("passed", gate_id="second"), None)


def test_summary_has_no_marker() -> None:
    text = summary_text(publication("blocked"))
    assert "<!--" not in text
    assert "kept up to date" not in text


def test_run_address_must_be_plain() -> None:
    odd = replace(publication("passed"), run_url="https://x.example/) [a](https://evil.example")
    with pytest.raises(AssertionError, match="not a plain address"):
        comment_body(odd, None)


@pytest.mark.parametrize("gate_id", ["", "-->", "A", "x" * 65, "a b", "../x", "a\n"])
def test_gate_ids_that_could_break_out_are_refused(gate_id: str) -> None:
    with pytest.raises(AssertionError, match="not a gate id"):
        publication("passed", gate_id=gate_id)


@pytest.mark.parametrize("commit", ["", "abc", "g" * 40, HEAD.upper(), HEAD + "\n"])
def test_commits_must_be_pinned(commit: str) -> None:
    with pytest.raises(AssertionError, match="not a pinned commit"):
        publication("passed", commit=commit)


def test_worst_verdict() -> None:
    assert worst([]) is None
    assert worst([Passed(), Passed()]) == Passed()
    assert worst([Passed(), Undecided()]) == Undecided()
    assert worst([Undecided(), Blocked(), Passed()]) == Blocked()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (publication(), "nothing to judge"),
        (publication("passed"), "passed: 1 adapter"),
        (publication("passed", "passed"), "passed: 2 adapters"),
        (publication("passed", "blocked"), "blocked: 1 of 2 adapters"),
        (publication("undecided", tolerated=("undecided",)), "undecided, tolerated: 1 adapter"),
    ],
)
def test_headlines(what: Publication, words: str) -> None:
    assert headline(what) == words


@settings(deadline=None)
@given(st.text(max_size=300), st.integers(min_value=8, max_value=200))
def test_clipped_words_fit(text: str, limit: int) -> None:
    clipped = limits.clipped(text, limit)
    assert limits.size(clipped) <= limit
    assert clipped == text or clipped.endswith(" ...")


def test_bytes_count_and_not_characters() -> None:
    assert limits.size("🟥") == 4
    assert not limits.fits("🟥" * 20_000, limits.COMMENT)
    assert limits.size("\ud800") == 1
    assert count(1_234, "file") == "1,234 files"
