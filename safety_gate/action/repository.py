"""What the action asks GitHub for: changed files, a file at a commit, pull requests of a commit."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from github import Github
from github.File import File
from github.GithubException import UnknownObjectException

from safety_gate.action.changes import Changes
from safety_gate.publish.github import Patience, connect, translated
from safety_gate.publish.publisher import Address

MOST_PULL_FILES = 3000  # GitHub lists no more for a pull request
MOST_COMPARED = 300  # nor for a comparison


@dataclass(frozen=True, slots=True)
class Repository:
    """The repository on GitHub, for reading."""

    client: Github
    name: str  # "owner/name"

    def pull_files(self, number: int) -> Changes | None:
        """Return what a pull request changes; None where GitHub lists not all.

        Raises:
            NotPublished: GitHub did not answer.
        """
        with translated("files of the pull request"):
            files = list(self.client.get_repo(self.name).get_pull(number).get_files())
            if len(files) >= MOST_PULL_FILES:
                return None
            return _changes(files)

    def compared_files(self, before: str, after: str) -> Changes | None:
        """Return what differs between two commits; None where GitHub cannot tell.

        Raises:
            NotPublished: GitHub did not answer.
        """
        with translated("comparison of the commits"):
            try:
                files = self.client.get_repo(self.name).compare(before, after).files
            except UnknownObjectException:  # a forced push: the old commit is gone
                return None
            if len(files) >= MOST_COMPARED:
                return None
            return _changes(files)

    def file(self, path: str, commit: str, *, most: int) -> bytes | None:
        """Return a regular file at a commit; None where there is none.

        Raises:
            NotPublished: GitHub did not answer, or does not show the commit, or the file is too
                large.
        """
        with translated(f"{path} on the base branch"):
            repo = self.client.get_repo(self.name)
            try:
                found = repo.get_contents(path, ref=commit)
            except UnknownObjectException:
                # A token that may not see the repository is told "not found" as well; only who
                # can list the top of the tree knows that the file is not there.
                repo.get_contents("", ref=commit)
                return None
            if isinstance(found, list) or found.type != "file":
                return None
            if found.encoding != "base64" or found.size > most:
                raise ValueError("too large to be sent in one piece")
            return found.decoded_content

    def pull_of(self, head: str, *, owner: str, branch: str) -> int | None:
        """Return the open pull request whose head is this commit; None unless there is just one.

        Args:
            head: the commit; whatever else is said of a pull request is a stranger's claim.
            owner: whose branch it is, for pull requests from forks.
            branch: its name there.

        Raises:
            NotPublished: GitHub did not answer.
        """
        with translated("pull requests of the commit"):
            repo = self.client.get_repo(self.name)
            pulls = list(repo.get_commit(head).get_pulls())
            if owner and branch:
                pulls += list(repo.get_pulls(state="open", head=f"{owner}:{branch}"))
            numbers = {
                pull.number for pull in pulls if pull.state == "open" and pull.head.sha == head
            }
        return numbers.pop() if len(numbers) == 1 else None


@contextmanager
def reading(address: Address, patience: Patience | None = None) -> Iterator[Repository]:
    """Open the repository for reading; an address that is none becomes NotPublished."""
    with translated("GITHUB_API_URL"):
        client = connect(address.token, api_url=address.api_url, patience=patience)
    try:
        yield Repository(client, address.repository)
    finally:
        client.close()


def _changes(files: Sequence[File]) -> Changes:
    """Return the changes; a renamed file is gone from its old place."""
    old = [file.previous_filename for file in files if file.status == "renamed"]
    removed = [file.filename for file in files if file.status == "removed"]
    return Changes(
        there=tuple(file.filename for file in files if file.status != "removed"),
        gone=tuple(removed + [path for path in old if path]),
    )
