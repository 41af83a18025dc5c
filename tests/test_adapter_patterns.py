"""Regular expressions: the same answer as Python's re, or a refusal."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_gate.adapter.patterns import SUFFIX_FRAME, PatternRefused, PatternSet

NAMES = [
    "lm_head",
    "model.layers.0.self_attn.q_proj",
    "model.layers.11.mlp.up_proj",
    "transformer.h.1.attn.c_attn",
    "a",
    "",
]
FRAMES = ["{}", SUFFIX_FRAME, r"(^|.*\.){}($|\..*)", r"(?:^|.*?\.){}\.(?P<idx>\d+)\."]
PIECES = st.sampled_from(
    [
        *"aqlm.01_-*+?|()^$",
        *(".*", ".+?", "q_proj", "layers", r"\.", r"\d", r"\w+", "[a-z_]", "[^.]*", "[]a]", "[^]]"),
        *("(?:", "(?=", "(?!", "(?<=", "(?P<n>", "(?>", "{2}", "{1,3}", "{,2}", "{0,}", r"\b"),
    ]
)


def answers(pattern: str, frame: str, *, fullmatch: bool) -> list[bool]:
    """Return what re says, the way PEFT asks it."""
    compiled = re.compile(frame.replace("{}", pattern))
    method = compiled.fullmatch if fullmatch else compiled.match
    return [method(name) is not None for name in NAMES]


@settings(max_examples=800, deadline=None)
@given(
    pattern=st.lists(PIECES, max_size=7).map("".join),
    frame=st.sampled_from(FRAMES),
    fullmatch=st.booleans(),
)
def test_same_answers_as_re_or_refused(pattern: str, frame: str, fullmatch: bool) -> None:
    try:
        patterns = PatternSet("key", [pattern], frame=frame, fullmatch=fullmatch)
        ours = [patterns.first(name) is not None for name in NAMES]
    except PatternRefused:
        return
    assert ours == answers(pattern, frame, fullmatch=fullmatch)


@settings(max_examples=300, deadline=None)
@given(
    pattern=st.text("al.0q_", max_size=8).map(lambda text: text.replace("_", r"\."))
    | st.sampled_from(["q_proj", "^lm_head", "lm_head$", "self_attn.q_proj", "^model.*", "c_attn"])
)
def test_literals_answer_as_re_does(pattern: str) -> None:
    patterns = PatternSet("key", [pattern], frame=SUFFIX_FRAME)
    ours = [patterns.first(name) is not None for name in NAMES]
    assert ours == answers(pattern, SUFFIX_FRAME, fullmatch=False)


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param("a{e<=1}", id="fuzzy-in-regex-literal-in-re"),
        pytest.param("[[:alpha:]]", id="posix-class"),
        pytest.param("[a--b]", id="set-difference"),
        pytest.param(r"(a)\1", id="back-reference"),
        pytest.param("(?P<x>a)(?P=x)", id="named-back-reference"),
        pytest.param("(?i)Q_PROJ", id="flag"),
        pytest.param("(?|a|b)", id="branch-reset"),
        pytest.param("(?R)", id="recursion"),
        pytest.param(r"\p{L}", id="property"),
        pytest.param(r"\Kx", id="keep"),
        pytest.param("(?<=a*)b", id="look-behind-without-width"),
        pytest.param("q\u017f", id="not-ascii"),
        pytest.param("a" * 513, id="long"),
        pytest.param("((((a{99}){99}){99}){99})", id="memory"),
        pytest.param("(", id="open"),
        pytest.param("[a", id="open-set"),
        pytest.param("*", id="nothing-to-repeat"),
    ],
)
def test_what_two_engines_could_read_differently_is_refused(pattern: str) -> None:
    with pytest.raises(PatternRefused) as refused:
        PatternSet("target_modules", [pattern], fullmatch=True)
    assert refused.value.where == "target_modules"
    assert refused.value.hint


def test_many_literals_are_fast() -> None:
    names = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(600)]
    patterns = PatternSet("rank_pattern", names, frame=SUFFIX_FRAME)
    assert [patterns.first(name) for name in names] == list(range(600))


def test_too_many_patterns_are_refused() -> None:
    with pytest.raises(PatternRefused):
        PatternSet("rank_pattern", ["a"] * 2001, frame=SUFFIX_FRAME)
    with pytest.raises(PatternRefused):
        PatternSet("rank_pattern", ["a+"] * 257, frame=SUFFIX_FRAME)
