"""What a worker asks of the world: a judgement, and a look at the Hub."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from safety_gate.jobs.facts import Reason
from safety_gate.records import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One pinned commit to judge."""

    repo: str
    ref: str
    sha: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The gate has looked."""

    report: Report
    repaired: Report | None = None  # of a repaired copy; it releases nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class NotJudged:
    """There is nothing for the gate here."""

    reason: Reason


Judgement: TypeAlias = Judged | NotJudged


class Judge(Protocol):
    """Judges commits by one policy."""

    @property
    def policy(self) -> str:
        """The sha256 of the policy file that decides: a new policy makes new jobs."""

    def judge(self, work: Work) -> Judgement:
        """Judge one commit; reads at ``work.sha`` only.

        Raises:
            GateError: the Hub did not answer; the job is tried again.
        """


class Eyes(Protocol):
    """Looks at the Hub as it is now; what an event says is a hint only."""

    def head(self, repo: str, ref: str) -> str | None:
        """Return the commit of a ref; None where the ref or the repository is gone.

        Raises:
            GateError: the Hub did not answer.
        """

    def heads(self, repo: str) -> Mapping[str, str]:
        """Return the commit of every branch and pull request; empty where the repository is gone.

        Raises:
            GateError: the Hub did not answer.
        """

    def is_our_commit(self, repo: str, sha: str) -> bool:
        """Tell whether our own account made this commit, with our marker in its title.

        A title alone proves nothing: anyone can copy one to escape the gate.
        """

    def watched(self) -> Iterable[str]:
        """Return the repositories to sweep."""
