"""Our section of a model card: text in, text out."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety_gate.publish.card import END, OPT_OUT, START, opted_out, read_card, with_section

OURS = "## Safety Gate: blocked\n\nwords\n"
BLOCK = f"{START}\n{OURS}{END}"
FRONT = "---\nlicense: mit\n---\n"


def edited(text: str, section: str = OURS) -> str:
    return with_section(text.encode(), section).decode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("", f"{BLOCK}\n", id="no card"),
        pytest.param("# A\n", f"# A\n\n{BLOCK}\n", id="appended"),
        pytest.param("# A", f"# A\n\n{BLOCK}\n", id="no end of the last line"),
        pytest.param("# A\n\n", f"# A\n\n{BLOCK}\n", id="an empty line is there"),
        pytest.param("# A\r\n", f"# A\n\n{BLOCK}\n".replace("\n", "\r\n"), id="crlf"),
        pytest.param(f"{FRONT}# A\n", f"{FRONT}# A\n\n{BLOCK}\n", id="front matter"),
        pytest.param(
            f"# A\n{START}\n## Safety Gate: passed\nold\n{END}\n# B\n",
            f"# A\n{BLOCK}\n# B\n",
            id="replaced",
        ),
        pytest.param(f"{START}\n{END}", BLOCK, id="emptied by somebody"),
        pytest.param(f"# A\n{BLOCK}\n", f"# A\n{BLOCK}\n", id="unchanged"),
        pytest.param(f"  {START}  \n{OURS}{END}\t\nB", f"{BLOCK}\nB", id="blanks around"),
        pytest.param(
            f"{BLOCK}\n# A\n{START}\n## Safety Gate: passed\nforged\n{END}\n# B\n",
            f"{BLOCK}\n# A\n# B\n",
            id="duplicate",
        ),
        pytest.param(f"# A\n{START}\n# B\n", f"# A\n{START}\n# B\n\n{BLOCK}\n", id="unclosed"),
        pytest.param(f"{END}\n# A\n", f"{END}\n# A\n\n{BLOCK}\n", id="only an end"),
        pytest.param(
            f"{START}\n# Mine\n{START}\n## Safety Gate: passed\n{END}\n# B\n{END}\n",
            f"{START}\n# Mine\n{BLOCK}\n# B\n{END}\n",
            id="nested",
        ),
        pytest.param(
            f"{START}\n# The owner's words\n{END}\n",
            f"{START}\n# The owner's words\n{END}\n\n{BLOCK}\n",
            id="wrapped words of the owner",
        ),
        pytest.param(
            f"{START}\n## Safety Gate\n# The owner's words\n{END}\n",
            f"{START}\n## Safety Gate\n# The owner's words\n{END}\n\n{BLOCK}\n",
            id="wrapped words of the owner, below our title",
        ),
        pytest.param(
            f"```\n{START}\nx\n{END}\n```\n",
            f"```\n{START}\nx\n{END}\n```\n\n{BLOCK}\n",
            id="in a code block",
        ),
        pytest.param(
            f"    {START}\n    x\n    {END}\n",
            f"    {START}\n    x\n    {END}\n\n{BLOCK}\n",
            id="in an indented code block",
        ),
        pytest.param(
            f"~~~~\n~~~\n{START}\n{END}\n~~~~\n",
            f"~~~~\n~~~\n{START}\n{END}\n~~~~\n\n{BLOCK}\n",
            id="in a longer fence",
        ),
        pytest.param(
            f"---\na: |\n  x\n{START}\n{END}\n---\n# A\n",
            f"---\na: |\n  x\n{START}\n{END}\n---\n# A\n\n{BLOCK}\n",
            id="in the front matter",
        ),
        pytest.param(
            f"{FRONT}# A\n```\nnever closed\n",
            f"{FRONT}{BLOCK}\n\n# A\n```\nnever closed\n",
            id="an open code block swallows what comes after",
        ),
        pytest.param(
            "# A\n<!-- never closed\n", f"{BLOCK}\n\n# A\n<!-- never closed\n", id="an open comment"
        ),
        pytest.param(
            f"# A\ntext {START}\n", f"# A\ntext {START}\n\n{BLOCK}\n", id="inside a line"
        ),
    ],
)  # fmt: skip
def test_the_section_has_one_place(before: str, after: str) -> None:
    assert edited(before) == after
    assert edited(after) == after


PIECES = st.sampled_from(
    [
        START,
        END,
        OPT_OUT,
        "---",
        "```",
        "~~~",
        "<!--",
        "-->",
        "# Heading",
        "## Safety Gate: passed",
        "words",
        "",
        "caf\u00e9 \u202e",
    ]
)
CARDS = st.lists(st.tuples(PIECES, st.sampled_from(["\n", "\n", "\r\n"])), max_size=14).map(
    lambda lines: "".join(text + end for text, end in lines)
)


@given(CARDS | st.text(max_size=200))
def test_all_other_bytes_stay(text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    after = with_section(data, OURS)
    old, new = read_card(data), read_card(after)
    assert len(new.sections) == 1
    (ours,) = new.sections
    assert b"".join(new.lines[i] for i in ours).replace(b"\r\n", b"\n").strip() == BLOCK.encode()
    kept = [line for i, line in enumerate(old.lines) if not any(i in s for s in old.sections)]
    around = [line for i, line in enumerate(new.lines) if i not in ours]
    # Outside of our section only the end of a last line, or an empty line, may have been added.
    squeezed = [line.rstrip(b"\r\n") for line in around]
    expected = [line.rstrip(b"\r\n") for line in kept]
    assert [line for line in squeezed if line] == [line for line in expected if line]
    if old.sections or not old.cut_short:
        assert b"".join(around).startswith(b"".join(kept))
    assert with_section(after, OURS) == after


@given(CARDS)
def test_what_was_asked_of_us_stays_asked(text: str) -> None:
    data = text.encode()
    assert opted_out(with_section(data, OURS)) == opted_out(data)


@pytest.mark.parametrize(
    ("text", "out"),
    [
        (f"{OPT_OUT}\n", True),
        (f"{FRONT}# A\n\n  {OPT_OUT}", True),
        (f"write `{OPT_OUT}` to stop\n", False),
        (f"```\n{OPT_OUT}\n```\n", False),
        (f"---\nx: 1\n{OPT_OUT}\n---\n", False),
    ],
)
def test_the_owner_can_ask_to_be_left_alone(text: str, out: bool) -> None:
    assert opted_out(text.encode()) is out


def test_a_card_of_any_encoding_is_kept() -> None:
    data = b"# caf\xe9 \xff\x00\n\r\rx"
    after = with_section(data, OURS)
    assert after.startswith(data)
    assert re.sub(b"(?s)<!-- safety-gate:start.*", b"", after).rstrip(b"\n") == data


def test_a_section_too_long_to_be_ours_is_left_alone() -> None:
    words = "words\n" * 4000
    long = f"{START}\n## Safety Gate: x\n{words}{END}\n"
    assert edited(long) == f"{long}\n{BLOCK}\n"


@pytest.mark.parametrize(
    "hostile", ["---\n" * 5000, f"{START}\n" * 5000, "```\n" * 5001, "<!--" * 9]
)
def test_hostile_cards_are_read_at_once(hostile: str) -> None:
    assert edited(edited(hostile)) == edited(hostile)
