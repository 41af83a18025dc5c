"""A policy file: its bytes read, checked and named by digest."""

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from safety_gate.errors import BadPolicy
from safety_gate.policy.schema import Policy, allowed_keys
from safety_gate.policy.yaml_text import MAX_BYTES, Document, Path, read_yaml, shown
from safety_gate.records import PolicyFact

LONGEST_GOT = 60  # characters of a wrong value that are shown

Problem = Mapping[str, Any]  # one entry of pydantic's ValidationError.errors()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPolicy:
    """A policy that can be followed, and which bytes it came from."""

    policy: Policy
    fact: PolicyFact


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyText:
    """A policy file whose bytes are at hand already."""

    data: bytes
    origin: str  # for messages and the report


def load_policy(data: bytes, origin: str) -> LoadedPolicy:
    """Read and check a policy.

    Args:
        data: the bytes of the file, at most 256 KB.
        origin: the file as the user gave it, or "preset NAME"; for messages and the report.

    Raises:
        BadPolicy: with line, YAML path, what was found, what is expected and the nearest key.
    """
    document = read_yaml(data, origin)
    try:
        policy = Policy.model_validate(document.tree)
    except ValidationError as err:
        raise _refusal(err, document, origin) from err
    digest = hashlib.sha256(data).hexdigest()
    return LoadedPolicy(
        policy=policy, fact=PolicyFact(name=policy.name, origin=origin, sha256=digest)
    )


def load_policy_file(path: FilePath) -> LoadedPolicy:
    """Read and check the policy in a local file.

    Raises:
        BadPolicy: the file cannot be read, or cannot be followed.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as err:
        raise BadPolicy(
            "the policy file cannot be read",
            where=str(path),
            got=err.strerror or type(err).__name__,
            expected="a file that can be read",
            hint="Check the path and its permissions, or use a preset.",
        ) from err
    return load_policy(data, str(path))


def _refusal(error: ValidationError, document: Document, origin: str) -> BadPolicy:
    """Turn pydantic's list into one error: a misspelt key first, since it explains the others."""
    problems = error.errors(include_url=False, include_context=False)
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    path: Path = tuple(first["loc"])
    line = next(
        document.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in document.lines
    )
    what, got, expected = _words(first)
    return BadPolicy(
        what,
        where=f"{origin}, line {line}" + (f", {shown(path)}" if path else ""),
        got=got,
        expected=expected,
        hint=_hint(path, first["type"], len(problems) - 1),
    )


def _words(problem: Problem) -> tuple[str, str, str]:
    """Return what is wrong, what was found and what is expected."""
    got = repr(problem["input"])
    got = got if len(got) <= LONGEST_GOT else f"{got[:LONGEST_GOT]}..."
    match problem["type"]:
        case "extra_forbidden":
            return "the policy has no such key", repr(problem["loc"][-1]), ""
        case "missing":
            return "a key is missing", "", repr(problem["loc"][-1])
        case "tuple_type":
            return "this cannot be followed", got, "a list"
        case "model_type":
            return "this cannot be followed", got, "keys with values"
        case _:
            wanted = str(problem["msg"]).removeprefix("Input should ").removeprefix("be ")
            return "this cannot be followed", got, wanted


def _hint(path: Path, kind: str, others: int) -> str:
    """Name the nearest right key, or say where the keys are explained."""
    keys = allowed_keys(path[:-1])
    also = f" There are {others} more problems in the file." if others > 1 else ""
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(path[-1]), keys, n=1)
        say = f"Did you mean {near[0]!r}?" if near else f"The keys here are {', '.join(keys)}."
    elif kind == "missing":
        say = f"Add the key {path[-1]!r}; docs/policy.md has a full example."
    else:
        say = "Correct the value; docs/policy.md says what each key takes."
    return say + also
