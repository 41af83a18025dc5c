"""The account of an adapter repository: every file, tensor and config key, and what it changes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safety_gate import strict_json
from safety_gate.adapter.architecture import CONV1D, KNOWN
from safety_gate.adapter.blueprint import Blueprint, is_plain, plain_blueprint
from safety_gate.adapter.config import Config, read_config
from safety_gate.adapter.inventory import CONFIG, TENSORS, read_bytes, take_inventory
from safety_gate.adapter.lora import (
    Change,
    LoraModule,
    Sorted,
    sort_tensors,
    sort_without_config,
)
from safety_gate.adapter.meta import asked_blueprint
from safety_gate.adapter.model import Model
from safety_gate.adapter.parts import Piece
from safety_gate.adapter.patterns import PatternRefused, PatternTooSlow
from safety_gate.adapter.prompted import is_prompted, tensor_entry
from safety_gate.adapter.remark import remark
from safety_gate.adapter.roots import Subfolder
from safety_gate.errors import BadAdapter, BadTensorFile, GateError
from safety_gate.records import AdapterFact, FileFact, Finding, LedgerEntry, finding_from
from safety_gate.sources.snapshot import snapshot
from safety_gate.sources.source import Source
from safety_gate.tensors import ADAPTER_LIMITS, TensorFile, read_header, read_tensor

if TYPE_CHECKING:
    import torch

COMMIT = re.compile(r"[0-9a-f]{40}")
MAX_CONFIG_BYTES = 2**20  # EVA writes one rank per module: 2,000 lines, about 150 KB
MAX_WHY = 300  # characters of a reason that a finding shows
MAX_CONFIG_DEPTH = 8  # the deepest key of PEFT, use_bdlora, has 3 levels


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter, understood; close() lets go of the private copy."""

    fact: AdapterFact
    findings: tuple[Finding, ...]
    ledger: tuple[LedgerEntry, ...]
    modules: tuple[LoraModule, ...]  # plain LoRA, sorted by module path
    pieces: tuple[Piece, ...]  # every other change that can be scored; safety_gate/delta reads it
    changed: tuple[Change, ...]  # every parameter that the adapter changes, sorted by name
    source: Source  # the private copy
    folder: Path  # where it lies
    tensors: TensorFile | None  # None where the file is missing or broken
    prompted: bool = False  # vectors before the text, and nothing else

    def close(self) -> None:
        """Remove the private copy; factors() cannot be asked for after this."""
        self.source.close()


def open_adapter(
    source: Source,
    *,
    shapes: Mapping[str, tuple[int, ...]],
    model_type: str | None,
    snapshot_dir: Path,
    config: Mapping[str, object] | None = None,
    aligned_files: Mapping[str, str] | None = None,
    root: str = "",
    others_are_judged: bool = False,
) -> Adapter:
    """Copy, hash and understand an adapter.

    A broken config or tensor file is a finding, not an error: a pickle beside it still counts.

    Args:
        source: the stranger's repository; SourceError if it cannot be read or copied.
        shapes: of the aligned checkpoint's tensors, by name.
        model_type: of its config.json; decides how weights are stored.
        snapshot_dir: an empty or missing folder for the private copy.
        config: the aligned checkpoint's config.json. Without it, and without transformers, only
            the architectures that architecture.KNOWN lists are understood.
        aligned_files: sha256 of the aligned model's tokenizer files by path; None if not known.
        root: the folder of the adapter in the repository; see roots.adapter_roots.
        others_are_judged: the caller judges adapters in subfolders as well, one by one.
    """
    own: Source = Subfolder(source, root) if root else source
    private, facts, digest = snapshot(own, snapshot_dir)
    try:
        inventory = take_inventory(
            private, facts, aligned_files, nested_is_judged=others_are_judged
        )
        own_config = _config(private, facts)
        findings = [*inventory.findings(), *own_config.findings]
        tensors = _tensors(private, facts, findings)
        blueprint = _blueprint(shapes, model_type, config, findings, own_config)
        result = _sorted(tensors, own_config, Model(blueprint), findings)
    except BaseException:
        private.close()
        raise
    findings += _ignored_layout(own_config, model_type)
    findings += _empty_findings(own.name, result, findings)
    prompted = is_prompted(own_config.values, tensors)
    entries = [tensor_entry()] if prompted else result.entries(tensors)
    return Adapter(
        fact=_fact(own, own_config, facts, digest),
        findings=tuple(findings),
        ledger=(*inventory.entries, *own_config.entries, *entries),
        modules=tuple(result.modules),
        pieces=tuple(piece for _, piece in sorted(result.pieces.items())),
        changed=tuple(change for _, change in sorted(result.changes.items())),
        source=private,
        folder=snapshot_dir,
        tensors=tensors,
        prompted=prompted,
    )


