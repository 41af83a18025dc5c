"""The inputs as values of their own kind, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from safety_gate.action.inputs import BadInput, Choice
from safety_gate.publish.comment import MODES, Mode
from safety_gate.publish.publication import GATE_ID, Word

Failing: TypeAlias = Literal["blocked", "undecided"]

FAILING: tuple[Failing, ...] = ("blocked", "undecided")
PRESETS = ("default", "paper")
BEHAVIOUR = ("off", "auto", "openings", "generate")
REPAIR = ("off", "auto", "guard", "safemerge", "safelora", "unrevert", "drop")
PUBLISH_REPAIRED = ("off", "pull-request", "branch", "repo")
_BOOLS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the workflow asks for."""

    adapter: tuple[str, ...]  # folders, globs or Hub repositories; empty: what has changed
    base: str
    aligned: str
    safety_adapter: str
    behaviour: str
    prompts: str
    openings: str
    repair: str
    publish_repaired: str
    fail_on: frozenset[Failing]
    comment: Mode
    gate_id: str
    check_run: bool
    commit_status: bool
    sarif_upload: bool
    sarif_file: str
    json_file: str
    cache_dir: str
    github_token: str = field(repr=False)
    hf_token: str = field(repr=False)

    @property
    def tolerated(self) -> frozenset[Word]:
        """The verdicts that do not fail the job."""
        words: tuple[Word, ...] = ("blocked", "undecided")
        return frozenset(word for word in words if word not in self.fail_on)


def options(choices: Mapping[str, Choice]) -> Options:
    """Return the options.

    Raises:
        BadInput: a value is not one that the input takes.
    """

    def text(name: str) -> str:
        return choices[name].value

    fail_on = frozenset[Failing]() if _bool(choices["warn-only"]) else _fail_on(choices["fail-on"])
    return Options(
        adapter=tuple(line.strip() for line in text("adapter").splitlines() if line.strip()),
        base=text("base"),
        aligned=text("aligned"),
        safety_adapter=text("safety-adapter"),
        behaviour=_one_of(choices["behaviour"], BEHAVIOUR),
        prompts=text("prompts"),
        openings=text("openings"),
        repair=_one_of(choices["repair"], REPAIR),
        publish_repaired=_one_of(choices["publish-repaired"], PUBLISH_REPAIRED),
        fail_on=fail_on,
        comment=_mode(choices["comment"]),
        gate_id=_gate_id(choices["comment-id"]),
        check_run=_bool(choices["check-run"]),
        commit_status=_bool(choices["commit-status"]),
        sarif_upload=_bool(choices["sarif-upload"]),
        sarif_file=text("sarif-file"),
        json_file=text("json-file"),
        cache_dir=text("cache-dir"),
        github_token=text("github-token"),
        hf_token=text("hf-token"),
    )


def preset_of(choices: Mapping[str, Choice]) -> str:
    """Return the preset's name; empty where none is asked for.

    Raises:
        BadInput: there is none of that name, or a file is asked for as well.
    """
    preset = choices["preset"]
    if not preset.value:
        return ""
    if choices["policy"].value:
        raise _bad(preset, "either policy or preset, not both")
    return _one_of(preset, PRESETS)


def _one_of(choice: Choice, allowed: tuple[str, ...]) -> str:
    if choice.value not in allowed:
        raise _bad(choice, " or ".join(allowed))
    return choice.value


def _mode(choice: Choice) -> Mode:
    for mode in MODES:
        if choice.value == mode:
            return mode
    raise _bad(choice, " or ".join(MODES))


def _bool(choice: Choice) -> bool:
    value = _BOOLS.get(choice.value.lower())
    if value is None:
        raise _bad(choice, "true or false")
    return value


def _fail_on(choice: Choice) -> frozenset[Failing]:
    words = choice.value.replace(",", " ").split()
    if words == ["none"]:
        return frozenset()
    chosen = frozenset[Failing](word for word in FAILING if word in words)
    if len(chosen) != len(set(words)) or not chosen:
        raise _bad(choice, "blocked, undecided, both with a comma between them, or none")
    return chosen


def _gate_id(choice: Choice) -> str:
    if not GATE_ID.fullmatch(choice.value):
        raise _bad(choice, "small letters, digits, dot, dash and underscore, 64 at most")
    return choice.value


def _bad(choice: Choice, expected: str) -> BadInput:
    return BadInput(
        "this value cannot be followed",
        where=choice.name if choice.origin == "input" else f"{choice.name}, {choice.origin}",
        got=choice.shown[:80],
        expected=expected,
        hint=f"Correct {choice.name}; docs/github.md lists what it takes.",
    )
