"""The weights of a base or aligned checkpoint, by name.

Understood is what transformers loads by default: ``model.safetensors``, or the shards that
``model.safetensors.index.json`` names; exactly one of the two. Tensors are joined by name, never
by position: the same weight may lie in another shard of the other checkpoint.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

from safety_gate import strict_json
from safety_gate.errors import BadCheckpoint, GateError, MissingFile, UnsafePath
from safety_gate.records import CheckpointFact, FileFact
from safety_gate.sources.folder import LISTING
from safety_gate.sources.paths import check_path
from safety_gate.sources.source import Source
from safety_gate.tensors import (
    CHECKPOINT_LIMITS,
    DECODED,
    TensorEntry,
    TensorFile,
    decodable,
    read_header,
    read_rows,
)

if TYPE_CHECKING:
    import torch

Role: TypeAlias = Literal["base", "aligned"]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
ADAPTER = "adapter_model.safetensors"
SMALL_FILES = (  # hashed whole in every report: what a model is loaded and prompted with
    CONFIG,
    INDEX,
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
MAX_CONFIG_BYTES = 4 * 2**20  # real ones have a few KB
MAX_INDEX_BYTES = 64 * 2**20  # 100,000 tensors with long names have about 20 MB
MAX_JSON_DEPTH = 32
MAX_SHARDS = 10_000  # the largest open checkpoints have a few hundred
HASH_PIECE = 8 * 2**20  # bytes hashed at a time
SHOWN = 3  # names in one message
CONVERT_HINT = (
    "Save the model with model.save_pretrained(FOLDER), which writes safetensors; "
    "pickled weights can run code and are never opened here."
)
COMPLETE_HINT = "Download or copy the checkpoint again: its files do not belong together."


def natural(name: str) -> tuple[str | int, ...]:
    """Return the sort key that puts layer 2 before layer 10.

    Text and numbers alternate, so keys of any two names compare. Only 0-9 count as digits.
    """
    pieces = re.split("([0-9]+)", name)
    return tuple(int(piece) if at % 2 else piece for at, piece in enumerate(pieces))


def _bad(where: str, what: str, *, got: str = "", expected: str = "") -> BadCheckpoint:
    return BadCheckpoint(what, where=where, got=got, expected=expected, hint=COMPLETE_HINT)


def _some(names: set[str]) -> str:
    first = ", ".join(name[:120] for name in sorted(names, key=natural)[:SHOWN])
    return f"{len(names)}: {first}"


def _read_object(source: Source, path: str, size: int, max_bytes: int) -> dict[str, object]:
    """Read a JSON object strictly; the cap is checked before memory is taken."""
    if size > max_bytes:
        raise _bad(
            path, "the file is too large", got=f"{size} bytes", expected=f"at most {max_bytes}"
        )
    data = bytearray(size)
    source.read_into(path, 0, memoryview(data))
    value = strict_json.parse(
        bytes(data),
        where=path,
        error=BadCheckpoint,
        max_bytes=max_bytes,
        max_depth=MAX_JSON_DEPTH,
    )
    if not isinstance(value, dict):
        raise _bad(path, "this is not a JSON object")
    return value


def _weight_map(source: Source, sizes: Mapping[str, int]) -> dict[str, set[str]]:
    """Return which tensors the index expects in each shard; every shard is there."""
    index = _read_object(source, INDEX, sizes[INDEX], MAX_INDEX_BYTES)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _bad(INDEX, "weight_map is not a JSON object with entries")
    shards: dict[str, set[str]] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str):
            raise _bad(INDEX, "a shard is not named by a string", got=name[:120])
        shards.setdefault(shard, set()).add(name)
    if len(shards) > MAX_SHARDS:
        raise _bad(INDEX, "too many shards", got=str(len(shards)), expected=f"{MAX_SHARDS}")
    for shard in shards:
        _check_shard_name(shard)
        if shard not in sizes:
            raise _bad(shard[:120], "the index names a shard that is not there")
    return shards


def _check_shard_name(shard: str) -> None:
    try:
        check_path(shard)
    except UnsafePath as err:
        raise _bad(INDEX, f"the index names an unsafe path: {err.what}", got=err.where) from None
    if not shard.endswith(".safetensors"):
        raise BadCheckpoint(
            "the index names a shard that is no safetensors file",
            where=INDEX,
            got=shard[:120],
            hint=CONVERT_HINT,
        )


def _check_shard(file: TensorFile, expected: set[str]) -> None:
    """Compare one shard with what the index says of it, by name."""
    there = set(file.entries)
    if missing := expected - there:
        raise _bad(
            file.path,
            "tensors that the index places in this shard are not in it",
            got=_some(missing),
        )
    if extra := there - expected:
        raise _bad(
            file.path,
            "this shard holds tensors that the index does not place in it",
            got=_some(extra),
        )


def _no_weights(source: Source, sizes: Mapping[str, int]) -> BadCheckpoint | MissingFile:
    """Say what is there instead of weights that we read."""
    if any(path in sizes for path in PICKLED):
        return BadCheckpoint(
            "only pickled weights are there",
            where=source.name,
            expected=f"{SINGLE} or {INDEX}",
            hint=CONVERT_HINT,
        )
    hint = f"Name a folder that holds {SINGLE}, or {INDEX} and its shards."
    if ADAPTER in sizes:
        hint = f"This looks like an adapter: the gate needs the model it applies to. {hint}"
    return MissingFile("no model weights are there", where=source.name, expected=SINGLE, hint=hint)


def _read_files(source: Source, sizes: Mapping[str, int]) -> tuple[TensorFile, ...]:
    """Read the headers of all weights files, and hold them against the index."""
    if SINGLE in sizes and INDEX in sizes:
        raise BadCheckpoint(
            "there is a single weights file and an index of shards",
            where=source.name,
            got=f"{SINGLE} and {INDEX}",
            expected="one of them",
            hint="Remove the one that does not belong to this model.",
        )
    if SINGLE in sizes:
        return (read_header(source, SINGLE, sizes[SINGLE], limits=CHECKPOINT_LIMITS),)
    if INDEX not in sizes:
        raise _no_weights(source, sizes)
    shards = _weight_map(source, sizes)
    files = []
    for shard in sorted(shards, key=natural):
        file = read_header(source, shard, sizes[shard], limits=CHECKPOINT_LIMITS)
        _check_shard(file, shards[shard])
        files.append(file)
    return tuple(files)


def _sha256(source: Source, path: str, size: int) -> str:
    """Hash a file piece by piece."""
    sha256 = hashlib.sha256()
    piece = memoryview(bytearray(min(size, HASH_PIECE)))
    for start in range(0, size, HASH_PIECE):
        part = piece[: min(HASH_PIECE, size - start)]
        source.read_into(path, start, part)
        sha256.update(part)
    return sha256.hexdigest()


def _check_config(config: Mapping[str, object]) -> None:
    """Refuse the keys we use where they have another type than transformers writes."""
    if not isinstance(config.get("model_type"), str | None):
        raise _bad(CONFIG, "model_type is not a string")
    names = config.get("architectures")
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        raise _bad(CONFIG, "architectures is not a list of strings")
    if not isinstance(config.get("tie_word_embeddings"), bool | None):
        raise _bad(CONFIG, "tie_word_embeddings is neither true nor false")


@contextmanager
def _named(source: Source) -> Iterator[None]:
    """Say in errors which of the two checkpoints a path belongs to: both have the same names."""
    try:
        yield
    except GateError as err:
        if err.where.startswith(source.name):
            raise
        raise type(err)(
            err.what,
            where=f"{source.name}: {err.where}",
            got=err.got,
            expected=err.expected,
            hint=err.hint,
        ) from err


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One checkpoint: its config and the headers of its weights; values are read when asked for."""

    source: Source
    role: Role
    files: tuple[TensorFile, ...]  # in natural order of their paths
    config: Mapping[str, object]  # config.json as it stands, types checked; a stranger's text
    names: tuple[str, ...]  # of all tensors, in natural order, however the shards are cut
    shapes: Mapping[str, tuple[int, ...]]  # by name, in the order of ``names``
    places: Mapping[str, TensorFile] = field(repr=False)  # tensor name -> the file it is in

    @classmethod
    def open(cls, source: Source, role: Role) -> Self:
        """Read config.json and all headers; no weight is read.

        Raises:
            MissingFile: config.json or the weights are not there.
            BadCheckpoint: the files do not belong together, or cannot be read by us.
            BadTensorFile: a weights file breaks the format.
            SourceError: the files cannot be read.
        """
        sizes = {entry.path: entry.size for entry in source.files()}
        with _named(source):
            files = _read_files(source, sizes)
            if CONFIG not in sizes:
                raise MissingFile(
                    "the checkpoint has no config.json",
                    where=source.name,
                    hint="Put the config.json of the model beside its weights.",
                )
            config = _read_object(source, CONFIG, sizes[CONFIG], MAX_CONFIG_BYTES)
            _check_config(config)
        places = {name: file for file in files for name in file.entries}
        names = tuple(sorted(places, key=natural))
        return cls(
            source=source,
            role=role,
            files=files,
            config=MappingProxyType(config),
            names=names,
            shapes=MappingProxyType({name: places[name].entries[name].shape for name in names}),
            places=MappingProxyType(places),
        )

    @property
    def model_type(self) -> str | None:
        """Return model_type of config.json, a stranger's text; None where it does not say."""
        value = self.config.get("model_type")
        return value if isinstance(value, str) else None

    @property
    def architectures(self) -> tuple[str, ...]:
        """Return architectures of config.json, a stranger's text; empty where it does not say."""
        value = self.config.get("architectures")
        return tuple(value) if isinstance(value, list) else ()

    @property
    def tie_word_embeddings(self) -> bool | None:
        """Return tie_word_embeddings of config.json; None where it does not say."""
        value = self.config.get("tie_word_embeddings")
        return value if isinstance(value, bool) else None

    @property
    def quantized_by(self) -> str | None:
        """Return the method that config.json names, a stranger's text; None: not quantised."""
        for part in (self.config, self.config.get("text_config")):  # multimodal models nest it
            if not isinstance(part, Mapping):
                continue
            for key in ("quantization_config", "compression_config"):
                if (value := part.get(key)) is not None:
                    method = value.get("quant_method") if isinstance(value, Mapping) else None
                    return method if isinstance(method, str) and method else "an unnamed method"
        return None

    def has(self, name: str) -> bool:
        """Tell whether there is a tensor of this name."""
        return name in self.places

    def _file(self, name: str) -> TensorFile:
        file = self.places.get(name)
        if file is None:
            raise BadCheckpoint(
                f"the {self.role} checkpoint has no tensor of this name",
                where=f"{self.source.name}: {name}",
                hint="Check that base, aligned and adapter belong to the same model.",
            )
        return file

    def entry(self, name: str) -> TensorEntry:
        """Return what the header says of a tensor; BadCheckpoint where there is none."""
        return self._file(name).entries[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor; BadCheckpoint where there is none."""
        return self.entry(name).shape

    def rows(self, name: str, start: int, stop: int, scratch: "torch.Tensor") -> "torch.Tensor":
        """Read rows of a tensor into ``scratch``; see ``tensors.read_rows``.

        Returns:
            (stop - start, *shape[1:]) in the dtype of the file; valid until the next read.

        Raises:
            BadCheckpoint: there is no such tensor, or its dtype is not decoded.
            SourceError: the bytes cannot be read.
        """
        file = self._file(name)
        entry = file.entries[name]
        if not decodable(entry):
            raise BadCheckpoint(
                f"a weight of the {self.role} checkpoint has a dtype that is not decoded",
                where=f"{self.source.name}: {file.path}: {name}",
                got=entry.dtype,
                expected=", ".join(DECODED),
                hint="Give the unquantised checkpoint: its weights are what V is made of.",
            )
        with _named(self.source):
            return read_rows(self.source, file, entry, start, stop, scratch)

    def fact(self, *, hash_files: bool) -> CheckpointFact:
        """Return what was read, for the report.

        Small files carry the sha256 of all their bytes; weights carry that of their header, and
        of all their bytes where ``hash_files`` asks for a full read of them.

        ``revision`` is the source's where that pins the bytes (a commit). For a folder it is
        "sha256:" and the sha256 over the canonical JSON of [path, size, sha256, header_sha256] of
        these files; without ``hash_files`` "headers-sha256:", since it then covers names, shapes,
        dtypes and small files, but **not the values of the weights**.

        Raises:
            SourceError: the bytes cannot be read, or changed since they were listed.
        """
        sizes = {entry.path: entry.size for entry in self.source.files()}
        with _named(self.source):
            facts = [self._small_fact(path, sizes[path]) for path in SMALL_FILES if path in sizes]
            facts += [self._weights_fact(file, whole=hash_files) for file in self.files]
        facts.sort(key=lambda fact: natural(fact.path))
        return CheckpointFact(
            role=self.role,
            name=self.source.name,
            revision=self._revision(facts, whole=hash_files),
            files=tuple(facts),
        )

    def _small_fact(self, path: str, size: int) -> FileFact:
        return FileFact(path=path, size=size, sha256=_sha256(self.source, path, size))

    def _weights_fact(self, file: TensorFile, *, whole: bool) -> FileFact:
        return FileFact(
            path=file.path,
            size=file.size,
            sha256=_sha256(self.source, file.path, file.size) if whole else None,
            header_sha256=file.header_sha256,
        )

    def _revision(self, facts: list[FileFact], *, whole: bool) -> str:
        if not self.source.revision.startswith(LISTING):
            return self.source.revision
        rows = [[fact.path, fact.size, fact.sha256, fact.header_sha256] for fact in facts]
        digest = hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()
        return f"sha256:{digest}" if whole else f"headers-sha256:{digest}"
