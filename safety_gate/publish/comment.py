"""One sticky comment per gate on a pull request, found by marker and author, kept up to date."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from github import Github
from github.GithubException import UnknownObjectException
from github.Issue import Issue
from github.IssueComment import IssueComment

from safety_gate.publish.github import Patience, create_once, own_login, translated
from safety_gate.publish.marker import Said, is_marked, read_said
from safety_gate.publish.publication import Publication
from safety_gate.publish.told import Told

Mode: TypeAlias = Literal["always", "on-change", "on-failure", "never"]
MODES: tuple[Mode, ...] = get_args(Mode)

# Returns the body for what our comment said before; None where there is no comment yet.
Render: TypeAlias = Callable[[Said | None], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """The conversation of one pull request, as one author sees it."""

    issue: Issue
    author: str  # our own login
    gate_id: str

    @classmethod
    def open(cls, client: Github, repository: str, number: int, gate_id: str) -> "Thread":
        """Name the thread; only our own login is asked for."""
        issue = client.get_repo(repository).get_issue(number)
        return cls(issue=issue, author=own_login(client), gate_id=gate_id)

    def own(self) -> list[IssueComment]:
        """Return our comments for this gate through all pages, the oldest first."""
        mine = [
            comment
            for comment in self.issue.get_comments()
            if is_marked(comment.body or "", self.gate_id) and self._is_mine(comment)
        ]
        return sorted(mine, key=lambda comment: comment.id)

    def _is_mine(self, comment: IssueComment) -> bool:
        """Tell whether we wrote it; whoever else uses the marker is not believed."""
        user = comment.user
        if user is None:  # a deleted account
            return False
        # GraphQL leaves "[bot]" out of the login where REST has it.
        return user.login == self.author or (
            user.type == "Bot" and user.login == f"{self.author}[bot]"
        )


def publish_comment(
    thread: Thread,
    publication: Publication,
    *,
    mode: Mode,
    render: Render,
    patience: Patience | None = None,
) -> Told:
    """Create or update the comment, as far as the mode wants one.

    always: every run writes. on-change: as always, but an unchanged verdict with unchanged
    findings is left alone. on-failure: begins when the job fails, and then is kept up to date, to
    "resolved" too. never: nothing is read or written.

    Raises:
        NotPublished: GitHub did not take it.
    """
    if mode == "never":
        return Told(channel="comment", state="skipped", why="comment: never")
    with translated("comment"):
        own = thread.own()
        before = read_said(own[0].body) if own else None
        _delete(own[1:])  # two jobs at once may both have created one
        if not own and not _begins(publication, mode):
            why = f"comment: {mode}, and there is nothing to tell yet"
            return Told(channel="comment", state="skipped", why=why)
        if own and mode == "on-change" and before and before.digest == publication.digest:
            return Told(channel="comment", state="unchanged", url=own[0].html_url)
        if own and (edited := _edit(own[0], render(before))):
            return Told(channel="comment", state="updated", url=edited.html_url)
        return _create(thread, render(None), patience)


def _begins(publication: Publication, mode: Mode) -> bool:
    """Tell whether this verdict deserves a first comment."""
    if publication.word == "nothing-to-judge":
        return False
    return publication.fails if mode == "on-failure" else True


def _edit(comment: IssueComment, body: str) -> IssueComment | None:
    """Update the comment; None where somebody has deleted it in the meantime."""
    try:
        comment.edit(body)
    except UnknownObjectException:
        return None
    return comment


def _create(thread: Thread, body: str, patience: Patience | None) -> Told:
    """Create the comment; where another job was quicker, its comment is the one that stays."""

    def find() -> IssueComment | None:
        return next(iter(thread.own()), None)

    created = create_once(lambda: thread.issue.create_comment(body), find, patience=patience)
    own = thread.own()
    if not own:  # GitHub lists a new comment late, now and then
        return Told(channel="comment", state="created", url=created.html_url)
    oldest, younger = own[0], own[1:]
    if oldest.body != body:
        _edit(oldest, body)
    _delete(younger)
    state: Literal["created", "updated"] = "created" if oldest.id == created.id else "updated"
    return Told(channel="comment", state=state, url=oldest.html_url)


def _delete(comments: list[IssueComment]) -> None:
    """Delete comments of ours; gone is gone."""
    for comment in comments:
        try:
            comment.delete()
        except UnknownObjectException:
            continue
