"""The JSON of one run: every report, and what it was judged for. One workflow hands it to another.

    {"schema": "safety-gate/run/v1", "gate_id", "event", "commit", "verdict", "exit_code", "note",
     "tolerated": [], "adapters": [{"name", "report": {...}}]}

It is written by the scoring job, which on a pull request from a fork is a stranger's, and read by
the publishing job, which can write. So it is read as strictly as anything from the Internet.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from safety_gate import strict_json
from safety_gate.action.report_reader import BadReport, read_report
from safety_gate.publish.publication import COMMIT, GATE_ID, Judged, Publication
from safety_gate.report.json_report import to_json

FORMAT = "safety-gate/run/v1"
MAX_BYTES = 16 * 1024 * 1024  # 50 reports of an adapter with 500 modules have about 12 MB
MAX_DEPTH = 12  # a report needs 6
MAX_NODES = 1_000_000
MOST_ADAPTERS = 50  # as many as one run judges (changed.py)


class _Adapter(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    report: dict[str, Any]


class RunRecord(BaseModel):
    """The wire form; unknown keys are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    schema_: Annotated[Literal["safety-gate/run/v1"], Field(alias="schema")]
    gate_id: Annotated[str, StringConstraints(pattern=f"^{GATE_ID.pattern}$")]
    event: Annotated[str, StringConstraints(pattern="^[a-z_]{1,40}$")]
    commit: Annotated[str, StringConstraints(pattern=f"^{COMMIT.pattern}$")]
    verdict: Literal["passed", "blocked", "undecided", "nothing-to-judge"]
    exit_code: Literal[0, 1, 3]
    note: Annotated[str, StringConstraints(max_length=1000)]
    tolerated: Annotated[list[Literal["blocked", "undecided"]], Field(max_length=2)]
    adapters: Annotated[list[_Adapter], Field(max_length=MOST_ADAPTERS + 1)]


def exit_code_of(publication: Publication) -> int:
    """Return the exit status of the job."""
    verdict = publication.verdict
    return verdict.exit_code if verdict is not None and publication.fails else 0


def to_run_json(publication: Publication, event: str) -> str:
    """Return the JSON of a run; equal runs give equal bytes."""
    record = {
        "schema": FORMAT,
        "gate_id": publication.gate_id,
        "event": event,
        "commit": publication.commit,
        "verdict": publication.word,
        "exit_code": exit_code_of(publication),
        "note": publication.note,
        "tolerated": sorted(publication.tolerated),
        "adapters": [
            {"name": judged.name, "report": json.loads(to_json(judged.report))}
            for judged in publication.judged
        ],
    }
    text = json.dumps(record, indent=2, ensure_ascii=True, allow_nan=False)
    # As in json_report.py: whoever prints this file in a job must not steer the runner.
    return text.replace("##[", "#\\u0023[").replace("\x7f", "\\u007f") + "\n"


def read_run(data: bytes, *, where: str) -> tuple[RunRecord, tuple[Judged, ...]]:
    """Return a run that was written by ``to_run_json``.

    Raises:
        BadReport: it is anything else.
    """
    tree = strict_json.parse(
        data,
        where=where,
        error=BadReport,
        max_bytes=MAX_BYTES,
        max_depth=MAX_DEPTH,
        max_nodes=MAX_NODES,
    )
    try:
        record = RunRecord.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise BadReport(
            "this is not the JSON of a run",
            where=where,
            got=f"{'.'.join(map(str, first['loc']))[:200]}: {first['msg']}",
            expected=FORMAT,
            hint="Use the same version of Safety Gate in both workflows.",
        ) from error
    judged = tuple(
        Judged(name=one.name, report=read_report(one.report, where=f"{where}, adapter {number}"))
        for number, one in enumerate(record.adapters)
    )
    return record, judged
