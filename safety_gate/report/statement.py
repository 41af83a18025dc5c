"""The verdict as an in-toto statement: a verification summary (SLSA VSA), ready to be signed.

in-toto Statement v1, predicate https://slsa.dev/verification_summary/v1 (read in the text of SLSA
1.2). A VSA knows two results; an undecided verdict is FAILED, and a field of our own, named by a
URI as the specification asks of extensions, says what the verdict was.
"""

import datetime
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from safety_gate import __version__
from safety_gate.errors import BadScore
from safety_gate.records import Passed, Report

Json: TypeAlias = dict[str, Any]

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/verification_summary/v1"
VERIFIER = "urn:safety-gate"  # a workflow should name itself instead
PASSED_LEVEL = "SAFETY_GATE_PASSED"  # custom levels must not begin with SLSA_
FAILED_LEVEL = "FAILED"
VERDICTS = "urn:safety-gate:verdicts"  # our extension: subject folder -> verdict and findings
SLSA_VERSION = "1.2"
MOST_SUBJECTS = 1024  # of one attestation that actions/attest makes
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:\S+")


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedReport:
    """The report of one adapter, and what its files are called in the subjects."""

    report: Report
    prefix: str = ""  # folder of the adapter; its files become "prefix/name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a report does not know: who verified, when, what, by which policy address."""

    resource_uri: str  # where a consumer would fetch what was judged
    policy_uri: str
    verified_at: datetime.datetime  # with a time zone
    verifier: str = VERIFIER

    def __post_init__(self) -> None:
        """Refuse what is no URI, and a time that means another moment elsewhere."""
        for address in (self.resource_uri, self.policy_uri, self.verifier):
            if not _ADDRESS.fullmatch(address):
                raise AssertionError(f"not a URI: {address!r}")
        if self.verified_at.tzinfo is None:
            raise AssertionError("a time without a time zone")


def to_statement(reports: Sequence[StatedReport], circumstances: Circumstances) -> str:
    """Return the whole statement: subjects and predicate.

    Raises:
        BadScore: no file has a digest, or there are too many for one attestation.
    """
    subjects = list(_subjects(reports))
    if not 1 <= len(subjects) <= MOST_SUBJECTS:
        raise BadScore(
            "a statement cannot be made of these files",
            where="in-toto statement",
            got=f"{len(subjects)} files with a digest",
            expected=f"1 to {MOST_SUBJECTS}",
            hint="Judge fewer adapters in one run; the verdict itself stands.",
        )
    return _text(
        {
            "_type": STATEMENT_TYPE,
            "subject": subjects,
            "predicateType": PREDICATE_TYPE,
            "predicate": _predicate(reports, circumstances),
        }
    )


def to_predicate(reports: Sequence[StatedReport], circumstances: Circumstances) -> str:
    """Return the predicate alone, as actions/attest takes it; that action adds the subjects."""
    return _text(_predicate(reports, circumstances))


def _subjects(reports: Sequence[StatedReport]) -> Iterator[Json]:
    """Yield every adapter file that was read whole."""
    for stated in reports:
        for file in stated.report.adapter.files if stated.report.adapter else ():
            if file.sha256 is not None:
                name = f"{stated.prefix}/{file.path}" if stated.prefix else file.path
                yield {"name": name, "digest": {"sha256": file.sha256}}


def _predicate(reports: Sequence[StatedReport], circumstances: Circumstances) -> Json:
    # A statement speaks of all its subjects together: one that did not pass fails them all.
    passed = bool(reports) and all(isinstance(r.report.verdict, Passed) for r in reports)
    utc = circumstances.verified_at.astimezone(datetime.UTC)
    versions = {"safety-gate": __version__}
    for stated in reports:
        versions |= dict(stated.report.versions)
    return {
        "verifier": {"id": circumstances.verifier, "version": dict(sorted(versions.items()))},
        "timeVerified": utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "resourceUri": circumstances.resource_uri,
        "policy": _policy(reports, circumstances.policy_uri),
        "inputAttestations": [],
        "verificationResult": "PASSED" if passed else "FAILED",
        "verifiedLevels": [PASSED_LEVEL if passed else FAILED_LEVEL],
        "slsaVersion": SLSA_VERSION,
        VERDICTS: [_verdict(stated) for stated in reports],
    }


def _policy(reports: Sequence[StatedReport], uri: str) -> Json:
    digests = {r.report.policy.sha256 for r in reports if r.report.policy}
    return {"uri": uri} | ({"digest": {"sha256": digests.pop()}} if len(digests) == 1 else {})


def _verdict(stated: StatedReport) -> Json:
    """Say what a consumer of the statement should know beyond PASSED and FAILED."""
    report = stated.report
    return {
        "adapter": stated.prefix,
        "digest": {"sha256": report.adapter.digest} if report.adapter else None,
        "verdict": report.verdict.word,
        "evidence": report.evidence,
        "waived": sorted({f.waiver for f in report.findings if f.waiver}),
    }


def _text(value: Json) -> str:
    return json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False) + "\n"
