"""safety_gate_manifest.json: from what, by what, into what, every file by its sha256."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from safety_gate.records import AdapterFact, CheckpointFact, FileFact
from safety_gate.repair.record import Inputs, Made

MANIFEST = "safety_gate_manifest.json"
FORMAT = "safety-gate/repair/v1"


def manifest(
    inputs: Inputs, made: Made, outputs: Sequence[FileFact], versions: dict[str, str]
) -> str:
    """Return the manifest; equal inputs give equal bytes.

    Args:
        inputs: weights of a checkpoint carry the sha256 of their header, and that of all their
            bytes where ``--hash-checkpoints`` asked for it.
        made: the repair.
        outputs: every other file of the folder.
        versions: of the programs that made it.
    """
    body: dict[str, Any] = {
        "format": FORMAT,
        "inputs": {
            "adapter": _adapter(inputs.adapter),
            "safety_adapter": None if inputs.safety is None else _adapter(inputs.safety),
            "base": _checkpoint(inputs.base),
            "aligned": _checkpoint(inputs.aligned),
        },
        "repair": made_json(made),
        "outputs": [_file(fact) for fact in outputs],
        "versions": dict(sorted(versions.items())),
    }
    return json.dumps(body, indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def made_json(made: Made) -> dict[str, Any]:
    """Return the repair as JSON; also a part of the report."""
    return {
        "method": made.method,
        "selection": made.selection,
        "seed": made.seed,
        "change": made.change,
        "before_norm": made.before_norm,
        "of_modules": made.of_modules,
        "modules": [asdict(module) for module in made.modules],
        "notes": list(made.notes),
        "left_out": list(made.left_out),
    }


def _adapter(fact: AdapterFact) -> dict[str, Any]:
    return {
        "name": fact.name,
        "revision": fact.revision,
        "digest": fact.digest,
        "files": [_file(file) for file in fact.files],
    }


def _checkpoint(fact: CheckpointFact) -> dict[str, Any]:
    files = [_file(file) for file in fact.files]
    return {"name": fact.name, "revision": fact.revision, "files": files}


def _file(fact: FileFact) -> dict[str, Any]:
    digests = {"sha256": fact.sha256, "header_sha256": fact.header_sha256}
    given = {key: value for key, value in digests.items() if value is not None}
    return {"path": fact.path, "size": fact.size} | given
