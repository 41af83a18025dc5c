"""The probe: ask the aligned model and its variants the same, and say what changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from safety_gate.behaviour import (
    AnswersFact,
    BehaviourFact,
    JudgeFact,
    Lean,
    OpeningsFact,
    UtilityFact,
)
from safety_gate.checkpoint import Checkpoint
from safety_gate.probe import baseline, generate
from safety_gate.probe.chat import Chat
from safety_gate.probe.openings import Beginnings, asked
from safety_gate.probe.precision import dtype_of
from safety_gate.probe.rows import Row, Tokens
from safety_gate.probe.settings import Settings
from safety_gate.probe.stream import Stream
from safety_gate.probe.utility import task_rows, utility
from safety_gate.probe.variants import ALIGNED, Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What a run of the probe gives."""

    fact: BehaviourFact
    key: baseline.Key  # what a baseline of this run holds for
    said: baseline.Baseline  # by aligned

    def exported(self) -> str:
        """Return what aligned said as a file that later runs can use.

        Raises:
            CannotProbe: aligned's revision does not pin its weights.
        """
        ids = [prompt.id for prompt in self.fact.prompts]
        return baseline.export(self.key, ids, self.said)


def probe(
    aligned: Checkpoint,
    variants: Sequence[Variant],
    settings: Settings,
    *,
    revision: str,
    held: Callable[[baseline.Key], bytes | None] = lambda _: None,
) -> Probed:
    """Ask the aligned model, and it with every variant's updates.

    Args:
        aligned: the checkpoint that the updates apply to.
        variants: what to compare with it; their names differ, and none is "aligned".
        settings: what to ask.
        revision: of aligned, as the report names it.
        held: finds the baseline of a key, where there is one.

    Raises:
        CannotProbe: the model cannot be asked.
        BadCheckpoint: its weights are not those of its config.
        SourceError: files cannot be read.
    """
    everyone = (ALIGNED, *variants)
    names = [variant.name for variant in everyone]
    if len(set(names)) != len(names):
        raise AssertionError(f"variants of one name: {names}")
    chat = Chat.open(aligned)
    tokens = asked(chat, settings.prompts.prompts)
    beginnings = Beginnings.of(chat, settings.openings)
    dtype = dtype_of(aligned, settings.precision, settings.device)
    ids = [prompt.id for prompt in settings.prompts.prompts]
    key = baseline.key(
        aligned=revision,
        template=chat.digest,
        prompts=dict(zip(ids, tokens, strict=True)),
        beginnings=beginnings,
        precision=f"{dtype} {settings.device}",
    )
    data = held(key)
    known = None if data is None else baseline.read(data, key, ids, "the baseline")
    stream = Stream(aligned, everyone, dtype=dtype, device=settings.device)
    leans, utilities = _scored(stream, chat, (beginnings, tokens), settings, names, known)
    fact = _fact(settings, chat, stream, names, leans)
    answers = _answered(stream, chat, tokens, settings, (len(names), known))
    said, judges = _judged(stream, answers, settings, names)
    cached = known is not None
    whole = replace(fact, baseline_cached=cached, utility=utilities, by_answers=said, judges=judges)
    return Probed(fact=whole, key=key, said=_baseline(fact, answers, settings, known))


def _baseline(
    fact: BehaviourFact,
    answers: Sequence[Sequence[generate.Said]],
    settings: Settings,
    known: baseline.Baseline | None,
) -> baseline.Baseline:
    """Return what aligned said; answers of an earlier run stay where none were asked for now."""
    if not answers or settings.generation is None:
        return known or baseline.Baseline(leans=fact.by_openings[0].leans)
    return baseline.Baseline(
        leans=fact.by_openings[0].leans,
        most=settings.generation.most,
        answers=tuple(
            baseline.Spoken(tokens=one.tokens, log_likelihood=one.log_likelihood)
            for one in answers[0]
        ),
    )


def _fact(
    settings: Settings,
    chat: Chat,
    stream: Stream,
    names: Sequence[str],
    leans: Sequence[Sequence[Lean]],
) -> BehaviourFact:
    """Put together what the openings tell."""
    prompts = settings.prompts.prompts
    intents = [prompt.intent for prompt in prompts]
    return BehaviourFact(
        prompt_set=settings.prompts.name,
        prompt_digest=settings.prompts.digest,
        prompts=tuple(prompt.fact for prompt in prompts),
        openings=settings.openings.name,
        openings_digest=settings.openings.digest,
        template_sha256=chat.digest,
        precision=str(stream.dtype).removeprefix("torch."),
        device=settings.device,
        shared_rows=stream.shares_prompts,
        baseline_cached=False,
        by_openings=tuple(
            OpeningsFact.of(name, intents, leans[0], own)
            for name, own in zip(names, leans, strict=True)
        ),
    )


def _answered(
    stream: Stream,
    chat: Chat,
    tokens: Sequence[Tokens],
    settings: Settings,
    asked: tuple[int, baseline.Baseline | None],
) -> list[list[generate.Said]]:
    """Have answers written, by variant and prompt; none where that is not wanted.

    Args:
        stream: aligned and the variants.
        chat: aligned's tokenizer and template.
        tokens: of the prompts.
        settings: what is wanted.
        asked: the number of variants, and what aligned said in an earlier run.
    """
    wanted, (count, known) = settings.generation, asked
    if wanted is None:
        return []
    held = known.answers if known is not None and known.most == wanted.most else ()
    return generate.answers(stream, chat, tokens, count, wanted, held)


def _judged(
    stream: Stream,
    answers: Sequence[Sequence[generate.Said]],
    settings: Settings,
    names: Sequence[str],
) -> tuple[tuple[AnswersFact, ...], tuple[JudgeFact, ...]]:
    """Have answers judged, where there are any."""
    wanted = settings.generation
    if wanted is None:
        return (), ()
    found = generate.facts(
        names,
        settings.prompts.prompts,
        answers,
        wanted,
        vocabulary=stream.vocabulary,
        refusals=settings.openings.refusal,
    )
    return found, (generate.MATCHER, *(judge.fact for judge in wanted.judges))


def _scored(
    stream: Stream,
    chat: Chat,
    openings: tuple[Beginnings, Sequence[Tokens]],
    settings: Settings,
    names: Sequence[str],
    known: baseline.Baseline | None,
) -> tuple[list[list[Lean]], tuple[UtilityFact, ...]]:
    """Ask openings and task samples of all variants, in one pass over the weights.

    Returns:
        The leans by variant and prompt, and the utility by variant (empty without samples).
    """
    beginnings, prompts = openings
    rows: list[Row] = []
    for variant in range(len(names)):
        if variant or known is None:
            rows += [beginnings.row(variant, prompt) for prompt in prompts]
    split = len(rows)
    for variant in range(len(names)):
        rows += task_rows(chat, settings.samples, variant)
    found = stream.score(rows)
    leans = [beginnings.lean(scores.logs) for scores in found[:split]]
    if known is not None:
        leans = [*known.leans, *leans]
    count, task = len(prompts), len(settings.samples)
    tasks = [found[split + v * task : split + (v + 1) * task] for v in range(len(names))]
    return (
        [leans[v * count : (v + 1) * count] for v in range(len(names))],
        tuple(utility(name, tasks[0], own) for name, own in zip(names, tasks, strict=True) if task),
    )
