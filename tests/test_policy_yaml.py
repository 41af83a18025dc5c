"""The YAML subset: what it reads, and the traps it refuses."""

import time
import warnings
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from safety_gate.errors import BadPolicy
from safety_gate.policy.file import load_policy
from safety_gate.policy.yaml_text import MAX_BYTES, read_yaml, shown


def tree(text: str) -> object:
    return read_yaml(text.encode(), "p.yml").tree


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("0.3", 0.3),
        ("3", 3),
        ("-3", -3),
        ("1e-5", 1e-5),
        (".5", 0.5),
        ("true", True),
        ("~", None),
        ("null", None),
        ('"0.3"', "0.3"),
        ("'true'", "true"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("010", "010"),
        ("0o10", "0o10"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-13-01", "2026-13-01"),
        ("2026-12-01", "2026-12-01"),
        ("0123456789" * 4, "0123456789" * 4),
        ("1" * 36 + "e999", "1" * 36 + "e999"),
        ("1e400", float("inf")),
        ("9" * 39, int("9" * 39)),
    ],
)
def test_scalars_are_read_as_they_are_written(written: str, read: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tree(f"a: {written}\n") == {"a": read}
        got = tree(f"- {written}\n")
    assert isinstance(got, tuple)
    assert type(got[0]) is type(read)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        pytest.param("a: 1\nb: 2\na: 3\n", "line 3, a: .*same key twice", id="duplicate-key"),
        pytest.param("x: {a: 1, 'a': 2}", "same key twice", id="duplicate-key-quoted"),
        pytest.param("a: &x 1", "anchor", id="anchor"),
        pytest.param("&x a: 1", "key that is not plain", id="anchor-on-key"),
        pytest.param("a: *x", "alias", id="alias"),
        pytest.param("a: !!python/object/apply:os.system [ls]", "tag", id="python-tag"),
        pytest.param("a: !!str 1", "tag", id="core-tag"),
        pytest.param("a: ! b", "tag", id="bare-tag"),
        pytest.param("!x\na: 1", "tag", id="root-tag"),
        pytest.param("? [a]\n: 1", "key that is not plain", id="sequence-key"),
        pytest.param("a: 1\n---\nb: 2\n", "second document", id="two-documents"),
        pytest.param("a: 1\n...\nb: 2\n", "second document", id="document-end-and-more"),
        pytest.param("%YAML 1.1\n---\na: yes", "directive", id="yaml-1.1"),
        pytest.param("%TAG ! tag:x,2000:\n---\na: 1", "directive", id="tag-directive"),
        pytest.param("a: [1, 2", "not valid YAML", id="open-bracket"),
        pytest.param("\ta: 1", "not valid YAML", id="tab"),
        pytest.param("a: 1\x00", "not valid YAML", id="nul"),
        pytest.param('a: "\\UFFFFFFFF"', "not valid YAML", id="character-beyond-unicode"),
        pytest.param(f"%YAML {'9' * 5000}.1\n---\na", "not valid YAML", id="version-5000-digits"),
        pytest.param("", "empty", id="nothing"),
        pytest.param("# only a comment\n", "empty", id="comment"),
        pytest.param("---\n", "empty", id="empty-document"),
        pytest.param("~", "empty", id="null"),
    ],
)
def test_what_is_not_plain_yaml_is_refused(text: str, part: str) -> None:
    with pytest.raises(BadPolicy, match=part) as caught:
        tree(text)
    assert caught.value.hint


@pytest.mark.parametrize("opening", ["[", "{", "- ", "? ", "- ? ", "a: {"])
def test_nesting_is_refused_at_once(opening: str) -> None:
    """The parser alone took 585 s for the first of these."""
    started = time.monotonic()
    with pytest.raises(BadPolicy):
        tree(opening * (200_000 // len(opening)))
    assert time.monotonic() - started < 5.0


def test_nesting_has_a_limit() -> None:
    assert tree("[" * 16 + "]" * 16) is not None
    with pytest.raises(BadPolicy, match="more than 16 levels"):
        tree("[" * 18 + "]" * 18)


def test_billion_laughs_is_refused_at_its_first_anchor() -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)
    )
    with pytest.raises(BadPolicy, match="anchor"):
        tree(bomb)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(BadPolicy):
        load_policy("version: 1\nname: café\n".encode(encoding), "p.yml")


def test_a_byte_order_mark_is_allowed() -> None:
    assert read_yaml("a: é\n".encode("utf-8-sig"), "p.yml").tree == {"a": "é"}


def test_size_is_capped() -> None:
    fits = b"#" * (MAX_BYTES - 5) + b"\na: 1"
    assert read_yaml(fits, "p.yml").tree == {"a": 1}
    with pytest.raises(BadPolicy, match="too large"):
        read_yaml(b"#" + fits, "p.yml")


def test_lines_and_paths_are_known() -> None:
    document = read_yaml(b"a: 1\nb:\n  - c\n  - d: 2\n", "p.yml")
    assert document.tree == {"a": 1, "b": ("c", {"d": 2})}
    assert document.lines[("b", 1, "d")] == 4
    assert document.lines[("b", 0)] == 3
    assert shown(("b", 1, "d")) == "b[1].d"


@given(st.text(alphabet="ab01.:-?[]{},&*!|>'\"%#\n \t\\~eU@`", max_size=60))
@example("%YAML 1.2\n---\n- !<x> a")
def test_any_text_is_a_policy_error_or_a_tree(text: str) -> None:
    with suppress(BadPolicy):
        read_yaml(text.encode(), "p.yml")


@given(st.binary(max_size=80))
def test_any_bytes_are_a_policy_error(data: bytes) -> None:
    with pytest.raises(BadPolicy):
        load_policy(data, "p.yml")
