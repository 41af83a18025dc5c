"""What a run needs from outside, handed in at the door."""

import datetime
from dataclasses import dataclass
from typing import TextIO

from safety_gate.action.task import Judge
from safety_gate.publish.github import Patience


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The log, the clock, the gate, and how long GitHub is waited for."""

    stream: TextIO
    judge: Judge
    now: datetime.datetime
    patience: Patience | None = None
