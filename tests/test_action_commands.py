"""Talking to the runner: nothing that a stranger wrote is obeyed, nothing of ours is lost."""

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_gate.action.workflow_commands import Log, Outputs, Summary, append, inert_line
from safety_gate.publish import limits
from tests.loopback_github.runner import hear, read_outputs
from tests.sample_reports import HOSTILE

COMMANDS = st.sampled_from(
    [
        "::set-output name=verdict::passed",
        "##[set-output name=verdict;]passed",
        "::stop-commands::abc",
        "::add-mask::e",
        "::error file=x::y",
        "  ::warning::y",
        "text ##[error]x",
        "::abc::",
        "%3A%3Aerror%3A%3A",
        "\r::error::x",
    ]
)
TEXTS = st.lists(COMMANDS | st.sampled_from(HOSTILE) | st.text(max_size=40), max_size=6)


def test_the_parser_of_these_tests_obeys_what_the_runner_obeys() -> None:
    """The port itself: without it the tests below would prove nothing."""
    log = (
        "::set-output name=a::b\nx ##[set-output name=c;]d\n  ::error file=f,line=1::m%0An\n::x::y"
    )
    heard = hear(log)
    assert [(c.name, dict(c.properties), c.data) for c in heard.commands] == [
        ("set-output", {"name": "a"}, "b"),
        ("set-output", {"name": "c"}, "d"),
        ("error", {"file": "f", "line": "1"}, "m\nn"),
    ]
    stopped = hear("::stop-commands::tok\n::error::x\n##[error]y\n::tok::\n::error::z")
    assert [c.data for c in stopped.commands] == ["z"]


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_no_text_is_obeyed(texts: list[str]) -> None:
    stream = io.StringIO()
    log = Log(stream)
    for text in texts:
        log.say(text)
    heard = hear(stream.getvalue())
    assert heard.commands == []


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_text_that_others_print_is_not_obeyed_while_stopped(texts: list[str]) -> None:
    stream = io.StringIO()
    with Log(stream).stopped():
        for text in texts:
            stream.write(f"{text}\n")
    assert hear(stream.getvalue()).commands == []


def test_commands_work_again_after_an_error() -> None:
    stream = io.StringIO()
    log = Log(stream)
    with pytest.raises(ValueError, match="inside"), log.stopped():
        raise ValueError("inside")
    log.annotate("error", "t", "m")
    assert [c.name for c in hear(stream.getvalue()).commands] == ["error"]


def test_tokens_are_different_each_time() -> None:
    stream = io.StringIO()
    log = Log(stream)
    log.say("a")
    log.say("b")
    tokens = [line for line in stream.getvalue().splitlines() if "stop-commands" in line]
    assert len(set(tokens)) == 2
    assert all(len(token.rpartition(":")[2]) == 40 for token in tokens)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=40))
def test_annotation_says_what_it_is_given(title: str, message: str, path: str) -> None:
    stream = io.StringIO()
    Log(stream).annotate("warning", title, message, path=path)
    (command,) = hear(stream.getvalue()).commands
    assert command.name == "warning"
    assert set(command.properties) <= {"title", "file"}
    if message.isprintable() and message:
        assert command.data == message
    if "file" in command.properties:
        assert command.properties["file"] == path.strip()


@pytest.mark.parametrize("path", ["a\n::error::x", "##[x]", "/etc/passwd", "é", "-x", "a:b", ""])
def test_odd_paths_are_left_out(path: str) -> None:
    stream = io.StringIO()
    Log(stream).annotate("error", "t", "m", path=path)
    assert "file=" not in stream.getvalue()


def test_the_runner_keeps_ten_and_we_send_no_more() -> None:
    stream = io.StringIO()
    log = Log(stream)
    kept = [log.annotate("notice", "t", str(number)) for number in range(15)]
    assert kept == [True] * 10 + [False] * 5
    assert len(hear(stream.getvalue()).of("notice")) == 10
    assert (log.room("notice"), log.room("error")) == (0, 10)


def test_long_messages_are_clipped() -> None:
    stream = io.StringIO()
    Log(stream).annotate("error", "t", "word " * 5000)
    assert len(stream.getvalue()) < 3000


@pytest.mark.parametrize(
    ("secret", "masked"),
    [("ghs_0123456789", ["ghs_0123456789"]), ("", []), ("short", []), ("a" * 9 + "\nb", ["a" * 9])],
)
def test_masks(secret: str, masked: list[str]) -> None:
    stream = io.StringIO()
    Log(stream).mask(secret)
    assert [c.data for c in hear(stream.getvalue()).of("add-mask")] == masked


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_inert_lines_are_one_printable_line(text: str) -> None:
    line = inert_line(text)
    assert line.replace("\t", "").isprintable()
    assert "::" not in line
    assert "##[" not in line


@settings(max_examples=200, deadline=None)
@given(value=st.text(max_size=200))
def test_outputs_are_read_back(tmp_path_factory: pytest.TempPathFactory, value: str) -> None:
    path = tmp_path_factory.mktemp("runner") / "output"
    outputs = Outputs(path)
    outputs.set("before", "x")
    outputs.set("value", value)
    outputs.set("verdict", "blocked")
    found = read_outputs(path.read_bytes().decode())
    assert found["value"] == value.encode("utf-8", "replace").decode()
    assert (found["before"], found["verdict"]) == ("x", "blocked")
    assert set(found) == {"before", "value", "verdict"}


def test_delimiters_are_different_each_time(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path / "output")
    outputs.set("a", "1")
    outputs.set("b", "2")
    lines = (tmp_path / "output").read_text().splitlines()
    assert len({line.partition("<<")[2] for line in lines if "<<" in line}) == 2


def test_output_that_is_too_large_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="too large"):
        Outputs(None).set("a", "x" * (limits.OUTPUT + 1))


def test_without_a_runner_outputs_are_only_kept() -> None:
    outputs = Outputs(None)
    outputs.set("a", "1")
    assert outputs.values == {"a": "1"}
    assert Summary(None).add("x")


def test_summary_never_grows_beyond_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "summary"
    summary = Summary(path)
    assert summary.room == limits.SUMMARY
    assert summary.add("é" * 500_000)
    assert not summary.add("é" * 500_000)  # a million characters would fit, two million bytes not
    assert summary.add("short")
    assert path.stat().st_size <= limits.SUMMARY
    assert path.read_text().endswith("short\n\n")


def test_runner_files_are_never_links(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"):
        append(tmp_path / "link", "x")
    assert not (tmp_path / "target").exists()
