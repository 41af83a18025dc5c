"""Events that were answered with 202 are there after any number of kill -9 of the server.

python -m benchmarks.bot_acked [--kills 10] [--store sqlite|postgres]
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.bot_client import Sent, Server, event, request, send_all
from safety_gate.jobs.location import open_store
from tests import jobs_postgres

CONNECTIONS = 24
PAUSE_S = 1.5  # between kills


def _events(stop: asyncio.Event) -> Iterator[tuple[str, bytes]]:
    number = 0
    while not stop.is_set():
        number += 1
        sha = f"{number:040x}"
        yield sha, request(event(f"acme/r{number}", sha))


async def _storm(server: Server, kills: int) -> Sent:
    stop = asyncio.Event()

    async def killer() -> None:
        for _ in range(kills):
            await asyncio.sleep(PAUSE_S)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        await asyncio.sleep(PAUSE_S / 2)
        stop.set()

    task = asyncio.create_task(killer())
    # Every request is sent until it is answered, so that some are sent twice: one job each.
    sent = await send_all(server.port, _events(stop), connections=CONNECTIONS)
    await task
    return sent


def main() -> None:
    """Measure, print, and fail where an acknowledged event is lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--store", choices=["sqlite", "postgres"], default="sqlite")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = f"sqlite:///{folder}/jobs.db"
        if given.store == "postgres":
            url = stack.enter_context(jobs_postgres.running(folder)).url
        server = Server(url)
        server.start()
        began = time.perf_counter()
        sent = asyncio.run(_storm(server, given.kills))
        server.stop()
        store = open_store(url)
        policy = _policy()
        lost = [
            sha
            for sha in sent.acked
            if not store.settled(f"acme/r{int(sha, 16)}", "refs/heads/main", sha, policy)
        ]
        jobs = sum(store.counts().jobs.values())
        store.close_store()
        took = time.perf_counter() - began
        print(
            f"{given.store}: {given.kills} kills of the server in {took:.0f} s,"
            f" {len(sent.acked)} events acknowledged, {len(lost)} lost, {jobs} jobs,"
            f" statuses {sent.statuses}"
        )
        assert not lost
        assert jobs >= len(set(sent.acked))


def _policy() -> str:
    from safety_gate.policy.presets import load_preset

    return load_preset("default").fact.sha256


if __name__ == "__main__":
    main()
