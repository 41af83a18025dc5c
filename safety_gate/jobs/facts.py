"""The facts that a store keeps and hands out.

A job is (repo, ref, sha, policy): the same event twice is one job. A lease is a job in the hands
of one worker; its ``attempt`` is a fencing token, for it moves on when the job is lent out again.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from safety_gate.sources.hub_names import is_repo_id

State: TypeAlias = Literal["queued", "running", "done", "superseded", "ignored", "dead"]
Reason: TypeAlias = Literal[
    "not-an-adapter",  # no adapter_config.json at this commit, or no model repository
    "not-watched",
    "opted-out",
    "ref-deleted",
    "ref-ignored",  # a tag, or a ref of the Hub's own such as refs/convert/parquet
    "own-commit",  # one that we made ourselves
    "hop-budget",  # we committed to this repository so often that this may be an echo
    "no-commit",  # the event moves no ref
]
Answer: TypeAlias = Reason | Literal["queued", "known", "full"]

COMMIT: Final = re.compile(r"[0-9a-f]{40}")
DIGEST: Final = re.compile(r"[0-9a-f]{64}")
REF: Final = re.compile(r"refs/[A-Za-z0-9][A-Za-z0-9._/+-]{0,248}")
JUDGED_REFS: Final = ("refs/heads/", "refs/pr/")

# Higher goes first. A job that failed goes behind all that did not, see ``demoted``.
LIVE: Final = 20  # someone has just pushed
SWEPT: Final = 10  # found by the sweep
BATCH: Final = 0  # an audit of many

HOUR: Final = 3600.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One commit that should be judged, by one policy."""

    repo: str  # "org/name" on the Hub, checked
    ref: str  # full name: refs/heads/main, refs/pr/3
    sha: str  # 40 hex
    policy: str  # sha256 of the policy that decides
    priority: int = LIVE

    def __post_init__(self) -> None:
        """Refuse what could not stand in an address or a query."""
        if not is_repo_id(self.repo):
            raise AssertionError(f"not a repository: {self.repo[:99]!r}")
        if not REF.fullmatch(self.ref):
            raise AssertionError(f"not a ref: {self.ref[:99]!r}")
        if not (COMMIT.fullmatch(self.sha) and DIGEST.fullmatch(self.policy)):
            raise AssertionError("a commit or a policy digest is not pinned")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignored:
    """An event that is recorded, not judged."""

    repo: str
    ref: str  # empty where the event names none
    sha: str  # empty where the ref is gone
    reason: Reason


Arrival: TypeAlias = Wanted | Ignored


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A job in the hands of one worker."""

    job: int
    repo: str
    ref: str
    sha: str
    policy: str
    priority: int
    attempt: int  # fencing token: how often the job was lent out, 1 and up
    tries: int  # of these, how many count against it: a worker that ends politely takes its back
    holder: str
    has_verdict: bool  # judged already; only publishing is left


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A verdict as the store keeps it."""

    job: int
    repo: str
    ref: str
    sha: str
    policy: str
    word: str  # passed, blocked, undecided
    report: str  # the JSON report
    attempt: int  # of the worker that decided
    decided: float  # seconds since 1970
    repaired: str = ""  # the JSON report of a repaired copy; empty where none was made


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """A verdict without its report, for lists."""

    job: int
    repo: str
    ref: str
    sha: str
    word: str  # passed, blocked, undecided
    decided: float  # seconds since 1970


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a job is."""

    job: int
    repo: str
    ref: str
    sha: str
    state: State
    priority: int
    tries: int
    created: float  # seconds since 1970
    changed: float  # seconds since 1970
    why: str  # our own words


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Which verdicts are asked for; empty means any."""

    owner: str = ""
    repo: str = ""
    text: str = ""  # part of a repository's name, or the beginning of a commit
    word: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one step of publishing came to."""

    oid: str = ""  # the commit that we made, 40 hex; empty where none was made
    url: str = ""  # where it can be read; a stranger's text
    note: str = ""  # our own words

    def __post_init__(self) -> None:
        """Refuse a commit that is not pinned: we must know our own again."""
        if self.oid and not COMMIT.fullmatch(self.oid):
            raise AssertionError(f"not a commit: {self.oid[:99]!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One entry of the publishing journal."""

    name: str
    state: Literal["begun", "done"]
    told: Told


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How full the store is."""

    jobs: Mapping[State, int]
    verdicts: Mapping[str, int]  # by word
    arrivals: Mapping[str, int]  # by answer
    oldest_queued: float = 0.0  # seconds that the oldest waiting job has waited


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a store lends and bounds; the same for every process on one database."""

    lease_s: float = 60.0  # a worker that was not heard of for so long has lost its job
    queue_bound: int = 10_000  # waiting jobs; more are refused, and the sweep finds them later
    hop_budget: int = 20  # own commits to one repository within an hour
    backoff_s: float = 30.0  # before the second try; doubles with every further one
    backoff_max_s: float = HOUR

    def __post_init__(self) -> None:
        """Refuse nonsense; NaN fails every comparison and so is refused."""
        if not 0.05 <= self.lease_s <= 24 * HOUR:
            raise AssertionError("a lease is from 0.05 s to a day")
        if not (self.queue_bound >= 1 and self.hop_budget >= 1):
            raise AssertionError("a bound below 1 lets nothing through")
        if not 0.0 <= self.backoff_s <= self.backoff_max_s <= 24 * HOUR:
            raise AssertionError("back-off goes from 0 s up to a day")

    def wait(self, tries: int) -> float:
        """Return the seconds before the next try, after so many."""
        return min(self.backoff_max_s, self.backoff_s * 2.0 ** min(max(tries - 1, 0), 30))


@dataclass(frozen=True, slots=True)
class Page:
    """How much of a list is asked for."""

    limit: int = 50
    before: int = field(default=2**62)  # job ids below this


def demoted(priority: int, tries: int) -> int:
    """Return the priority of a job that failed: behind every job that did not."""
    return min(priority, BATCH) - max(tries, 1)
