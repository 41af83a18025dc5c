"""One event of the Hub, judged from beginning to end in this process: the bot without a server.

The store lives as long as the process: what is judged twice, by two events of the same commit,
ends in the same card section and the same comment, for publishing finds its own work.
"""

import hmac
import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from safety_gate.bot.payload import Payload, Watch, arrivals
from safety_gate.bot.secret import SECRET
from safety_gate.errors import SourceError
from safety_gate.jobs.facts import Page, Rules, Stored
from safety_gate.jobs.journal import Publisher
from safety_gate.jobs.sqlite import open_sqlite
from safety_gate.jobs.store import JobStore
from safety_gate.worker.judging import Eyes, Judge
from safety_gate.worker.loop import Hands, Worker

PAYLOAD: Final = "WEBHOOK_PAYLOAD"  # set by the Hub in a Job that a webhook starts
REPO: Final = "WEBHOOK_REPO_ID"
SENT_SECRET: Final = "WEBHOOK_SECRET"  # noqa: S105 - the name of a variable
BACKOFF_S: Final = 5.0  # a Job is paid by the minute, so its waits are short
HINT: Final = "Look at the webhook: `safety-gate webhook list` shows it."

log = logging.getLogger(__name__)


class BadEvent(SourceError):
    """The environment holds no event of the Hub that we may follow."""

    rule = "event-bad"


def event_from(environ: Mapping[str, str]) -> Payload:
    """Return the event that started this Job.

    Raises:
        BadEvent: there is none, it contradicts itself, or its secret is another.
    """
    known = environ.get(SECRET, "")
    sent = environ.get(SENT_SECRET, "")
    if known and not hmac.compare_digest(known.encode(), sent.encode()):
        raise BadEvent("the secret of this event is another", where=SENT_SECRET, hint=HINT)
    text = environ.get(PAYLOAD, "")
    try:
        payload = Payload.model_validate_json(text)
    except ValidationError:  # its text would repeat what the sender wrote
        got = "no text" if not text else "another form"
        raise BadEvent(
            "this is not an event of the Hub", where=PAYLOAD, got=got, hint=HINT
        ) from None
    if environ.get(REPO, payload.repo.name) != payload.repo.name:
        raise BadEvent(
            "the event names two repositories", where=REPO, got=payload.repo.name, hint=HINT
        )
    return payload


def judge_event(
    payload: Payload, watch: Watch, *, judge: Judge, publisher: Publisher, eyes: Eyes, holder: str
) -> list[Stored]:
    """Judge and tell what an event asks for; return the verdicts, none where nothing is asked.

    Args:
        payload: the event.
        watch: whose adapters are judged.
        judge: judges a commit.
        publisher: tells verdicts.
        eyes: look at the Hub.
        holder: our name in the log.
    """
    try:
        wanted = arrivals(payload, watch)
    except ValidationError:
        raise BadEvent("the repository has no possible name", where=REPO, hint=HINT) from None
    with tempfile.TemporaryDirectory(prefix="safety-gate-") as folder:
        store = open_sqlite(Path(folder) / "jobs.db", Rules(backoff_s=BACKOFF_S))
        try:
            for arrival, answer in zip(wanted, store.receive(wanted), strict=True):
                extra = {"repo": arrival.repo, "ref": arrival.ref, "answer": answer}
                log.info("event", extra=extra)
            hands = Hands(store=store, judge=judge, publisher=publisher, eyes=eyes)
            drain(store, Worker(hands, holder=holder))
            return list(reversed(store.verdicts(Page(limit=len(wanted) + 1))))
        finally:
            store.close_store()


def drain(store: JobStore, worker: Worker) -> None:
    """Work until nothing waits, failures and their back-off included."""
    while True:
        if worker.once():
            continue
        counts = store.counts().jobs
        if not counts["queued"] and not counts["running"]:
            return
        time.sleep(0.5)
