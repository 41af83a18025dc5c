"""What a store forgets, so that it does not grow for ever.

The newest job of a ref always stays: by it the sweep knows that the head is settled, and its
verdict is what the page and the badge show.
"""

from typing import Final

from safety_gate.jobs.database import Transaction

_HAS_NEWER: Final = (
    "exists (select 1 from sg_job n where n.repo = j.repo and n.ref = j.ref"
    " and n.policy = j.policy and n.opened > j.opened)"
)


def prune_arrivals(tx: Transaction, *, before: float) -> int:
    """Forget events that were last seen before a time (seconds since 1970)."""
    return tx.count("delete from sg_arrival where latest < ?", before)


def prune_closed(tx: Transaction, *, before: float) -> int:
    """Forget jobs that were closed without a verdict before a time."""
    return tx.count(
        "delete from sg_job where id in (select j.id from sg_job j"  # noqa: S608
        " where j.state in ('superseded', 'ignored') and j.changed < ?"
        " and not exists (select 1 from sg_verdict v where v.job = j.id)"
        f" and not exists (select 1 from sg_step s where s.job = j.id) and {_HAS_NEWER})",
        before,
    )


def prune_reports(tx: Transaction, *, before: float) -> int:
    """Forget verdicts that were given before a time, their reports, journals and jobs."""
    rows = tx.run(
        "select j.id from sg_job j join sg_verdict v on v.job = j.id where v.decided < ?"  # noqa: S608
        f" and j.state not in ('queued', 'running') and {_HAS_NEWER}",
        before,
    )
    for (job,) in rows:
        tx.run("delete from sg_step where job = ?", job)
        tx.run("delete from sg_verdict where job = ?", job)
        tx.run("delete from sg_job where id = ?", job)
    return len(rows)
