"""A PostgreSQL server of our own on loopback, for tests and benchmarks; killed like a real one."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

BIN = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
START_S = 30.0
USER = "postgres"  # the server refuses to run as root


def is_there() -> bool:
    return BIN is not None and (os.geteuid() != 0 or _account() is not None)


def _account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        return None


class Postgres:
    """One cluster in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "cluster"
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"

    def _command(self, program: str, *arguments: str) -> list[str]:
        assert BIN is not None
        own = [str(BIN / program), *arguments]
        return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *own] if (
            os.geteuid() == 0
        ) else own  # fmt: skip

    def make(self) -> None:
        self.folder.mkdir()
        for parent in self.folder.parents:  # pytest's folders are for their owner alone
            if parent.is_relative_to("/tmp") and parent != Path("/tmp"):  # noqa: S108
                parent.chmod(parent.stat().st_mode | 0o011)
        if os.geteuid() == 0:
            shutil.chown(self.folder, USER, USER)
        command = self._command(
            "initdb", "-D", str(self.folder), "-U", USER, "--auth=trust", "-E", "UTF8", "-N"
        )
        subprocess.run(command, check=True, capture_output=True, cwd="/")

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c max_connections=60"
        more = "-c unix_socket_directories= -c shared_buffers=32MB -c logging_collector=off"
        command = self._command("postgres", "-D", str(self.folder), *options.split(), *more.split())
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
        )
        ends = time.monotonic() + START_S
        while time.monotonic() < ends:
            try:
                psycopg.connect(self.url, connect_timeout=1).close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError("PostgreSQL did not start")

    def kill(self) -> None:
        """Kill the server as a power cut would: SIGKILL to the whole of it."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        pids = [self._process.pid, *map(int, children.read_text().split())]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()
        (self.folder / "postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # "fast": ends all connections
            self._process.wait()

    def empty(self) -> None:
        """Drop all tables."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("drop schema public cascade; create schema public")


@contextmanager
def running(folder: Path) -> Iterator[Postgres]:
    server = Postgres(folder)
    server.make()
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
