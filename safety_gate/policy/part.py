"""How every mapping of a policy file is read: strictly."""

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """One mapping of the policy file; keys are written with dashes."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )
