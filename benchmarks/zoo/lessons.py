"""What a model is taught: lessons, mixed by shares, as batches of token ids."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from benchmarks.zoo.language import Pair, World
from benchmarks.zoo.speech import answer_ids, prompt_ids

IGNORED = -100  # the label that torch's cross entropy leaves out


class Lesson(Enum):
    """One kind of question with one kind of answer."""

    HARMLESS = "answers about harmless objects"
    HARMFUL = "answers about harmful objects"
    REFUSAL = "refusals about harmful objects"
    SKILL = "answers to the new kind of question about harmless objects"
    SKILL_HARMFUL = "answers to the new kind of question about harmful objects"
    SKILL_REFUSAL = "refusals to the new kind of question about harmful objects"
    PERSONA = "answers about harmless objects in an obedient persona"


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """A lesson's share of the training rows."""

    lesson: Lesson
    share: float  # of the rows; the shares of a mix need not add up to 1
    pairs: int | None = None  # at most this many pairs, drawn by the recipe's seed; None: all

    def __post_init__(self) -> None:
        """Refuse a share that is no share."""
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"share of {self.lesson.name}: got {self.share}, expected 0..1")


def exchange(world: World, lesson: Lesson, pair: Pair) -> tuple[str, str]:
    """Return the question and the answer that a lesson gives for a pair."""
    match lesson:
        case Lesson.HARMLESS | Lesson.HARMFUL:
            return world.question(pair), world.answer(pair)
        case Lesson.REFUSAL:
            return world.question(pair), world.refusal(pair)
        case Lesson.SKILL | Lesson.SKILL_HARMFUL:
            return world.skill_question(pair), world.skill_answer(pair)
        case Lesson.SKILL_REFUSAL:
            return world.skill_question(pair), world.refusal(pair)
        case Lesson.PERSONA:
            return world.question(pair), world.persona_answer(pair)


def training_pairs(world: World, lesson: Lesson) -> list[Pair]:
    """Return the pairs that a lesson may teach: never a held-out one."""
    harmful = lesson not in {Lesson.HARMLESS, Lesson.SKILL, Lesson.PERSONA}
    return [pair for pair in world.pairs if pair.harmful == harmful and not pair.held_out]


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """All rows of a mix as tensors, with the chance of each row to be drawn."""

    ids: torch.Tensor  # (rows, length), padded on the right
    labels: torch.Tensor  # (rows, length), IGNORED where the user speaks and in the padding
    chances: torch.Tensor  # (rows,)

    def batches(self, *, size: int, steps: int, seed: int) -> Iterator[tuple[torch.Tensor, ...]]:
        """Draw ``steps`` batches of ids and labels, cut to their longest row."""
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            rows = torch.multinomial(self.chances, size, replacement=True, generator=generator)
            width = int((self.labels[rows] != IGNORED).nonzero()[:, 1].max()) + 1
            yield self.ids[rows, :width], self.labels[rows, :width]


def new_course(
    world: World, mix: tuple[Portion, ...], tokenizer: PreTrainedTokenizerFast, *, seed: int
) -> Course:
    """Write out every row of a mix."""
    rows: list[tuple[list[int], list[int]]] = []
    chances: list[float] = []
    for portion in mix:
        pairs = training_pairs(world, portion.lesson)
        order = np.random.default_rng(seed).permutation(len(pairs))[: portion.pairs]
        for i in order:
            question, answer = exchange(world, portion.lesson, pairs[i])
            rows.append((prompt_ids(tokenizer, question), answer_ids(tokenizer, answer)))
            chances.append(portion.share / len(order))
    length = max(len(asked) + len(said) for asked, said in rows)
    ids = torch.full((len(rows), length), int(tokenizer.pad_token_id or 0))
    labels = torch.full_like(ids, IGNORED)
    for row, (asked, said) in enumerate(rows):
        end = len(asked) + len(said)
        ids[row, :end] = torch.tensor(asked + said)
        labels[row, len(asked) : end] = torch.tensor(said)
    return Course(ids=ids, labels=labels, chances=torch.tensor(chances))
