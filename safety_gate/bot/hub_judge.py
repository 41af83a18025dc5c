"""Judges a commit on the Hub by the gate, which reads it in place at the pinned commit."""

import datetime
import logging
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from safety_gate import gate
from safety_gate.asking import Ask
from safety_gate.bot.hub_eyes import is_config
from safety_gate.errors import GateError
from safety_gate.places import Where
from safety_gate.policy.file import PolicyText, load_policy
from safety_gate.records import Blocked, Finding, Place, Report, with_gravest_first
from safety_gate.repair.plan import Auto, Order
from safety_gate.repairing import repair_and_judge
from safety_gate.report.several import gravest
from safety_gate.sources.hub import HubSource
from safety_gate.sources.hub_client import HubClient
from safety_gate.sources.hub_names import HubPlace
from safety_gate.worker.judging import Judged, Judgement, NotJudged, Work

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standard:
    """What every adapter of a worker is held against."""

    policy: PolicyText  # bytes at hand: a file that changes while we run changes no verdict
    base: Where | None = None  # None: looked up among the known pairs, by the adapter's claim
    aligned: Where | None = None
    cache: Path | None = None  # folder for bytes of checkpoints on the Hub
    threads: int = 2
    ask: Ask = Ask()
    repair: bool = False  # look for the smallest repair of what is blocked, and judge it
    safety: Path | HubPlace | None = None  # a safety adapter, for the repairs that need one

    def request_for(self, place: HubPlace) -> gate.Request:
        """Return what the gate is asked."""
        return gate.Request(
            adapter=place,
            base=self.base,
            aligned=self.aligned,
            cache=self.cache,
            policy=self.policy,
            workers=self.threads,
            today=datetime.datetime.now(tz=datetime.UTC).date(),
            ask=self.ask,
        )


class HubJudge:
    """Reads at the pinned commit only, with a token that can only read."""

    def __init__(self, standard: Standard) -> None:
        """Judge by this standard.

        Raises:
            BadPolicy: the policy cannot be followed.
        """
        self._standard = standard
        self._policy = load_policy(standard.policy.data, standard.policy.origin).fact.sha256

    @property
    def policy(self) -> str:
        """The sha256 of the policy file that decides."""
        return self._policy

    def judge(self, work: Work) -> Judgement:
        """Judge one commit.

        Raises:
            GateError: the Hub did not answer.
        """
        if not holds_adapter(work):
            return NotJudged(reason="not-an-adapter")
        return judged_and_repaired(self._standard, HubPlace(repo_id=work.repo, revision=work.sha))


def judged_and_repaired(standard: Standard, place: HubPlace) -> Judged:
    """Judge a commit, and look for a repair of what is blocked where the standard says so."""
    report = judged(standard, place)
    if not standard.repair or not isinstance(report.verdict, Blocked):
        return Judged(report=report)
    return Judged(report=report, repaired=_repaired(standard, place))


def _repaired(standard: Standard, place: HubPlace) -> Report | None:
    """Return the report of the smallest repair that the policy passes; None without one."""
    with tempfile.TemporaryDirectory(prefix="safety-gate-") as folder:
        order = Order(
            choice=Auto(),
            output=Path(folder) / "repaired",
            safety=standard.safety,
            only_if_needed=True,
        )
        try:
            found = repair_and_judge(standard.request_for(place), order)
        except GateError as error:  # what stops a repair does not hide the verdict
            log.info("no repair", extra={"repo": place.repo_id, "what": error.what})
            return None
    after = found.after if found.ending == "repaired" else None
    if after is None or after.adapter is None:
        return None
    name = f"{place.repo_id}, repaired"  # else the name of a folder that is gone
    return replace(after, adapter=replace(after.adapter, name=name))


def judged(standard: Standard, place: HubPlace) -> Report:
    """Judge what a repository holds; of several adapters, the report of the gravest verdict."""
    reports = gate.judge_all(standard.request_for(place), [place])
    if len(reports) == 1:
        return reports[0]
    verdict = gravest(reports)
    report = next(one for one in reports if one.verdict == verdict)
    note = Finding(
        rule="several-adapters",
        severity="info",
        place=Place(kind="adapter", name=report.adapter.name if report.adapter else str(place)),
        what=f"the repository holds {len(reports)} adapters; this is the gravest report of them",
        hint=f"`safety-gate check {place}` shows all of them.",
    )
    return replace(report, findings=with_gravest_first((*report.findings, note)))


def holds_adapter(work: Work) -> bool:
    """Tell whether a commit has the config of an adapter, at its root or below.

    Raises:
        GateError: the Hub did not answer.
    """
    client = HubClient()
    source = HubSource(work.repo, work.sha, client=client, whole=True)
    try:
        return any(is_config(entry.path) for entry in source.files())
    finally:
        source.close()
        client.close()