def factors(adapter: Adapter, module: LoraModule) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return A (rank, in) and B (out, rank) in float32, whatever they are stored as.

    PEFT copies them into float32 parameters. Judged in float64, factors that vanish or overflow
    there could stand for an update that nobody will ever load.

    Raises:
        SourceError: the private copy is gone or cannot be read.
    """
    if adapter.tensors is None:
        raise AssertionError("a module without a tensor file")
    entries = adapter.tensors.entries
    a = read_tensor(adapter.source, adapter.tensors, entries[module.a_name])
    b = read_tensor(adapter.source, adapter.tensors, entries[module.b_name])
    return a.float(), b.float()


def _fact(source: Source, config: Config, facts: tuple[FileFact, ...], digest: str) -> AdapterFact:
    """Return what was judged; a revision that is no commit does not pin bytes, the digest does."""
    pinned = COMMIT.fullmatch(source.revision)
    return AdapterFact(
        name=source.name,
        revision=source.revision if pinned else f"sha256:{digest}",
        digest=digest,
        claimed_base=config.claimed_base,
        kind=config.kind,
        files=facts,
    )


def _size(facts: Sequence[FileFact], path: str) -> int | None:
    """Return the size of a file, or None where it is missing."""
    return next((fact.size for fact in facts if fact.path == path), None)


def _config(private: Source, facts: Sequence[FileFact]) -> Config:
    """Read and judge adapter_config.json."""
    size = _size(facts, CONFIG)
    if size is None:
        finding = _missing(CONFIG)
    elif size > MAX_CONFIG_BYTES:
        finding = remark(
            "adapter-bad",
            "undecided",
            ("file", CONFIG),
            "the config is absurdly large",
            hint="Save the adapter again with save_pretrained().",
            got=f"{size} bytes",
            expected=f"at most {MAX_CONFIG_BYTES} bytes",
        )
    else:
        try:
            return read_config(
                strict_json.parse(
                    read_bytes(private, CONFIG, 0, size),
                    where=CONFIG,
                    error=BadAdapter,
                    max_bytes=MAX_CONFIG_BYTES,
                    max_depth=MAX_CONFIG_DEPTH,
                )
            )
        except BadAdapter as error:
            finding = finding_from(error, "file")
    return Config(findings=[finding])


def _missing(path: str) -> Finding:
    """Return the finding that one of the two files of an adapter is not there."""
    return remark(
        "file-missing",
        "undecided",
        ("file", path),
        "the adapter lacks this file",
        hint="Give the folder that save_pretrained() wrote; keep one adapter in it, at its root.",
    )


def _tensors(
    private: Source, facts: Sequence[FileFact], findings: list[Finding]
) -> TensorFile | None:
    """Read the header of the weights; None, with a finding, where that is not possible."""
    size = _size(facts, TENSORS)
    if size is None:
        findings.append(_missing(TENSORS))
        return None
    try:
        return read_header(private, TENSORS, size, limits=ADAPTER_LIMITS)
    except BadTensorFile as error:
        findings.append(finding_from(error, "file"))
        return None


def _sorted(
    tensors: TensorFile | None,
    config: Config,
    model: Model,
    findings: list[Finding],
) -> Sorted:
    """Sort the tensors; a pattern that cannot be judged leaves them all unjudged."""
    if tensors is None:
        return Sorted()
    try:
        result = sort_tensors(tensors, config, model)
    except PatternRefused as error:
        findings.append(
            remark(
                error.rule,
                "block" if isinstance(error, PatternTooSlow) else "undecided",
                ("config", error.where),
                error.what,
                hint=error.hint,
                got=error.got,
                expected=error.expected,
            )
        )
        result = sort_without_config(tensors, config, model)
    findings += result.findings()
    return result


def _blueprint(
    shapes: Mapping[str, tuple[int, ...]],
    model_type: str | None,
    config: Mapping[str, object] | None,
    findings: list[Finding],
    own: Config,
) -> Blueprint:
    """Return what is known of the aligned model; transformers is asked where the names need it."""
    plain = is_plain(shapes, model_type) and not own.ordered
    if plain or (config is None and model_type in KNOWN):
        return plain_blueprint(shapes, model_type)
    why = "no config.json of the aligned model was given"
    if config is not None:
        try:
            return asked_blueprint(config, shapes)
        except GateError as error:
            why = f"{error.what}: {error.got}" if error.got else error.what
    if own.settings is not None:
        findings.append(
            remark(
                "architecture-unknown",
                "undecided",
                ("checkpoint", model_type or "no model_type"),
                "how this architecture names and stores its weights is not known",
                hint="Give the aligned model with its config.json, or ask in an issue.",
                got=why[:MAX_WHY],
            )
        )
    return plain_blueprint(shapes, model_type)


def _ignored_layout(config: Config, model_type: str | None) -> list[Finding]:
    """Name a setting of how weights are stored that PEFT corrects itself."""
    if config.settings and config.settings.fan_in_fan_out and model_type not in CONV1D:
        return [
            remark(
                "fan-in-fan-out-ignored",
                "info",
                ("config", "fan_in_fan_out"),
                "PEFT ignores this setting on the linear layers of this model",
                hint="Nothing to do; set it to false to avoid PEFT's warning.",
                got="true",
                expected="false",
            )
        ]
    return []


def _empty_findings(name: str, result: Sorted, findings: list[Finding]) -> list[Finding]:
    """Name an adapter that changes nothing; where something stopped us, that was said already."""
    if result.changes or any(f.severity in ("block", "undecided") for f in findings):
        return []
    return [
        remark(
            "adapter-changes-nothing",
            "undecided",
            ("adapter", name),
            "the adapter holds no update of any weight of this model",
            hint="Check that the trained weights were saved, and for this model.",
        )
    ]
