"""Tokenizers of base and aligned: equal, with tokens added, or of another model."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE, Unigram, WordLevel

from safety_gate.checkpoint import Checkpoint
from safety_gate.pairing import pair_findings
from safety_gate.records import Finding
from safety_gate.sources.folder import FolderSource

WORDS = {f"w{number}": number for number in range(200)}


def word_level(words: dict[str, int]) -> Any:
    return Tokenizer(WordLevel(words, unk_token="w0"))  # noqa: S106


def unigram(words: dict[str, int]) -> Any:
    return Tokenizer(Unigram([(word, -1.0) for word in words], unk_id=0))


def bpe(words: dict[str, int]) -> Any:
    return Tokenizer(BPE(words, []))


def checkpoint(folder: Path, tokenizer: Any = None, **files: bytes) -> Path:
    folder.mkdir()
    save_file({"w": torch.ones(2)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
    for name, data in files.items():
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


def findings(base: Path, aligned: Path) -> list[Finding]:
    with closing(FolderSource(base)) as one, closing(FolderSource(aligned)) as two:
        return pair_findings(Checkpoint.open(one, "base"), Checkpoint.open(two, "aligned"))


KINDS: list[Callable[[dict[str, int]], Any]] = [word_level, unigram, bpe]


@pytest.mark.parametrize("kind", KINDS)
def test_equal_tokenizers_say_nothing(
    kind: Callable[[dict[str, int]], Any], tmp_path: Path
) -> None:
    folders = [checkpoint(tmp_path / name, kind(WORDS)) for name in ("base", "aligned")]
    assert findings(folders[0], folders[1]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_added_tokens_are_named(kind: Callable[[dict[str, int]], Any], tmp_path: Path) -> None:
    with_chat = kind(WORDS)
    with_chat.add_special_tokens(["<|user|>", "<|end|>"])
    base = checkpoint(tmp_path / "base", kind(WORDS))
    (found,) = findings(base, checkpoint(tmp_path / "aligned", with_chat))
    assert (found.rule, found.severity) == ("tokens-added", "info")
    assert found.got == "2: 200 '<|user|>', 201 '<|end|>'"


@pytest.mark.parametrize(("renamed", "rule"), [(2, "tokens-renamed"), (3, "tokenizers-differ")])
def test_renamed_tokens(renamed: int, rule: str, tmp_path: Path) -> None:
    """One in a hundred may be renamed: 2 of 200 are, 3 are too many."""
    other = {(f"<r{n}>" if n < renamed else word): n for word, n in WORDS.items()}
    base = checkpoint(tmp_path / "base", bpe(WORDS))
    (found,) = findings(base, checkpoint(tmp_path / "aligned", bpe(other)))
    assert found.rule == rule
    assert found.severity == ("info" if renamed == 2 else "undecided")
    assert found.got.startswith(f"{renamed} of 200: 0 'w0', now '<r0>'")


def test_another_vocabulary_is_no_pair(tmp_path: Path) -> None:
    turned = {word: 199 - number for word, number in WORDS.items()}
    base = checkpoint(tmp_path / "base", bpe(WORDS))
    (found,) = findings(base, checkpoint(tmp_path / "aligned", bpe(turned)))
    assert (found.rule, found.severity) == ("tokenizers-differ", "undecided")


def test_the_same_vocabulary_in_another_file_is_equal(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", bpe(WORDS))
    aligned = checkpoint(tmp_path / "aligned", bpe(WORDS))
    value = json.loads((aligned / "tokenizer.json").read_text())
    value["post_processor"] = None
    (aligned / "tokenizer.json").write_text(json.dumps(value))
    assert findings(base, aligned) == []


def test_old_files_are_compared_as_a_whole(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", tokenizer__model=b"abc")
    assert findings(base, checkpoint(tmp_path / "same", tokenizer__model=b"abc")) == []
    (found,) = findings(base, checkpoint(tmp_path / "other", tokenizer__model=b"abd"))
    assert (found.rule, found.severity) == ("tokenizers-not-compared", "warn")


@pytest.mark.parametrize(
    "text", ["{", '{"model": {"vocab": 3}}', '{"model": {"vocab": {"a": "b"}}}']
)
def test_what_cannot_be_read_is_said(text: str, tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", bpe(WORDS))
    aligned = checkpoint(tmp_path / "aligned", tokenizer__json=text.encode())
    (found,) = findings(base, aligned)
    assert (found.rule, found.severity) == ("tokenizers-not-compared", "warn")


def test_one_without_a_tokenizer_says_nothing(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base")
    assert findings(base, checkpoint(tmp_path / "aligned", bpe(WORDS))) == []
