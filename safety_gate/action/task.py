"""One adapter to judge as the workflow named it, and what came of it."""

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from safety_gate import __version__
from safety_gate.errors import GateError
from safety_gate.records import PlaceKind, Report, Undecided, finding_from


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What to judge, as the workflow named it."""

    adapter: str  # folder relative to the workspace, or Hub repository
    on_hub: bool  # which of the two
    base: str  # empty: looked up among the known pairs
    aligned: str
    safety_adapter: str
    behaviour: str
    prompts: bytes | None  # of the file of questions; None: the built-in ones
    openings: bytes | None
    repair: str
    publish_repaired: str
    policy: bytes
    policy_origin: str
    workspace: Path
    cache_dir: str
    today: datetime.date
    hf_token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of it."""

    report: Report
    repaired_path: str = ""  # folder in the workspace
    repaired_url: str = ""
    notes: tuple[str, ...] = ()  # our own words, for the log


Judge: TypeAlias = Callable[[Task], Result]


def undecided(error: GateError, place: PlaceKind = "adapter") -> Report:
    """Return the report of an adapter that could not even be given to the gate."""
    return Report(
        verdict=Undecided(),
        findings=(finding_from(error, place),),
        adapter=None,
        base=None,
        aligned=None,
        policy=None,
        modules=(),
        total=None,
        ledger=(),
        evidence="weights only",
        versions={"safety-gate": __version__},
    )
