"""Offers a repaired adapter: as a pull request, on a branch, or in a repository of its own.

It is one commit, all or nothing, and holds exactly the bytes that were judged. Nothing is offered
that did not pass, and the main branch of the judged repository is never written to.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import assert_never

from huggingface_hub.community import Discussion

from safety_gate.publish.card import with_section
from safety_gate.publish.hub_desk import CARD, MAIN, MARK, Desk, Draft, Target, utf8
from safety_gate.publish.hub_discussion import CLOSED, living, silence
from safety_gate.publish.hub_fault import LostAnswer, NotAllowed, NotPublishedOnHub
from safety_gate.publish.hub_parcel import KEPT, Variant, change_to, judged_files
from safety_gate.publish.hub_told import HubState, HubTold
from safety_gate.publish.hub_words import card_section, variant_text

MANIFEST = "safety_gate_manifest.json"  # by it a repository of ours is known again
BEGINNING = "Repaired adapter for "
OPEN = ("open", "draft")
DECLINED = "the pull request for this commit was closed, and no other is opened"
SAME = "the repaired adapter is what the repository already holds"


def publish_variant(desk: Desk, target: Target, variant: Variant) -> HubTold:
    """Offer a repaired adapter.

    Args:
        desk: the way to the judged repository.
        target: the commit that the variant was made from.
        variant: the files, and how they are offered.

    Raises:
        NotPublishedOnHub: they did not pass, or the Hub did not take them.
    """
    contents = judged_files(variant)
    parcel = Parcel(desk=desk, target=target, variant=variant, contents=contents)
    return desk.patiently(parcel.send)


@dataclass(slots=True, kw_only=True)
class Parcel:
    """One variant on its way; each try looks again at what is there."""

    desk: Desk
    target: Target
    variant: Variant
    contents: Mapping[str, bytes | Path]
    lost: bool = False  # an answer was lost: our commit may be there

    @property
    def title(self) -> str:
        """Return the title by which our commit, and our pull request, is found again."""
        return f"{BEGINNING}{self.target.sha[:12]} {MARK}"

    def send(self) -> HubTold:
        """Take one try.

        Raises:
            Transient, NotPublishedOnHub: see hub_fault.py.
        """
        try:
            match self.variant.way:
                case "pull request":
                    return self._pull_request()
                case "branch":
                    return self._branch()
                case "repository":
                    return self._repository()
                case _:
                    assert_never(self.variant.way)
        except LostAnswer:
            self.lost = True
            raise

    def _pull_request(self) -> HubTold:
        if why := silence(self.desk, self.target):
            return _skipped(why)
        if any(one.status == "closed" for one in living(self.desk)[:1]):
            return _skipped(CLOSED)
        own = self.desk.own(pull_requests=True)
        same = next((one for one in own if one.title == self.title), None)
        if same is None:
            told, number = self._open()
        elif same.status in OPEN:
            told, number = self._renew(same)
        else:
            return _skipped(DECLINED)
        self._close_older(own, number, told.url)
        return told

    def _renew(self, offer: Discussion) -> tuple[HubTold, int]:
        """Put this repair into our open pull request, or into a new one in its place."""
        try:
            return self._push(f"refs/pr/{offer.num}", offer.url), offer.num
        except NotAllowed:  # a Hub that lets nobody but the owner push to a pull request
            return self._open()

    def _open(self) -> tuple[HubTold, int]:
        draft, _ = self._draft(self.target.sha, None)
        info = self.desk.commit(draft)
        if not info.pr_url or not info.pr_num:  # the client found nothing to change
            return _skipped(SAME), 0
        told = HubTold(channel="repaired adapter", state="created", url=info.pr_url, oid=info.oid)
        return told, info.pr_num

    def _close_older(self, own: list[Discussion], number: int, url: str) -> None:
        """Close our offers for older commits: two at once would only confuse."""
        older = [one for one in own if one.status in OPEN and one.title.startswith(BEGINNING)]
        for one in older:
            if one.num < number:
                self.desk.ask(
                    partial(
                        self.desk.api.change_discussion_status,
                        self.target.repo_id,
                        one.num,
                        "closed",
                        comment=f"A newer offer: {url}",
                    )
                )

    def _branch(self) -> HubTold:
        if why := silence(self.desk, self.target):
            return _skipped(why)
        repo_id, sha = self.target.repo_id, self.target.sha
        name = f"safety-gate/repaired-{sha[:12]}"
        self.desk.ask(
            lambda: self.desk.api.create_branch(repo_id, branch=name, revision=sha, exist_ok=True)
        )
        return self._push(name, f"{self.desk.api.endpoint}/{repo_id}/tree/{name}")

    def _repository(self) -> HubTold:
        repo_id, api = self.variant.repository, self.desk.api
        source = self.desk.ask(lambda: api.model_info(self.target.repo_id))
        # What few may read must not become public by being repaired.
        private = bool(source.private or source.gated)
        own = Desk(api=api, repo_id=repo_id, patience=self.desk.patience)
        own.ask(lambda: api.create_repo(repo_id, private=private, exist_ok=True))
        there = set(own.files(own.head(MAIN)))
        if MANIFEST not in there and not there <= KEPT:
            raise NotPublishedOnHub(
                "a repository of this name exists, and is not one of ours",
                where=repo_id,
                hint="Name another repository for the repaired adapter.",
            )
        return self._push(MAIN, f"{api.endpoint}/{repo_id}", desk=own)

    def _push(self, revision: str, url: str, *, desk: Desk | None = None) -> HubTold:
        """Commit on top of a branch, or of our own pull request."""
        desk = desk or self.desk
        head = desk.head(revision)
        draft, done = self._draft(head, revision, desk=desk)
        if done:
            # After a lost answer this is our own commit; else nobody's that is to be remembered.
            oid = desk.titled(self.title, revision) if self.lost else ""
        else:
            oid = desk.commit(draft).oid
        state: HubState = "updated" if oid else "unchanged"
        return HubTold(channel="repaired adapter", state=state, url=url, oid=oid)

    def _draft(
        self, parent: str, revision: str | None, *, desk: Desk | None = None
    ) -> tuple[Draft, bool]:
        """Write the commit, and tell whether all of it is there; no revision: a pull request."""
        desk, variant = desk or self.desk, self.variant
        there = desk.files(parent)
        if variant.way == "repository":
            change = change_to(self.contents, set(there), set(there))
        else:
            files = {**self.contents, CARD: self._card()}
            change = change_to(files, set(there), set(variant.removed))
        text = variant_text(
            variant.before,
            variant.after,
            self.target.sha,
            method=variant.method,
            account=self.desk.account,
            removed=change.gone,
            kind=variant.way,
        )
        draft = Draft(
            repo_id=desk.repo_id,
            title=self.title,
            description=text,
            parent=parent,
            revision=revision,
            opens_pull_request=revision is None,
            operations=change.operations,
        )
        return draft, change.is_done(there)

    def _card(self) -> bytes:
        """Return the owner's card with a section on the repaired adapter: it stays theirs."""
        old = utf8(self.desk.card(self.target.sha) or b"", f"{self.target.repo_id}: {CARD}")
        return with_section(old, card_section(self.variant.after, self.target.sha, repaired=True))


def _skipped(why: str) -> HubTold:
    return HubTold(channel="repaired adapter", state="skipped", why=why)
