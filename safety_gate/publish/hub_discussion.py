"""One living discussion per repository, and one comment per judged pull request; both edited.

They are found by title or marker, and by author: nobody is believed for a marker alone. A closed
discussion, a hidden comment and the line in the model card mean the same: leave us alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from huggingface_hub.community import Discussion, DiscussionComment, DiscussionWithDetails

from safety_gate.publish.card import opted_out
from safety_gate.publish.hub_card import NEWER, OPTED_OUT
from safety_gate.publish.hub_desk import MAIN, Desk, Target
from safety_gate.publish.hub_told import HubChannel, HubState, HubTold
from safety_gate.publish.marker import is_marked, read_said
from safety_gate.publish.publication import Publication

Begin: TypeAlias = Literal["always", "on-failure", "never"]

TITLE = "Safety Gate: does this adapter keep the alignment of its model?"
CLOSED = "the discussion was closed, which means: leave us alone"
HIDDEN = "our comment was hidden, which means: leave us alone"
TWICE = "There is an older discussion of ours; that one is kept up to date."

# Returns the text; called only where it will be sent, for a picture may be uploaded for it.
Render: TypeAlias = Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """What to say, about which commit."""

    target: Target
    publication: Publication
    begin: Begin  # when the first word is said; what was begun is kept up to date
    render: Render

    @property
    def begins(self) -> bool:
        """Tell whether this verdict deserves a first word."""
        return self.begin == "always" or (self.begin == "on-failure" and self.publication.fails)


def publish_discussion(desk: Desk, letter: Letter) -> HubTold:
    """Open our discussion, or edit it.

    Raises:
        NotPublishedOnHub: the Hub did not take it.
    """
    if letter.begin == "never":
        return _skipped("discussion", "discussion: never")
    if letter.target.pull_request is not None:
        return _skipped("discussion", "a pull request was judged; it has a comment of its own")
    return desk.patiently(lambda: _discuss(desk, letter))


def publish_comment(desk: Desk, letter: Letter) -> HubTold:
    """Comment on the pull request whose head was judged, or edit our comment.

    Raises:
        NotPublishedOnHub: the Hub did not take it.
    """
    number = letter.target.pull_request
    if letter.begin == "never":
        return _skipped("comment", "comment: never")
    if number is None:
        return _skipped("comment", "no pull request was judged")
    return desk.patiently(lambda: _comment(desk, letter, number))


def silence(desk: Desk, target: Target) -> str:
    """Return why nothing is said about a commit; empty where something may be said."""
    main = desk.head(MAIN)
    card = desk.card(main)
    if card is not None and opted_out(card):
        return OPTED_OUT
    head = main if target.pull_request is None else desk.head(target.revision)
    return "" if desk.same_adapter(target.sha, head) else NEWER


def living(desk: Desk) -> Sequence[Discussion]:
    """Return our discussions, the living one first: two runs at once may have opened one each."""
    own = [one for one in desk.own(pull_requests=False) if one.title == TITLE]
    return sorted(own, key=lambda one: one.num)


def _discuss(desk: Desk, letter: Letter) -> HubTold:
    if why := silence(desk, letter.target):
        return _skipped("discussion", why)
    own = living(desk)
    if not own:
        return _open(desk, letter)
    if own[0].status == "closed":
        return _skipped("discussion", CLOSED)
    for younger in own[1:]:
        if younger.status == "open":
            _close(desk, younger.num)
    details = desk.details(own[0].num)
    first = next((c for c in _own_comments(desk, details) if is_marked_by(c, letter)), None)
    if first is None:  # somebody took our words away; a new thread would be worse
        return _skipped("discussion", HIDDEN)
    return _edit(desk, letter, details, first, "discussion")


def _open(desk: Desk, letter: Letter) -> HubTold:
    if not letter.begins:
        return _skipped("discussion", f"discussion: {letter.begin}, and there is nothing to tell")
    text = letter.render()
    made = desk.ask(
        lambda: desk.api.create_discussion(letter.target.repo_id, TITLE, description=text)
    )
    if any(one.num < made.num for one in living(desk)):
        return _discuss(desk, letter)
    return HubTold(channel="discussion", state="created", url=made.url)


def _close(desk: Desk, number: int) -> None:
    """Close a discussion that we opened although there was one; it is not the living one."""
    desk.ask(
        lambda: desk.api.change_discussion_status(desk.repo_id, number, "closed", comment=TWICE)
    )


def _comment(desk: Desk, letter: Letter, number: int) -> HubTold:
    if why := silence(desk, letter.target):
        return _skipped("comment", why)
    if any(one.status == "closed" for one in living(desk)[:1]):
        return _skipped("comment", CLOSED)
    details = desk.details(number)
    mine = _own_comments(desk, details)
    if any(comment.hidden for comment in mine):  # its text, and so its gate, may be gone
        return _skipped("comment", HIDDEN)
    if own := [comment for comment in mine if is_marked_by(comment, letter)]:
        return _edit(desk, letter, details, own[0], "comment")
    if details.status in ("closed", "merged"):
        return _skipped("comment", f"the pull request is {details.status}")
    if not letter.begins:
        return _skipped("comment", f"comment: {letter.begin}, and there is nothing to tell")
    text = letter.render()
    made = desk.ask(lambda: desk.api.comment_discussion(letter.target.repo_id, number, text))
    return HubTold(channel="comment", state="created", url=f"{details.url}#{made.id}")


def _edit(
    desk: Desk,
    letter: Letter,
    thread: DiscussionWithDetails,
    comment: DiscussionComment,
    channel: HubChannel,
) -> HubTold:
    """Edit our words; they are left alone where they would say the same of the same commit."""
    if comment.hidden:
        return _skipped(channel, HIDDEN)
    url = thread.url if channel == "discussion" else f"{thread.url}#{comment.id}"
    before, now = read_said(comment.content), letter.publication
    same = before is not None and (before.word, before.commit, before.digest) == (
        now.word,
        now.commit,
        now.digest,
    )
    state: HubState = "unchanged"
    if not same:
        text = letter.render()
        desk.ask(
            lambda: desk.api.edit_discussion_comment(
                letter.target.repo_id, thread.num, comment.id, text
            )
        )
        state = "updated"
    return HubTold(channel=channel, state=state, url=url)


def _own_comments(desk: Desk, details: DiscussionWithDetails) -> list[DiscussionComment]:
    """Return our comments, the oldest first."""
    return [
        event
        for event in details.events
        if isinstance(event, DiscussionComment) and event.author == desk.account
    ]


def is_marked_by(comment: DiscussionComment, letter: Letter) -> bool:
    """Tell whether a comment begins with the marker of this gate."""
    return is_marked(comment.content, letter.publication.gate_id)


def _skipped(channel: HubChannel, why: str) -> HubTold:
    return HubTold(channel=channel, state="skipped", why=why)
