"""Keeps our section of a model card up to date, in one commit that builds on what was read."""

import re
from dataclasses import dataclass

from huggingface_hub import CommitInfo, CommitOperationAdd

from safety_gate.publish.card import opted_out, section_of, with_section
from safety_gate.publish.hub_desk import CARD, MAIN, MARK, Desk, Draft, Target, utf8
from safety_gate.publish.hub_fault import LostAnswer, NotPublishedOnHub
from safety_gate.publish.hub_told import HubState, HubTold

NEWER = "the branch has a newer commit, which has a run of its own"
OPTED_OUT = "the owner asks in the model card to be left alone"
_JUDGED = re.compile(r"\| judged commit \| `([0-9a-f]{40})` \|")  # as templates/hub_card.md.j2


@dataclass(slots=True, kw_only=True)
class CardLetter:
    """One section on its way into one card; each try reads again what it builds on."""

    desk: Desk
    target: Target
    section: str
    title: str  # of the commit
    lost: bool = False  # an answer was lost: our commit may be there

    def send(self) -> HubTold:
        """Take one try.

        Raises:
            Transient, NotPublishedOnHub: see hub_fault.py.
        """
        head = self.desk.head(MAIN)
        old = self.desk.card(head)
        if old is not None and opted_out(old):
            return _skipped(OPTED_OUT)
        if not self.desk.same_adapter(self.target.sha, head):
            return _skipped(NEWER)
        if old is not None and self._is_still_true(section_of(old), head):
            return self._there_already()
        new = with_section(utf8(old or b"", f"{self.target.repo_id}: {CARD}"), self.section)
        if new == old:
            return self._there_already()
        try:
            info = self.desk.commit(self._draft(head, new))
        except LostAnswer:
            self.lost = True
            raise
        return self._told(info, head, fresh=old is None)

    def _is_still_true(self, told: str, head: str) -> bool:
        """Tell whether the card says the same of an older commit with the same adapter.

        Our own commit changes the card, so it is judged as well; were its number written into the
        card again, that commit would be followed by another one for ever.
        """
        match = _JUDGED.search(told)
        if match is None or told.replace(match[1], self.target.sha) != self.section.strip():
            return False
        try:
            return self.desk.same_adapter(match[1], head)
        except NotPublishedOnHub:  # no such commit: somebody has edited the section
            return False

    def _draft(self, head: str, new: bytes) -> Draft:
        return Draft(
            repo_id=self.target.repo_id,
            title=self.title,
            parent=head,
            operations=lambda: [CommitOperationAdd(CARD, new)],
        )

    def _told(self, info: CommitInfo, head: str, *, fresh: bool) -> HubTold:
        # Where nothing changed the client returns the head, which is a commit of somebody else.
        if info.oid == head:
            return HubTold(channel="model card", state="unchanged", url=self._url())
        return HubTold(
            channel="model card",
            state="created" if fresh else "updated",
            url=self._url(),
            oid=info.oid,
        )

    def _there_already(self) -> HubTold:
        """Tell that the card says this; after a lost answer, by which commit of ours."""
        oid = self.desk.titled(self.title, MAIN) if self.lost else ""
        state: HubState = "updated" if oid else "unchanged"
        return HubTold(channel="model card", state=state, url=self._url(), oid=oid)

    def _url(self) -> str:
        return f"{self.desk.api.endpoint}/{self.target.repo_id}/blob/{MAIN}/{CARD}"


def publish_card(desk: Desk, target: Target, section: str, *, word: str) -> HubTold:
    """Write our section into the card of the main branch.

    Args:
        desk: the way to the Hub.
        target: what was judged; the section is written while main holds the same adapter.
        section: Markdown without the markers.
        word: of the verdict, for the title of the commit.

    Raises:
        NotPublishedOnHub: the Hub did not take it.
    """
    if target.pull_request is not None:
        return _skipped("a pull request was judged, and the card belongs to the main branch")
    title = f"Safety Gate: {word} for {target.sha[:12]} {MARK}"
    letter = CardLetter(desk=desk, target=target, section=section, title=title)
    return desk.patiently(letter.send)


def _skipped(why: str) -> HubTold:
    return HubTold(channel="model card", state="skipped", why=why)
