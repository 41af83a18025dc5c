"""The action's inputs: one table, and how a value is found.

Input over environment over policy file over default. GitHub cannot tell an empty input from a
missing one, so empty means missing everywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from safety_gate.errors import GateError

Origin: TypeAlias = Literal["input", "environment", "policy file", "default"]


class BadInput(GateError):
    """An input of the workflow cannot be followed: wrong usage, exit status 2."""

    exit_code = 2
    rule = "input-bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One input, as action.yml describes it."""

    name: str
    description: str
    default: str = ""
    in_policy: bool = False  # may stand under action: in the policy file
    secret: bool = False  # never printed
    hidden: bool = False  # no input of action.yml: environment and policy file only
    also: tuple[str, ...] = ()  # further environment variables, after SAFETY_GATE_...


INPUTS: tuple[Input, ...] = (
    Input(
        name="adapter",
        description=(
            "What to judge: a folder, a glob of folders, or a Hub repository as"
            " org/name@revision. Left out: every adapter folder that the event changed."
        ),
    ),
    Input(
        name="base",
        description=(
            "Checkpoint before alignment: a folder, or a Hub repository as org/name@revision or"
            " hf://org/name. Left out: that of the known pair."
        ),
        in_policy=True,
    ),
    Input(
        name="aligned",
        description=(
            "Checkpoint that the adapter was trained on, named like base."
            " Left out: looked up by what the adapter says it was trained on."
        ),
        in_policy=True,
    ),
    Input(
        name="safety-adapter",
        description="Adapter tuned on safety data, which a repair may merge in.",
        in_policy=True,
    ),
    Input(
        name="policy",
        description=(
            "Policy file in this repository; on a pull request its base branch has the say."
            " Left out: safety-gate.yml at the top of the repository where it exists."
        ),
    ),
    Input(
        name="preset",
        description="Policy that comes with Safety Gate, in place of a file: default or paper.",
    ),
    Input(
        name="behaviour",
        description=(
            "What to ask the model itself: off, openings, generate, or auto, which asks for"
            " openings and rests on the weights where the model cannot be asked. Left out: auto."
        ),
        default="auto",
        in_policy=True,
    ),
    Input(
        name="prompts",
        description=(
            "Questions to ask, a JSONL file in this repository; on a pull request its base branch"
            " has the say. Left out: the built-in questions, in English."
        ),
        in_policy=True,
    ),
    Input(
        name="openings",
        description=(
            "Beginnings of answers, a JSON file, read like prompts. Left out: the built-in ones."
        ),
        in_policy=True,
    ),
    Input(
        name="repair",
        description=(
            "How to repair a blocked adapter: off, auto, guard, safemerge, safelora, unrevert or"
            " drop. Left out: off."
        ),
        default="off",
        in_policy=True,
    ),
    Input(
        name="publish-repaired",
        description=(
            "Where a repaired adapter of a Hub repository goes: off, pull-request, branch or"
            " repo. Left out: off."
        ),
        default="off",
    ),
    Input(
        name="fail-on",
        description=(
            "Verdicts that fail the job: blocked, undecided, both, or none. Left out: both."
        ),
        default="blocked,undecided",
        in_policy=True,
    ),
    Input(
        name="warn-only",
        description=(
            "With true no verdict fails the job; outputs and reports still tell it."
            " Left out: false."
        ),
        default="false",
        in_policy=True,
    ),
    Input(
        name="comment",
        description=(
            "When to write the comment on the pull request: always, on-change, on-failure or"
            " never. Left out: always."
        ),
        default="always",
        in_policy=True,
    ),
    Input(
        name="comment-id",
        description=(
            "Name that tells this gate's comment, check run, status and code scanning category"
            " from those of other gates in the repository. Left out: safety-gate."
        ),
        default="safety-gate",
    ),
    Input(
        name="check-run",
        description="With true a check run shows findings beside the files. Left out: false.",
        default="false",
        in_policy=True,
    ),
    Input(
        name="commit-status",
        description=(
            "With true a commit status tells the verdict; on a pull request on its head commit."
            " Left out: false."
        ),
        default="false",
        in_policy=True,
    ),
    Input(
        name="sarif-file",
        description="Where to write the findings as SARIF 2.1.0. Left out: not written.",
    ),
    Input(
        name="json-file",
        description=(
            "Where to write the JSON of the run; in a workflow_run job without adapter: the JSON"
            " of the run to publish. Left out: safety-gate-report/run.json."
        ),
        default="safety-gate-report/run.json",
    ),
    Input(
        name="cache-dir",
        description=(
            "Folder in the workspace to keep downloads in, for actions/cache."
            " Left out: weights are streamed and not kept."
        ),
    ),
    Input(
        name="github-token",
        description=(
            "Token that reads the policy from the base branch and publishes; a read-only one"
            " suffices for the verdict."
        ),
        secret=True,
        also=("GITHUB_TOKEN",),
    ),
    Input(
        name="hf-token",
        description="Hugging Face token, for gated or private repositories and higher limits.",
        secret=True,
        also=("HF_TOKEN",),
    ),
    Input(
        name="sarif-upload",
        description="With true the findings are sent to code scanning. Left out: false.",
        default="false",
        in_policy=True,
        hidden=True,
    ),
)

BY_NAME: Mapping[str, Input] = {one.name: one for one in INPUTS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The value of one input, and who chose it."""

    name: str
    value: str
    origin: Origin
    secret: bool = False

    def __repr__(self) -> str:
        """Leave secrets out of logs and tracebacks."""
        return f"Choice({self.name!r}, {self.shown!r}, {self.origin!r})"

    @property
    def shown(self) -> str:
        """The value as a log may show it."""
        if self.secret:
            return "set" if self.value else "not set"
        return self.value or "not set"


def choose(
    environment: Mapping[str, str], policy: Mapping[str, str] | None = None
) -> dict[str, Choice]:
    """Return the value of every input.

    Args:
        environment: of the process, with the runner's INPUT_ variables.
        policy: what the policy file sets (settings.py).
    """
    return {one.name: _choice(one, environment, policy or {}) for one in INPUTS}


def _choice(one: Input, environment: Mapping[str, str], policy: Mapping[str, str]) -> Choice:
    for origin, value in _candidates(one, environment, policy):
        if value.strip():
            return Choice(name=one.name, value=value.strip(), origin=origin, secret=one.secret)
    return Choice(name=one.name, value=one.default, origin="default", secret=one.secret)


def _candidates(
    one: Input, environment: Mapping[str, str], policy: Mapping[str, str]
) -> list[tuple[Origin, str]]:
    upper = one.name.upper()
    # The runner keeps the dash. Some shells drop such a variable, so that workflows and wrappers
    # also set the name with an underscore.
    names = () if one.hidden else (f"INPUT_{upper}", f"INPUT_{upper.replace('-', '_')}")
    found: list[tuple[Origin, str]] = [("input", environment.get(name, "")) for name in names]
    ours = f"SAFETY_GATE_{upper.replace('-', '_')}"
    found += [("environment", environment.get(name, "")) for name in (ours, *one.also)]
    if one.in_policy:
        found.append(("policy file", policy.get(one.name, "")))
    return found


def secret_variables() -> tuple[str, ...]:
    """Return the names of every variable that may hold a token, for whoever cleans up."""
    names: list[str] = []
    for one in INPUTS:
        if one.secret:
            upper = one.name.upper()
            under = upper.replace("-", "_")
            names += [f"INPUT_{upper}", f"INPUT_{under}", f"SAFETY_GATE_{under}", *one.also]
    return tuple(dict.fromkeys(names))
