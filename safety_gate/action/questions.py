"""What the model is asked: files of the repository, read where they count.

A pull request that could change the questions could choose those that its adapter still refuses.
"""

from dataclasses import dataclass

from safety_gate.action.job import Job
from safety_gate.action.repository import Repository
from safety_gate.action.trusted import trusted_file
from safety_gate.errors import MissingFile

MOST = 2**20  # bytes of one file: some thousand questions; GitHub hands out no more at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """The bytes of the user's files; None: the built-in ones."""

    prompts: bytes | None = None
    openings: bytes | None = None


def read_questions(job: Job, repository: Repository | None) -> Questions:
    """Read the files that the inputs name.

    Raises:
        MissingFile: one is not there at the commit that has the say, or is too large.
        GateError: it cannot be known what stands there.
    """

    def read(name: str, path: str) -> bytes | None:
        if not path:
            return None
        found = trusted_file(path, job.event, job.runner, repository, most=MOST)
        if found.data is None or len(found.data) > MOST:
            raise MissingFile(
                f"the file of {name} is not where it counts, or too large",
                where=found.path,
                got=f"commit {found.commit[:12]}",
                expected=f"at most {MOST} bytes on the base branch, for a pull request",
                hint="Merge the file first, in a pull request of its own.",
            )
        return found.data

    return Questions(
        prompts=read("prompts", job.options.prompts),
        openings=read("openings", job.options.openings),
    )
