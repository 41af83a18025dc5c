"""What a store tells about itself."""

from collections.abc import Mapping
from typing import Final, TypeAlias

from safety_gate.jobs.arrivals import is_own
from safety_gate.jobs.database import Row, Transaction
from safety_gate.jobs.facts import (
    Brief,
    Counts,
    Page,
    Search,
    Standing,
    State,
    Step,
    Stored,
    Told,
)

Key: TypeAlias = tuple[str, str, str, str]  # repo, ref, sha, policy

COLUMNS: Final = "job, repo, ref, sha, policy, word, report, repaired, attempt, decided"
STANDING: Final = "id, repo, ref, sha, state, priority, tries, created, changed, why"
STATES: Final[tuple[State, ...]] = ("queued", "running", "done", "superseded", "ignored", "dead")


def _stored(row: Row) -> Stored:
    job, repo, ref, sha, policy, word, report, repaired, attempt, decided = row
    return Stored(
        job=job,
        repo=repo,
        ref=ref,
        sha=sha,
        policy=policy,
        word=word,
        report=report,
        repaired=repaired,
        attempt=attempt,
        decided=decided,
    )


def verdict(tx: Transaction, job: int) -> Stored | None:
    """Return the verdict of a job."""
    rows = tx.run(f"select {COLUMNS} from sg_verdict where job = ?", job)  # noqa: S608
    return _stored(rows[0]) if rows else None


def verdict_for(tx: Transaction, repo: str, sha: str, policy: str) -> Stored | None:
    """Return the latest verdict for exactly this commit; by any policy where none is named."""
    by, values = (" and policy = ?", (policy,)) if policy else ("", ())
    rows = tx.run(
        f"select {COLUMNS} from sg_verdict where repo = ? and sha = ?{by}"  # noqa: S608
        " order by decided desc, job desc limit 1",
        *(repo, sha, *values),
    )
    return _stored(rows[0]) if rows else None


def verdicts(tx: Transaction, page: Page, repo: str | None) -> list[Stored]:
    """Return verdicts, newest job first."""
    where = "job < ?" if repo is None else "job < ? and repo = ?"
    values = (page.before,) if repo is None else (page.before, repo)
    rows = tx.run(
        f"select {COLUMNS} from sg_verdict where {where} order by job desc limit ?",  # noqa: S608
        *(*values, page.limit),
    )
    return [_stored(row) for row in rows]


def browse(tx: Transaction, search: Search, page: Page) -> list[Brief]:
    """Return verdicts without their reports, newest job first."""
    text, owner = _like(search.text.lower()), _like(search.owner.lower())
    clauses = (
        (search.word, "word = ?", (search.word,)),
        (search.repo, "repo = ?", (search.repo,)),
        (search.owner, "lower(repo) like ? escape '!'", (f"{owner}/%",)),
        (
            search.text,
            "(lower(repo) like ? escape '!' or sha like ? escape '!')",
            (f"%{text}%", f"{text}%"),
        ),
    )
    asked = [(sql, values) for given, sql, values in clauses if given]
    where = " and ".join(["job < ?", *(sql for sql, _ in asked)])
    rows = tx.run(
        f"select job, repo, ref, sha, word, decided from sg_verdict where {where}"  # noqa: S608
        " order by job desc limit ?",
        *(page.before, *(value for _, values in asked for value in values), page.limit),
    )
    return [
        Brief(job=job, repo=repo, ref=ref, sha=sha, word=word, decided=decided)
        for job, repo, ref, sha, word, decided in rows
    ]


def _like(text: str) -> str:
    """Return text that a like pattern takes literally."""
    return "".join(f"!{char}" if char in "!%_" else char for char in text)


def unfinished(tx: Transaction, page: Page) -> list[Standing]:
    """Return the jobs that run and those that wait, in the order of the line."""
    rows = tx.run(
        f"select {STANDING} from sg_job where state in ('running', 'queued')"  # noqa: S608
        " order by case state when 'running' then 0 else 1 end, priority desc, opened limit ?",
        page.limit,
    )
    return [_standing(row) for row in rows]


def newest(tx: Transaction, repo: str, ref: str, policy: str) -> Standing | None:
    """Return the newest job of a ref; not one that only found a commit of ours."""
    rows = tx.run(
        f"select {STANDING} from sg_job where repo = ? and ref = ? and policy = ?"  # noqa: S608
        " and not (state = 'ignored' and why = 'own-commit') order by opened desc limit 1",
        *(repo, ref, policy),
    )
    return _standing(rows[0]) if rows else None


def _standing(row: Row) -> Standing:
    job, repo, ref, sha, state, priority, tries, created, changed, why = row
    return Standing(
        job=job,
        repo=repo,
        ref=ref,
        sha=sha,
        state=state,
        priority=priority,
        tries=tries,
        created=created,
        changed=changed,
        why=why,
    )


def steps(tx: Transaction, job: int) -> Mapping[str, Step]:
    """Return the publishing journal of a job."""
    rows = tx.run("select name, state, oid, url, note from sg_step where job = ?", job)
    return {
        name: Step(name=name, state=state, told=Told(oid=oid, url=url, note=note))
        for name, state, oid, url, note in rows
    }


def settled(tx: Transaction, key: Key) -> bool:
    """Tell whether a head needs nothing: its job is the newest of its ref, or it is ours."""
    repo, ref, sha, policy = key
    rows = tx.run(
        "select sha, state from sg_job where repo = ? and ref = ? and policy = ?"
        " order by opened desc limit 1",
        *(repo, ref, policy),
    )
    newest = bool(rows) and rows[0][0] == sha and rows[0][1] != "superseded"
    return newest or is_own(tx, sha)


def counts(tx: Transaction, *, now: float) -> Counts:
    """Return how full the store is."""
    jobs: dict[State, int] = dict.fromkeys(STATES, 0)
    jobs |= dict(tx.run("select state, count(*) from sg_job group by state"))
    words = tx.run("select word, count(*) from sg_verdict group by word")
    answers = tx.run("select answer, sum(times) from sg_arrival group by answer")
    oldest = tx.run("select min(created) from sg_job where state = 'queued'")[0][0]
    return Counts(
        jobs=jobs,
        verdicts={word: int(number) for word, number in words},
        arrivals={answer: int(number) for answer, number in answers},
        oldest_queued=0.0 if oldest is None else max(0.0, now - oldest),
    )
