"""The state behind the routes: accounts, repositories, large files, discussions, webhooks."""

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.loopback_hub.accounts import Accounts
from tests.loopback_hub.compute import Compute
from tests.loopback_hub.history import (
    MAIN,
    Commit,
    Content,
    Kind,
    Repo,
    Storage,
    changed,
    storage_for,
)
from tests.loopback_hub.hooks import Hooks
from tests.loopback_hub.problem import Problem
from tests.loopback_hub.talk import Discussion, Status
from tests.loopback_hub.xet import XetStore

STALE = "The branch was updated since you opened this page. Please refresh and try again."


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What came of a commit."""

    commit: Commit
    pull_request: Discussion | None = None


class World:
    """Everything a Hub remembers; methods are safe to call from the test and from routes."""

    def __init__(self, xet_folder: Path | None = None) -> None:
        self.lock = threading.RLock()
        self.web = ""  # address of the Hub, set when it listens
        self.cdn = ""  # address of the CDN
        self.accounts = Accounts()
        self.repos: dict[tuple[Kind, str], Repo] = {}
        self.objects: dict[str, bytes] = {}  # uploaded large files by sha256
        self.compute = Compute(lambda: self.web)
        self.hooks = Hooks(lambda: self.web, self.accounts.id_of, self.compute)
        self.xet = XetStore(xet_folder) if xet_folder else None
        self.url_seconds = 3600.0  # for which a signed address works
        self._sealing = secrets.token_bytes(16)

    # -- addresses that are signed ----------------------------------------------------------------

    def sign(self, repo: Repo, content: Content) -> str:
        """Return an address of a large file that works for a while."""
        until = f"{time.time() + self.url_seconds:.3f}"
        seal = self._seal(content.sha256, until)
        path = f"/xet-bridge-us/{repo.id}/{content.sha256}"
        return f"{self.cdn}{path}?Expires={until}&Signature={seal}"

    def expire_urls(self) -> None:
        """Make all addresses given out so far fail with 403."""
        self._sealing = secrets.token_bytes(16)

    def is_signed(self, sha256: str, until: str, seal: str) -> bool:
        """Tell whether an address still works."""
        good = hmac.compare_digest(self._seal(sha256, until), seal)
        return good and float(until) > time.time()

    def _seal(self, sha256: str, until: str) -> str:
        return hmac.new(self._sealing, f"{sha256} {until}".encode(), "sha256").hexdigest()

    # -- repositories -----------------------------------------------------------------------------

    def repo(self, kind: Kind, repo_id: str) -> Repo:
        """Return a repository; 404 where there is none."""
        found = self.repos.get((kind, repo_id))
        if found is None:
            raise Problem(404, "Repository not found", code="RepoNotFound")
        return found

    def create(self, kind: Kind, repo_id: str, *, private: bool = False) -> Repo:
        """Make an empty repository, which on the Hub has a first commit."""
        with self.lock:
            if (kind, repo_id) in self.repos:
                raise Problem(409, "You already created this model repo")
            self.accounts.add(repo_id.split("/")[0])
            repo = Repo(repo_id=repo_id, kind=kind, private=private)
            self.repos[kind, repo_id] = repo
            first = {".gitattributes": Content(b"*.safetensors filter=lfs\n", lfs=False)}
            repo.add_commit(MAIN, first, title="initial commit", author=repo.namespace, parent=None)
            self.hooks.emit("repo", "create", repo)
            return repo

    def content(self, path: str, data: bytes, storage: Storage | None = None) -> Content:
        """Store bytes as the Hub would, or as asked for."""
        chosen = storage or storage_for(path, len(data))
        if chosen == "regular":
            return Content(data, lfs=False)
        self.objects[hashlib.sha256(data).hexdigest()] = data
        if chosen == "lfs":
            return Content(data, lfs=True)
        if self.xet is None:
            raise AssertionError("this Hub was started without Xet storage")
        return Content(data, lfs=True, xet_hash=self.xet.put(data))

    def uploaded(self, sha256: str, size: int | None) -> Content:
        """Return a large file that a client has uploaded, over LFS or Xet."""
        known = next(
            (c for r in self.repos.values() for x in r.commits.values() for c in x.files.values()
             if c.lfs and c.sha256 == sha256),
            None,
        )  # fmt: skip
        if known is not None:
            return known
        xet_hash = self.xet.hash_of(sha256) if self.xet else None
        if xet_hash is not None and self.xet is not None and size is not None:
            return Content(self.xet.read(xet_hash, size), lfs=True, xet_hash=xet_hash)
        data = self.objects.get(sha256)
        if data is None or size not in (None, len(data)):
            raise Problem(400, f"LFS object {sha256} was not uploaded")
        return Content(data, lfs=True)

    def commit(  # noqa: PLR0913
        self,
        repo: Repo,
        changes: Mapping[str, Content | None],
        *,
        ref: str = MAIN,
        title: str = "A commit",
        message: str = "",
        author: str | None = None,
    ) -> Commit:
        """Put contents into a new commit (None deletes), and tell the webhooks."""
        with self.lock:
            old = repo.refs.get(ref)
            files = _applied(repo.commits[old].files if old else {}, changes)
            commit = repo.add_commit(
                ref,
                files,
                title=title,
                message=message,
                author=author or repo.namespace,
                parent=old,
            )
            self.hooks.ref_moved(repo, ref, old, commit.id)
            return commit

    # -- discussions ------------------------------------------------------------------------------

    def discuss(
        self, repo: Repo, *, title: str, text: str, author: str, pull_request: bool = False
    ) -> Discussion:
        """Open a discussion, or a draft pull request at the head of main."""
        with self.lock:
            status: Status = "draft" if pull_request else "open"
            found = self._opened(repo, title, author, status, pull_request=pull_request)
            if pull_request:
                repo.refs[found.ref] = found.started_at = repo.head.id
                self.hooks.ref_moved(repo, found.ref, None, repo.head.id)
            self.hooks.discussed(found, "create", found.comment(author, text))
            return found

    def _opened(
        self, repo: Repo, title: str, author: str, status: Status, *, pull_request: bool
    ) -> Discussion:
        found = Discussion(
            repo=repo,
            num=len(repo.discussions) + 1,
            title=title,
            author=author,
            status=status,
            is_pull_request=pull_request,
        )
        repo.discussions.append(found)
        return found

    def pull_request(
        self,
        repo: Repo,
        changes: Mapping[str, Content | None],
        *,
        title: str,
        text: str = "",
        author: str,
        parent: Commit | None = None,
    ) -> Pushed:
        """Open a pull request with one commit."""
        with self.lock:
            start = parent or repo.head
            found = self._opened(repo, title, author, "open", pull_request=True)
            found.started_at = start.id
            files = _applied(start.files, changes)
            commit = repo.add_commit(
                found.ref, files, title=title, message=text, author=author, parent=start.id
            )
            self.hooks.ref_moved(repo, found.ref, None, commit.id)
            comment = found.comment(author, text)
            found.add("commit", author, {"subject": title, "oid": commit.id})
            self.hooks.discussed(found, "create", comment)
            return Pushed(commit=commit, pull_request=found)

    def discussion(self, repo: Repo, num: int) -> Discussion:
        """Return a discussion; 404 where there is none."""
        for found in repo.discussions:
            if found.num == num:
                return found
        raise Problem(404, "Discussion not found")

    def merge(self, found: Discussion, author: str) -> Commit:
        """Merge a pull request into main."""
        with self.lock:
            if found.status != "open":
                raise Problem(400, f"This pull request is {found.status}")
            files = found.merged_files()
            title = f"{found.title} (#{found.num})"
            changes = changed(found.repo.head.files, files)
            commit = self.commit(found.repo, changes, title=title, author=author)
            found.merge_commit = commit.id
            found.add("status-change", author, {"status": "merged"})
            found.status = "merged"
            self.hooks.discussed(found, "update")
            return commit


def _applied(
    files: Mapping[str, Content], changes: Mapping[str, Content | None]
) -> dict[str, Content]:
    """Return files after a change; None deletes."""
    kept = {path: content for path, content in files.items() if path not in changes}
    return kept | {path: content for path, content in changes.items() if content is not None}


def described(world: World, repo: Repo, commit: Commit, *, blobs: bool) -> dict[str, Any]:
    """Return what ``/api/models/{id}/revision/{rev}`` tells."""
    siblings = [
        {"rfilename": path}
        | ({"size": len(c.data), "blobId": c.git_oid, **lfs_part(c)} if blobs else {})
        for path, c in sorted(commit.files.items())
    ]
    return {
        "_id": repo.id,
        "id": repo.repo_id,
        "modelId": repo.repo_id,
        "author": repo.namespace,
        "sha": commit.id,
        "lastModified": commit.date,
        "createdAt": repo.created,
        "private": repo.private,
        "gated": repo.gated or False,
        "disabled": repo.disabled,
        "downloads": 0,
        "likes": 0,
        "tags": repo.tags,
        "siblings": siblings,
        "usedStorage": sum(len(c.data) for c in commit.files.values()),
    }


def lfs_part(content: Content, key: str = "sha256") -> dict[str, Any]:
    """Return the ``lfs`` key of a large file; the tree calls the digest ``oid``."""
    if not content.lfs:
        return {}
    size = len(content.data)
    return {"lfs": {key: content.sha256, "size": size, "pointerSize": len(content.pointer)}}
