"""What a run tells the runner: choices, verdict, findings, and what became of publishing."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TextIO

from safety_gate.action.inputs import BadInput, Choice
from safety_gate.action.workflow_commands import Level, Log, Outputs, Summary
from safety_gate.errors import GateError
from safety_gate.publish.annotation import LEVELS, Annotation, annotations
from safety_gate.publish.body import summary_text
from safety_gate.publish.publication import Publication, headline
from safety_gate.publish.told import Published, Told
from safety_gate.report.inert import markdown_prose, plain_prose, shown

TITLE = "Safety Gate"
KEPT_FREE = 4  # annotations of each level that findings leave to what comes after them
SHORTEST_SUMMARY = 20_000  # bytes; even with less room left the text is made, and then refused


class Teller:
    """Log, outputs and job summary of one step."""

    def __init__(self, log: Log, outputs: Outputs, summary: Summary) -> None:
        """Tell by these three."""
        self.log = log
        self._outputs = outputs
        self._summary = summary

    @classmethod
    def of(cls, environment: Mapping[str, str], stream: TextIO) -> "Teller":
        """Find the runner's files in the environment."""

        def path(name: str) -> Path | None:
            return Path(environment[name]) if environment.get(name) else None

        return cls(
            Log(stream), Outputs(path("GITHUB_OUTPUT")), Summary(path("GITHUB_STEP_SUMMARY"))
        )

    def mask(self, *secrets: str) -> None:
        """Let the runner hide these."""
        for secret in secrets:
            self.log.mask(secret)

    def choices(self, choices: Mapping[str, Choice]) -> None:
        """Print every input's value and who chose it."""
        lines = [
            f"  {choice.name}: {choice.shown} ({choice.origin})" for choice in choices.values()
        ]
        self.log.say("\n".join(["Inputs:", *lines]))

    def outputs(self, values: Mapping[str, str]) -> None:
        """Set outputs."""
        for name, value in values.items():
            self._outputs.set(name, value)

    def announce(self, publication: Publication, *, policy: str) -> None:
        """Write the job summary, then the verdict and the gravest findings as annotations."""
        limit = max(SHORTEST_SUMMARY, self._summary.room)
        self._summary.add(summary_text(publication, limit=limit))
        self._annotate_verdict(publication)
        found = annotations(publication, policy=policy)
        for level in LEVELS:
            own = [annotation for annotation in found if annotation.level == level]
            self._annotate(own, tolerated=not publication.fails)

    def files_refused(self, refused: Iterable[GateError]) -> None:
        """Say which files could not be written."""
        for error in refused:
            message = f"{plain_prose(error.what)}: {in_one_line(error)}"
            self.log.annotate("warning", f"{TITLE} could not write a file", message)

    def published(self, published: Published) -> None:
        """Say what got through to GitHub, and what did not; the verdict stands either way."""
        for told in published:
            why = f": {plain_prose(told.why)}" if told.why else ""
            self.log.say(f"{told.channel}: {told.state}{why} {told.url}".rstrip())
        for told in published.failures:
            text = f"{plain_prose(told.why)}. The verdict stands. {plain_prose(told.hint)}"
            self.log.annotate("warning", f"{TITLE}: no {told.channel}", text)
            self._summary.add(_failure(told))

    def note(self, text: str) -> None:
        """Say one thing of our own that is no verdict."""
        self.log.annotate("notice", TITLE, plain_prose(text))
        self._summary.add(f"{markdown_prose(text)}\n")

    def refuse(self, error: GateError, status: int | None = None) -> int:
        """Say that nothing was judged, and so nothing has passed; return the exit status."""
        self.outputs({"verdict": "undecided"})
        self.log.annotate("error", f"{TITLE}: {plain_prose(error.what)}", in_one_line(error))
        kind = "Wrong usage" if isinstance(error, BadInput) else "Could not judge"
        self.log.say(f"{kind}: {error}\nNext: {error.hint}")
        return error.exit_code if status is None else status

    def _annotate_verdict(self, publication: Publication) -> None:
        level: Level = "error" if publication.fails else "notice"
        if not publication.fails and publication.word in ("blocked", "undecided"):
            level = "warning"
        message = f"{headline(publication)}. {plain_prose(publication.note)}"
        self.log.annotate(level, TITLE, message)

    def _annotate(self, found: list[Annotation], *, tolerated: bool) -> None:
        """Show findings of one level; the last says how many are left."""
        if not found:
            return
        level = _runner_level(found[0], tolerated=tolerated)
        room = max(0, self.log.room(level) - KEPT_FREE)
        for annotation in found[:room]:
            self.log.annotate(level, annotation.title, annotation.message, path=annotation.path)
        if left := len(found[room:]):
            text = f"And {left} more of this kind, all in the job summary."
            self.log.annotate(level, TITLE, text)


def _runner_level(annotation: Annotation, *, tolerated: bool) -> Level:
    """Return the runner's word; a job that does not fail shows no errors."""
    match annotation.level:
        case "failure":
            return "warning" if tolerated else "error"
        case "warning":
            return "warning"
        case _:
            return "notice"


def _failure(told: Told) -> str:
    why, hint = markdown_prose(told.why), markdown_prose(told.hint)
    return f"**Not published:** {told.channel}: {why}. The verdict stands. {hint}"


def in_one_line(error: GateError) -> str:
    """Return where, what was got and what to do, without a stranger's signs."""
    got = f", got {shown(error.got)}" if error.got else ""
    expected = f", expected {plain_prose(error.expected)}" if error.expected else ""
    return f"{shown(error.where)}{got}{expected}. {plain_prose(error.hint)}"
