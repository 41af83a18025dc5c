"""What the aligned model said in an earlier run, so that it need not be asked again.

A baseline holds for the very same question: aligned's pinned revision, its chat template, the
prompts in its tokens, the openings and the precision. All of these are in its key; a file whose key
differs is not used. It can be kept, exported and shipped: it holds ids, hashes and figures, and,
where answers were asked for, aligned's own answers as tokens.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeGuard

from safety_gate import strict_json
from safety_gate.behaviour import ROUNDING, Lean
from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.openings import Beginnings
from safety_gate.probe.rows import Tokens

SCHEMA: Final = "safety-gate/baseline/v2"
MAX_BYTES: Final = 256 * 2**20  # a million prompts have about 100 MB
MAX_DEPTH: Final = 6
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """One answer of aligned, as it was generated."""

    tokens: Tokens
    log_likelihood: float  # per token, by aligned; 0.0 of an empty answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What aligned said, in the order of the prompts."""

    leans: tuple[Lean, ...]
    most: int = 0  # tokens of an answer at most; 0: no answers were asked for
    answers: tuple[Spoken, ...] = ()


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


def export(held: Key, ids: Sequence[str], said: Baseline) -> str:
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
    leans = zip(ids, said.leans, strict=True)
    answers = zip(ids, said.answers, strict=True) if said.most else ()
    document = {
        "schema": SCHEMA,
        "aligned": held.aligned,
        "template": held.template,
        "prompts": held.prompts,
        "openings": held.openings,
        "precision": held.precision,
        "leans": {name: [lean.refusal, lean.compliance] for name, lean in leans},
        "most": said.most,
        "answers": {name: [list(one.tokens), one.log_likelihood] for name, one in answers},
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def read(data: bytes, held: Key, ids: Sequence[str], where: str) -> Baseline | None:
    """Return what aligned said, in the order of the ids; None where the file is of another run.

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
    most = document.get("most")
    if type(most) is not int or most < 0:
        raise _lacking("most", where)
    leans, answers = document.get("leans"), document.get("answers")
    return Baseline(
        leans=tuple(_lean(_row(leans, name, where), name, where) for name in ids),
        most=most,
        answers=tuple(_spoken(_row(answers, name, where), name, where) for name in ids if most),
    )


def _row(rows: object, name: str, where: str) -> tuple[object, object]:
    row = rows.get(name) if isinstance(rows, dict) else None
    if not isinstance(row, list) or len(row) != 2:
        raise _lacking(name, where)
    return row[0], row[1]


def _lean(row: tuple[object, object], name: str, where: str) -> Lean:
    refusal, compliance = row
    if not (_is_log(refusal) and _is_log(compliance)):
        raise _lacking(name, where)
    return Lean(refusal=float(refusal), compliance=float(compliance))


def _spoken(row: tuple[object, object], name: str, where: str) -> Spoken:
    tokens, log = row
    if not isinstance(tokens, list) or not all(type(t) is int and t >= 0 for t in tokens):
        raise _lacking(name, where)
    if not _is_log(log):
        raise _lacking(name, where)
    return Spoken(tokens=tuple(tokens), log_likelihood=float(log))


def _lacking(name: str, where: str) -> CannotProbe:
    return CannotProbe(
        "a prompt's figures are not in the baseline", where=where, got=name, hint=BAD_HINT
    )


def _is_log(value: object) -> TypeGuard[float]:
    """Tell whether a value is a log-probability; the reader let no NaN and no Inf through."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value <= ROUNDING
