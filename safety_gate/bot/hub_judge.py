"""Judges a commit on the Hub: a private copy of its files, then the gate."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from safety_gate.records import Report
from safety_gate.sources.hub import HubSource
from safety_gate.sources.hub_client import HubClient
from safety_gate.sources.snapshot import snapshot
from safety_gate.worker.judging import Judged, Judgement, NotJudged, Work

CONFIG: Final = "adapter_config.json"  # what makes a repository an adapter, for PEFT and for us

JudgeFolder: TypeAlias = Callable[[Path], Report]


class HubJudge:
    """Reads at the pinned commit only, with a token that can only read."""

    def __init__(self, client: HubClient, judge_folder: JudgeFolder, *, policy: str) -> None:
        """Judge with this gate.

        Args:
            client: reads the Hub.
            judge_folder: the gate, with its base, aligned and policy.
            policy: sha256 of the policy file that it decides by.
        """
        self._client = client
        self._judge_folder = judge_folder
        self._policy = policy

    @property
    def policy(self) -> str:
        """The sha256 of the policy file that decides."""
        return self._policy

    def judge(self, work: Work) -> Judgement:
        """Judge one commit.

        Raises:
            GateError: the Hub did not answer.
        """
        source = HubSource(work.repo, work.sha, client=self._client, whole=True)
        try:
            if all(entry.path.rsplit("/", 1)[-1] != CONFIG for entry in source.files()):
                return NotJudged(reason="not-an-adapter")
            with tempfile.TemporaryDirectory(prefix="safety-gate-") as private:
                copy, _, _ = snapshot(source, Path(private) / "adapter")
                try:
                    return Judged(report=self._judge_folder(Path(private) / "adapter"))
                finally:
                    copy.close()
        finally:
            source.close()
