"""A commit status: one line beside the commit, which a branch can require."""

from typing import Literal, TypeAlias

from github import Github
from github.CommitStatus import CommitStatus

from safety_gate.publish import limits
from safety_gate.publish.github import Patience, create_once, translated
from safety_gate.publish.publication import Publication, headline
from safety_gate.publish.told import Told

State: TypeAlias = Literal["success", "failure", "error"]


def state_of(publication: Publication) -> State:
    """Return the state; none is neutral, so a tolerated verdict is a success that says so."""
    if not publication.fails:
        return "success"
    return "error" if publication.word == "undecided" else "failure"


def context_of(publication: Publication) -> str:
    """Return the name under which a branch can require the status."""
    gate = publication.gate_id
    return gate if gate.startswith("safety-gate") else f"safety-gate/{gate}"


def publish_status(
    client: Github, repository: str, publication: Publication, *, patience: Patience | None = None
) -> Told:
    """Set the status of the commit; on a pull request that is its head, never the merge commit.

    Raises:
        NotPublished: GitHub did not take it.
    """
    commit = client.get_repo(repository).get_commit(publication.commit)

    def create() -> CommitStatus:
        return commit.create_status(
            state_of(publication),
            target_url=publication.run_url[: limits.ADDRESS],
            description=limits.clipped(headline(publication), limits.STATUS_DESCRIPTION),
            context=context_of(publication),
        )

    # Saying it twice is harmless: the latest status of a context is the one that counts.
    with translated("commit status"):
        create_once(create, lambda: None, patience=patience)
        return Told(channel="commit status", state="created", url=publication.run_url)
