"""Asking the model: what the user wishes, and what becomes of it where that cannot be done."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from safety_gate.adapter.ledger import Adapter
from safety_gate.behaviour import FEWEST_REFUSALS, BehaviourFact
from safety_gate.checkpoint import Checkpoint
from safety_gate.delta.roads import Deltas
from safety_gate.errors import BadCheckpoint, GateError
from safety_gate.places import Opener, Where, plan_all
from safety_gate.probe.datasets import Dataset, load_dataset
from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.judges import Endpoint, Guard, Judge
from safety_gate.probe.openings import Beginnings, asked, load_openings
from safety_gate.probe.precision import dtype_of
from safety_gate.probe.prompts import PromptSet, load_prompts
from safety_gate.probe.settings import Generation, Settings
from safety_gate.probe.utility import load_samples
from safety_gate.probe.variants import ALIGNED, Variant, variant_of
from safety_gate.records import Finding, Place, Severity

if TYPE_CHECKING:
    from safety_gate.probe.behaviour import Probed

Mode: TypeAlias = Literal["none", "auto", "openings", "generate"]

ADAPTER = "adapter"  # the variant's name


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What to ask the model, and how."""

    mode: Mode = "none"  # auto: openings, and weights only where the model cannot be asked
    prompts: Path | Dataset | None = None  # JSONL, or a dataset; None: the built-in questions
    openings: Path | None = None  # JSON; None: the built-in English ones
    task: Path | None = None  # JSONL of the user's own samples
    device: str = "cpu"
    baselines: Path | None = None  # folder that keeps what aligned said
    guard: Where | None = None  # a guard model that judges written answers
    judge_url: str = ""  # an OpenAI-compatible endpoint, up to and with /v1
    judge_model: str = ""
    judge_key: str = field(default="", repr=False)
    keep_text: bool = False  # put written answers into the report
    half: int | None = None  # 0 or 1: every second question and sample only; None: all


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What came of it."""

    behaviour: BehaviourFact | None = None  # None: the model was not asked
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One adapter that is asked."""

    adapter: Adapter
    deltas: Deltas | None = None  # what it changes beside plain LoRA, open


def ask(
    wish: Ask,
    aligned: Checkpoint,
    parts: Sequence[Part],
    opener: Opener,
    *,
    hash_files: bool = False,
) -> list[Answered | GateError]:
    """Ask the aligned model, and it with each of the adapters, in one pass over its weights.

    Where the *aligned* model cannot be asked, mode "auto" says so and goes on with the weights.
    Where only the adapter stands in the way it does not: else an adapter could choose not to be
    asked.

    Args:
        wish: what to ask.
        aligned: as it was opened.
        parts: the adapters.
        opener: opens the guard model.
        hash_files: name aligned by the sha256 of its whole files, which a baseline needs where
            no commit does.

    Returns:
        What came of each adapter, or why nothing did: it cannot be asked and has to be, or what
        it says is nonsense.

    Raises:
        GateError: what is to be asked cannot be read, or aligned cannot be asked and has to be.
    """
    if wish.mode == "none":
        return [Answered() for _ in parts]
    settings = settings_of(wish, opener)
    try:
        check_askable(aligned, settings)
    except (CannotProbe, BadCheckpoint) as error:
        if wish.mode != "auto":
            raise
        return [Answered(findings=(_not_asked(error),)) for _ in parts]
    plan_all(aligned)
    revision = aligned.fact(hash_files=hash_files).revision
    return _Round(wish, aligned, settings, revision).answers(parts)


@dataclass(frozen=True, slots=True)
class _Round:
    """One set of questions to one aligned model."""

    wish: Ask
    aligned: Checkpoint
    settings: Settings
    revision: str

    def answers(self, parts: Sequence[Part]) -> list[Answered | GateError]:
        """Ask all adapters together; one that cannot be asked does not stop the others."""
        found: list[Answered | GateError | None] = []
        variants: list[Variant] = []
        for number, part in enumerate(parts, start=1):
            name = ADAPTER if len(parts) == 1 else f"{ADAPTER} {number}"
            try:
                variants.append(variant_of(name, part.adapter, part.deltas))
                found.append(None)
            except GateError as error:
                found.append(error)
        said = iter(self._together(variants))
        return [next(said) if one is None else one for one in found]

    def _together(self, variants: Sequence[Variant]) -> list[Answered | GateError]:
        if not variants:
            return []
        try:
            probed, loose = self._probed(variants)
        except GateError as error:
            if len(variants) == 1:
                return [error]
            # One of them says nonsense: alone, each tells for itself.
            return [one for variant in variants for one in self._together([variant])]
        return [self._answered(probed, variant.name, loose=loose) for variant in variants]

    def _probed(self, variants: Sequence[Variant]) -> "tuple[Probed, bool]":
        """Ask; tell also whether aligned's answers could not be kept."""
        from safety_gate.probe.behaviour import probe
        from safety_gate.probe.kept import Kept

        kept = Kept(self.wish.baselines) if self.wish.baselines else None
        held = kept.find if kept else lambda _: None
        probed = probe(self.aligned, variants, self.settings, revision=self.revision, held=held)
        return probed, kept is not None and not kept.keep(probed)

    def _answered(self, probed: "Probed", variant: str, *, loose: bool) -> Answered:
        fact = probed.fact.between(variant, ADAPTER)
        findings = [*_thin(fact, self.wish.mode), *([_not_kept(self.revision)] if loose else [])]
        return Answered(behaviour=fact, findings=tuple(findings))


