"""What an audit judges: the adapters of an owner, or those of a list, in the order of their pairs.

Adapters of one pair go one after the other, so that its bytes are fetched once for all of them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import HfApi

from safety_gate.bot.hub_eyes import adapters_of
from safety_gate.choosing import claimed
from safety_gate.errors import GateError, SourceError
from safety_gate.jobs.facts import COMMIT
from safety_gate.sources.hub import HubSource
from safety_gate.sources.hub_client import HubClient
from safety_gate.sources.hub_names import SCHEME, HubPlace, check_repo_id, check_revision
from safety_gate.worker.judging import Eyes

MAIN: Final = "refs/heads/main"
PINNED: Final = "refs/audit/"  # and the commit: asked for by its name, whatever the heads are
MOST_LINES: Final = 100_000


class BadList(SourceError):
    """The list of adapters cannot be followed."""

    rule = "audit-list-bad"
    exit_code = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One commit to judge."""

    repo: str
    ref: str
    sha: str
    pair: str = ""  # what its config claims to be trained on; a stranger's text, only compared


class StillEyes:
    """Looks at the Hub; a commit that was asked for by name stays the head of its own ref."""

    def __init__(self, eyes: Eyes) -> None:
        """Look through these eyes else."""
        self._eyes = eyes

    def head(self, repo: str, ref: str) -> str | None:
        """Return the commit of a ref."""
        if ref.startswith(PINNED):
            return ref.removeprefix(PINNED)
        return self._eyes.head(repo, ref)

    def heads(self, repo: str) -> Mapping[str, str]:
        """Return the commit of every branch and pull request."""
        return self._eyes.heads(repo)

    def is_our_commit(self, repo: str, sha: str) -> bool:
        """Tell whether we made a commit."""
        return self._eyes.is_our_commit(repo, sha)

    def watched(self) -> Iterable[str]:
        """Return nothing: an audit does not sweep."""
        return ()


def of_owner(api: HfApi, owner: str) -> list[Target]:
    """Return the heads of all repositories of an owner that hold an adapter.

    Raises:
        SourceError: the Hub did not answer, or knows no such owner.
    """
    check_repo_id(f"{owner}/x")
    return [Target(repo=repo, ref=MAIN, sha=sha) for repo, sha in adapters_of(api, owner)]


def read_list(path: Path) -> list[HubPlace]:
    """Return the places of a list: org/name or org/name@revision on each line; # begins a remark.

    Raises:
        BadList: a line is none of these; the message names it.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadList(
            "the list cannot be read",
            where=str(path),
            got=type(error).__name__,
            hint="Give a text file with org/name on each line.",
        ) from None
    lines = text.splitlines()
    if len(lines) > MOST_LINES:  # what is cut off would be called judged
        raise BadList(
            "the list is too long",
            where=str(path),
            got=f"{len(lines)} lines",
            expected=f"at most {MOST_LINES}",
            hint="Split it, and audit the parts one after the other.",
        )
    found: dict[HubPlace, None] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].strip()
        if words:
            found[_place(words, f"{path}, line {number}")] = None
    if not found:
        raise BadList("the list is empty", where=str(path), hint="Write org/name on each line.")
    return list(found)


def _place(words: str, where: str) -> HubPlace:
    repo, at, revision = words.removeprefix(SCHEME).partition("@")
    try:
        check_repo_id(repo)
        if at:
            check_revision(revision)
    except SourceError as error:
        raise BadList(
            error.what, where=where, got=words[:200], expected=error.expected, hint=error.hint
        ) from None
    return HubPlace(repo_id=repo, revision=revision if at else None)


def of_places(places: Sequence[HubPlace], eyes: Eyes) -> tuple[list[Target], list[HubPlace]]:
    """Return the commits that places name, and the places that name none.

    Raises:
        GateError: the Hub did not answer.
    """
    found, missing = [], []
    for place in places:
        target = _target(place, eyes)
        if target is None:
            missing.append(place)
        else:
            found.append(target)
    return found, missing


def _target(place: HubPlace, eyes: Eyes) -> Target | None:
    repo, wanted = place.repo_id, place.revision or "main"
    heads = eyes.heads(repo)
    if COMMIT.fullmatch(wanted):
        ref = next((ref for ref, sha in heads.items() if sha == wanted), f"{PINNED}{wanted}")
        return Target(repo=repo, ref=ref, sha=wanted) if heads else None
    for ref in (wanted, f"refs/heads/{wanted}"):
        if ref in heads:
            return Target(repo=repo, ref=ref, sha=heads[ref])
    return None


def by_pair(targets: Sequence[Target]) -> list[Target]:
    """Return targets with those of one pair together; a config that cannot be read comes last."""
    client = HubClient()
    try:
        known = [_with_pair(target, client) for target in targets]
    finally:
        client.close()
    order = {pair: number for number, pair in enumerate(_pairs(known))}
    return sorted(known, key=lambda target: (order[target.pair], target.repo, target.ref))


def _pairs(targets: Iterable[Target]) -> Iterator[str]:
    yield from sorted({target.pair for target in targets if target.pair}, key=str.casefold)
    yield ""


def _with_pair(target: Target, client: HubClient) -> Target:
    try:
        source = HubSource(target.repo, target.sha, client=client, whole=True)
        try:
            pair = claimed(source)
        finally:
            source.close()
    except GateError:  # judging will say what is wrong with it
        pair = ""
    return Target(repo=target.repo, ref=target.ref, sha=target.sha, pair=pair)
