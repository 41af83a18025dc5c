"""Throughput of reading from the Hub, beside curl's on the same bytes from the same server.

    python -m benchmarks.hub_throughput [--gigabytes 2.0] [--latency-ms 0]

A server in another process plays Hub and CDN on loopback and sends with sendfile(). curl takes the
whole file over one connection and throws it away. HubSource is read as the engine reads: 2 MiB
blocks of 32 MiB tensors, by one or two readers. Rounds alternate, the best of each counts. Printed
with it: the peak of anonymous memory over that before, and the bytes written to disk.
"""

import argparse
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from safety_gate.sources.hub import HubSource
from safety_gate.sources.hub_client import HubClient
from safety_gate.sources.hub_plan import Span

ROUNDS = 3
REPO = "bench/model"
FILE = "model.safetensors"
SHA = "0123456789abcdef0123456789abcdef01234567"
TENSOR = 32 * 2**20  # bytes; a 4096 x 4096 matrix in bf16
BLOCK = 2 * 2**20  # bytes; what the engine reads at a time
PATTERN = 61 * 2**20 + 12_345  # bytes of random data that the file repeats; no multiple of blocks


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as Hub where it is called 127.0.0.1, and as CDN where it is called localhost."""

    protocol_version = "HTTP/1.1"
    file: Path
    digest: str
    latency: float
    port: int

    def log_message(self, *_: object) -> None:
        """Stay silent."""

    def do_HEAD(self) -> None:
        """Send the client to the CDN."""
        size = str(self.file.stat().st_size)
        self._head(
            302,
            {
                "Location": f"http://localhost:{self.port}/cdn",
                "X-Repo-Commit": SHA,
                "X-Linked-Etag": f'"{self.digest}"',
                "X-Linked-Size": size,
                "Content-Length": "0",
            },
        )

    def do_GET(self) -> None:
        """Answer the API, or send bytes."""
        if urlsplit(self.path).path == "/cdn":
            self._bytes()
        elif "/tree/" in self.path:
            size = self.file.stat().st_size
            lfs = {"oid": self.digest, "size": size}
            entry = {"type": "file", "path": FILE, "size": size, "oid": SHA, "lfs": lfs}
            self._json([entry])
        else:
            self._json({"id": REPO, "sha": SHA})

    def _json(self, told: object) -> None:
        body = json.dumps(told).encode()
        self._head(200, {"Content-Length": str(len(body))})
        self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _bytes(self) -> None:
        time.sleep(self.latency)
        size = self.file.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), int(asked[2])) if asked else (0, size - 1)
        headers = {"Content-Length": str(last + 1 - first)}
        if asked:
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        self._head(206 if asked else 200, headers)
        self.wfile.flush()
        with self.file.open("rb") as stream:
            while first <= last:
                first += os.sendfile(
                    self.connection.fileno(), stream.fileno(), first, last + 1 - first
                )


def serve(file: Path, latency: float) -> None:
    """Serve until standard input ends; print the port first."""
    Handler.file, Handler.latency = file, latency
    Handler.digest = file.with_suffix(".sha256").read_text()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Handler.port = int(server.server_address[1])
    print(Handler.port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


@contextmanager
def serving(file: Path, latency: float) -> Iterator[int]:
    """Run the server in another process; lend its port."""
    command = [sys.executable, "-m", "benchmarks.hub_throughput", "--serve", str(file)]
    command += ["--latency-ms", str(latency * 1000)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


def make_file(file: Path, size: int) -> bytes:
    """Write the file, and its sha256 beside it; return the pattern that it repeats."""
    pattern = os.urandom(PATTERN)
    sha256 = hashlib.sha256()
    with file.open("wb") as stream:
        while stream.tell() < size:
            part = memoryview(pattern)[: size - stream.tell()]
            sha256.update(part)
            stream.write(part)
    file.with_suffix(".sha256").write_text(sha256.hexdigest())
    return pattern


def curl(port: int) -> float:
    """Return the seconds that curl takes for the whole file."""
    began = time.perf_counter()
    command = ["curl", "--silent", "--fail", "--output", "/dev/null"]
    subprocess.run([*command, f"http://localhost:{port}/cdn"], check=True)
    return time.perf_counter() - began


def hub(port: int, size: int, pattern: bytes, *, readers: int, planned: bool) -> float:
    """Return the seconds that HubSource takes for the whole file, commit and listing included."""
    began = time.perf_counter()
    client = HubClient(endpoint=f"http://127.0.0.1:{port}", token=False)
    source = HubSource(REPO, client=client)
    tensors = [
        Span(path=FILE, start=start, stop=min(start + TENSOR, size))
        for start in range(0, size, TENSOR)
    ]
    if planned:
        source.plan(tensors)
    todo = iter(tensors)
    lock = threading.Lock()

    def work() -> None:
        room = memoryview(bytearray(BLOCK))
        while True:
            with lock:
                tensor = next(todo, None)
            if tensor is None:
                return
            for start in range(tensor.start, tensor.stop, BLOCK):
                part = room[: min(BLOCK, tensor.stop - start)]
                source.read_into(FILE, start, part)
                at = start % PATTERN  # a look at the first bytes costs nothing and finds mix-ups
                count = min(64, PATTERN - at, len(part))
                assert part[:count] == pattern[at : at + count]

    with ThreadPoolExecutor(readers) as pool:
        for future in [pool.submit(work) for _ in range(readers)]:
            future.result()
    source.close()
    return time.perf_counter() - began


def figure(file: str, key: str) -> int:
    """Return one number of /proc/self/*, in bytes."""
    text = Path(f"/proc/self/{file}").read_text()
    found = re.search(rf"^{key}:\s+(\d+)( kB)?", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) * (1024 if found[2] else 1)


class Peak:
    """Samples anonymous memory every 2 ms."""

    def __init__(self) -> None:
        """Start at what is used now."""
        self.before = self.highest = figure("status", "RssAnon")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self.highest = max(self.highest, figure("status", "RssAnon"))

    def end(self) -> int:
        """Return how far memory rose."""
        self._stop.set()
        self._thread.join()
        return self.highest - self.before


def measure(file: Path, size: int, latency: float) -> dict[str, float]:
    """Return all figures."""
    pattern = make_file(file, size)
    ways: dict[str, Callable[[int], float]] = {
        "curl, one connection": curl,
        "HubSource, planned, 1 reader": lambda p: hub(p, size, pattern, readers=1, planned=True),
        "HubSource, planned, 2 readers": lambda p: hub(p, size, pattern, readers=2, planned=True),
        "HubSource, no plan, 1 reader": lambda p: hub(p, size, pattern, readers=1, planned=False),
    }
    best = dict.fromkeys(ways, float("inf"))
    peak, written = 0, figure("io", "write_bytes")
    with serving(file, latency) as port:
        curl(port)  # once, so that the file is in the page cache
        for _ in range(ROUNDS):
            for name, way in ways.items():
                watch = Peak()
                best[name] = min(best[name], way(port))
                peak = max(peak, watch.end())
    rows = {f"{name} (GB/s)": size / seconds / 1e9 for name, seconds in best.items()}
    reference = best["curl, one connection"]
    rows |= {f"{name} / curl": reference / seconds for name, seconds in best.items()}
    return rows | {
        "peak of anonymous memory (MB)": peak / 1e6,
        "written to disk (bytes)": figure("io", "write_bytes") - written,
    }


def main() -> None:
    """Print the figures, or serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--latency-ms", type=float, default=0.0, help="of each answer with bytes")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve, options.latency_ms / 1000)
        return
    with tempfile.TemporaryDirectory(prefix="hub-throughput-") as folder:
        size = int(options.gigabytes * 1e9)
        rows = measure(Path(folder) / "file", size, options.latency_ms / 1000)
    for label, value in rows.items():
        print(f"{label:40} {value:.3g}")


if __name__ == "__main__":
    main()
