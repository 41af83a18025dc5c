"""The worker: lease, look, judge, keep, publish, finish.

Every step can be the last that this process takes. What is done is in the store; what is not done
is found there by whoever leases the job next.
"""

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, assert_never

from safety_gate.errors import GateError
from safety_gate.jobs.facts import Ignored, Lease, Reason, Wanted
from safety_gate.jobs.failures import HeadMoved, LeaseLost, StoreDown
from safety_gate.jobs.journal import Publisher, publish
from safety_gate.jobs.store import JobStore
from safety_gate.records import Report, Undecided
from safety_gate.report.json_report import to_json
from safety_gate.worker.given_up import given_up
from safety_gate.worker.heartbeat import Heartbeat
from safety_gate.worker.judging import Eyes, Judge, Judged, NotJudged, Work

TEMPORARY: Final = 75  # EX_TEMPFAIL: the supervisor starts us again
# Findings that may pass by themselves: as long as tries are left, they are no verdict yet.
PASSING: Final = frozenset({"hub-rate-limited", "hub-unreachable"})

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long and how often a worker tries."""

    judge_tries: int = 5  # then the verdict is Undecided
    publish_tries: int = 10  # more, then the verdict stays in the store alone
    job_s: float = 3600.0  # one job; a 70B pair over the network takes about half of it
    poll_s: float = 1.0  # between looks into an empty queue
    down_s: float = 5.0  # between looks at a store that does not answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """What a worker works with."""

    store: JobStore
    judge: Judge
    publisher: Publisher
    eyes: Eyes


def end_process(lease: Lease) -> None:
    """End at once, as a crash would; the lease runs out by itself."""
    log.error("job took too long; this worker ends", extra=_named(lease))
    os._exit(TEMPORARY)


class Worker:
    """Works off one job at a time."""

    def __init__(
        self,
        hands: Hands,
        *,
        holder: str,
        limits: Limits | None = None,
        overrun: Callable[[Lease], None] = end_process,
    ) -> None:
        """Give the worker a name that no other has, and what it works with."""
        self._hands = hands
        self._holder = holder
        self._limits = limits or Limits()
        self._overrun = overrun

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop; the job in hand is finished first."""
        while not stop.is_set():
            try:
                pause = 0.0 if self.once() else self._limits.poll_s
            except StoreDown as error:
                log.warning("store down", extra={"what": error.what, "got": error.got})
                pause = self._limits.down_s
            stop.wait(pause)

    def once(self) -> bool:
        """Take one job and work on it; False where there was none.

        Raises:
            StoreDown: the store does not answer; the lease, if any, runs out by itself.
        """
        lease = self._hands.store.claim(self._holder)
        if lease is None:
            return False
        log.info("job taken", extra=_named(lease))
        limit = self._limits.job_s
        with Heartbeat(self._hands.store, lease, limit_s=limit, overrun=self._overrun):
            self._guarded(lease)
        return True

    def _guarded(self, lease: Lease) -> None:
        """Work on a job; whatever goes wrong is a reason to try again later."""
        store = self._hands.store
        try:
            self._work(lease)
        except LeaseLost:
            log.warning("lease lost", extra=_named(lease))
        except HeadMoved as error:
            self._follow(lease, error.head)
        except StoreDown:
            raise
        except GateError as error:
            log.warning("job failed", extra={**_named(lease), "what": str(error)})
            store.retry(lease, f"{error.rule}: {error.what}")
        except Exception as error:  # one of the two of the house: a bug must not end the worker
            log.exception("job failed by a bug", extra=_named(lease))
            store.retry(lease, f"bug: {type(error).__name__}")
        except BaseException:  # a polite end, such as KeyboardInterrupt: the job is not to blame
            store.release(lease)
            raise

    def _work(self, lease: Lease) -> None:
        store, limits = self._hands.store, self._limits
        if lease.tries > limits.judge_tries + limits.publish_tries and lease.has_verdict:
            store.close(lease, "dead", "publishing was given up; the verdict is in the store")
            return
        if not lease.has_verdict and not self._decided(lease):
            return
        publish(store, lease, self._hands.publisher, self._hands.eyes.head)
        if not store.close(lease, "done"):
            raise LeaseLost(f"{lease.repo}@{lease.sha}")
        log.info("job done", extra=_named(lease))

    def _decided(self, lease: Lease) -> bool:
        """Judge, and keep the verdict; False where this commit gets none."""
        if lease.tries > self._limits.judge_tries:
            self._keep(lease, given_up(lease, self._limits.judge_tries))
            return True
        if self._is_ours(lease):
            return self._ignore(lease, "own-commit")
        head = self._hands.eyes.head(lease.repo, lease.ref)
        if head != lease.sha:
            raise HeadMoved(f"{lease.repo}@{lease.sha}", head=head or "")
        work = Work(repo=lease.repo, ref=lease.ref, sha=lease.sha)
        match self._hands.judge.judge(work):
            case NotJudged(reason=reason):
                return self._ignore(lease, reason)
            case Judged(report=report, repaired=repaired):
                if lease.tries < self._limits.judge_tries:
                    _check_final(report, lease)
                self._keep(lease, report, repaired)
                return True
            case never:
                assert_never(never)

    def _is_ours(self, lease: Lease) -> bool:
        store, eyes = self._hands.store, self._hands.eyes
        return store.is_own(lease.sha) or eyes.is_our_commit(lease.repo, lease.sha)

    def _ignore(self, lease: Lease, reason: Reason) -> bool:
        """Close a job without a verdict; the reason is recorded."""
        store = self._hands.store
        ignored = Ignored(repo=lease.repo, ref=lease.ref, sha=lease.sha, reason=reason)
        store.note(ignored, reason)
        store.close(lease, "ignored", reason)
        log.info("not judged", extra={**_named(lease), "reason": reason})
        return False

    def _keep(self, lease: Lease, report: Report, repaired: Report | None = None) -> None:
        after = to_json(repaired) if repaired else ""
        if not self._hands.store.decide(lease, report.verdict.word, to_json(report), after):
            raise LeaseLost(f"{lease.repo}@{lease.sha}")
        log.info("verdict", extra={**_named(lease), "word": report.verdict.word})

    def _follow(self, lease: Lease, head: str) -> None:
        """Close a job whose commit is not the head any more, and see that the head gets one.

        The event of the newer commit may have come before that of this one, and been closed by it.
        """
        store = self._hands.store
        if head and not store.settled(lease.repo, lease.ref, head, lease.policy):
            store.receive([Wanted(repo=lease.repo, ref=lease.ref, sha=head, policy=lease.policy)])
        store.close(lease, "superseded", "the head has moved")
        log.info("head moved", extra=_named(lease))


def _check_final(report: Report, lease: Lease) -> None:
    """Refuse a verdict that only says that the Hub did not answer: it may answer later."""
    stops = [finding for finding in report.findings if finding.severity == "undecided"]
    passing = [finding for finding in stops if finding.rule in PASSING]
    if isinstance(report.verdict, Undecided) and passing:
        raise GateError(
            passing[0].what,
            where=f"{lease.repo}@{lease.sha}",
            got=passing[0].got,
            hint=passing[0].hint,
        )


def _named(lease: Lease) -> dict[str, object]:
    """Return what the log tells of a job."""
    return {
        "job": lease.job,
        "repo": lease.repo,
        "ref": lease.ref,
        "sha": lease.sha,
        "attempt": lease.attempt,
    }
