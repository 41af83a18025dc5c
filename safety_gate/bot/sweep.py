"""The level-triggered sweep: heads of watched repositories against what the store has.

The Hub documents no second delivery of an event. So every few minutes all heads are looked at, and
a commit that has no job gets one: a lost event costs minutes, not a verdict.
"""

import itertools
import logging
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from safety_gate.bot.payload import Watch
from safety_gate.errors import GateError
from safety_gate.jobs.facts import JUDGED_REFS, SWEPT, Answer, Wanted
from safety_gate.jobs.failures import StoreDown
from safety_gate.jobs.store import JobStore
from safety_gate.sources.hub_names import is_repo_id
from safety_gate.worker.judging import Eyes

# One request each. A free account may ask 1,000 times in five minutes, and judging asks as well.
REPOS_PER_PASS: Final = 300
FAILURES: Final = 5  # in a row; then the Hub is down, and the pass ends
KEEP_S: Final = 30 * 86_400.0  # arrivals and superseded jobs are kept for a month

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What one pass came to."""

    repos: int
    queued: int
    failed: int
    whole: bool  # every watched repository was looked at; else the next pass goes on


class Sweep:
    """Looks at the watched repositories, so many in each pass."""

    def __init__(
        self,
        store: JobStore,
        eyes: Eyes,
        watch: Watch,
        *,
        repos: int = REPOS_PER_PASS,
        reports_s: float | None = None,
    ) -> None:
        """Sweep with these eyes into this store.

        Args:
            store: where jobs go.
            eyes: look at the Hub.
            watch: whose adapters are judged.
            repos: looked at in one pass.
            reports_s: verdicts that a newer one replaced are kept so long; None: for ever.
        """
        self._store = store
        self._eyes = eyes
        self._watch = watch
        self._repos = repos
        self._reports_s = math.inf if reports_s is None else reports_s
        self._rest: Iterator[str] = iter(())

    def run(self, stop: threading.Event, *, every_s: float) -> None:
        """Sweep until told to stop: at once, and then every so many seconds."""
        while not stop.is_set():
            try:
                swept = self.once()
                log.info("swept", extra={"repos": swept.repos, "queued": swept.queued})
                self._store.prune(KEEP_S, reports_s=self._reports_s)
            except GateError as error:
                log.warning("sweep failed", extra={"what": str(error)})
            stop.wait(every_s)

    def once(self) -> Swept:
        """Make one pass; goes on where the last one stopped."""
        seen = queued = failed = in_row = 0
        for repo in itertools.islice(self._following(), self._repos):
            seen += 1
            try:
                queued += self._look_at(repo)
                in_row = 0
            except StoreDown:
                raise
            except GateError as error:
                failed, in_row = failed + 1, in_row + 1
                log.warning("not swept", extra={"repo": repo, "what": str(error)})
                if in_row >= FAILURES:
                    break
        return Swept(repos=seen, queued=queued, failed=failed, whole=seen < self._repos)

    def _following(self) -> Iterator[str]:
        """Yield the repositories that are left of this round, or those of a new one."""
        first = next(self._rest, None)
        if first is None:
            self._rest = iter(list(self._eyes.watched()))
        else:
            self._rest = itertools.chain([first], self._rest)
        yield from self._rest

    def _look_at(self, repo: str) -> int:
        """Queue the heads of one repository that nobody has judged; return how many."""
        if not is_repo_id(repo) or self._watch.refusal(repo):
            return 0
        policy = self._watch.policy
        missing = [
            Wanted(repo=repo, ref=ref, sha=sha, policy=policy, priority=SWEPT)
            for ref, sha in self._eyes.heads(repo).items()
            if ref.startswith(JUDGED_REFS) and not self._store.settled(repo, ref, sha, policy)
        ]
        answers: list[Answer] = self._store.receive(missing) if missing else []
        return answers.count("queued")
