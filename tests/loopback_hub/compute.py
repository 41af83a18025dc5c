"""Jobs: commands that the Hub runs in containers; here they are processes of this machine."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.loopback_hub.history import hex24, now

ROOT = Path(__file__).parent.parent.parent
PROGRAM = "/opt/safety-gate/bin/safety-gate"  # of our image; here: this checkout
ENDED = ("COMPLETED", "ERROR", "CANCELED")


@dataclass(slots=True, kw_only=True)
class Job:
    """One run of a command."""

    namespace: str
    spec: dict[str, Any]  # as the client sent it
    secrets: dict[str, str]
    stage: str = "SCHEDULING"
    message: str | None = None
    id: str = field(default_factory=hex24)
    created: str = field(default_factory=now)
    lines: list[str] = field(default_factory=list)
    initiator: str = "user"

    def described(self) -> dict[str, Any]:
        """Return what the API tells; values of secrets never."""
        kept = ("dockerImage", "spaceId", "command", "arguments", "environment", "flavor", "labels")
        return {key: self.spec[key] for key in kept if key in self.spec} | {
            "id": self.id,
            "createdAt": self.created,
            "owner": {"id": "o", "name": self.namespace, "type": "user"},
            "initiator": {"type": self.initiator, "id": "i"},
            "status": {"stage": self.stage, "message": self.message},
            "secrets": sorted(self.secrets),
        }


Run = Callable[[Job], int]  # returns the exit status; writes lines


class Compute:
    """Runs Jobs in threads."""

    def __init__(self, web: Callable[[], str]) -> None:
        self._web = web
        self.jobs: list[Job] = []
        self.images: dict[str, Run] = {}  # what an image does; else the command is run
        self._threads: list[threading.Thread] = []

    def start(self, job: Job) -> Job:
        """Begin to run a Job."""
        self.jobs.append(job)
        thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return job

    def find(self, job_id: str) -> Job | None:
        return next((job for job in self.jobs if job.id == job_id), None)

    def wait(self) -> None:
        """Wait for all Jobs so far."""
        while self._threads:
            self._threads.pop().join()

    def triggered(self, source_id: str, secrets: dict[str, str], told: dict[str, str]) -> None:
        """Start a Job as a webhook does: like its source, whose secrets are not copied."""
        source = self.find(source_id)
        if source is None:
            return
        spec = {**source.spec, "environment": {**source.spec.get("environment", {}), **told}}
        self.start(Job(namespace=source.namespace, spec=spec, secrets=secrets, initiator="webhook"))

    def _run(self, job: Job) -> None:
        run = self.images.get(job.spec.get("dockerImage", ""), self._process)
        job.stage = "RUNNING"
        status = run(job)
        if job.stage == "RUNNING":
            job.stage = "COMPLETED" if status == 0 else "ERROR"
            job.message = None if status == 0 else f"Job failed with exit code {status}"

    def _process(self, job: Job) -> int:
        words = [*job.spec["command"], *job.spec.get("arguments", [])]
        if words[0] == PROGRAM:
            words[:1] = [sys.executable, "-m", "safety_gate"]
        with tempfile.TemporaryDirectory() as home:
            ran = subprocess.run(
                words,
                cwd=ROOT,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": home,
                    "HF_ENDPOINT": self._web(),
                    "OMP_NUM_THREADS": "1",
                    "JOB_ID": job.id,
                    **job.spec.get("environment", {}),
                    **job.secrets,
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                timeout=job.spec.get("timeoutSeconds", 1800),
            )
        job.lines += ran.stdout.splitlines()
        return ran.returncode


def pause(job: Job) -> int:
    """Do nothing until cancelled, as a Job that hangs."""
    while job.stage == "RUNNING":
        time.sleep(0.005)
    return 1
