"""Judges ahead: the next adapters of an audit go through the weights of their pair together."""

from collections.abc import Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Final

from safety_gate import gate
from safety_gate.bot.audit_targets import Target
from safety_gate.bot.hub_judge import HubJudge, Standard, holds_adapter, judged
from safety_gate.records import Report
from safety_gate.sources.hub_names import HubPlace
from safety_gate.worker.judging import Judged, Judgement, NotJudged, Work

AT_ONCE: Final = 8  # adapters of one pass; each adds its factors to the memory, not the pair's


def _key(standard: Standard, policy: str) -> str:
    ask = standard.ask
    files = [
        sha256(path.read_bytes()).hexdigest() if isinstance(path, Path) else repr(path)
        for path in (ask.prompts, ask.openings, ask.task)
    ]
    own = [policy, repr(standard.base), repr(standard.aligned), repr(ask), *files]
    return sha256("\n".join(own).encode()).hexdigest()


class AheadJudge:
    """Judges what it is asked for, and the targets after it that belong to the same pair.

    Every report is that of the adapter alone (gate.judge_all). What was judged ahead waits in
    memory for its own job; it is lost with the process, and then judged again.
    """

    def __init__(self, standard: Standard, targets: Sequence[Target]) -> None:
        """Judge targets in this order.

        Raises:
            BadPolicy: the policy cannot be followed.
        """
        self._standard = standard
        self._policy = _key(standard, HubJudge(standard).policy)
        self._order = tuple(targets)
        self._at = {(target.repo, target.sha): n for n, target in enumerate(self._order)}
        self._ahead: dict[tuple[str, str], Report] = {}
        self._done: set[tuple[str, str]] = set()  # given out, or settled before we began

    @property
    def policy(self) -> str:
        """What verdicts are kept under: sha256 over all that decides, beside the adapter.

        Not the policy alone: what was judged on other checkpoints, or without asking the model,
        is no verdict of this audit.
        """
        return self._policy

    def settle(self, target: Target) -> None:
        """Hear that a target has come to its end, so that nobody judges it ahead."""
        self._done.add((target.repo, target.sha))

    def judge(self, work: Work) -> Judgement:
        """Judge one commit.

        Raises:
            GateError: the Hub did not answer.
        """
        if not holds_adapter(work):
            return NotJudged(reason="not-an-adapter")
        key = (work.repo, work.sha)
        if key not in self._ahead:
            self._ahead |= self._together(work)
        self._done.add(key)
        return Judged(report=self._ahead.pop(key))

    def _together(self, work: Work) -> dict[tuple[str, str], Report]:
        """Judge a commit, and what follows it."""
        keys = [(work.repo, work.sha), *self._following(work)]
        places = [HubPlace(repo_id=repo, revision=sha) for repo, sha in keys]
        if len(places) == 1:
            return {keys[0]: judged(self._standard, places[0])}
        reports = gate.judge_all(self._standard.request_for(places[0]), places)
        if len(reports) != len(keys):  # one of them holds several: each is judged by itself
            return {keys[0]: judged(self._standard, places[0])}
        return dict(zip(keys, reports, strict=True))

    def _following(self, work: Work) -> list[tuple[str, str]]:
        """Return the next targets of the same pair that nobody has judged."""
        start = self._at.get((work.repo, work.sha))
        if start is None:  # the head has moved since the audit began
            return []
        pair = self._order[start].pair
        keys = (
            (target.repo, target.sha) for target in self._order[start + 1 :] if target.pair == pair
        )
        fresh = (key for key in keys if key not in self._done and key not in self._ahead)
        return list(islice(dict.fromkeys(fresh), AT_ONCE - 1))
