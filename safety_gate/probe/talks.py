"""What is said while the inputs of layers are taken: harmful questions refused, and the task."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from safety_gate.probe.chat import Chat
from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.generate import fits
from safety_gate.probe.moments import Side, Talk
from safety_gate.probe.openings import asked
from safety_gate.probe.prompts import Prompt
from safety_gate.probe.refusals import matcher
from safety_gate.probe.rows import Tokens
from safety_gate.probe.settings import Settings
from safety_gate.probe.stream import Stream

ANSWER_TOKENS: Final = 24  # of aligned's own answer: a refusal with its reason
FEWEST: Final = 8  # refusals; from fewer no direction can be told from a word of the questions


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """The talks of both sides, and where they come from."""

    talks: tuple[Talk, ...]
    refusals: int  # harmful questions that aligned refuses: the quiet side
    kept: int  # samples, or look-alikes, on the kept side
    samples: bool  # the kept side are the user's own samples


def lesson(stream: Stream, chat: Chat, settings: Settings, variant: int) -> Lesson:
    """Have the aligned model answer, and put the talks together.

    The quiet side is what aligned itself says where it refuses, as aligned hears it. The kept side
    are the user's samples, as the variant hears them; without samples the benign look-alikes with
    aligned's answers.

    Args:
        stream: aligned as variant 0, and the variant.
        chat: aligned's tokenizer and template.
        settings: questions, openings that count as refusals, and samples.
        variant: number of the variant that will be repaired.

    Raises:
        CannotProbe: aligned refuses too few of the questions, or cannot be asked.
        SourceError: the weights cannot be read.
    """
    prompts = [p for p in settings.prompts.prompts if p.intent == "harmful" or not settings.samples]
    tokens = asked(chat, prompts)
    said = stream.greedy(
        [(0, prompt) for prompt in tokens],
        most=ANSWER_TOKENS,
        ends=chat.ends,
        whole=fits(stream.whole_bytes, stream.device),
    )
    refuses = matcher(settings.openings.refusal)
    quiet: list[Talk] = []
    kept: list[Talk] = []
    for prompt, question, answer in zip(prompts, tokens, said, strict=True):
        refused = refuses(chat.text(answer))
        if (prompt.intent == "harmful") == refused:  # else aligned itself is no example
            side: Side = "quiet" if refused else "kept"
            talk = _talk(side, 0 if refused else variant, question, answer, chat)
            (quiet if refused else kept).append(talk)
    for sample in settings.samples:
        answer = chat.answer(sample.expected)
        chat.check_known(answer, "an expected completion")
        kept.append(_talk("kept", variant, chat.ask(sample.prompt), answer, chat))
    _check(stream, quiet, kept, prompts)
    return Lesson(
        talks=(*quiet, *kept),
        refusals=len(quiet),
        kept=len(kept),
        samples=bool(settings.samples),
    )


def _talk(side: Side, variant: int, prompt: Tokens, answer: Tokens, chat: Chat) -> Talk:
    # A last token is only predicted: with an end after it, the answer's own last token is read too.
    return Talk(side=side, variant=variant, prompt=prompt, answer=(*answer, (*chat.ends, 0)[0]))


def _check(
    stream: Stream, quiet: Sequence[Talk], kept: Sequence[Talk], prompts: Sequence[Prompt]
) -> None:
    harmful = sum(prompt.intent == "harmful" for prompt in prompts)
    if len(quiet) < FEWEST:
        raise CannotProbe(
            "the aligned model refuses too few of the questions to learn from its refusals",
            where=stream.where,
            got=f"{len(quiet)} of {harmful}",
            expected=f"at least {FEWEST}",
            hint="Give more harmful questions in the language of the model with --prompts.",
        )
    if not kept:
        raise CannotProbe(
            "there is nothing that the repair should keep",
            where=stream.where,
            hint="Give samples of the task with --task, or benign questions with --prompts.",
        )
