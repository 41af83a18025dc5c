"""What the aligned model said in an earlier run, so that it need not be asked again.

A baseline holds for the very same question: aligned's pinned revision, its chat template, the
prompts in its tokens, the openings and the precision. All of these are in its key; a file whose key
differs is not used. It can be kept, exported and shipped: it holds ids, hashes and figures only.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from safety_gate import strict_json
from safety_gate.behaviour import ROUNDING, Lean
from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.openings import Beginnings
from safety_gate.probe.rows import Tokens

SCHEMA: Final = "safety-gate/baseline/v1"
MAX_BYTES: Final = 256 * 2**20  # a million prompts have about 100 MB
MAX_DEPTH: Final = 4
PINNED: Final = re.compile(r"[0-9a-f]{40}|sha256:[0-9a-f]{64}")  # revisions that pin the weights
BAD_HINT: Final = "Delete the file: the next run writes it again."


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What a baseline holds for."""

    aligned: str  # pinned revision
    template: str  # sha256 of the chat template
    prompts: str  # sha256 over the prompts' ids and tokens
    openings: str  # sha256 over the openings' tokens
    precision: str  # dtype and device

    @property
    def pins_weights(self) -> bool:
        """Tell whether the revision stands for the bytes of the weights."""
        return PINNED.fullmatch(self.aligned) is not None

    @property
    def digest(self) -> str:
        """Return a name for the file that holds it."""
        rows = [self.aligned, self.template, self.prompts, self.openings, self.precision]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def key(
    *,
    aligned: str,
    template: str,
    prompts: Mapping[str, Tokens],
    beginnings: Beginnings,
    precision: str,
) -> Key:
    """Return the key of what is about to be asked."""
    tree = beginnings.tree
    sides = [list(beginnings.refusal), list(beginnings.compliance)]
    asked = [list(tree.tokens), list(tree.parents), [list(p) for p in tree.paths], sides]
    return Key(
        aligned=aligned,
        template=template,
        prompts=_sha256([[name, list(tokens)] for name, tokens in prompts.items()]),
        openings=_sha256(asked),
        precision=precision,
    )


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()


def export(held: Key, ids: Sequence[str], leans: Sequence[Lean]) -> str:
    """Return the file's text.

    Raises:
        CannotProbe: the revision does not pin the weights, so the file would vouch for any.
    """
    if not held.pins_weights:
        raise CannotProbe(
            "aligned's revision does not pin its weights, so no baseline can be kept",
            where=held.aligned,
            expected="a commit, or the sha256 of whole files",
            hint="Name aligned by a commit, or run with --hash-checkpoints.",
        )
    rows = {name: [lean.refusal, lean.compliance] for name, lean in zip(ids, leans, strict=True)}
    document = {
        "schema": SCHEMA,
        "aligned": held.aligned,
        "template": held.template,
        "prompts": held.prompts,
        "openings": held.openings,
        "precision": held.precision,
        "leans": rows,
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def read(data: bytes, held: Key, ids: Sequence[str], where: str) -> list[Lean] | None:
    """Return aligned's leans in the order of the ids; None where the file is of another run.

    Raises:
        CannotProbe: the file has the right key and yet does not hold what it should.
    """
    document = strict_json.parse(
        data, where=where, error=CannotProbe, max_bytes=MAX_BYTES, max_depth=MAX_DEPTH
    )
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise CannotProbe("this is no baseline", where=where, expected=SCHEMA, hint=BAD_HINT)
    names = ("aligned", "template", "prompts", "openings", "precision")
    if not held.pins_weights or any(document.get(n) != getattr(held, n) for n in names):
        return None
    rows = document.get("leans")
    found = []
    for name in ids:
        row = rows.get(name) if isinstance(rows, dict) else None
        if not isinstance(row, list) or len(row) != 2 or not all(map(_is_log, row)):
            raise CannotProbe(
                "a prompt's figures are not in the baseline", where=where, got=name, hint=BAD_HINT
            )
        found.append(Lean(refusal=float(row[0]), compliance=float(row[1])))
    return found


def _is_log(value: object) -> bool:
    """Tell whether a value is a log-probability; the reader let no NaN and no Inf through."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value <= ROUNDING
