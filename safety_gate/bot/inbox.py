"""Writes events durably, many in one transaction: a sync of the disk serves all who wait."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from safety_gate.jobs.facts import Answer, Arrival
from safety_gate.jobs.failures import StoreDown
from safety_gate.jobs.store import JobStore

WAITING: Final = 1024  # events not yet written; more are refused at once
BATCH: Final = 256  # events of one transaction

log = logging.getLogger(__name__)


class Overrun(Exception):
    """More events come in than can be written; the sender should come back later."""


@dataclass(slots=True)
class _Letter:
    arrivals: Sequence[Arrival]
    answer: asyncio.Future[list[Answer]] = field(init=False)

    def __post_init__(self) -> None:
        self.answer = asyncio.get_running_loop().create_future()


class Inbox:
    """Takes events from the event loop and hands them to the store from a thread."""

    def __init__(self, store: JobStore) -> None:
        """Write into this store."""
        self._store = store
        self._queue: asyncio.Queue[_Letter] = asyncio.Queue(maxsize=WAITING)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.get_running_loop().create_task(self._write_all())

    async def stop(self) -> None:
        """Write what is waiting, then end."""
        await self._queue.join()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def receive(self, arrivals: Sequence[Arrival]) -> list[Answer]:
        """Return the answers once the events are on the disk.

        Raises:
            Overrun: too many events wait already.
            StoreDown: the database does not take them.
        """
        letter = _Letter(arrivals)
        try:
            self._queue.put_nowait(letter)
        except asyncio.QueueFull:
            raise Overrun from None
        return await letter.answer

    async def _write_all(self) -> None:
        while True:
            letters = [await self._queue.get()]
            while len(letters) < BATCH and not self._queue.empty():
                letters.append(self._queue.get_nowait())
            try:
                await self._write(letters)
            finally:
                for _ in letters:
                    self._queue.task_done()

    async def _write(self, letters: Sequence[_Letter]) -> None:
        """Write a batch; all of it is on the disk, or none."""
        flat = [arrival for letter in letters for arrival in letter.arrivals]
        try:
            answers = await asyncio.to_thread(self._store.receive, flat)
        except StoreDown as error:
            log.error("events not written", extra={"events": len(flat), "got": error.got})
            for letter in letters:
                if not letter.answer.done():
                    letter.answer.set_exception(error)
            return
        for letter in letters:
            mine, answers = answers[: len(letter.arrivals)], answers[len(letter.arrivals) :]
            if not letter.answer.done():  # else the sender hung up; the event is kept anyway
                letter.answer.set_result(mine)
