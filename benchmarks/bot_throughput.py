"""How many durable webhooks a second; 10,000 replays make 1 job, 50,000 forged ones make none.

    python -m benchmarks.bot_throughput [--seconds 10] [--forged 50000] [--replays 10000]

Client and server share the cores; each 202 stands for a commit of SQLite with synchronous=FULL.
"""

import argparse
import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bot_client import Sent, Server, event, request, send_all, serving

CONNECTIONS = 48


def _fresh(seconds: float) -> Iterator[tuple[str, bytes]]:
    ends, number = time.monotonic() + seconds, 0
    while time.monotonic() < ends:
        number += 1
        sha = f"{number:040x}"
        yield sha, request(event(f"acme/r{number % 5000}", sha))


def _same(times: int, *, secret: str | None = None) -> Iterator[tuple[str, bytes]]:
    body = event("acme/replayed", "f" * 40)
    data = request(body) if secret is None else request(body, secret=secret)
    for _ in range(times):
        yield "same", data


def _send(server: Server, requests: Iterator[tuple[str, bytes]]) -> Sent:
    return asyncio.run(send_all(server.port, requests, connections=CONNECTIONS))


def _jobs(database: Path, where: str = "1 = 1") -> int:
    with sqlite3.connect(database) as connection:
        return int(connection.execute(f"select count(*) from sg_job where {where}").fetchone()[0])  # noqa: S608


def main() -> None:
    """Measure, print, and fail where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--forged", type=int, default=50_000)
    parser.add_argument("--replays", type=int, default=10_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "jobs.db"
        with serving(f"sqlite:///{database}") as server:
            forged = _send(server, _same(given.forged, secret="x" * 28))  # noqa: S106
            assert forged.statuses == {401: given.forged}, forged.statuses
            assert _jobs(database) == 0
            rate = given.forged / forged.took
            print(f"forged: {given.forged} -> 0 jobs, all 401, {rate:.0f}/s")
            replays = _send(server, _same(given.replays))
            assert replays.statuses == {202: given.replays}, replays.statuses
            assert _jobs(database) == 1
            print(f"replays: {given.replays} -> 1 job, {given.replays / replays.took:.0f}/s")
            fresh = _send(server, _fresh(given.seconds))
            assert _jobs(database, "sha <> '" + "f" * 40 + "'") == len(fresh.acked)
            print(
                f"durable: {len(fresh.acked) / fresh.took:.0f}/s over {fresh.took:.1f} s,"
                f" p50 {fresh.at(0.5) * 1e3:.0f} ms, p99 {fresh.at(0.99) * 1e3:.0f} ms,"
                f" statuses {fresh.statuses}; server {server.memory / 2**20:.0f} MiB"
            )


if __name__ == "__main__":
    main()
