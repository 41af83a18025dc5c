"""The files that the weights of a checkpoint lie in, held against their index.

Understood is what transformers loads by default: ``model.safetensors``, or the shards that
``model.safetensors.index.json`` names; exactly one of the two.
"""

import re
from collections.abc import Mapping

from safety_gate import strict_json
from safety_gate.errors import BadCheckpoint, MissingFile, UnsafePath
from safety_gate.sources.paths import check_path
from safety_gate.sources.source import Source
from safety_gate.tensors import CHECKPOINT_LIMITS, TensorFile, read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
ADAPTER = "adapter_model.safetensors"
MAX_INDEX_BYTES = 64 * 2**20  # 100,000 tensors with long names have about 20 MB
MAX_JSON_DEPTH = 32
MAX_SHARDS = 10_000  # the largest open checkpoints have a few hundred
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


def unfit(where: str, what: str, *, got: str = "", expected: str = "") -> BadCheckpoint:
    """Return the error that files of a checkpoint do not fit together."""
    return BadCheckpoint(what, where=where, got=got, expected=expected, hint=COMPLETE_HINT)


def _some(names: set[str]) -> str:
    first = ", ".join(name[:120] for name in sorted(names, key=natural)[:SHOWN])
    return f"{len(names)}: {first}"


def read_object(source: Source, path: str, size: int, max_bytes: int) -> dict[str, object]:
    """Read a JSON object strictly; the cap is checked before memory is taken."""
    if size > max_bytes:
        raise unfit(
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
        raise unfit(path, "this is not a JSON object")
    return value


def _weight_map(source: Source, sizes: Mapping[str, int]) -> dict[str, set[str]]:
    """Return which tensors the index expects in each shard; every shard is there."""
    index = read_object(source, INDEX, sizes[INDEX], MAX_INDEX_BYTES)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise unfit(INDEX, "weight_map is not a JSON object with entries")
    shards: dict[str, set[str]] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str):
            raise unfit(INDEX, "a shard is not named by a string", got=name[:120])
        shards.setdefault(shard, set()).add(name)
    if len(shards) > MAX_SHARDS:
        raise unfit(INDEX, "too many shards", got=str(len(shards)), expected=f"{MAX_SHARDS}")
    for shard in shards:
        _check_shard_name(shard)
        if shard not in sizes:
            raise unfit(shard[:120], "the index names a shard that is not there")
    return shards


def _check_shard_name(shard: str) -> None:
    try:
        check_path(shard)
    except UnsafePath as err:
        raise unfit(INDEX, f"the index names an unsafe path: {err.what}", got=err.where) from None
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
        raise unfit(
            file.path,
            "tensors that the index places in this shard are not in it",
            got=_some(missing),
        )
    if extra := there - expected:
        raise unfit(
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


def read_files(source: Source, sizes: Mapping[str, int]) -> tuple[TensorFile, ...]:
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
