"""Keeps a lease alive while its job is worked on."""

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from safety_gate.jobs.facts import Lease
from safety_gate.jobs.failures import StoreDown
from safety_gate.jobs.store import JobStore

BEATS_PER_LEASE: Final = 4  # three may be lost before the lease is

log = logging.getLogger(__name__)


class Heartbeat:
    """Beats from a thread of its own, for the ``with`` statement; stops at an overrun.

    A job that takes longer than ``limit_s`` hangs, or is a trap. No thread of Python can be ended
    from outside, so the process ends: ``overrun`` is expected not to return. The lease then runs
    out, and the job's tries are counted until it is given up.
    """

    def __init__(
        self, store: JobStore, lease: Lease, *, limit_s: float, overrun: Callable[[Lease], None]
    ) -> None:
        """Prepare to beat for this lease."""
        self._store = store
        self._lease = lease
        self._limit_s = limit_s
        self._overrun = overrun
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self.lost = False

    def __enter__(self) -> Self:
        """Begin to beat."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop, and wait for the beat that is under way."""
        self._done.set()
        self._thread.join()

    def _beat(self) -> None:
        every = self._store.rules.lease_s / BEATS_PER_LEASE
        ends = time.monotonic() + self._limit_s
        while not self._done.wait(min(every, max(0.0, ends - time.monotonic()))):
            if time.monotonic() >= ends:
                self._overrun(self._lease)
                return
            try:
                self.lost = not self._store.beat(self._lease)
            except StoreDown as error:  # the lease may outlive this; the steps check it again
                log.warning("no heartbeat", extra={"got": error.got})
            if self.lost:
                log.warning("lease lost", extra={"repo": self._lease.repo, "job": self._lease.job})
                return
