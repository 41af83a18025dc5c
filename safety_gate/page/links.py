"""Addresses of the page; built from checked parts only, so that each can stand in an attribute."""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from huggingface_hub.constants import ENDPOINT

from safety_gate.jobs.facts import COMMIT
from safety_gate.sources.hub_names import is_repo_id

_LINK: Final = re.compile(r"(?:https?:/)?/[A-Za-z0-9._~/?=&%+:#-]*")
OWNER: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")


@dataclass(frozen=True, slots=True)
class Link:
    """An address of ours, or one on the Hub."""

    text: str

    def __post_init__(self) -> None:
        """Refuse what could end the attribute that it stands in, or name another scheme."""
        if not _LINK.fullmatch(self.text) or self.text.startswith("//"):
            raise AssertionError(f"not a link of ours: {self.text[:200]!r}")


def owner_link(repo: str) -> Link:
    """Return the page of the owner of a repository."""
    return Link(f"/o/{_checked(repo).split('/')[0]}")


def repo_link(repo: str) -> Link:
    """Return the page of a repository."""
    return Link(f"/r/{_checked(repo)}")


def report_link(repo: str, sha: str) -> Link:
    """Return the page of the report about a commit: it stays."""
    if not COMMIT.fullmatch(sha):
        raise AssertionError(f"not a commit: {sha[:99]!r}")
    return Link(f"/r/{_checked(repo)}/{sha}")


def hub_link(repo: str, sha: str = "") -> Link:
    """Return a repository on the Hub, at a commit."""
    tree = f"/tree/{sha}" if COMMIT.fullmatch(sha) else ""
    return Link(f"{ENDPOINT}/{_checked(repo)}{tree}")


def list_link(path: str, **query: str | int) -> Link:
    """Return a list, with what it was asked for."""
    given = urlencode({key: value for key, value in query.items() if value})
    return Link(f"{path}?{given}" if given else path)


def _checked(repo: str) -> str:
    if not is_repo_id(repo):
        raise AssertionError(f"not a repository: {repo[:99]!r}")
    return repo