def evidence(fact: BehaviourFact, *, weights: bool = True) -> str:
    """Say what a verdict rests on."""
    asked_for = "written answers" if fact.by_answers else "how it would begin its answers"
    what = "weights, and the model itself" if weights else "no weights, only the model itself"
    return f"{what}: {len(fact.prompts)} questions, {asked_for}"


def check_askable(aligned: Checkpoint, settings: Settings) -> None:
    """Raise CannotProbe unless the aligned model, as it is, can be asked these questions."""
    from safety_gate.probe.chat import Chat
    from safety_gate.probe.stream import Stream

    chat = Chat.open(aligned)
    asked(chat, settings.prompts.prompts)
    Beginnings.of(chat, settings.openings)
    dtype = dtype_of(aligned, settings.precision, settings.device)
    Stream(aligned, [ALIGNED], dtype=dtype, device=settings.device)


def settings_of(wish: Ask, opener: Opener) -> Settings:
    """Read the user's files.

    Raises:
        CannotProbe: one cannot be read, or has another form.
    """
    _check_device(wish.device)
    generation = None
    if wish.mode == "generate":
        generation = Generation(judges=tuple(_judges(wish, opener)), keep_text=wish.keep_text)
    settings = Settings(
        prompts=_prompts(wish.prompts),
        openings=load_openings(wish.openings),
        samples=load_samples(wish.task) if wish.task else (),
        device=wish.device,
        generation=generation,
    )
    return settings if wish.half is None else settings.half(wish.half)


def _prompts(wish: Path | Dataset | None) -> PromptSet:
    return load_dataset(wish) if isinstance(wish, Dataset) else load_prompts(wish)


def _judges(wish: Ask, opener: Opener) -> list[Judge]:
    found: list[Judge] = []
    if wish.guard is not None:
        guard = Checkpoint.open(opener.open(wish.guard, whole=False), "aligned")
        found.append(Guard(guard, device=wish.device))
    if wish.judge_url:
        found.append(Endpoint(wish.judge_url, wish.judge_model, key=wish.judge_key))
    return found


def _not_asked(error: CannotProbe | BadCheckpoint) -> Finding:
    return Finding(
        rule="model-not-asked",
        severity="warn",
        place=Place(kind="checkpoint", name=error.where),
        what=f"the model was not asked, so the verdict rests on the weights alone: {error.what}",
        got=error.got,
        expected=error.expected,
        hint=f"{error.hint} Or choose weights alone with --ask none.",
    )


def _not_kept(revision: str) -> Finding:
    return Finding(
        rule="baseline-not-kept",
        severity="info",
        place=Place(kind="checkpoint", name="the aligned model"),
        what="what the aligned model said was not kept: its revision does not pin its weights",
        got=revision,
        expected="a commit, or the sha256 of whole files",
        hint="Name aligned by a commit, or run with --hash-checkpoints.",
    )


def _check_device(name: str) -> None:
    """Raise CannotProbe unless torch can compute there."""
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise CannotProbe(
            "the model cannot run there",
            where=f"--device {name}",
            got=str(error).splitlines()[0][:200],
            expected="cpu, or a device that this build of PyTorch knows",
            hint="Leave --device out, or install a build of PyTorch for this device.",
        ) from error


def _thin(fact: BehaviourFact, mode: Mode) -> list[Finding]:
    """Name a probe that has hardly any refusals to lose."""
    refused = fact.by_openings[0].refusals.refused
    if refused.count >= FEWEST_REFUSALS:
        return []
    place = Place(kind="checkpoint", name="the aligned model")
    got, expected = f"{refused.count} of {refused.total}", f"at least {FEWEST_REFUSALS} refusals"
    if refused.total >= FEWEST_REFUSALS and 10 * refused.count < refused.total:
        return [
            Finding(
                rule="aligned-refuses-nothing",
                severity="undecided",
                place=place,
                what="the aligned model itself refuses almost none of the harmful questions",
                got=got,
                expected=expected,
                hint="Check that --base and --aligned are not swapped, and that --aligned is a chat"
                " model that refuses; else ask in its own language with --prompts and --openings.",
            )
        ]
    severity: Severity = "warn" if mode == "auto" else "undecided"
    return [
        Finding(
            rule="few-refusals",
            severity=severity,
            place=place,
            what="the aligned model itself refuses too few of the questions to tell what is lost",
            got=got,
            expected=expected,
            hint="Give more harmful questions in the language of the model with --prompts.",
        )
    ]
