"""The inputs of a repair, opened: adapter, safety adapter, and the pair that V is made of."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from safety_gate.adapter.ledger import Adapter, factors, open_adapter
from safety_gate.adapter.lora import LoraModule
from safety_gate.checkpoint import Checkpoint
from safety_gate.errors import ChangedWhileRead
from safety_gate.records import AdapterFact, CheckpointFact, Report
from safety_gate.repair.factors import Factors
from safety_gate.repair.guard import Guarded
from safety_gate.repair.refusal import CannotRepair
from safety_gate.sources.source import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Where a repair reads from, folders and repositories alike."""

    aligned: Source
    base: Source
    adapter: Source
    safety: Source | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Everything that a repair reads."""

    aligned: Checkpoint
    base: Checkpoint
    adapter: Adapter
    safety: Adapter | None
    guarded: Guarded = field(default_factory=Guarded)  # filled by guarding.py, where it is wanted

    def modules(self) -> dict[str, LoraModule]:
        """Return the adapter's modules by path."""
        return {module.module: module for module in self.adapter.modules}

    def factors(self, module: str) -> Factors:
        """Return the adapter's update of a module."""
        own = self.modules()[module]
        return Factors(*factors(self.adapter, own), own.scaling)

    def safety_factors(self, module: str) -> Factors | None:
        """Return the safety adapter's update of a module; None where it has none."""
        if self.safety is None:
            return None
        found = [own for own in self.safety.modules if own.module == module]
        if not found:
            return None
        return Factors(*factors(self.safety, found[0]), found[0].scaling)

    def close_safety(self) -> None:
        """Let go of the safety adapter's private copy, once every repair is made."""
        if self.safety is not None:
            self.safety.close()

    def check_pair(self, before: Report, after: Report) -> None:
        """Hold the checkpoints against their start: what was measured once is not read again.

        Raises:
            ChangedWhileRead: they are not those of the first judgment.
        """
        for checkpoint in (self.aligned, self.base):
            checkpoint.source.verify()
        same = [
            pair[0].revision == pair[1].revision
            for pair in ((before.base, after.base), (before.aligned, after.aligned))
            if pair[0] is not None and pair[1] is not None
        ]
        if same != [True, True]:
            raise ChangedWhileRead(
                "a checkpoint changed between judging and judging again",
                where=f"{self.base.source.name}, {self.aligned.source.name}",
                hint="Run again while nothing writes to these folders.",
            )

    def check(self, report: Report) -> None:
        """Hold the first report against what is open here.

        Raises:
            ChangedWhileRead: the adapter or a checkpoint moved since it was opened.
        """
        for fact, checkpoint in ((report.base, self.base), (report.aligned, self.aligned)):
            if fact is not None and not _is_same(fact, checkpoint.fact(hash_files=False)):
                raise ChangedWhileRead(
                    "a checkpoint changed between opening and judging",
                    where=fact.name,
                    hint="Run again while nothing writes to it, or name its commit.",
                )
        if report.adapter is not None and report.adapter.digest != self.adapter.fact.digest:
            raise ChangedWhileRead(
                "the adapter changed between judging and repairing",
                where=self.adapter.fact.name,
                hint="Run again while nothing writes to it, or name its commit.",
            )


def _is_same(one: CheckpointFact, other: CheckpointFact) -> bool:
    """Compare what was judged with what is open, of which the weights were not hashed."""
    if one.revision == other.revision:
        return True
    headers = [[(f.path, f.size, f.header_sha256) for f in fact.files] for fact in (one, other)]
    return one.revision.startswith("sha256:") and headers[0] == headers[1]


def open_bench(stack: ExitStack, inputs: Inputs, private: Path) -> Bench:
    """Understand all inputs.

    Args:
        stack: closes what is opened here; the sources stay the caller's.
        inputs: where they are read from.
        private: a folder for private copies; made if it is missing.

    Raises:
        GateError: one of them cannot be read.
    """
    private.mkdir(mode=0o700, exist_ok=True)
    aligned = Checkpoint.open(inputs.aligned, "aligned")
    base = Checkpoint.open(inputs.base, "base")

    def understood(source: Source, name: str) -> Adapter:
        adapter = open_adapter(
            source,
            shapes=aligned.shapes,
            model_type=aligned.model_type,
            config=aligned.config,
            snapshot_dir=private / name,
        )
        stack.callback(adapter.close)
        return adapter

    return Bench(
        aligned=aligned,
        base=base,
        adapter=understood(inputs.adapter, "adapter"),
        safety=understood(inputs.safety, "safety") if inputs.safety else None,
    )


def check_plain(adapter: Adapter, role: str) -> None:
    """Refuse an adapter that is more than plain LoRA: a repair would lose the rest in silence.

    Raises:
        CannotRepair: with the adapter's own finding about it.
    """
    file = adapter.tensors
    whole = {name for module in adapter.modules for name in (module.a_name, module.b_name)}
    if file is not None and adapter.modules and whole == set(file.entries):
        return
    beside = sorted(set(file.entries) - whole) if file is not None else []
    grave = [f for f in adapter.findings if f.severity in ("block", "undecided")]
    finding = next((f for f in grave if f.place.kind != "file"), None) or next(iter(grave), None)
    raise CannotRepair(
        f"the {role} is not plain LoRA of the aligned model"
        + (f": {finding.what}" if finding else ""),
        where=f"{adapter.fact.name}: {finding.place.name}" if finding else adapter.fact.name,
        got=finding.got if finding else _told(beside),
        expected="factors A and B of linear layers, and nothing else",
        hint=finding.hint if finding else "Save it again with save_pretrained().",
    )


def _told(beside: Sequence[str]) -> str:
    """Name what is more than plain LoRA."""
    return f"{len(beside)} other tensors, starting with {beside[0]}" if beside else "no factors"


def check_safety(bench: Bench, *, any_base: bool) -> None:
    """Refuse a safety adapter that cannot be merged with the adapter.

    Raises:
        CannotRepair: it is not plain LoRA, was trained on another base, or shares no module.
    """
    if bench.safety is None:
        raise CannotRepair(
            "this method needs a safety adapter",
            where="the safety adapter",
            hint="Name the folder of a LoRA adapter tuned on safety data with --safety-adapter.",
        )
    check_plain(bench.safety, "safety adapter")
    own, other = bench.adapter.fact, bench.safety.fact
    if not any_base and _last(own) != _last(other) and own.claimed_base and other.claimed_base:
        raise CannotRepair(
            "the safety adapter says that it was trained on another base than the adapter",
            where=other.name,
            got=other.claimed_base,
            expected="the adapter's base_model_name_or_path",
            hint="If both were trained on the aligned model, add --any-safety-base.",
        )
    if not shared(bench):
        raise CannotRepair(
            "the safety adapter changes no module that the adapter changes",
            where=other.name,
            got=f"{len(bench.safety.modules)} other modules",
            hint="Train the safety adapter with the adapter's target_modules.",
        )


def shared(bench: Bench) -> frozenset[str]:
    """Return the modules that both adapters change."""
    theirs = {module.module for module in bench.safety.modules} if bench.safety else set()
    return frozenset(theirs & bench.modules().keys())


def _last(fact: AdapterFact) -> str:
    """Return the last part of the claimed base: the same model is named by Hub and by folder."""
    return fact.claimed_base.rstrip("/").rpartition("/")[2].lower()
