"""How much memory the door takes when it is asked for more than it can do.

    python -m benchmarks.bot_overload [--seconds 20]

Three storms, one after the other: new events beyond the bound of the queue, whole bodies of 256 KB
on many connections at once, and bodies that never end. The door refuses, and its memory is bounded.
"""

import argparse
import asyncio
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bot_client import SECRET, Sent, Server, event, request, send_all, serving

MIB = 2**20
BOUND = 512 * MIB  # what compose.yml gives the door is twice of this
BIG = 255 * 1024  # bytes of a body just below the limit
MANY = 480  # connections, below the door's own bound
SLOW = 300  # connections whose bodies never end


@contextmanager
def sampled(server: Server, name: str) -> Iterator[None]:
    """Print the peak of the memory within a block."""
    before, peak, stop = server.memory, [0], threading.Event()

    def look() -> None:
        while not stop.is_set():
            peak[0] = max(peak[0], server.memory)
            stop.wait(0.02)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        now = server.memory
        print(
            f"{name}: {before / MIB:.0f} MiB before, {peak[0] / MIB:.0f} at the peak,"
            f" {now / MIB:.0f} after"
        )
        assert peak[0] < BOUND


def _fresh(seconds: float, size: int = 0) -> Iterator[tuple[str, bytes]]:
    ends, number = time.monotonic() + seconds, 0
    while time.monotonic() < ends:
        number += 1
        sha = f"{number:040x}"
        body = event(f"acme/r{number}", sha)
        if size:
            tree = json.loads(body)
            tree["padding"] = "x" * (size - len(body) - 20)
            body = json.dumps(tree).encode()
        yield sha, request(body)


def _send(server: Server, requests: Iterator[tuple[str, bytes]], connections: int) -> Sent:
    return asyncio.run(send_all(server.port, requests, connections=connections))


async def _endless(port: int, seconds: float) -> int:
    """Open connections that send a little of a body now and then; return how many were cut."""
    head = (
        "POST /webhook HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        f"X-Webhook-Secret: {SECRET}\r\n\r\n"
    ).encode()
    piece = b"1000\r\n" + b"x" * 4096 + b"\r\n"

    async def one() -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(head)
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.2)
        except OSError:
            return True
        finally:
            writer.close()
        return bool(await reader.read(64))

    return sum(await asyncio.gather(*(one() for _ in range(SLOW))))


def main() -> None:
    """Measure, print, and fail where memory goes beyond its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "jobs.db"
        with serving(f"sqlite:///{database}") as server:
            with sampled(server, "beyond the bound of the queue"):
                sent = _send(server, _fresh(given.seconds * 2), 64)
            print(f"  statuses {sent.statuses}")
            with sampled(server, f"bodies of {BIG // 1024} KB on {MANY} connections"):
                sent = _send(server, _fresh(given.seconds, BIG), MANY)
            print(f"  statuses {sent.statuses}")
            with sampled(server, f"{SLOW} bodies without an end"):
                cut = asyncio.run(_endless(server.port, given.seconds))
            print(f"  {cut} of {SLOW} were cut off")


if __name__ == "__main__":
    main()
