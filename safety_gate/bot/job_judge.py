"""Judges each adapter in a Job of the Hub, and reads the report back.

A worker that dies leaves its Job running. Whoever leases the job next finds it by its labels and
waits for it, instead of paying for a second one.
"""

import json
import logging
import secrets
import time
from collections.abc import Callable
from typing import Final, TypeVar

from huggingface_hub import HfApi, JobInfo, JobStage

from safety_gate.action.report_reader import read_report
from safety_gate.bot.hub_eyes import asked
from safety_gate.bot.hub_judge import holds_adapter
from safety_gate.bot.job_frame import BadFrame, second, unframed
from safety_gate.bot.job_order import MARK, JobOrder
from safety_gate.errors import GateError
from safety_gate.policy.file import load_policy
from safety_gate.records import AdapterFact, Passed, Report
from safety_gate.worker.judging import Judged, Judgement, NotJudged, Work

RUNNING: Final = (JobStage.SCHEDULING, JobStage.RUNNING)
FOUND: Final = (*RUNNING, JobStage.COMPLETED)  # what is worth waiting for, or reading
POLL_S: Final = 10.0
SCHEDULING_S: Final = 1800.0  # that a Job may wait for its hardware
READINGS: Final = 3  # of a log that is not yet whole

T = TypeVar("T")

log = logging.getLogger(__name__)


class JobFailed(GateError):
    """A Job ended without a report."""

    rule = "job-failed"


