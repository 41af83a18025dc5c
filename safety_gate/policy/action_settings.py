"""What a policy file may set for the action, under its key ``action:``.

The policy file comes from the base branch on a pull request (policy_source.py), so what stands
there cannot be changed by the pull request that is judged.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError

from safety_gate.errors import BadPolicy
from safety_gate.policy.part import Part
from safety_gate.policy.yaml_text import read_yaml

KEY = "action"

Location = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]


class ActionSettings(Part):
    """The section ``action:``; each key has the name and the meaning of an input."""

    base: Location | None = None
    aligned: Location | None = None
    safety_adapter: Location | None = None
    behaviour: Word | None = None
    prompts: Location | None = None
    openings: Location | None = None
    repair: Word | None = None
    fail_on: Annotated[tuple[Literal["blocked", "undecided"], ...], Field(max_length=2)] | None = (
        None
    )
    warn_only: bool | None = None
    comment: Literal["always", "on-change", "on-failure", "never"] | None = None
    check_run: bool | None = None
    commit_status: bool | None = None
    sarif_upload: bool | None = None

    def texts(self) -> dict[str, str]:
        """Return what is set, as the text that an input would have."""
        found: dict[str, str] = {}
        for name, value in self.model_dump(by_alias=True, exclude_none=True).items():
            match value:
                case bool():
                    found[name] = "true" if value else "false"
                case str():
                    found[name] = value
                case _:
                    found[name] = ",".join(value) or "none"
        return found


def read_settings(data: bytes, origin: str) -> dict[str, str]:
    """Return what a policy file sets for the action; empty where it sets nothing.

    Raises:
        BadPolicy: the file is no plain YAML, or the section says something unknown.
    """
    tree = read_yaml(data, origin).tree
    section = tree.get(KEY) if isinstance(tree, dict) else None
    if section is None:
        return {}
    try:
        return ActionSettings.model_validate(section).texts()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(map(str, (KEY, *first["loc"])))
        raise BadPolicy(
            "the action cannot be set up as the policy file says",
            where=f"{origin}, {key}",
            got=repr(first["input"])[:60],
            expected=str(first["msg"]).removeprefix("Input should be "),
            hint="docs/github.md lists what a policy file may set under action:.",
        ) from error
