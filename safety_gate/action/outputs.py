"""The action's outputs: one table, and their values for a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from safety_gate.action.task import Result
from safety_gate.publish.publication import Publication


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One output, as action.yml describes it."""

    name: str
    description: str


OUTPUTS: tuple[Output, ...] = (
    Output(
        name="verdict",
        description=(
            "passed, blocked, undecided, or nothing-to-judge where no adapter has changed; the"
            " gravest of all adapters."
        ),
    ),
    Output(
        name="score",
        description=(
            "Share of the alignment step that the adapter takes back (undone), of the worst"
            " adapter; empty where nothing could be scored."
        ),
    ),
    Output(name="report-path", description="The report as Markdown, relative to the workspace."),
    Output(name="json-path", description="The JSON of the run, relative to the workspace."),
    Output(
        name="sarif-path",
        description="The findings as SARIF, relative to the workspace; empty without sarif-file.",
    ),
    Output(
        name="repaired-path",
        description="Folders of repaired adapters, one a line; empty where there is none.",
    ),
    Output(
        name="repaired-url",
        description="Where repaired adapters were published, one a line; empty where nowhere.",
    ),
    Output(
        name="comment-url",
        description="The comment on the pull request; empty where there is none.",
    ),
    Output(
        name="predicate-path",
        description=(
            "Verification summary (slsa.dev/verification_summary/v1) for actions/attest,"
            " relative to the workspace; statement.intoto.json beside it has the subjects too."
        ),
    ),
    Output(
        name="adapter-sha256",
        description="Digests of the judged adapters, which waivers name, one a line.",
    ),
    Output(name="waived-count", description="How many findings were lifted by waivers."),
)


def verdict_outputs(publication: Publication) -> dict[str, str]:
    """Return the outputs that the reports alone decide."""
    reports = [judged.report for judged in publication.judged]
    undone = [report.total.drift.undone for report in reports if report.total]
    digests = [report.adapter.digest for report in reports if report.adapter]
    waived = sum(1 for report in reports for finding in report.findings if finding.waiver)
    return {
        "verdict": publication.word,
        "score": f"{max(undone):.6g}" if undone else "",
        "adapter-sha256": "\n".join(digests),
        "waived-count": str(waived),
    }


def path_outputs(paths: Mapping[str, str], results: Sequence[Result]) -> dict[str, str]:
    """Return the outputs that name files and addresses; all are set, if only to nothing.

    Args:
        paths: of the files that were written, by output.
        results: with what repairs have left.
    """
    return {
        "report-path": paths.get("report-path", ""),
        "json-path": paths.get("json-path", ""),
        "sarif-path": paths.get("sarif-path", ""),
        "predicate-path": paths.get("predicate-path", ""),
        "repaired-path": "\n".join(r.repaired_path for r in results if r.repaired_path),
        "repaired-url": "\n".join(r.repaired_url for r in results if r.repaired_url),
    }
