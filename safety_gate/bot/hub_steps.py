"""Our publisher of the Hub as the steps of the journal: a commit, then a discussion or comment.

Each step finds its own work when it is taken again: the card by its section, the discussion by
title and author, the comment by marker and author (publish/hub.py).
"""

from collections.abc import Callable
from typing import Final

from huggingface_hub import HfApi

from safety_gate.jobs.facts import Told
from safety_gate.jobs.failures import NotTold
from safety_gate.jobs.journal import Telling
from safety_gate.publish.hub import HubWishes, is_ours, publish_hub
from safety_gate.publish.hub_desk import MAIN, PATIENCE, Desk, Target
from safety_gate.publish.hub_told import HubTold
from safety_gate.records import Report
from safety_gate.sources.hub_patience import Patience

COMMIT: Final = "commit"
COMMENT: Final = "comment"
MAIN_REF: Final = f"refs/heads/{MAIN}"
PULL: Final = "refs/pr/"

ReadReport = Callable[[str], Report]  # the JSON that the store kept


class HubSteps:
    """Tells verdicts about main and about pull requests; other branches are judged in silence."""

    steps: tuple[str, ...] = (COMMIT, COMMENT)

    def __init__(
        self,
        api: HfApi,
        read_report: ReadReport,
        wishes: HubWishes | None = None,
        *,
        patience: Patience = PATIENCE,
    ) -> None:
        """Publish with this client, which may write.

        Args:
            api: with the token that may write; no judge sees it.
            read_report: reads a report back from the store's JSON.
            wishes: what is to be told; card and comment by default.
            patience: how long the Hub is waited for.
        """
        self._api = api
        self._read_report = read_report
        self._wishes = wishes or HubWishes(card=True)
        self._patience = patience

    def tell(self, step: str, telling: Telling) -> Told:
        """Take a step, or find that it was taken.

        Raises:
            NotTold: the Hub did not take it.
        """
        target = target_of(telling)
        if target is None:
            return Told(note="a branch other than main: judged, and not told")
        report = self._read_report(telling.verdict.report)
        published = publish_hub(
            self._api, target, report, self._wishes_for(step), patience=self._patience
        )
        for told in published.failures:
            where = f"{target.repo_id}@{target.sha}"
            raise NotTold(f"{told.channel}: {told.why}", where=where, hint=told.hint)
        return self._summed(step, target, published.told)

    def _wishes_for(self, step: str) -> HubWishes:
        wishes = self._wishes
        if step not in self.steps:
            raise AssertionError(f"no such step: {step}")
        commits = step == COMMIT
        return HubWishes(
            card=wishes.card and commits,
            variant=wishes.variant if commits else None,
            discussion="never" if commits else wishes.discussion,
            comment="never" if commits else wishes.comment,
            picture=wishes.picture,
            gate_id=wishes.gate_id,
            run_url=wishes.run_url,
            contact=wishes.contact,
        )

    def _summed(self, step: str, target: Target, told: tuple[HubTold, ...]) -> Told:
        """Return what the journal keeps of a step."""
        oid = next((one.oid for one in told if one.channel == "model card" and one.oid), "")
        if step == COMMIT and not oid:
            oid = self._made_before(target)
        return Told(
            oid=oid,
            url=next((one.url for one in told if one.url), ""),
            note="; ".join(f"{one.channel}: {one.state}" for one in told),
        )

    def _made_before(self, target: Target) -> str:
        """Return our commit on top of the judged one, made by a worker that died before noting it.

        Found by author, title and place: it is the head, and its parent is the judged commit.
        """
        desk = Desk(api=self._api, repo_id=target.repo_id, patience=self._patience)
        history = desk.patiently(
            lambda: desk.ask(
                lambda: self._api.list_repo_commits(target.repo_id, revision=target.revision)
            )
        )
        if len(history) < 2 or history[1].commit_id != target.sha:
            return ""
        newest = history[0]
        ours = newest.authors == [desk.account] and is_ours(newest.title)
        return newest.commit_id if ours else ""


def target_of(telling: Telling) -> Target | None:
    """Return where a verdict is told; None for a branch other than main."""
    repo, ref, sha = telling.verdict.repo, telling.verdict.ref, telling.verdict.sha
    number = ref.removeprefix(PULL)
    if ref.startswith(PULL) and number.isascii() and number.isdecimal():
        return Target(repo_id=repo, sha=sha, pull_request=int(number))
    return Target(repo_id=repo, sha=sha) if ref == MAIN_REF else None
