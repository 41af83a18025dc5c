"""The files that a run leaves: Markdown, JSON, SARIF, and the statement to be signed."""

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from safety_gate.action.changed import is_hub
from safety_gate.action.files import write_file
from safety_gate.action.job import Job
from safety_gate.action.run_record import to_run_json
from safety_gate.action.runner import Runner
from safety_gate.errors import GateError
from safety_gate.publish.body import summary_text
from safety_gate.publish.publication import Publication
from safety_gate.report.location import address_of
from safety_gate.report.sarif import SarifSource, to_sarif
from safety_gate.report.statement import (
    VERIFIER,
    Circumstances,
    StatedReport,
    to_predicate,
    to_statement,
)
from safety_gate.sources.hub_names import SCHEME

FOLDER = "safety-gate-report"
REPORT = f"{FOLDER}/report.md"
STATEMENT = f"{FOLDER}/statement.intoto.json"
PREDICATE = f"{FOLDER}/predicate.json"
HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What lies in the workspace now."""

    paths: Mapping[str, str]  # by output, or "statement"; relative to the workspace
    refused: tuple[GateError, ...]  # files that could not be written


def sarif_of(publication: Publication, policy: str) -> str:
    """Return the findings as SARIF."""
    sources = [
        SarifSource(report=judged.report, folder=judged.name) for judged in publication.judged
    ]
    return to_sarif(sources, gate_id=publication.gate_id, policy=policy)


def write_reports(publication: Publication, job: Job, now: datetime.datetime) -> Written:
    """Write every file that can be written; one that cannot does not stop the others."""
    paths: dict[str, str] = {}
    refused: list[GateError] = []

    def keep(output: str, path: str, text: str) -> None:
        try:
            paths[output] = write_file(job.runner.workspace, path, text)
        except GateError as error:
            refused.append(error)

    keep("report-path", REPORT, summary_text(publication, limit=10**9))
    keep("json-path", job.options.json_file, to_run_json(publication, job.runner.event_name))
    if sarif_file := job.options.sarif_file:
        keep("sarif-path", sarif_file, sarif_of(publication, job.policy_path))
    try:
        for output, path, text in _statements(publication, job, now):
            keep(output, path, text)
    except GateError as error:  # no file, or too many, for one attestation
        refused.append(error)
    return Written(paths=paths, refused=tuple(refused))


def _statements(
    publication: Publication, job: Job, now: datetime.datetime
) -> Iterator[tuple[str, str, str]]:
    """Yield the predicate and the whole statement, where there is something to state."""
    stated = [
        StatedReport(report=judged.report, prefix=_prefix(judged.name))
        for judged in publication.judged
    ]
    runner, policy = job.runner, job.policy
    # What was not read whole has no digest to vouch for.
    if policy is None or not stated or any(one.report.adapter is None for one in stated):
        return
    verifier = f"{runner.server_url}/{runner.action_repository}" if runner.action_repository else ""
    circumstances = Circumstances(
        resource_uri=_resource(publication, runner),
        policy_uri=policy.uri,
        verified_at=now,
        verifier=f"{verifier}@{runner.action_ref}" if verifier else VERIFIER,
    )
    yield "statement", STATEMENT, to_statement(stated, circumstances)
    yield "predicate-path", PREDICATE, to_predicate(stated, circumstances)


def _prefix(name: str) -> str:
    """Return the folder of an adapter; "" for the top of the repository."""
    return "" if name == "." else name


def _resource(publication: Publication, runner: Runner) -> str:
    """Return where a consumer finds what was judged."""
    tree = f"{runner.server_url}/{runner.repository}/tree/{publication.commit}"
    if len(publication.judged) != 1:
        return tree
    name = publication.judged[0].name
    if is_hub(name):
        repo, _, _ = name.removeprefix(SCHEME).partition("@")
        adapter = publication.judged[0].report.adapter
        return f"{HUB}/{repo}/tree/{address_of(adapter.revision if adapter else 'main')}"
    return f"{tree}/{address_of(name)}" if name != "." else tree
