"""A store with verdicts, repairs and jobs as the page shows them, and a door that serves it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from safety_gate.jobs.facts import Rules, Wanted
from safety_gate.jobs.sql_store import SqlStore
from safety_gate.page.access import Access
from safety_gate.page.routes import add_page
from safety_gate.records import Report
from safety_gate.report.json_report import to_json
from tests.bot_door import POLICY, Door, opened, sha
from tests.sample_reports import blocked, hostile, passed, undecided

RULES: Final = Rules(lease_s=600.0, hop_budget=1000)
OPEN: Final = Access(True)


def judged(  # noqa: PLR0913
    store: SqlStore,
    repo: str,
    number: int,
    report: Report,
    *,
    ref: str = "refs/heads/main",
    after: Report | None = None,
) -> None:
    """Put one verdict into the store, by the way that a worker takes."""
    store.receive([Wanted(repo=repo, ref=ref, sha=sha(number), policy=POLICY)])
    lease = store.claim("w")
    assert lease is not None
    assert (lease.repo, lease.sha) == (repo, sha(number))
    assert report.adapter is None or report.adapter.name
    named = _named(report, repo, number)
    repaired = to_json(_named(after, repo, number)) if after else ""
    assert store.decide(lease, report.verdict.word, to_json(named), repaired)
    assert store.close(lease, "done")


def _named(report: Report, repo: str, number: int) -> Report:
    if report.adapter is None:
        return report
    return replace(report, adapter=replace(report.adapter, name=repo, revision=sha(number)))


def filled(store: SqlStore) -> None:
    """Judge some adapters, repair one, and leave some in the queue."""
    judged(store, "acme/support-lora", 1, passed())
    judged(store, "acme/support-lora", 2, blocked(32), after=passed())
    judged(store, "acme/a-very-long-name-of-an-adapter-that-somebody-thought-of-on-a-Friday", 3,
           undecided(), ref="refs/pr/12")  # fmt: skip
    judged(store, "mallory/evil.lora", 4, hostile())
    judged(store, "umbrella/roleplay", 5, blocked(6))
    for number, repo in ((6, "acme/support-lora"), (7, "umbrella/roleplay"), (8, "zeta/new")):
        store.receive([Wanted(repo=repo, ref="refs/heads/main", sha=sha(number), policy=POLICY)])
    lease = store.claim("w")
    assert lease is not None


@contextmanager
def shown(store: SqlStore, access: Access = OPEN) -> Iterator[Door]:
    """Serve the page of a store for a block."""
    with opened(store, page=lambda app: add_page(app, store, POLICY, access)) as door:
        yield door
