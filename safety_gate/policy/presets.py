"""The policies that are shipped with the program."""

import difflib
from functools import cache
from importlib import resources

from safety_gate.errors import BadPolicy
from safety_gate.policy.file import LoadedPolicy, load_policy

PRESETS: tuple[str, ...] = ("default", "paper")  # safety_gate/policies/NAME.yml


@cache  # one run may judge twice, and reading YAML takes as long as measuring ten modules
def load_preset(name: str) -> LoadedPolicy:
    """Load a shipped policy by name.

    Raises:
        BadPolicy: there is no preset of that name.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        raise BadPolicy(
            "there is no such preset",
            where="the preset's name",
            got=repr(name[:60]),
            expected=" or ".join(PRESETS),
            hint=f"Did you mean {near[0]!r}?" if near else "Use one of them, or a policy file.",
        )
    file = resources.files("safety_gate").joinpath("policies", f"{name}.yml")
    return load_policy(file.read_bytes(), f"preset {name}")
