"""Every file of the adapter's repository: who owns it, and what must not be there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from safety_gate import strict_json
from safety_gate.adapter.filename import (
    DOCUMENTS,
    GIT,
    MANIFEST,
    MODEL_CONFIGS,
    RECORDS,
    SUFFIXES,
    TEMPLATES,
    TOKENIZER,
    VOCABULARIES,
)
from safety_gate.adapter.remark import remark_on_all
from safety_gate.adapter.rules import FILE_RULES
from safety_gate.adapter.sniff import (
    HEAD_BYTES,
    TAIL_BYTES,
    WEIGHTS,
    is_image,
    is_safetensors,
    is_text,
    sniff,
)
from safety_gate.errors import BadAdapter
from safety_gate.records import FileFact, Finding, LedgerEntry
from safety_gate.sources.source import Source

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".gif", ".webp"})
IMPORTS_CODE = ("auto_map", "custom_pipelines", "_attn_implementation_internal")
MAX_CONFIG_BYTES = 4 * 2**20  # tokenizer_config.json with 50,000 added tokens has about 5 MB
MAX_DEPTH = 30


@dataclass(slots=True)
class Inventory:
    """All files with their owners."""

    entries: list[LedgerEntry] = field(default_factory=list)
    groups: dict[str, list[str]] = field(default_factory=dict)  # rule -> paths
    words: dict[str, str] = field(default_factory=dict)  # rule -> what its first path is

    def findings(self) -> list[Finding]:
        """Return one finding per rule."""
        found = []
        for rule, paths in self.groups.items():
            severity, what, hint = FILE_RULES[rule]
            found += remark_on_all(
                rule, severity, ("file", paths), what, hint=hint, got=self.words.get(rule, "")
            )
        return found


@dataclass(frozen=True, slots=True)
class _Owned:
    """Who answers for a file; ``rule`` names the finding where there is one."""

    owner: str
    rule: str = ""
    words: str = ""
    accounted: bool = True


def take_inventory(
    source: Source,
    facts: Sequence[FileFact],
    aligned_files: Mapping[str, str] | None,
    *,
    nested_is_judged: bool = False,
) -> Inventory:
    """Look at every file of the repository.

    Args:
        source: the private copy.
        facts: all its files.
        aligned_files: sha256 of the aligned model's tokenizer and template files by path; None
            where they are not known.
        nested_is_judged: adapters in subfolders are judged too, each on its own.
    """
    nested = {
        str(PurePosixPath(fact.path).parent)
        for fact in facts
        if PurePosixPath(fact.path).name == CONFIG and fact.path != CONFIG
    }
    inventory = Inventory()
    for fact in facts:
        owned = _owned(source, fact, nested, aligned_files)
        if nested_is_judged and owned.rule == "adapter-nested":
            owned = _Owned("another adapter", "adapter-beside")
        inventory.entries.append(
            LedgerEntry(
                kind="file",
                name=fact.path,
                owner=owned.owner,
                accounted=owned.accounted,
                scored=fact.path == TENSORS and owned.accounted,
            )
        )
        if owned.rule:
            paths = inventory.groups.setdefault(owned.rule, [])
            if owned.words and (not paths or fact.path < min(paths)):
                inventory.words[owned.rule] = owned.words
            paths.append(fact.path)
    return inventory


def _owned(
    source: Source, fact: FileFact, nested: set[str], aligned_files: Mapping[str, str] | None
) -> _Owned:
    """Judge one file: first by its bytes, then by its name."""
    path = PurePosixPath(fact.path)
    head = read_bytes(source, fact.path, 0, min(fact.size, HEAD_BYTES))
    start = max(0, fact.size - TAIL_BYTES)
    danger = sniff(head, read_bytes(source, fact.path, start, fact.size - start))
    in_nested = any(str(folder) in nested for folder in path.parents)
    is_weights = fact.path == TENSORS or (in_nested and path.name == TENSORS)
    if danger and not (is_weights and danger.rule == WEIGHTS):
        return _Owned("nobody", danger.rule, danger.words, accounted=False)
    rule = SUFFIXES.get(path.suffix.lower()) or (
        WEIGHTS if path.name.endswith(".index.json") else None
    )
    if rule and not is_weights:
        return _Owned("nobody", rule, f"a file ending in {path.suffix.lower()}", accounted=False)
    if in_nested:
        return _Owned("another adapter", "adapter-nested", accounted=False)
    if fact.path == TENSORS:
        return _Owned("weights", accounted=is_safetensors(head))
    if fact.path == CONFIG:
        return _Owned("adapter config")
    return _by_name(source, fact, head, aligned_files)


def _by_name(
    source: Source, fact: FileFact, head: bytes, aligned_files: Mapping[str, str] | None
) -> _Owned:
    """Judge a file whose bytes and suffix are harmless."""
    path = PurePosixPath(fact.path)
    if path.name in TOKENIZER | TEMPLATES | MODEL_CONFIGS and path.suffix == ".json":
        fault = _config_fault(source, fact)
        if fault:
            return _Owned("nobody", fault, accounted=False)
    if path.name in TOKENIZER | TEMPLATES or path.suffix == ".jinja":
        return _tokenizer(fact, aligned_files)
    if path.name in MODEL_CONFIGS:
        return _Owned("model configuration", "model-config")
    if path.suffix.lower() in IMAGE_SUFFIXES and is_image(head):
        return _Owned("image", "file-unclaimed")
    if path.name.startswith("events.out.tfevents."):
        return _Owned("training record", "file-unclaimed")  # TensorBoard's own numbers, no objects
    if not is_text(head):
        return _Owned("nobody", "file-unknown", accounted=False)
    if fact.path in DOCUMENTS:
        return _Owned("card or licence")
    if path.name in GIT:
        return _Owned("git")
    if path.name in RECORDS:
        return _Owned("training record")
    if fact.path == MANIFEST:
        return _Owned("manifest of a repair", "repair-claimed")
    return _Owned("document", "file-unclaimed")


def _tokenizer(fact: FileFact, aligned_files: Mapping[str, str] | None) -> _Owned:
    """Compare a tokenizer or template file with the aligned model's."""
    if aligned_files is None:
        return _Owned("tokenizer", "tokenizer-not-compared")
    if aligned_files.get(fact.path) == fact.sha256:
        return _Owned("tokenizer, equal to the aligned model's")
    return _Owned("tokenizer", "tokenizer-differs")


def _config_fault(source: Source, fact: FileFact) -> str:
    """Return the rule that a JSON configuration breaks, or nothing.

    A vocabulary is not looked into: it names no code.
    """
    if PurePosixPath(fact.path).name in VOCABULARIES:
        return ""
    if fact.size > MAX_CONFIG_BYTES:
        return "file-unreadable"
    data = read_bytes(source, fact.path, 0, fact.size)
    try:
        root = strict_json.parse(
            data,
            where=fact.path,
            error=BadAdapter,
            max_bytes=MAX_CONFIG_BYTES,
            max_depth=MAX_DEPTH,
        )
    except BadAdapter:
        return "file-unreadable"
    if isinstance(root, dict) and any(key in root for key in IMPORTS_CODE):
        return "config-imports-code"
    return ""


def read_bytes(source: Source, path: str, start: int, size: int) -> bytes:
    """Return ``size`` bytes of a file from ``start`` on."""
    buffer = bytearray(size)
    source.read_into(path, start, memoryview(buffer))
    return bytes(buffer)
