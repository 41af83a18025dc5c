"""The known pairs of an aligned checkpoint and its base.

An adapter says in its own config which model it was trained on. That claim is only *compared* with
this list: what is not on it is never fetched because a stranger's file names it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from safety_gate.errors import BadPolicy
from safety_gate.sources.hub_names import is_repo_id

SHIPPED: Final = "pairs.yml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two checkpoints between which the alignment step lies."""

    claim: str  # what an adapter says it was trained on
    aligned: str  # where that is, for parse_location
    base: str  # the checkpoint before alignment, for parse_location
    origin: str  # our own words: who says that these belong together


class _File(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    families: dict[str, dict[str, str]]
    aliases: dict[str, str]


class Pairs:
    """Pairs by the name that an adapter claims."""

    def __init__(self, pairs: Mapping[str, Pair]) -> None:
        """Keep pairs by claim; names on the Hub do not differ by case alone."""
        self._pairs = MappingProxyType({claim.casefold(): pair for claim, pair in pairs.items()})

    @classmethod
    def shipped(cls) -> Self:
        """Return the pairs that come with Safety Gate."""
        return cls(_shipped((files("safety_gate") / SHIPPED).read_text("utf-8")))

    def __len__(self) -> int:
        """Return how many claims are known."""
        return len(self._pairs)

    def __iter__(self) -> Iterator[Pair]:
        """Yield every pair, in the order of the file."""
        return iter(self._pairs.values())

    def find(self, claim: str) -> Pair | None:
        """Return the pair of a claimed name; None for every other name, paths included."""
        return self._pairs.get(claim.casefold())

    def extended(self, models: Mapping[str, tuple[str, str]]) -> "Pairs":
        """Return these pairs and those of a policy file, which go before.

        Args:
            models: claimed name -> (aligned, base), both as parse_location takes them.
        """
        own = {
            claim.casefold(): Pair(
                claim=claim, aligned=aligned, base=base, origin="the policy file"
            )
            for claim, (aligned, base) in models.items()
        }
        return Pairs({**self._pairs, **own})


def _shipped(text: str) -> dict[str, Pair]:
    """Read the shipped file as strictly as a stranger's: a wrong name would be a wrong verdict."""
    try:
        file = _File.model_validate(YAML(typ="safe", pure=True).load(text))
    except (ValidationError, YAMLError) as err:
        raise _bad(type(err).__name__) from None
    pairs = {
        aligned: Pair(claim=aligned, aligned=aligned, base=base, origin=f"known pair, {family}")
        for family, members in file.families.items()
        for aligned, base in members.items()
    }
    for alias, name in file.aliases.items():
        if name not in pairs or alias in pairs:
            raise _bad(alias)
        known = pairs[name]
        pairs[alias] = Pair(
            claim=alias, aligned=known.aligned, base=known.base, origin=known.origin
        )
    names = {name for pair in pairs.values() for name in (pair.claim, pair.aligned, pair.base)}
    if bad := sorted(name for name in names if not is_repo_id(name)):
        raise _bad(bad[0])
    if len(pairs) != sum(map(len, file.families.values())) + len(file.aliases):
        raise _bad("a name that stands in two families")
    return pairs


def _bad(got: str) -> BadPolicy:
    return BadPolicy(
        "the list of known pairs is damaged",
        where=SHIPPED,
        got=got,
        hint="Install Safety Gate again.",
    )
