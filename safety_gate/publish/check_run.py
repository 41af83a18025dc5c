"""A check run: the verdict beside the commit, with findings beside the files."""

from collections.abc import Sequence
from itertools import islice
from typing import Any, Literal, TypeAlias

from github import Github
from github.CheckRun import CheckRun

from safety_gate.publish import limits
from safety_gate.publish.annotation import Annotation, annotations
from safety_gate.publish.body import summary_text
from safety_gate.publish.github import Patience, create_once, translated
from safety_gate.publish.publication import Publication, headline
from safety_gate.publish.told import Told

Conclusion: TypeAlias = Literal["success", "failure", "neutral"]

MOST_ANNOTATIONS = 200  # four requests; nobody reads more beside a diff


def conclusion_of(publication: Publication) -> Conclusion:
    """Return how the check run ends.

    "success" is kept for a verdict that passed. A required check lets "neutral" through as well:
    it stands only where the workflow tolerates the verdict, and where there was no adapter.
    """
    if publication.fails:
        return "failure"
    return "success" if publication.word == "passed" else "neutral"


def publish_check_run(
    client: Github,
    repository: str,
    publication: Publication,
    *,
    external_id: str,
    policy: str = "",
    patience: Patience | None = None,
) -> Told:
    """Create a finished check run on the commit.

    Args:
        client: the way to GitHub.
        repository: "owner/name".
        publication: the reports.
        external_id: of this run of the job; finds the check run again after a lost answer.
        policy: path of the policy file in the repository, where it has one.
        patience: how long to wait.

    Raises:
        NotPublished: GitHub did not take it.
    """
    repo = client.get_repo(repository)
    name, output = f"Safety Gate ({publication.gate_id})", _output(publication)
    chunks = _chunks(annotations(publication, policy=policy)[:MOST_ANNOTATIONS])

    def create() -> CheckRun:
        return repo.create_check_run(
            name,
            publication.commit,
            external_id=external_id,
            status="completed",
            conclusion=conclusion_of(publication),
            output=output | {"annotations": chunks[0]},
        )

    def find() -> CheckRun | None:
        runs = repo.get_commit(publication.commit).get_check_runs(check_name=name)
        return next((run for run in runs if run.external_id == external_id), None)

    with translated("check run"):
        run = create_once(create, find, patience=patience)
        for chunk in chunks[1:]:
            run.edit(output=output | {"annotations": chunk})
        return Told(channel="check run", state="created", url=run.html_url or "")


def _output(publication: Publication) -> dict[str, Any]:
    text = summary_text(publication, limit=limits.CHECK_TEXT)
    return {"title": limits.clipped(headline(publication), limits.CHECK_TITLE), "summary": text}


def _chunks(found: Sequence[Annotation]) -> list[list[dict[str, str | int]]]:
    """Return the annotations as GitHub wants them, at most 50 in each request."""
    entries = iter([_entry(annotation) for annotation in found])
    chunks = []
    while chunk := list(islice(entries, limits.ANNOTATIONS_PER_CALL)):
        chunks.append(chunk)
    return chunks or [[]]


def _entry(annotation: Annotation) -> dict[str, str | int]:
    return {
        "path": annotation.path,
        "start_line": 1,  # weights have no lines, and GitHub wants one
        "end_line": 1,
        "annotation_level": annotation.level,
        "title": annotation.title,
        "message": annotation.message,
    }
