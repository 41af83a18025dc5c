"""The one place where the steps meet: read, measure, decide.

Rooms raise; here a GateError becomes a finding that makes the verdict Undecided, with a reason and
a next step, so that a report exists even then. Adapters of one pair are measured in one pass over
its weights, and what stops one of them does not stop the others.
"""

import datetime
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safety_gate.adapter.ledger import open_adapter
from safety_gate.adapter.roots import Subfolder, adapter_roots, outside_findings
from safety_gate.asking import Answered, Ask, Part, ask
from safety_gate.case import Case, report_of
from safety_gate.checkpoint import Checkpoint, Role
from safety_gate.choosing import Chosen, choose
from safety_gate.delta.roads import open_deltas
from safety_gate.delta.views import with_views
from safety_gate.errors import GateError
from safety_gate.measuring import measure
from safety_gate.naming.layouts import in_layout_of
from safety_gate.outcomes import Memory
from safety_gate.pairing import claim_findings, pair_findings, tied_findings
from safety_gate.places import Opener, Where, fact_of, ignored_findings
from safety_gate.policy.file import LoadedPolicy, PolicyText, load_policy, load_policy_file
from safety_gate.policy.presets import load_preset
from safety_gate.records import CheckpointFact, Report, finding_from
from safety_gate.sources.pairs import Pairs
from safety_gate.sources.source import Source
from safety_gate.summing import sum_of
from safety_gate.tasks import needed_weights, tasks_of
from safety_gate.vocabulary import on_shared_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to judge, against what, by which rules."""

    adapter: Where
    base: Where | None = None  # None: looked up among the known pairs
    aligned: Where | None = None
    cache: Path | None = None  # folder for bytes of checkpoints on the Hub
    policy: Path | PolicyText | None = None  # the policy file; None: the preset decides
    preset: str = "default"
    hash_checkpoints: bool = False  # read every checkpoint file whole for its sha256
    workers: int = 2  # modules measured at the same time
    today: datetime.date  # waivers expire by it
    ask: Ask = Ask()  # whether the model itself is asked, and what


class Progress:
    """Hears what the gate is doing; this one stays silent."""

    def start(self, modules: int) -> None:
        """Hear how many modules will be measured."""

    def done(self, module: str) -> None:
        """Hear that one module is measured."""

    def asking(self) -> None:
        """Hear that the model is asked; that can take longer than the measuring."""


def judge(
    request: Request, progress: Progress | None = None, memory: Memory | None = None
) -> Report:
    """Judge one adapter; never raises GateError: what went wrong is in the report.

    Args:
        request: what to judge.
        progress: hears of every measured module.
        memory: watches the pass over the weights, for a repair.
    """
    with _Session(request, progress or Progress(), memory) as session:
        return session.reports([request.adapter], whole=False)[0]


def judge_all(
    request: Request, adapters: Sequence[Where], progress: Progress | None = None
) -> tuple[Report, ...]:
    """Judge every adapter of these places, those in subfolders too; never raises GateError.

    Adapters of one pair are measured in the same pass over its weights, with the figures that each
    would have alone. What stops one of them does not stop the others.

    Args:
        request: how to judge; its own ``adapter`` is not looked at.
        adapters: one place at least.
        progress: hears of every measured module.

    Returns:
        A report for each adapter, in the order of the places and, within one, of its folders.
    """
    with _Session(request, progress or Progress(), None) as session:
        return session.reports(adapters, whole=True)


def judge_sum(
    request: Request, adapters: Sequence[Where], progress: Progress | None = None
) -> Report:
    """Judge the sum of several adapters of one model, as if all were active at once.

    Args:
        request: how to judge; its own ``adapter`` is not looked at.
        adapters: two places at least.
        progress: hears of every measured module.
    """
    with _Session(request, progress or Progress(), None) as session:
        return session.sum_report(adapters)


def policy_of(request: Request) -> LoadedPolicy:
    """Read the rules.

    Raises:
        BadPolicy: they cannot be followed.
    """
    match request.policy:
        case PolicyText(data=data, origin=origin):
            return load_policy(data, origin)
        case None:
            return load_preset(request.preset)
        case path:
            return load_policy_file(path)


def chosen(request: Request, policy: LoadedPolicy | None, adapter: Source) -> Chosen:
    """Return which checkpoints a request means; the pairs of the policy go before the known ones.

    Raises:
        BadAdapter: they are neither named nor known.
        SourceError: the adapter's config cannot be read.
    """
    own = policy.policy.models if policy else ()
    models = {model.claim: (model.aligned, model.base) for model in own}
    return choose(request.base, request.aligned, adapter, Pairs.shipped().extended(models))


class _Session:
    """Judges some adapters, and opens every pair of checkpoints once."""

    def __init__(self, request: Request, progress: Progress, memory: Memory | None) -> None:
        self._request = request
        self._progress = progress
        self._memory = memory
        self._opener = Opener(request.cache)
        self._opened: dict[tuple[Where, Role], Checkpoint | GateError] = {}
        self._facts: dict[tuple[int, bool], CheckpointFact] = {}
        self._private = tempfile.TemporaryDirectory(prefix="safety-gate-")
        self._cases: list[Case] = []

    def __enter__(self) -> "_Session":
        return self

    def __exit__(self, *_: object) -> None:
        for case in self._cases:
            case.close()
        self._opener.close()
        self._private.cleanup()

    def reports(self, places: Sequence[Where], *, whole: bool) -> tuple[Report, ...]:
        """Take every step that can be taken, and report; ``whole``: subfolders as well."""
        self._open(places, whole=whole)
        return self._judged(self._cases)

    def sum_report(self, places: Sequence[Where]) -> Report:
        """Do the same for the sum of all adapters."""
        self._open(places, whole=False)
        return self._judged([sum_of(self._cases)])[0]

    def _open(self, places: Sequence[Where], *, whole: bool) -> None:
        """Understand every adapter of these places."""
        for place in places:
            self._cases += self._cases_of(place, whole=whole)
        for number, case in enumerate(self._cases):
            private = Path(self._private.name) / str(number)
            private.mkdir()
            case.noted("adapter", partial(self._understand, case, private))

    def _judged(self, cases: Sequence[Case]) -> tuple[Report, ...]:
        """Measure, ask and decide."""
        ready = [case for case in cases if case.ready]
        self._progress.start(sum(len(case.tasks) for case in ready))
        for pair in dict.fromkeys(case.pair for case in ready):
            measure(
                [case for case in ready if case.pair == pair],
                workers=self._request.workers,
                on_done=self._progress.done,
                memory=self._memory,
            )
        self._ask(cases)
        for case in cases:
            case.noted("adapter", partial(self._conclude, case))
        fact = partial(self._fact, whole=self._request.hash_checkpoints)
        return tuple(report_of(case, today=self._request.today, fact=fact) for case in cases)

    def _cases_of(self, place: Where, *, whole: bool) -> list[Case]:
        """Return a case for every adapter of a place."""
        first = Case()
        first.policy = first.noted("policy", lambda: policy_of(self._request))
        source = first.noted("adapter", lambda: self._opener.open(place, whole=True))
        if source is None:
            return [first]
        first.sources = (source,)
        roots = adapter_roots(source) if whole else ()
        if roots in ((), ("",)):
            return [first]
        private = Path(tempfile.mkdtemp(dir=self._private.name))
        beside = first.noted("adapter", lambda: outside_findings(source, roots, private))
        first.findings += beside or ()
        return [
            Case(
                sources=first.sources,
                root=root,
                nested=True,
                findings=list(first.findings),
                policy=first.policy,
            )
            for root in roots
        ]

    def _understand(self, case: Case, private: Path) -> None:
        """Open what a case is about, and list what is to be measured."""
        if not case.sources or not self._has_pair(case, case.sources[0]) or case.aligned is None:
            return
        source = case.sources[0]
        aligned = case.first_aligned = case.aligned
        facts = self._fact(aligned, whole=False)
        case.adapter = case.noted(
            "adapter",
            lambda: open_adapter(
                source,
                shapes=aligned.shapes,
                model_type=aligned.model_type,
                config=aligned.config,
                snapshot_dir=private / "adapter",
                aligned_files={f.path: f.sha256 for f in facts.files if f.sha256},
                root=case.root,
                others_are_judged=case.nested,
            ),
        )
        base, adapter = case.base, case.adapter
        case.first_base = base
        if base is None or adapter is None:
            return
        case.findings += pair_findings(base, aligned)
        case.findings += claim_findings(adapter, base, aligned)
        case.findings += tied_findings(adapter, aligned)
        case.deltas = open_deltas(adapter, aligned, private / "merging")
        case.findings += case.deltas.findings
        needed = needed_weights(adapter)
        laid = case.noted("checkpoint", lambda: in_layout_of(base, aligned, needed)) or base
        case.shared = on_shared_rows(
            tasks_of(adapter, case.deltas),
            with_views(laid, case.deltas.views),
            with_views(aligned, case.deltas.views),
        )
        case.tasks, case.base = case.shared.tasks, case.shared.base
        case.aligned = case.shared.aligned
        case.ready = True

    def _has_pair(self, case: Case, adapter: Source) -> bool:
        """Open aligned and base, looked up where they are not named; False where unknown."""
        own = Subfolder(adapter, case.root) if case.root else adapter
        found = case.noted("config", lambda: chosen(self._request, case.policy, own))
        if found is None:
            return False
        case.findings += found.findings
        case.pair = (found.aligned, found.base)
        case.aligned = case.noted("checkpoint", lambda: self._checkpoint(found.aligned, "aligned"))
        case.base = case.noted("checkpoint", lambda: self._checkpoint(found.base, "base"))
        return True

    def _checkpoint(self, where: Where, role: Role) -> Checkpoint:
        """Open a checkpoint, or say again why it cannot be."""
        if (where, role) not in self._opened:
            try:
                found: Checkpoint | GateError = Checkpoint.open(
                    self._opener.open(where, whole=False), role
                )
            except GateError as error:
                found = error
            self._opened[where, role] = found
        opened = self._opened[where, role]
        if isinstance(opened, GateError):
            raise opened
        return opened

    def _fact(self, checkpoint: Checkpoint, *, whole: bool) -> CheckpointFact:
        """Return what was read of a checkpoint; its files are hashed once for all adapters."""
        key = (id(checkpoint.source), whole)  # the opener keeps it, so no other has this id
        if key not in self._facts:
            self._facts[key] = fact_of(checkpoint, whole=whole)
        return self._facts[key]

    def _conclude(self, case: Case) -> None:
        """See that nothing moved meanwhile."""
        if not case.measured:
            return
        own = case.sources
        others = [s for other in self._cases for s in other.sources if s not in own]
        for source in own:
            case.findings += ignored_findings(source)
        for source in self._opener.sources:
            if source not in others:
                case.noted("file", source.verify)

    def _ask(self, cases: Sequence[Case]) -> None:
        """Ask the model, with every adapter of an aligned model at once.

        What is not told stays undecided.
        """
        if self._request.ask.mode == "none":
            return
        able = [case for case in cases if case.measured and case.adapter and case.first_aligned]
        for aligned in {id(case.first_aligned): case.first_aligned for case in able}.values():
            own = [case for case in able if case.first_aligned is aligned]
            self._progress.asking()
            for case, answered in zip(own, self._answers(aligned, own), strict=True):
                if isinstance(answered, GateError):
                    case.findings.append(finding_from(answered, "checkpoint"))
                else:
                    case.behaviour = answered.behaviour
                    case.findings += answered.findings

    def _answers(
        self, aligned: Checkpoint | None, cases: Sequence[Case]
    ) -> list[Answered | GateError]:
        parts = [Part(adapter=c.adapter, deltas=c.deltas) for c in cases if c.adapter]
        if aligned is None or len(parts) != len(cases):
            raise AssertionError("asked without a model or an adapter")
        hashed = self._request.hash_checkpoints
        try:
            return ask(self._request.ask, aligned, parts, self._opener, hash_files=hashed)
        except GateError as error:  # nobody of them could be asked
            return [error] * len(cases)
