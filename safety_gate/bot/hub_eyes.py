"""Looks at the Hub through its own client, with a token that can only read."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

import httpx2
from huggingface_hub import HfApi, get_session

from safety_gate.errors import GateError
from safety_gate.publish.hub_desk import MARK
from safety_gate.sources.hub_errors import (
    FOREIGN,
    HubDisabled,
    HubRepoMissing,
    HubRevisionMissing,
    translate,
)

T = TypeVar("T")

CONFIG: Final = "adapter_config.json"
CONNECT_S: Final = 10.0
READ_S: Final = 30.0
GONE: Final = (HubRepoMissing, HubRevisionMissing, HubDisabled)


def _bound_waits() -> None:
    """Give the client's requests an end: by default they wait for ever."""
    session = get_session()
    if session.timeout == httpx2.Timeout(None):
        session.timeout = httpx2.Timeout(READ_S, connect=CONNECT_S)


class HubEyes:
    """Heads, titles and lists, as the Hub tells them now."""

    def __init__(
        self, api: HfApi, *, account: str = "", watch: Iterable[str] = (), mark: str = MARK
    ) -> None:
        """Look through this client.

        Args:
            api: with a token that can read, or none.
            account: the user that our publisher writes as; empty where nothing is published.
            watch: owners, and repositories as "owner/name", to sweep.
            mark: how titles of our own commits end.
        """
        self._api = api
        self._account = account
        self._watch = tuple(watch)
        self._mark = mark

    def head(self, repo: str, ref: str) -> str | None:
        """Return the commit of a ref; None where the ref or the repository is gone."""
        return self.heads(repo).get(ref)

    def heads(self, repo: str) -> Mapping[str, str]:
        """Return the commit of every branch and pull request; empty where the repo is gone."""
        refs = asked(lambda: self._api.list_repo_refs(repo, include_pull_requests=True), repo)
        if refs is None:
            return {}
        moving = [*refs.branches, *(refs.pull_requests or ())]
        return {one.ref: one.target_commit for one in moving}

    def is_our_commit(self, repo: str, sha: str) -> bool:
        """Tell whether our own account made this commit, with our marker in its title."""
        if not self._account:
            return False
        history = asked(lambda: self._api.list_repo_commits(repo, revision=sha), repo)
        if not history or history[0].commit_id != sha:
            return False
        newest = history[0]
        return newest.authors == [self._account] and newest.title.endswith(self._mark)

    def watched(self) -> Iterable[str]:
        """Yield the repositories to sweep; those of an owner as the Hub lists them."""
        for name in self._watch:
            if "/" in name:
                yield name
            else:
                yield from self._of_owner(name)

    def _of_owner(self, owner: str) -> list[str]:
        return [repo for repo, _ in adapters_of(self._api, owner)]


def adapters_of(api: HfApi, owner: str) -> list[tuple[str, str]]:
    """Return the repositories of an owner that hold an adapter on main, and their heads.

    By their files, not by the tag "peft": whoever leaves the tag out does not escape.

    Raises:
        GateError: the Hub did not answer.
    """
    listed = asked(lambda: list(api.list_models(author=owner, full=True)), owner)
    return [
        (model.id, model.sha)
        for model in listed or ()
        if model.sha and any(is_config(file.rfilename) for file in model.siblings or ())
    ]


def is_config(path: str) -> bool:
    """Tell whether a file is what makes a repository an adapter, for PEFT and for us."""
    return path.rsplit("/", 1)[-1] == CONFIG


def asked(step: Callable[[], T], where: str) -> T | None:
    """Ask the Hub; None where the thing is gone, GateError where the Hub does not tell."""
    try:
        _bound_waits()
        return step()
    except GateError:
        raise
    except FOREIGN as error:
        ours = translate(error, where)
        if isinstance(ours, GONE):
            return None
        raise ours from None
