"""Discussions and pull requests."""

from dataclasses import dataclass, field
from typing import Any, Literal

from tests.loopback_hub.history import MAIN, Content, Repo, changed, hex24, now
from tests.loopback_hub.problem import Problem

Status = Literal["open", "closed", "merged", "draft"]
Event = dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Discussion:
    """One discussion, or one pull request."""

    repo: Repo
    num: int
    title: str
    author: str
    status: Status
    is_pull_request: bool
    base: str = MAIN
    started_at: str | None = None  # commit of main that the pull request started from
    merge_commit: str | None = None
    pinned: bool = False
    id: str = field(default_factory=hex24)
    created: str = field(default_factory=now)
    events: list[Event] = field(default_factory=list)

    @property
    def ref(self) -> str:
        return f"refs/pr/{self.num}"

    @property
    def comments(self) -> list[Event]:
        return [event for event in self.events if event["type"] == "comment"]

    def add(self, kind: str, author: str, data: dict[str, Any]) -> Event:
        """Append an event and return it."""
        event = {
            "id": hex24(),
            "type": kind,
            "createdAt": now(),
            "author": {"name": author},
            "data": data,
        }
        self.events.append(event)
        return event

    def comment(self, author: str, text: str) -> Event:
        """Append a comment."""
        return self.add(
            "comment",
            author,
            {"edited": False, "hidden": False, "latest": _version(author, text), "history": []},
        )

    def find_comment(self, event_id: str) -> Event:
        """Return a comment by its id."""
        for event in self.comments:
            if event["id"] == event_id:
                return event
        raise Problem(404, "Comment not found")

    def edit(self, event_id: str, author: str, text: str) -> Event:
        """Replace the text of a comment; the old one goes to its history."""
        event = self.find_comment(event_id)
        if event["author"]["name"] != author:
            raise Problem(403, "You can only edit your own comments")
        event["data"]["history"].append(event["data"]["latest"])
        event["data"]["latest"] = _version(author, text)
        event["data"]["edited"] = True
        return event

    def hide(self, event_id: str) -> Event:
        """Hide a comment."""
        event = self.find_comment(event_id)
        event["data"]["hidden"] = True
        return event

    def set_status(self, status: Status, author: str) -> Event:
        """Open or close; a merged pull request stays so."""
        if self.status == "merged":
            raise Problem(400, "This pull request is merged")
        self.status = status
        return self.add("status-change", author, {"status": status})

    def rename(self, title: str, author: str) -> Event:
        """Change the title."""
        event = self.add("title-change", author, {"from": self.title, "to": title})
        self.title = title
        return event

    def conflicts(self) -> list[str]:
        """Return the paths that both main and the pull request changed, differently."""
        if not self.is_pull_request or self.started_at is None or self.status == "merged":
            return []
        start = self.repo.commits[self.started_at].files
        here = changed(start, self.repo.at(self.ref).files)
        there = changed(start, self.repo.head.files)
        return sorted(path for path in here.keys() & there.keys() if here[path] != there[path])

    def merged_files(self) -> dict[str, Content]:
        """Return main with the changes of this pull request."""
        if self.started_at is None:
            raise Problem(400, "Not a pull request")
        if self.conflicts():
            raise Problem(409, "Merge conflict")
        start = self.repo.commits[self.started_at].files
        changes = changed(start, self.repo.at(self.ref).files)
        files = {p: c for p, c in self.repo.head.files.items() if p not in changes}
        return files | {p: c for p, c in changes.items() if c is not None}

    def summary(self) -> dict[str, Any]:
        """Return the fields of a list of discussions."""
        return {
            "num": self.num,
            "title": self.title,
            "status": self.status,
            "author": {"name": self.author},
            "createdAt": self.created,
            "isPullRequest": self.is_pull_request,
            "repo": {"name": self.repo.repo_id, "type": self.repo.kind},
            "pinned": self.pinned,
        }

    def details(self) -> dict[str, Any]:
        """Return everything."""
        told = {**self.summary(), "events": self.events}
        if self.is_pull_request:
            changes: dict[str, Any] = {"base": self.base}
            if self.merge_commit is not None:
                changes["mergeCommitId"] = self.merge_commit
            told |= {"changes": changes, "filesWithConflicts": self.conflicts()}
        return told


def _version(author: str, text: str) -> dict[str, Any]:
    html = f"<p>{text}</p>"
    return {"raw": text, "html": html, "updatedAt": now(), "author": {"name": author}}
