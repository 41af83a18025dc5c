"""Where letters to the Hub are written: the client that may write, and who it writes as.

The token that may write lives in the client that is handed in, and nothing else here sees it.
"""

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeAlias, TypeVar

import httpx2
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    RepoFile,
    get_session,
)
from huggingface_hub.community import Discussion, DiscussionWithDetails

from safety_gate.publish.hub_fault import NotPublishedOnHub, translated
from safety_gate.publish.publication import COMMIT
from safety_gate.sources.hub_names import check_repo_id
from safety_gate.sources.hub_patience import Patience, Transient, Waiter

T = TypeVar("T")

CARD = "README.md"
MAIN = "main"
LARGEST_CARD = 2**20  # bytes; the Hub's own pages show no larger card whole
MOST_FILES = 20_000  # of a repository; an honest adapter has under 100
MOST_DISCUSSIONS = 500  # of ours in one repository, newest first
SECONDS = httpx2.Timeout(60.0, connect=10.0)  # between two bytes; the client's own is none at all
PATIENCE = Patience(attempts=5, longest_asked=60.0)
# Stands in the title of every commit and pull request of ours, for webhooks that ask who it was.
MARK = "[safety-gate]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What was judged."""

    repo_id: str  # "org/name"
    sha: str  # 40 hex
    pull_request: int | None = None  # its number, where the commit is the head of one

    def __post_init__(self) -> None:
        """Refuse a name that could lead elsewhere, and a commit that is not pinned."""
        check_repo_id(self.repo_id)
        if not COMMIT.fullmatch(self.sha):
            raise AssertionError(f"not a pinned commit: {self.sha!r}")

    @property
    def revision(self) -> str:
        """Return the branch, or the pull request, whose head this is."""
        return MAIN if self.pull_request is None else f"refs/pr/{self.pull_request}"


