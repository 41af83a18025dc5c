"""The worker process of bot_publish_kills.py, which dies at a given point."""

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from huggingface_hub import HfApi

from safety_gate.action.report_reader import read_report
from safety_gate.bot.hub_eyes import HubEyes
from safety_gate.bot.hub_steps import HubSteps
from safety_gate.jobs.facts import Lease, Rules, Told
from safety_gate.jobs.journal import Telling
from safety_gate.jobs.location import open_store
from safety_gate.jobs.store import JobStore
from safety_gate.publish.hub import HubWishes
from safety_gate.worker.judging import Judged, Judgement, Work
from safety_gate.worker.loop import Hands, Worker
from tests.bot_door import POLICY
from tests.sample_reports import blocked

RULES: Final = Rules(lease_s=0.5, backoff_s=0.05, hop_budget=1000)
BOT: Final = "gate-bot"
WISHES = HubWishes(card=True, discussion="always", comment="always", picture=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a worker process finds everything."""

    store: str
    endpoint: str
    token: str
    board: Path


class StillJudge:
    """Blocks everything, at once."""

    policy = POLICY

    def judge(self, work: Work) -> Judgement:
        """Return the same report for every commit."""
        return Judged(report=blocked())


class Board:
    """The last step: a line in a file for each status."""

    def __init__(self, path: Path) -> None:
        """Write into this file."""
        self._path = path

    def tell(self, telling: Telling) -> Told:
        """Post a status, unless it is there."""
        line = f"{telling.verdict.repo} {telling.verdict.sha} {telling.verdict.word}\n"
        if line not in (self._path.read_text() if self._path.exists() else ""):
            with self._path.open("a") as file:
                file.write(line)
        return Told()


def killed(point: str, kill_at: str | None) -> None:
    """End this process as kill -9 does, at one point."""
    if point == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)


class DyingStore:
    """A store whose process is killed around its writes."""

    def __init__(self, store: JobStore, kill_at: str | None) -> None:
        """Stand before the real store."""
        self._store = store
        self._kill_at = kill_at

    def __getattr__(self, name: str) -> Any:
        """Pass everything else on."""
        return getattr(self._store, name)

    def decide(self, lease: Lease, word: str, report: str, repaired: str = "") -> bool:
        """Keep a verdict, with a kill before or after."""
        killed("decide-before", self._kill_at)
        kept = self._store.decide(lease, word, report, repaired)
        killed("decide-after", self._kill_at)
        return kept

    def end(self, lease: Lease, step: str, told: Told) -> bool:
        """Note a step, with a kill after."""
        noted = self._store.end(lease, step, told)
        killed(f"{step}-noted", self._kill_at)
        return noted

    def close(self, lease: Lease, state: Any, why: str = "") -> bool:
        """Close a job, with a kill after."""
        closed = self._store.close(lease, state, why)
        killed("close-after", self._kill_at)
        return closed


class DyingPublisher:
    """The real steps and a status, with a kill before or after each."""

    steps = (*HubSteps.steps, "status")

    def __init__(self, real: HubSteps, board: Board, kill_at: str | None) -> None:
        """Stand before the real publisher."""
        self._real = real
        self._board = board
        self._kill_at = kill_at

    def tell(self, step: str, telling: Telling) -> Told:
        """Take a step."""
        killed(f"{step}-begun", self._kill_at)
        told = self._board.tell(telling) if step == "status" else self._real.tell(step, telling)
        killed(f"{step}-made", self._kill_at)
        return told


def run(place: Place, kill_at: str | None) -> None:
    """Work off the queue."""
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    api = HfApi(endpoint=place.endpoint, token=place.token)
    real = HubSteps(api, lambda text: read_report(json.loads(text), where="store"), WISHES)
    store = open_store(place.store, RULES)
    hands = Hands(
        store=DyingStore(store, kill_at),
        judge=StillJudge(),
        publisher=DyingPublisher(real, Board(place.board), kill_at),
        eyes=HubEyes(api, account=BOT),
    )
    worker = Worker(hands, holder=f"w-{os.getpid()}")
    while worker.once():
        pass
    store.close_store()