class JobJudge:
    """Starts one Job for each adapter; the token that may start them stays here."""

    def __init__(self, order: JobOrder, *, api: HfApi | None = None, poll_s: float = POLL_S):
        """Judge by Jobs.

        Args:
            order: how they are started.
            api: the Hub's client with the token that may start Jobs; made here by default.
            poll_s: seconds between looks at a Job.

        Raises:
            BadPolicy: the policy cannot be followed.
        """
        self._order = order
        self._api = api or HfApi(token=order.token)
        self._poll_s = poll_s
        text = order.standard.policy
        self._policy = load_policy(text.data, text.origin).fact.sha256
        self._namespace = order.namespace
        self._spoilt: set[str] = set()  # Jobs whose report cannot be read

    @property
    def policy(self) -> str:
        """The sha256 of the policy file that decides."""
        return self._policy

    def judge(self, work: Work) -> Judgement:
        """Judge one commit.

        Raises:
            GateError: the Hub did not answer, or the Job gave no report; it is tried again.
        """
        if not holds_adapter(work):
            return NotJudged(reason="not-an-adapter")
        job = self._adopted(work) or self._started(work)
        extra = {"repo": work.repo, "sha": work.sha, "hub_job": job.id}
        log.info("waiting for a Job", extra=extra)
        ended = self._waited(job)
        try:
            return self._read(ended, work)
        except GateError:
            self._spoilt.add(job.id)
            raise

    def _ask(self, step: Callable[[], T], where: str) -> T:
        """Ask the Hub.

        Raises:
            GateError: it does not answer, or refuses.
        """
        found = asked(step, where)
        if found is None:
            raise JobFailed(
                "the Hub knows no such Job or account",
                where=where,
                hint="Check --namespace, and that the token may start Jobs.",
            )
        return found

    def _account(self) -> str:
        if not self._namespace:
            told = self._ask(self._api.whoami, "the token that starts Jobs")
            self._namespace = str(told["name"])
        return self._namespace

    def _adopted(self, work: Work) -> JobInfo | None:
        """Return a Job that was started for this commit before, by exactly our order."""
        labels = self._order.labels(work, self._policy)
        account = self._account()
        found = self._ask(
            lambda: list(self._api.list_jobs(labels=labels, status=list(FOUND), namespace=account)),
            work.repo,
        )
        return next((job for job in found if self._is_mine(job, work)), None)

    def _is_mine(self, job: JobInfo, work: Work) -> bool:
        """Tell whether a Job is what we would have started: anyone can copy a label."""
        image, environment = self._order.image, dict(job.environment or {})
        mark = str(environment.get(MARK, ""))
        return (
            job.id not in self._spoilt
            and (image == job.docker_image or image.endswith(f"/spaces/{job.space_id}"))
            and list(job.command or ()) == self._order.command(work)
            and not job.arguments
            and environment == self._order.environment(mark)
        )

    def _started(self, work: Work) -> JobInfo:
        order, account = self._order, self._account()
        return self._ask(
            lambda: self._api.run_job(
                image=order.image,
                command=order.command(work),
                env=order.environment(secrets.token_hex(16)),
                secrets=dict(order.secrets),
                flavor=order.flavor,
                timeout=order.timeout_s,
                labels=order.labels(work, self._policy),
                namespace=account,
            ),
            work.repo,
        )

    def _waited(self, job: JobInfo) -> JobInfo:
        """Return a Job at its end; one that takes too long is cancelled.

        Raises:
            JobFailed: it took too long.
        """
        ends = time.monotonic() + self._order.timeout_s + SCHEDULING_S
        account, seen = self._account(), job
        while seen.status is not None and seen.status.stage in RUNNING:
            if time.monotonic() > ends:
                self._ask(lambda: self._cancel(job.id, account), job.id)
                raise self._failed(seen, "it took too long, and was cancelled")
            time.sleep(self._poll_s)
            seen = self._ask(
                lambda: self._api.inspect_job(job_id=job.id, namespace=account), job.id
            )
        return seen

    def _cancel(self, job_id: str, account: str) -> bool:
        self._api.cancel_job(job_id=job_id, namespace=account)
        return True

    def _read(self, job: JobInfo, work: Work) -> Judged:
        """Return the reports in the log of a Job.

        Raises:
            GateError: there is none, or it is about something else.
        """
        stage = job.status.stage if job.status else "unknown"
        if stage != JobStage.COMPLETED:
            message = (job.status.message if job.status else None) or ""
            raise self._failed(job, f"{stage}: {message}"[:200])
        mark = str(dict(job.environment or {}).get(MARK, ""))
        report = self._report(job, mark)
        adapter = report.adapter if report else None
        if report is None or (adapter is None and isinstance(report.verdict, Passed)):
            raise self._failed(job, "a pass of nothing")
        if adapter is not None and not _is_about(adapter, work):
            raise self._failed(job, f"a report about {adapter.name[:99]}")
        repaired = self._report(job, second(mark)) if self._order.standard.repair else None
        return Judged(report=report, repaired=repaired)

    def _report(self, job: JobInfo, mark: str) -> Report | None:
        """Return the report with this mark; None where the Job says that there is none."""
        try:
            tree = json.loads(self._text(job, mark))
        except ValueError:
            raise self._failed(job, "a report that is no JSON") from None
        if tree is None:
            return None
        report = read_report(tree, where=f"Job {job.id}")
        if report.policy is None or report.policy.sha256 != self._policy:
            raise self._failed(job, "a report by another policy")
        return report

    def _text(self, job: JobInfo, mark: str) -> str:
        account = self._account()
        for reading in range(READINGS):
            lines = self._ask(
                lambda: list(
                    # To the end: without "follow" the client drops lines that are younger than
                    # the clock of the server that tells them.
                    self._api.fetch_job_logs(job_id=job.id, namespace=account, follow=True)
                ),
                job.id,
            )
            try:
                return unframed(lines, mark, where=f"Job {job.id}")
            except BadFrame:
                if reading == READINGS - 1:
                    raise
                time.sleep(self._poll_s)
        raise AssertionError("read no log")

    def _failed(self, job: JobInfo, got: str) -> JobFailed:
        return JobFailed(
            "a Job of the Hub gave no report",
            where=job.url,
            got=got,
            hint="It is tried again by itself; look into the log of the Job where it does not end.",
        )


def _is_about(adapter: AdapterFact, work: Work) -> bool:
    """Tell whether this is the adapter of a commit, or one in a folder of it."""
    mine = adapter.name == work.repo or adapter.name.startswith(f"{work.repo}/")
    return mine and adapter.revision == work.sha
