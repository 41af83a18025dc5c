"""Writes the repaired adapter: changed modules anew, everything else byte for byte."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from safety_gate import strict_json
from safety_gate.adapter.filename import DOCUMENTS, TEMPLATES, TOKENIZER
from safety_gate.adapter.inventory import CONFIG, TENSORS, read_bytes
from safety_gate.adapter.ledger import MAX_CONFIG_BYTES, MAX_CONFIG_DEPTH, Adapter, factors
from safety_gate.adapter.lora import LoraModule
from safety_gate.errors import BadAdapter
from safety_gate.precision import one_thread
from safety_gate.records import FileFact
from safety_gate.repair.card import CARD
from safety_gate.repair.factors import Factors, padded
from safety_gate.repair.folder import whole_folder
from safety_gate.repair.manifest import MANIFEST
from safety_gate.repair.scales import Scale, rewritten
from safety_gate.repair.tensor_file import Piece, copied, sha256_of, stored, write_tensors
from safety_gate.tensors import TensorFile

Dtype: TypeAlias = Literal["same", "float32", "bfloat16", "float16"]
CODES: Mapping[Dtype, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the new adapter is stored."""

    dtype: Dtype = "same"  # of the changed modules; "same": each factor as it was stored
    uniform_rank: bool = False  # pad every module with zeros to one rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """The texts that tell about the new files."""

    card: Callable[[], str]
    manifest: Callable[[tuple[FileFact, ...]], str]  # of all other files of the folder


def write_repaired(
    output: Path,
    adapter: Adapter,
    changed: Mapping[str, Factors],
    layout: Layout,
    documents: Documents,
) -> None:
    """Write the folder; it appears whole or not at all.

    Args:
        output: a new folder.
        adapter: the adapter that was repaired; all its tensors are factors of its modules.
        changed: the new update of each changed module, with the scaling that the module had.
        layout: how to store it.
        documents: called when the files they speak of are written.

    Raises:
        CannotRepair: the place is taken, the disk refuses, or a value does not fit its dtype.
    """
    ranks = {
        m.module: changed[m.module].rank if m.module in changed else m.rank for m in adapter.modules
    }
    if layout.uniform_rank:
        ranks = dict.fromkeys(ranks, max(ranks.values()))
    with one_thread(), whole_folder(output) as folder:
        write_tensors(folder / TENSORS, _pieces(adapter, changed, ranks, layout))
        (folder / CONFIG).write_bytes(_config(adapter, ranks))
        for path in taken_along(adapter):
            size = next(fact.size for fact in adapter.fact.files if fact.path == path)
            (folder / path).write_bytes(read_bytes(adapter.source, path, 0, size))
        (folder / CARD).write_text(documents.card(), encoding="utf-8")
        facts = tuple(_fact(path) for path in sorted(folder.iterdir()))
        (folder / MANIFEST).write_text(documents.manifest(facts), encoding="utf-8")


def taken_along(adapter: Adapter) -> tuple[str, ...]:
    """Return the files that are copied: what loads the tokenizer, and the licence."""
    wanted = (TOKENIZER | TEMPLATES | DOCUMENTS) - {CARD}
    paths = [fact.path for fact in adapter.fact.files]
    return tuple(p for p in paths if p in wanted or ("/" not in p and p.endswith(".jinja")))


def left_out(adapter: Adapter) -> tuple[str, ...]:
    """Return the files that are not copied, and not written anew either."""
    ours = {CONFIG, TENSORS, CARD, MANIFEST, *taken_along(adapter)}
    return tuple(fact.path for fact in adapter.fact.files if fact.path not in ours)


def stored_dtypes(module: LoraModule, tensors: TensorFile, dtype: Dtype) -> tuple[str, str]:
    """Return the dtypes in which a changed module's A and B are stored."""
    if dtype != "same":
        return CODES[dtype], CODES[dtype]
    return tensors.entries[module.a_name].dtype, tensors.entries[module.b_name].dtype


def _pieces(
    adapter: Adapter, changed: Mapping[str, Factors], ranks: Mapping[str, int], layout: Layout
) -> list[Piece]:
    """Return every tensor of the new file."""
    file = adapter.tensors
    if file is None:
        raise AssertionError("an adapter without tensors has no modules")
    pieces = []
    for module in adapter.modules:
        names = (module.a_name, module.b_name)
        new = changed.get(module.module)
        if new is None and ranks[module.module] == module.rank:
            pieces += [copied(adapter.source, file.path, file.entries[name]) for name in names]
            continue
        kinds = stored_dtypes(module, file, "same" if new is None else layout.dtype)
        if new is None:  # only padded: the values are the very same
            new = Factors(*factors(adapter, module), module.scaling)
        wide = padded(new, ranks[module.module])
        pieces += [
            stored(name, thin, kind)
            for name, thin, kind in zip(names, (wide.a, wide.b), kinds, strict=True)
        ]
    return pieces


def _config(adapter: Adapter, ranks: Mapping[str, int]) -> bytes:
    """Return adapter_config.json; as it was, unless a rank changed."""
    size = next(fact.size for fact in adapter.fact.files if fact.path == CONFIG)
    data = read_bytes(adapter.source, CONFIG, 0, size)
    if all(ranks[module.module] == module.rank for module in adapter.modules):
        return data
    root = strict_json.parse(
        data,
        where=CONFIG,
        error=BadAdapter,
        max_bytes=MAX_CONFIG_BYTES,
        max_depth=MAX_CONFIG_DEPTH,
    )
    if not isinstance(root, dict):
        raise AssertionError("the config was judged before")
    scales = {
        module.module: Scale(rank=ranks[module.module], scaling=module.scaling)
        for module in adapter.modules
    }
    return (json.dumps(rewritten(root, scales), indent=2) + "\n").encode()


def _fact(path: Path) -> FileFact:
    return FileFact(path=path.name, size=path.stat().st_size, sha256=sha256_of(path))
