"""The inputs of a repair, opened: adapter, safety adapter, and the pair that V is made of."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from safety_gate.adapter.ledger import Adapter, factors, open_adapter
from safety_gate.adapter.lora import LoraModule
from safety_gate.checkpoint import Checkpoint
from safety_gate.errors import ChangedWhileRead
from safety_gate.records import AdapterFact, Report
from safety_gate.repair.factors import Factors
from safety_gate.repair.refusal import CannotRepair
from safety_gate.sources.folder import FolderSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Everything that a repair reads."""

    aligned: Checkpoint
    base: Checkpoint
    adapter: Adapter
    safety: Adapter | None

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
        """Hold the first report against the adapter that is open here.

        Raises:
            ChangedWhileRead: the adapter moved since it was opened.
        """
        if report.adapter is not None and report.adapter.digest != self.adapter.fact.digest:
            raise ChangedWhileRead(
                "the adapter changed between judging and repairing",
                where=self.adapter.fact.name,
                hint="Run again while nothing writes to this folder.",
            )


def open_bench(
    stack: ExitStack, folders: tuple[Path, Path, Path], safety: Path | None, private: Path
) -> Bench:
    """Open all inputs.

    Args:
        stack: closes them.
        folders: of aligned, base and adapter.
        safety: of the safety adapter.
        private: a folder for private copies; made if it is missing.

    Raises:
        GateError: one of them cannot be read.
    """
    private.mkdir(mode=0o700, exist_ok=True)

    def source(path: Path) -> FolderSource:
        opened = FolderSource(path)
        stack.callback(opened.close)
        return opened

    aligned = Checkpoint.open(source(folders[0]), "aligned")
    base = Checkpoint.open(source(folders[1]), "base")

    def understood(path: Path, name: str) -> Adapter:
        adapter = open_adapter(
            source(path),
            shapes=aligned.shapes,
            model_type=aligned.model_type,
            snapshot_dir=private / name,
        )
        stack.callback(adapter.close)
        return adapter

    return Bench(
        aligned=aligned,
        base=base,
        adapter=understood(folders[2], "adapter"),
        safety=understood(safety, "safety") if safety else None,
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
    grave = [f for f in adapter.findings if f.severity in ("block", "undecided")]
    finding = next((f for f in grave if f.place.kind != "file"), None) or next(iter(grave), None)
    raise CannotRepair(
        f"the {role} is not plain LoRA of the aligned model"
        + (f": {finding.what}" if finding else ""),
        where=f"{adapter.fact.name}: {finding.place.name}" if finding else adapter.fact.name,
        got=finding.got if finding else "",
        expected="factors A and B of linear layers, and nothing else",
        hint=finding.hint if finding else "Save it again with save_pretrained().",
    )


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
