"""kill -9 before and after every step of publishing, on a Hub that echoes: one of everything.

    python -m benchmarks.bot_publish_kills [--times 10]

The real publisher writes to the loopback Hub, which tells the real door of every commit, ours too.
A commit status is played by a line in a file, which nothing but the journal keeps single.
"""

import argparse
import collections
import json
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from contextlib import ExitStack
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Final

from benchmarks.bot_publish_worker import BOT, RULES, Place, run
from safety_gate.jobs.facts import Page
from safety_gate.jobs.location import open_store
from tests.bot_door import POLICY, SECRET, opened
from tests.loopback_hub import LoopbackHub
from tests.loopback_hub.hooks import Webhook

POINTS: Final = (
    "decide-before",
    "decide-after",
    *(f"{step}-{when}" for step in ("commit", "comment", "status") for when in ("begun", "made")),
    *(f"{step}-noted" for step in ("commit", "comment", "status")),
    "close-after",
)
OWNER: Final = "acme"
PRELOAD: Final = ["benchmarks.bot_publish_worker", "huggingface_hub.hf_api"]


class Trial:
    """The Hub, the door and the store of all trials."""

    def __init__(self, hub: LoopbackHub, place: Place) -> None:
        """Prepare."""
        self.hub = hub
        self.place = place
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)

    def worker(self, kill_at: str | None) -> int:
        """Run a worker until the queue is empty, or it is killed; return its exit code."""
        process = self._context.Process(target=run, args=(self.place, kill_at), daemon=True)
        process.start()
        process.join(60)
        code = process.exitcode
        if code is None:
            process.kill()
            raise AssertionError("a worker hangs")
        return code

    def push(self, repo: str, text: str) -> str:
        """Push a commit as its owner would; return it once the door has it."""
        files: dict[str, bytes | str | None] = {
            "adapter_config.json": "{}",
            "README.md": f"# {text}\n",
        }
        known = any(key[1] == repo for key in self.hub.world.repos)
        if not known:
            self.hub.add_repo(repo)
        head = self.hub.commit(repo, files, author=OWNER).id
        self.hub.world.hooks.flush()
        return head

    def settle(self) -> None:
        """Work off what is queued, until nothing new comes from the Hub."""
        for _ in range(20):
            self.hub.world.hooks.flush()
            store = open_store(self.place.store, RULES)
            jobs = store.counts().jobs
            store.close_store()
            if not jobs["queued"] and not jobs["running"]:
                return
            time.sleep(RULES.lease_s / 4)
            assert self.worker(None) == 0
        raise AssertionError(f"never settles: {jobs}")

    def count(self, repo: str, sha: str) -> dict[str, int]:
        """Return how many there are of everything."""
        found = self.hub.repo(repo)
        board = self.place.board.read_text().splitlines() if self.place.board.exists() else []
        mine = [one for one in found.discussions if one.author == BOT]
        store = open_store(self.place.store, RULES)
        verdict = store.verdict_for(repo, sha, POLICY)
        words = [one.sha for one in store.verdicts(Page(limit=1000), repo=repo)]
        store.close_store()
        return {
            "verdicts": len(words),
            "verdict": int(verdict is not None),
            "commits": sum(commit.author == BOT for commit in found.history("main")),
            "discussions": len(mine),
            "comments": sum(len(one.comments) for one in mine),
            "statuses": sum(line.startswith(f"{repo} {sha} ") for line in board),
            "all statuses": sum(line.startswith(f"{repo} ") for line in board),
        }


def start(stack: ExitStack, folder: Path) -> Trial:
    """Start the Hub and the door."""
    before = os.environ.get("HF_HUB_DISABLE_XET")
    os.environ["HF_HUB_DISABLE_XET"] = "1"  # for the workers; here the client is not used
    stack.callback(_restore, "HF_HUB_DISABLE_XET", before)
    logging.disable(logging.CRITICAL)
    stack.callback(logging.disable, logging.NOTSET)
    hub = stack.enter_context(LoopbackHub())
    store = open_store(f"sqlite:///{folder}/jobs.db", RULES)
    stack.callback(store.close_store)
    door = stack.enter_context(opened(store))
    hub.world.hooks.hooks.append(
        Webhook(
            owner=OWNER,
            url=f"http://127.0.0.1:{door.port}/webhook",
            job=None,
            watched=[{"type": "user", "name": OWNER}],
            domains=["repo", "discussion"],
            secret=SECRET,
        )
    )
    place = Place(
        store=f"sqlite:///{folder}/jobs.db",
        endpoint=hub.endpoint,
        token=hub.token(BOT, "write", orgs=(OWNER,)),
        board=folder / "board",
    )
    return Trial(hub, place)


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def main() -> None:
    """Measure, print, and fail where there is not one of everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--points", nargs="*", default=POINTS)
    given = parser.parse_args()
    ends: collections.Counter[str] = collections.Counter()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        trial = start(stack, folder)
        began, number = time.monotonic(), 0
        for point in given.points:
            for _ in range(given.times):
                number += 1
                repo = f"{OWNER}/lora-{number}"
                sha = trial.push(repo, point)
                assert trial.worker(point) == -signal.SIGKILL, point
                trial.settle()
                ends[json.dumps(trial.count(repo, sha))] += 1
        took = time.monotonic() - began
        threads = threading.active_count()
    print(f"{number} kills at {len(given.points)} points in {took:.0f} s ({threads} threads)")
    for end, times in ends.items():
        print(f"  {times} times: {end}")
    assert [set(json.loads(end).values()) for end in ends] == [{1}]


if __name__ == "__main__":
    main()
