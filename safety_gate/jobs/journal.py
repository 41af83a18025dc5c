"""Publishing: steps that can be killed anywhere, and end with one of each.

The verdict row comes first (``JobStore.decide``). Then every step is noted as begun, taken, and
noted as done. A step that was begun and not done may or may not have happened: it is taken again,
and the publisher finds its own work instead of doing it twice.

A verdict is told for the head only. Before each step the head is asked for; another one ends the
publishing. The commit that a step makes moves the head itself, so it counts as the judged one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from safety_gate.jobs.facts import Lease, Step, Stored, Told
from safety_gate.jobs.failures import HeadMoved, LeaseLost
from safety_gate.jobs.store import JobStore

Head: TypeAlias = Callable[[str, str], str | None]  # (repo, ref) -> commit; None: no such ref


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """What a step has to tell, and what the steps before it came to."""

    verdict: Stored
    told: Mapping[str, Told]  # by step


class Publisher(Protocol):
    """Tells a verdict to the world, in steps that each can be taken twice.

    The order of ``steps`` is kept: a commit first, for what follows names it, and the status last,
    for it says that all is there.
    """

    @property
    def steps(self) -> tuple[str, ...]:
        """The names of the steps."""

    def tell(self, step: str, telling: Telling) -> Told:
        """Take a step, or find that it was taken; the same call twice leaves one of it.

        A commit is made with the judged sha as its parent, so that the Hub refuses it (412) where
        the head has moved.

        Raises:
            HeadMoved: the Hub refused, for the head has moved.
            NotTold: it did not get through; asked again later.
        """


class Silent:
    """Publishes nothing: verdicts stay in the store."""

    steps: tuple[str, ...] = ()

    def tell(self, step: str, telling: Telling) -> Told:
        """Never called."""
        raise AssertionError(f"no such step: {step}")


def publish(store: JobStore, lease: Lease, publisher: Publisher, head: Head) -> None:
    """Take the steps that are missing.

    Raises:
        LeaseLost: another worker has the job by now.
        HeadMoved: the verdict is not about the head any more.
        NotTold: a step did not get through.
        StoreDown: the journal cannot be written.
    """
    verdict = store.verdict(lease.job)
    if verdict is None:
        raise AssertionError("published before it was decided")
    journal = store.steps(lease.job)
    told = {name: step.told for name, step in journal.items() if step.state == "done"}
    for name in publisher.steps:
        if name in told:
            continue
        if name not in journal:  # else our own, unrecorded commit may be the head
            _check_head(lease, told, head)
        if not store.begin(lease, name):
            raise LeaseLost(f"{lease.repo}@{lease.sha}")
        told[name] = publisher.tell(name, Telling(verdict=verdict, told=dict(told)))
        if not store.end(lease, name, told[name]):
            raise LeaseLost(f"{lease.repo}@{lease.sha}")


def _check_head(lease: Lease, told: Mapping[str, Told], head: Head) -> None:
    """Refuse to speak for a head that was not judged."""
    now = head(lease.repo, lease.ref)
    if now != lease.sha and now not in {one.oid for one in told.values() if one.oid}:
        raise HeadMoved(f"{lease.repo}@{lease.sha}", head=now or "")


def is_half_told(steps: Mapping[str, Step]) -> bool:
    """Tell whether a step was begun whose end nobody noted."""
    return any(step.state == "begun" for step in steps.values())
