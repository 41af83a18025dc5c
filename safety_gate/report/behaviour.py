"""What the model said, as rows for every renderer: aligned beside what was asked with it."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from safety_gate.behaviour import AnswersFact, BehaviourFact, OpeningsFact, Refusals, UtilityFact
from safety_gate.rates import Rate
from safety_gate.report.inert import Name, Prose
from safety_gate.report.summary import figure

MOST_CATEGORIES = 12
MOST_ANSWERS = 40  # the JSON report has all
SHORT = 12  # hex digits of a digest; the whole one is in the JSON report
_NOTHING = Prose("–")

Cell: TypeAlias = Prose
T = TypeVar("T", OpeningsFact, AnswersFact, UtilityFact)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure, by variant."""

    what: Prose
    cells: tuple[Cell, ...]  # as Spoken.variants


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Refusals that were lost in one category of questions."""

    category: Name
    lost: int
    of: int  # questions of it that aligned refuses


@dataclass(frozen=True, slots=True, kw_only=True)
class Quoted:
    """One written answer, where the user asked to see it."""

    prompt: Name
    variant: Prose
    reply: Prose
    text: Name


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """All that a report shows of the answers."""

    variants: tuple[Prose, ...]  # aligned first
    rows: tuple[Row, ...]
    lost: tuple[Lost, ...]  # by category, of the first variant after aligned; worst first
    quoted: tuple[Quoted, ...]
    source: tuple[tuple[Prose, Name], ...]  # which questions, and how they were asked
    judges: tuple[tuple[Name, Prose, Name, Prose], ...]  # name, kind, revision, scale


def spoken(fact: BehaviourFact | None) -> Spoken | None:
    """Return the rows; None where the model was not asked."""
    if fact is None:
        return None
    names = tuple(opened.variant for opened in fact.by_openings)
    return Spoken(
        variants=tuple(map(Prose, names)),
        rows=(
            *_openings(fact.by_openings),
            *(_answers(fact.by_answers) if fact.by_answers else ()),
            *(_utility(fact.utility) if fact.utility else ()),
        ),
        lost=_lost(fact),
        quoted=_quoted(fact),
        source=_source(fact),
        judges=tuple(
            (Name(j.name), Prose(j.kind), Name(j.revision), Prose(j.scale)) for j in fact.judges
        ),
    )


def _openings(found: Sequence[OpeningsFact]) -> list[Row]:
    return [
        *_refusals("would refuse", [(o.refusals, i > 0) for i, o in enumerate(found)]),
        _row("mean log-odds of refusal", found, lambda one: figure(one.mean_margin)),
    ]


def _answers(found: Sequence[AnswersFact]) -> list[Row]:
    rows = _refusals("refuses in writing", [(a.refusals, i > 0) for i, a in enumerate(found)])
    rows.append(_row("answers that say nothing", found, lambda one: _rate(one.gibberish)))
    for i, judged in enumerate(found[0].judged):
        worst = [each.judged[i].worst for each in found]
        means = [each.judged[i].mean for each in found]
        name = f"judge {i + 1}"
        rows.append(Row(what=Prose(f"{name}: worst score"), cells=_cells(map(_rate, worst))))
        rows.append(
            Row(
                what=Prose(f"{name}: mean score"),
                cells=tuple(_NOTHING if m is None else Prose(figure(m)) for m in means),
            )
        )
        missing = [str(each.judged[i].unjudged) for each in found]
        if judged.unjudged or any(count != "0" for count in missing):
            rows.append(Row(what=Prose(f"{name}: not judged"), cells=_cells(missing)))
    return rows


def _utility(found: Sequence[UtilityFact]) -> list[Row]:
    return [
        _row("samples of the task completed exactly", found, lambda one: _rate(one.exact)),
        _row("their log-likelihood per token", found, lambda one: figure(one.log_likelihood)),
    ]


def _refusals(verb: str, found: Sequence[tuple[Refusals, bool]]) -> list[Row]:
    """Return the rows of one way to ask; figures against aligned are blank for aligned itself."""

    def cells(pick: Callable[[Refusals], str], *, compared: bool = False) -> tuple[Cell, ...]:
        return tuple(
            Prose(pick(refusals)) if other or not compared else _NOTHING
            for refusals, other in found
        )

    return [
        Row(
            what=Prose(f"harmful questions that it {verb}"),
            cells=cells(lambda r: _rate(r.refused)),
        ),
        Row(
            what=Prose("refusals of aligned that are kept"),
            cells=cells(lambda r: _rate(r.retained, interval=True), compared=True),
        ),
        Row(
            what=Prose("chance of as many flips, exact McNemar test"),
            cells=cells(lambda r: figure(r.flips_p), compared=True),
        ),
        Row(
            what=Prose(f"harmless look-alikes that it {verb}"),
            cells=cells(lambda r: _rate(r.over_refused)),
        ),
        Row(
            what=Prose("look-alikes that are newly refused"),
            cells=cells(lambda r: _rate(r.newly_refused), compared=True),
        ),
    ]


def _row(what: str, found: Sequence[T], pick: Callable[[T], str]) -> Row:
    return Row(what=Prose(what), cells=_cells(pick(one) for one in found))


def _cells(texts: Iterable[str]) -> tuple[Cell, ...]:
    return tuple(map(Prose, texts))


def _rate(rate: Rate, *, interval: bool = False) -> str:
    """Return counts, and where wanted the 95% interval of the rate behind them."""
    text = f"{rate.count} of {rate.total}"
    if not interval or not rate.total:
        return text
    low, high = rate.interval
    return f"{text} (95% interval {low:.2f} to {high:.2f})"


def _lost(fact: BehaviourFact) -> tuple[Lost, ...]:
    if len(fact.by_openings) < 2:
        return ()
    aligned, other = fact.by_openings[:2]
    refused: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for prompt, before, after in zip(fact.prompts, aligned.leans, other.leans, strict=True):
        if prompt.intent == "harmful" and before.margin > 0.0:
            refused[prompt.category] += 1
            lost[prompt.category] += after.margin <= 0.0
    worst = sorted(refused, key=lambda category: (-lost[category], category))
    return tuple(
        Lost(category=Name(category), lost=lost[category], of=refused[category])
        for category in worst[:MOST_CATEGORIES]
        if lost[category]
    )


def _quoted(fact: BehaviourFact) -> tuple[Quoted, ...]:
    return tuple(
        Quoted(
            prompt=Name(answer.prompt),
            variant=Prose(said.variant),
            reply=Prose(answer.reply),
            text=Name(answer.text),
        )
        for said in fact.by_answers
        for answer in said.answers
        if answer.text
    )[:MOST_ANSWERS]


def _source(fact: BehaviourFact) -> tuple[tuple[Prose, Name], ...]:
    harmful = sum(prompt.intent == "harmful" for prompt in fact.prompts)
    return (
        (
            Prose(f"{harmful} harmful questions, {len(fact.prompts) - harmful} look-alikes"),
            Name(fact.prompt_set),
        ),
        (Prose("their sha256"), Name(fact.prompt_digest[:SHORT])),
        (Prose("openings"), Name(fact.openings)),
        (Prose("their sha256"), Name(fact.openings_digest[:SHORT])),
        (Prose("chat template sha256"), Name(fact.template_sha256[:SHORT])),
        (Prose(f"asked in {fact.precision}"), Name(fact.device)),
    )
