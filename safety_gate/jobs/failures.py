"""What goes wrong between a worker and its store, or between a verdict and its readers.

GateError
├── StoreDown     the database does not answer; nothing was lost, ask again
├── LeaseLost     another worker has the job by now; what is in hand counts for nothing
├── HeadMoved     the ref has a newer commit, which has a job of its own
└── NotTold       a publishing step did not get through; the journal knows where to go on
"""

from safety_gate.errors import GateError


class StoreDown(GateError):
    """The database does not answer, or cannot write."""

    rule = "store-down"


class LeaseLost(GateError):
    """Another worker has the job by now."""

    rule = "lease-lost"

    def __init__(self, where: str) -> None:
        """Name the job as repo@sha."""
        super().__init__(
            "the lease of this job has ended",
            where=where,
            hint="Nothing is to be done: the worker that holds it now will finish it.",
        )


class HeadMoved(GateError):
    """The ref has a newer commit."""

    rule = "head-moved"

    def __init__(self, where: str, *, head: str) -> None:
        """Name the commit that was judged as repo@sha, and the head that it is not."""
        super().__init__(
            "the judged commit is no longer the head",
            where=where,
            got=head or "no such ref",
            hint="Nothing is to be done: the newer commit has a job of its own.",
        )
        self.head = head  # empty: the ref is gone


class NotTold(GateError):
    """A publishing step did not get through."""

    rule = "not-told"
