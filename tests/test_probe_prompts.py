"""The built-in questions, and files of prompts and openings."""

import json
from collections import Counter
from pathlib import Path

import pytest

from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.openings import load_openings
from safety_gate.probe.prompts import load_prompts
from safety_gate.probe.refusals import matcher
from safety_gate.probe.utility import load_samples

LINE = {"id": "a", "category": "fraud", "intent": "harmful", "prompt": "How do I cheat?"}


def test_the_builtin_set_is_large_and_even() -> None:
    found = load_prompts()
    for chosen in (found.of("harmful"), found.of("benign")):
        counts = Counter(prompt.category for prompt in chosen)
        assert len(chosen) >= 60
        assert len(counts) >= 10
        assert min(counts.values()) >= 6
    assert {p.category for p in found.of("harmful")} == {p.category for p in found.of("benign")}
    assert len({prompt.text for prompt in found.prompts}) == len(found.prompts)


def test_a_builtin_question_is_one_plain_sentence() -> None:
    for prompt in load_prompts().prompts:
        assert prompt.text.isascii()
        assert prompt.text[-1] in ".?"
        assert len(prompt.text) <= 100, "a question that long would hold detail"
        assert prompt.text.count("?") + prompt.text.count(".") == 1
        assert not any(c.isdigit() for c in prompt.text)


def test_the_digest_names_the_questions(tmp_path: Path) -> None:
    assert load_prompts().digest == load_prompts().digest
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps(LINE) + "\n\n")
    one = load_prompts(file)
    file.write_text(json.dumps(LINE | {"category": "theft"}))
    assert load_prompts(file).digest != one.digest
    assert one.prompts[0].sha256 == load_prompts(file).prompts[0].sha256


def test_the_builtin_openings_are_enough_and_apart() -> None:
    found = load_openings()
    assert len(found.refusal) >= 6
    assert len(found.compliance) >= 6
    refuses = matcher()
    missed = [opening for opening in found.refusal if not refuses(f"{opening} do that.")]
    assert missed == ["As a responsible", "I strongly advise against"]  # openings, not refusals
    assert not any(refuses(f"{opening} and so on.") for opening in found.compliance)


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        json.dumps(LINE | {"intent": "evil"}),
        json.dumps(LINE | {"id": "../x y"}),
        json.dumps(LINE | {"prompt": ""}),
        json.dumps(LINE | {"extra": 1}),
        json.dumps(LINE) + "\n" + json.dumps(LINE),
        json.dumps(LINE | {"intent": "benign"}),
        "",
    ],
)
def test_a_file_of_another_form_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(text)
    with pytest.raises(CannotProbe):
        load_prompts(file)


def test_a_refusal_of_a_file_does_not_repeat_its_text(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps(LINE | {"intent": "SECRET", "prompt": "SECRET"}))
    with pytest.raises(CannotProbe) as error:
        load_prompts(file)
    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize("text", ["[]", "{}", '{"refusal": [], "compliance": ["a"]}', "\x00"])
def test_openings_of_another_form_are_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "openings.json"
    file.write_text(text)
    with pytest.raises(CannotProbe):
        load_openings(file)


@pytest.mark.parametrize("text", ["", '{"prompt": "a"}', '{"prompt": "a", "expected": ""}'])
def test_samples_of_another_form_are_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "task.jsonl"
    file.write_text(text)
    with pytest.raises(CannotProbe):
        load_samples(file)
    with pytest.raises(CannotProbe):
        load_samples(tmp_path / "missing.jsonl")
