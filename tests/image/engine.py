"""buildah and podman over a storage of their own, which goes when the tests go."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

TOOLS = ("buildah", "podman", "runc", "debootstrap")
# Nothing here has to outlive a power cut. Without this every unmount waits for the whole disk.
NO_SYNC = ("--storage-opt", "overlay.mountopt=volatile")
# The defaults ask for more than a machine that is a container itself may give.
FILES = ("--ulimit", "nofile=1024:1024")
PROCESSES = ("--ulimit", "nproc=1000:1000")


@dataclass(frozen=True, slots=True)
class Engine:
    """Where images are kept, and the programs that make and run them."""

    storage: Path

    @property
    def options(self) -> tuple[str, ...]:
        root, state = str(self.storage / "root"), str(self.storage / "run")
        return ("--root", root, "--runroot", state, *NO_SYNC)

    def buildah(self, *arguments: str) -> str:
        return said("buildah", *self.options, *arguments)

    def podman(self, *arguments: str, stdin: IO[bytes] | None = None) -> str:
        return said("podman", *self.options, *arguments, stdin=stdin)

    def run(
        self, arguments: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run a container to its end; ``-e NAME`` takes its value from this environment."""
        command = ["podman", *self.options, "--runtime", "runc", "run", "--rm"]
        command += [*FILES, *PROCESSES, "--network=host", *arguments]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env={**(environment or {}), "PATH": os.environ["PATH"]},
        )

    def has(self, image: str) -> bool:
        return bool(self.podman("images", "--quiet", image).strip())

    def inspect(self, image: str) -> dict[str, Any]:
        (found,) = json.loads(self.podman("image", "inspect", image))
        return dict(found)


@contextmanager
def opened() -> Iterator[Engine]:
    """Open a storage that is removed in the end."""
    # On disk, for it takes gigabytes; and podman refuses a path of more than 50 characters.
    folder = Path(tempfile.mkdtemp(prefix="image-", dir="/var/tmp"))  # noqa: S108
    engine = Engine(folder)
    try:
        yield engine
    finally:
        engine.podman("rmi", "--all", "--force")
        # Podman leaves its storage mounted on itself.
        subprocess.run(["umount", "--quiet", "--lazy", folder / "root/overlay"], check=False)
        shutil.rmtree(folder)


def said(*command: str, stdin: IO[bytes] | None = None) -> str:
    """Run a program, and return what it prints; where it fails, show what it said."""
    done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