Operations: TypeAlias = Callable[[], list[CommitOperationAdd | CommitOperationDelete]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One commit that is to be made."""

    repo_id: str
    title: str  # ends with MARK
    description: str = ""
    parent: str  # the commit that it builds on; the Hub refuses where its branch has moved on
    revision: str | None = MAIN  # branch or pull request
    opens_pull_request: bool = False
    operations: Operations  # made anew for each try, for the client changes them


@dataclass(slots=True, kw_only=True)
class Desk:
    """One client, and what it was told about one repository."""

    api: HfApi
    repo_id: str
    patience: Patience = PATIENCE
    # The client repeats some requests itself, so that our tries alone do not bound the time.
    seconds: float = 240.0  # from the first request; after them a fault is final
    _account: str = field(default="", init=False)
    _started: float | None = field(default=None, init=False)
    # A commit never changes, so its files and its card are asked for once.
    _files: dict[str, dict[str, str]] = field(default_factory=dict, init=False)
    _cards: dict[str, bytes | None] = field(default_factory=dict, init=False)

    def patiently(self, step: Callable[[], T]) -> T:
        """Take a step that looks before it writes; again where it may work at the next try.

        Raises:
            NotPublishedOnHub: it does not work.
        """
        return Waiter(self.patience).run(step)

    def ask(self, step: Callable[[], T]) -> T:
        """Make one request; its errors are ours. To be called within ``patiently``."""
        session = get_session()
        if session.timeout == httpx2.Timeout(None):
            session.timeout = SECONDS
        self._started = self._started or time.monotonic()
        try:
            return translated(step, self.repo_id)
        except Transient as fault:
            if time.monotonic() - self._started > self.seconds:
                raise fault.error from None
            raise

    @property
    def account(self) -> str:
        """Return who we write as; asked once, for the Hub counts these questions strictly."""
        if not self._account:
            name = self.ask(lambda: self.api.whoami(cache=True)["name"])
            if not isinstance(name, str) or not name:
                raise NotPublishedOnHub(
                    "the Hub does not tell whose token this is",
                    where=self.repo_id,
                    hint="Give a token of the account that shall speak.",
                )
            self._account = name
        return self._account

    def head(self, revision: str) -> str:
        """Return the commit that a branch or pull request is now."""
        info = self.ask(lambda: self.api.model_info(self.repo_id, revision=revision))
        if info.sha is None or not COMMIT.fullmatch(info.sha):
            raise NotPublishedOnHub(
                "the answer is not what a Hub sends",
                where=self.repo_id,
                expected="a commit of 40 hex digits",
                hint="Check HF_ENDPOINT, and run the gate again.",
            )
        return info.sha

    def files(self, sha: str) -> dict[str, str]:
        """Return what every file of a commit holds: path -> digest of its content."""
        if sha not in self._files:
            self._files[sha] = self._tree(sha)
        return self._files[sha]

    def _tree(self, sha: str) -> dict[str, str]:
        def listed() -> dict[str, str]:
            tree = self.api.list_repo_tree(self.repo_id, recursive=True, revision=sha)
            return {
                entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id
                for entry in islice(tree, MOST_FILES + 1)
                if isinstance(entry, RepoFile)
            }

        found = self.ask(listed)
        if len(found) > MOST_FILES:
            raise NotPublishedOnHub(
                "the repository has too many files",
                where=self.repo_id,
                got=f"over {MOST_FILES}",
                hint="Keep the adapter in a repository of its own.",
            )
        return found

    def same_adapter(self, one: str, other: str) -> bool:
        """Tell whether two commits differ in the model card alone, if at all."""
        if one == other:
            return True
        first, second = self.files(one), self.files(other)
        return {**first, CARD: ""} == {**second, CARD: ""}

    def card(self, sha: str) -> bytes | None:
        """Return the model card of a commit; None where it has none."""
        if sha not in self._cards:
            self._cards[sha] = self._card(sha)
        return self._cards[sha]

    def _card(self, sha: str) -> bytes | None:
        found = self.ask(lambda: self.api.get_paths_info(self.repo_id, [CARD], revision=sha))
        entry = next((one for one in found if isinstance(one, RepoFile)), None)
        if entry is None:
            return None
        if entry.size > LARGEST_CARD:
            raise NotPublishedOnHub(
                "the model card is too large to be edited",
                where=f"{self.repo_id}: {CARD}",
                got=f"{entry.size} bytes",
                expected=f"at most {LARGEST_CARD}",
                hint="Shorten README.md, or publish without the model card.",
            )
        return self.ask(lambda: self._bytes(sha, entry.lfs.sha256 if entry.lfs else None))

    def _bytes(self, sha: str, sha256: str | None) -> bytes:
        # A new folder each time, so that no older file of the client's cache can stand in.
        with tempfile.TemporaryDirectory(prefix="safety-gate-") as folder:
            path = self.api.hf_hub_download(self.repo_id, CARD, revision=sha, local_dir=folder)
            data = Path(path).read_bytes()
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise ConnectionError("a card of another digest")
        return data

    def commit(self, draft: Draft) -> CommitInfo:
        """Make one commit, all or nothing.

        Returns:
            Where nothing would change, the client commits nothing and returns the head's oid.
        """
        return self.ask(
            lambda: self.api.create_commit(
                draft.repo_id,
                draft.operations(),
                commit_message=draft.title,
                commit_description=draft.description,
                revision=draft.revision,
                parent_commit=draft.parent,
                create_pr=draft.opens_pull_request,
            )
        )

    def own(self, *, pull_requests: bool) -> list[Discussion]:
        """Return the discussions, or pull requests, that we opened, newest first."""
        me = self.account

        def listed() -> Iterator[Discussion]:
            found = self.api.get_repo_discussions(
                self.repo_id,
                author=me,
                discussion_type="pull_request" if pull_requests else "discussion",
            )
            # The server is asked to filter, and not believed: only what we wrote may be edited.
            for one in islice(found, MOST_DISCUSSIONS):
                if one.author == me and one.is_pull_request == pull_requests:
                    yield one

        return self.ask(lambda: list(listed()))

    def details(self, number: int) -> DiscussionWithDetails:
        """Return a discussion with all its comments."""
        return self.ask(lambda: self.api.get_discussion_details(self.repo_id, number))

    def titled(self, title: str, revision: str) -> str:
        """Return the newest commit of a branch with this title; empty where there is none."""
        commits = self.ask(lambda: self.api.list_repo_commits(self.repo_id, revision=revision))
        return next((one.commit_id for one in commits if one.title == title), "")


def utf8(card: bytes, where: str) -> bytes:
    """Return a card; the Hub's client sends no other encoding than UTF-8."""
    try:
        card.decode()
    except UnicodeDecodeError:
        raise NotPublishedOnHub(
            "the model card is not UTF-8",
            where=where,
            hint="Save README.md as UTF-8, or publish without the model card.",
        ) from None
    return card
