"""Webhooks: what the Hub tells others, and its delivery."""

import json
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.loopback_hub.compute import Compute
from tests.loopback_hub.history import Repo, hex24
from tests.loopback_hub.talk import Discussion, Event

Payload = dict[str, Any]
TIMEOUT = 10.0  # seconds for the receiver to answer


@dataclass(slots=True, kw_only=True)
class Webhook:
    """Someone who wants to hear of repositories."""

    owner: str
    url: str | None
    job: str | None
    watched: list[dict[str, str]]
    domains: list[str]
    secret: str | None
    secrets: dict[str, str] = field(default_factory=dict)  # for the Job that it starts
    disabled: bool = False
    id: str = field(default_factory=hex24)

    def wants(self, payload: Payload) -> bool:
        """Tell whether this hook hears of an event."""
        repo = payload["repo"]
        domain = payload["event"]["scope"].split(".")[0]
        owner = repo["name"].split("/")[0]
        seen = any(
            (watch["type"] == repo["type"] and watch["name"] == repo["name"])
            or (watch["type"] in ("user", "org") and watch["name"] == owner)
            for watch in self.watched
        )
        return seen and not self.disabled and domain in self.domains

    def described(self) -> dict[str, Any]:
        """Return what the management API tells."""
        told = {
            "id": self.id,
            "watched": self.watched,
            "domains": self.domains,
            "secret": self.secret,
            "disabled": self.disabled,
        }
        if self.url:
            return told | {"url": self.url}
        return told | {"job": {"command": [], "arguments": [], "environment": {}}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One payload that was sent, and what came back."""

    webhook: str
    payload: Payload
    status: int | None  # None where nobody answered


def send(url: str, payload: Payload, secret: str | None) -> int | None:
    """Deliver one payload as the Hub does; return the status of the answer."""
    headers = {"Content-Type": "application/json"}
    if secret is not None:
        headers["X-Webhook-Secret"] = secret
    request = urllib.request.Request(  # noqa: S310 - the URL is the test's own
        url, json.dumps(payload).encode(), headers, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None


class Hooks:
    """All webhooks; delivers in the order of events, from a thread of its own."""

    def __init__(
        self, web: Callable[[], str], owner_id: Callable[[str], str], compute: Compute
    ) -> None:
        self._compute = compute
        self._web = web
        self._owner_id = owner_id
        self.hooks: list[Webhook] = []
        self.events: list[Payload] = []  # everything that happened, heard or not
        self.deliveries: list[Delivery] = []
        self._queue: queue.Queue[tuple[Webhook, Payload] | None] = queue.Queue()
        self._thread: threading.Thread | None = None

    def flush(self) -> None:
        """Wait until all deliveries so far were answered."""
        self._queue.join()

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def emit(self, scope: str, action: str, repo: Repo, **parts: Any) -> None:
        """Note an event and deliver it to whom it concerns."""
        payload = {
            "event": {"action": action, "scope": scope},
            "repo": self._repo(repo, with_head=scope.startswith("repo")),
            **parts,
        }
        self.events.append(payload)
        for hook in self.hooks:
            if not hook.wants(payload):
                continue
            if hook.url is not None:
                self.deliver(hook, payload)
            elif hook.job is not None:
                self._start(hook, hook.job, payload)

    def _start(self, hook: Webhook, source: str, payload: Payload) -> None:
        told = {
            "WEBHOOK_PAYLOAD": json.dumps(payload | {"webhook": {"id": hook.id, "version": 3}}),
            "WEBHOOK_REPO_ID": payload["repo"]["name"],
            "WEBHOOK_REPO_TYPE": payload["repo"]["type"],
        }
        if hook.secret is not None:
            told["WEBHOOK_SECRET"] = hook.secret
        self._compute.triggered(source, hook.secrets, told)

    def deliver(self, hook: Webhook, payload: Payload) -> None:
        """Queue one delivery; tests call this again for duplicates and other orders."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="hub-webhooks", daemon=True)
            self._thread.start()
        self._queue.put((hook, payload | {"webhook": {"id": hook.id, "version": 3}}))

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            hook, payload = item
            status = send(hook.url or "", payload, hook.secret)
            self.deliveries.append(Delivery(webhook=hook.id, payload=payload, status=status))
            self._queue.task_done()
        self._queue.task_done()

    def _repo(self, repo: Repo, *, with_head: bool) -> dict[str, Any]:
        kind = "" if repo.kind == "model" else f"{repo.kind}s/"
        told = {
            "type": repo.kind,
            "name": repo.repo_id,
            "id": repo.id,
            "private": repo.private,
            "url": {
                "web": f"{self._web()}/{kind}{repo.repo_id}",
                "api": f"{self._web()}/api/{repo.kind}s/{repo.repo_id}",
            },
            "owner": {"id": self._owner_id(repo.namespace)},
            "tags": repo.tags,
        }
        return told | ({"headSha": repo.head.id} if with_head else {})

    def ref_moved(self, repo: Repo, ref: str, old: str | None, new: str | None) -> None:
        """Tell that a branch, tag or pull request points elsewhere."""
        moved = [{"ref": ref, "oldSha": old, "newSha": new}]
        self.emit("repo.content", "update", repo, updatedRefs=moved)

    def discussed(self, discussion: Discussion, action: str, comment: Event | None = None) -> None:
        """Tell of a new or changed discussion, with its first comment."""
        parts: dict[str, Any] = {"discussion": self._discussion(discussion)}
        if comment is not None:
            parts["comment"] = self._comment(discussion, comment)
        self.emit("discussion", action, discussion.repo, **parts)

    def commented(self, discussion: Discussion, comment: Event, action: str) -> None:
        """Tell of a new or changed comment."""
        self.emit(
            "discussion.comment",
            action,
            discussion.repo,
            discussion=self._discussion(discussion),
            comment=self._comment(discussion, comment),
        )

    def _discussion(self, discussion: Discussion) -> dict[str, Any]:
        repo = f"{self._web()}/{discussion.repo.repo_id}/discussions/{discussion.num}"
        told: dict[str, Any] = {
            "id": discussion.id,
            "title": discussion.title,
            "url": {"web": repo, "api": repo},
            "status": discussion.status,
            "author": {"id": self._owner_id(discussion.author)},
            "num": discussion.num,
            "isPullRequest": discussion.is_pull_request,
        }
        if discussion.is_pull_request:
            told["changes"] = {"base": discussion.base}
            if discussion.merge_commit is not None:
                told["changes"]["mergeCommitId"] = discussion.merge_commit
        return told

    def _comment(self, discussion: Discussion, comment: Event) -> dict[str, Any]:
        page = f"{self._web()}/{discussion.repo.repo_id}/discussions/{discussion.num}"
        return {
            "id": comment["id"],
            "author": {"id": self._owner_id(comment["author"]["name"])},
            "content": comment["data"]["latest"]["raw"],
            "hidden": comment["data"]["hidden"],
            "url": {"web": f"{page}#{comment['id']}"},
        }
