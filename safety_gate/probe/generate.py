"""What the variants answer: greedy and short, judged by the matcher and by whom the user names."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from safety_gate.behaviour import AnswerFact, AnswersFact, Judged, JudgeFact, Refusals, Reply
from safety_gate.probe.baseline import Spoken
from safety_gate.probe.chat import Chat
from safety_gate.probe.coherence import is_gibberish, repetition
from safety_gate.probe.judges import Asked, Judge, Ruling
from safety_gate.probe.prompts import Prompt
from safety_gate.probe.refusals import REVISION, matcher
from safety_gate.probe.rows import Row, Tokens, Tree
from safety_gate.probe.settings import Generation
from safety_gate.probe.stream import Stream
from safety_gate.rates import Rate

MATCHER: Final = JudgeFact(
    name="refusal matcher",
    kind="matcher",
    revision=REVISION,
    scale="refusal or not, by the answer's first words",
)
ROOM: Final = 0.8  # of the free memory that a whole model may take; caches need some as well


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One answer of one variant, before anybody judged it."""

    tokens: Tokens
    text: str
    log_likelihood: float  # per token, by aligned; 0.0 of an empty answer


def answers(
    stream: Stream,
    chat: Chat,
    prompts: Sequence[Tokens],
    variants: int,
    generation: Generation,
    known: Sequence[Spoken] = (),
) -> list[list[Said]]:
    """Return what each variant answers to each prompt, and how likely aligned finds that.

    Args:
        stream: aligned as variant 0, and the others.
        chat: aligned's tokenizer and template.
        prompts: what is asked.
        variants: their number, aligned included.
        generation: how.
        known: aligned's own answers, from an earlier run; empty: it is asked.

    Raises:
        CannotProbe: the model's code fails.
        SourceError: the weights cannot be read.
    """
    first = 1 if known else 0
    asked = [(v, prompt) for v in range(first, variants) for prompt in prompts]
    whole = generation.residence == "whole" or (
        generation.residence == "auto" and fits(stream.whole_bytes, stream.device)
    )
    made: list[Tokens] = []
    if asked:  # else nothing is loaded for it
        made = stream.greedy(asked, most=generation.most, ends=chat.ends, whole=whole)
    rows = [
        Row(variant=0, prompt=prompt, tree=Tree.of([tokens]))
        for (_, prompt), tokens in zip(asked, made, strict=True)
        if tokens
    ]
    likely = iter(stream.score(rows))
    spoken = [
        Spoken(tokens=t, log_likelihood=float(next(likely).logs.mean()) if t else 0.0) for t in made
    ]
    said = [
        Said(tokens=one.tokens, text=chat.text(one.tokens), log_likelihood=one.log_likelihood)
        for one in (*known, *spoken)
    ]
    count = len(prompts)
    return [said[v * count : (v + 1) * count] for v in range(variants)]


def fits(size: int, device: str) -> bool:
    """Tell whether that many bytes fit into the free memory of a device."""
    if device != "cpu":
        import torch

        return size < ROOM * torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            free = next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration):  # no Linux
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return size < ROOM * free


def facts(
    names: Sequence[str],
    prompts: Sequence[Prompt],
    said: Sequence[Sequence[Said]],
    generation: Generation,
    *,
    vocabulary: int,
    refusals: Sequence[str],
) -> tuple[AnswersFact, ...]:
    """Judge all answers; aligned's come first and are what the others are compared with.

    Args:
        names: of the variants.
        prompts: what was asked.
        said: by variant, then by prompt.
        generation: who judges, and whether the text is kept.
        vocabulary: tokens that the model knows.
        refusals: openings of the user's that count as refusals.
    """
    refuses = matcher(refusals)
    replies = [
        [_reply(one, refuses(one.text), vocabulary) for one in answered] for answered in said
    ]
    return tuple(
        _answers(name, prompts, answered, (replies[0], kinds), generation)
        for name, answered, kinds in zip(names, said, replies, strict=True)
    )


def _answers(
    name: str,
    prompts: Sequence[Prompt],
    said: Sequence[Said],
    replies: tuple[Sequence[Reply], Sequence[Reply]],
    generation: Generation,
) -> AnswersFact:
    """Have one variant's answers judged; ``replies`` are aligned's kinds and its own."""
    aligned, kinds = replies
    asked = [
        Asked(question=prompt.text, answer=one.text)
        for prompt, one in zip(prompts, said, strict=True)
    ]
    rulings = {judge.fact.name: judge.rule(asked) for judge in generation.judges}
    return AnswersFact(
        variant=name,
        answers=tuple(
            _fact(prompt, one, kinds[i], {n: r[i] for n, r in rulings.items()}, generation)
            for i, (prompt, one) in enumerate(zip(prompts, said, strict=True))
        ),
        refusals=_refusals(prompts, aligned, kinds),
        gibberish=Rate(count=kinds.count("gibberish"), total=len(kinds)),
        judged=tuple(
            _judged(judge, rulings[judge.fact.name], prompts) for judge in generation.judges
        ),
    )


def _reply(said: Said, refused: bool, vocabulary: int) -> Reply:
    if is_gibberish(said.tokens, said.log_likelihood, vocabulary):
        return "gibberish"
    return "refusal" if refused else "answer"


def _refusals(
    prompts: Sequence[Prompt], aligned: Sequence[Reply], found: Sequence[Reply]
) -> Refusals:
    return Refusals.of(
        [prompt.intent for prompt in prompts],
        [reply == "refusal" for reply in aligned],
        [reply == "refusal" for reply in found],
    )


def _fact(
    prompt: Prompt,
    said: Said,
    reply: Reply,
    rulings: dict[str, Ruling],
    generation: Generation,
) -> AnswerFact:
    return AnswerFact(
        prompt=prompt.id,
        reply=reply,
        sha256=hashlib.sha256(said.text.encode()).hexdigest(),
        tokens=len(said.tokens),
        repetition=repetition(said.tokens),
        log_likelihood=said.log_likelihood,
        scores={name: r.score for name, r in rulings.items() if r.score is not None},
        text=said.text if generation.keep_text else "",
    )


def _judged(judge: Judge, rulings: Sequence[Ruling], prompts: Sequence[Prompt]) -> Judged:
    """Sum up a judge's rulings on the answers to harmful prompts."""
    scores = [
        ruling.score
        for prompt, ruling in zip(prompts, rulings, strict=True)
        if prompt.intent == "harmful"
    ]
    known = [score for score in scores if score is not None]
    return Judged(
        judge=judge.fact.name,
        mean=sum(known) / len(known) if known else None,
        worst=Rate(count=sum(score >= judge.worst for score in known), total=len(known)),
        unjudged=len(scores) - len(known),
    )
