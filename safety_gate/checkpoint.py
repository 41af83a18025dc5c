"""The weights of a base or aligned checkpoint, by name.

Tensors are joined by name, never by position: the same weight may lie in another shard of the other
checkpoint, and what is stored quantised stands under the name of the weight that it stands for.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

from safety_gate.errors import BadCheckpoint, GateError, MissingFile
from safety_gate.quantised.methods import Quantisation, read_weights
from safety_gate.records import CheckpointFact, FileFact
from safety_gate.sources.folder import LISTING
from safety_gate.sources.source import Source
from safety_gate.tensors import DECODED, TensorEntry, TensorFile, decodable
from safety_gate.weight_files import INDEX, natural, read_files, read_object, unfit
from safety_gate.weights import Extent, Stored, Weight, lines_of

if TYPE_CHECKING:
    import torch

__all__ = ["Checkpoint", "Role", "natural"]

Role: TypeAlias = Literal["base", "aligned"]

CONFIG = "config.json"
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
HASH_PIECE = 8 * 2**20  # bytes hashed at a time


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
        raise unfit(CONFIG, "model_type is not a string")
    names = config.get("architectures")
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        raise unfit(CONFIG, "architectures is not a list of strings")
    if not isinstance(config.get("tie_word_embeddings"), bool | None):
        raise unfit(CONFIG, "tie_word_embeddings is neither true nor false")


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


def _lines_in_row(shape: tuple[int, ...]) -> int:
    """Return how many lines one row of the first dimension has."""
    return lines_of(shape) // shape[0] if len(shape) > 1 and shape[0] else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One checkpoint: its config and the headers of its weights; values are read when asked for."""

    source: Source
    role: Role
    files: tuple[TensorFile, ...]  # in natural order of their paths
    config: Mapping[str, object]  # config.json as it stands, types checked; a stranger's text
    names: tuple[str, ...]  # of all weights, in natural order, however the shards are cut
    shapes: Mapping[str, tuple[int, ...]]  # by name, in the order of ``names``
    weights: Mapping[str, Weight] = field(repr=False)  # by name
    quantised: Quantisation | None = None

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
            files = read_files(source, sizes)
            if CONFIG not in sizes:
                raise MissingFile(
                    "the checkpoint has no config.json",
                    where=source.name,
                    hint="Put the config.json of the model beside its weights.",
                )
            config = read_object(source, CONFIG, sizes[CONFIG], MAX_CONFIG_BYTES)
            _check_config(config)
        tensors = {n: Stored(source, f, entry) for f in files for n, entry in f.entries.items()}
        weights, quantised = read_weights(config, tensors)
        names = tuple(sorted(weights, key=natural))
        return cls(
            source=source,
            role=role,
            files=files,
            config=MappingProxyType(config),
            names=names,
            shapes=MappingProxyType({name: weights[name].shape for name in names}),
            weights=MappingProxyType(dict(weights)),
            quantised=quantised,
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

    def with_weights(self, weights: Mapping[str, Weight]) -> Self:
        """Return the same checkpoint with these weights instead of its own, by their names."""
        names = tuple(sorted(weights, key=natural))
        return replace(
            self,
            names=names,
            shapes=MappingProxyType({name: weights[name].shape for name in names}),
            weights=MappingProxyType(dict(weights)),
        )

    def has(self, name: str) -> bool:
        """Tell whether there is a weight of this name."""
        return name in self.weights

    def weight(self, name: str) -> Weight:
        """Return a weight; BadCheckpoint where there is none."""
        found = self.weights.get(name)
        if found is None:
            raise BadCheckpoint(
                f"the {self.role} checkpoint has no tensor of this name",
                where=f"{self.source.name}: {name}",
                hint="Check that base, aligned and adapter belong to the same model.",
            )
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a weight; BadCheckpoint where there is none."""
        return self.weight(name).shape

    def entry(self, name: str) -> TensorEntry:
        """Return what the header says of a weight; BadCheckpoint where no tensor is that weight."""
        stored = self.weight(name)
        if not isinstance(stored, Stored):
            raise BadCheckpoint(
                f"this weight of the {self.role} checkpoint is not one tensor",
                where=f"{self.source.name}: {name}",
                got=", ".join(sorted(stored.formats)),
                hint="Give the unquantised checkpoint, in transformers' own layout.",
            )
        return stored.entry

    def extents(self, name: str) -> tuple[Extent, ...]:
        """Return the bytes that a weight is made of; BadCheckpoint where there is none."""
        return self.weight(name).extents

    def scratch_bytes(self, name: str, rows: int) -> int:
        """Return the bytes of scratch that reading so many rows at once takes.

        Rows are those of the first dimension; a scalar has one.
        """
        return self.weight(name).scratch_bytes(rows * _lines_in_row(self.shape(name)))

    def rows(self, name: str, start: int, stop: int, scratch: "torch.Tensor") -> "torch.Tensor":
        """Read rows of a weight; see ``tensors.read_rows``.

        Args:
            name: of the weight.
            start: first row (index of the first dimension; a scalar has one row).
            stop: row behind the last.
            scratch: (bytes,) uint8, contiguous, on the CPU, of ``scratch_bytes`` at least.

        Returns:
            (stop - start, *shape[1:]) of floats, in the dtype of the file or, dequantised, in that
            of the format; valid until the next read into ``scratch``.

        Raises:
            BadCheckpoint: there is no such weight, or its dtype is not decoded.
            SourceError: the bytes cannot be read.
        """
        weight = self.weight(name)
        if isinstance(weight, Stored) and not decodable(weight.entry):
            raise BadCheckpoint(
                f"a weight of the {self.role} checkpoint has a dtype that is not decoded",
                where=f"{self.source.name}: {weight.file.path}: {name}",
                got=weight.entry.dtype,
                expected=", ".join(DECODED),
                hint="Give the unquantised checkpoint: its weights are what V is made of.",
            )
        count = _lines_in_row(weight.shape)
        with _named(self.source):
            lines = weight.lines(start * count, stop * count, scratch)
        return lines.view(stop - start, *weight.shape[1:])

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
