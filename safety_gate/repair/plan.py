"""What is to be repaired, how, and into what."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from safety_gate.repair.methods import Method
from safety_gate.repair.selection import Selection
from safety_gate.repair.writing import Layout
from safety_gate.sources.hub_names import HubPlace


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One method on one selection of modules."""

    method: Method
    selection: Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Auto:
    """The smallest repair that passes the policy, over methods and strengths."""


Choice: TypeAlias = Plan | Auto


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A repair as the user ordered it."""

    choice: Choice
    output: Path  # a new folder
    safety: Path | HubPlace | None = None  # where the safety adapter is
    any_safety_base: bool = False  # also where it names another base than the adapter does
    layout: Layout = Layout()
    only_if_needed: bool = False  # leave an adapter that passes alone, and write nothing
