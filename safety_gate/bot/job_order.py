"""What a Job of the Hub is started with: image, command, environment, labels."""

import base64
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from safety_gate.asking import Ask
from safety_gate.bot.hub_judge import Standard
from safety_gate.errors import GateError
from safety_gate.places import Where
from safety_gate.policy.file import PolicyText
from safety_gate.probe.datasets import Dataset
from safety_gate.sources.hub_names import HubPlace
from safety_gate.worker.judging import Work

PROGRAM: Final = "/opt/safety-gate/bin/safety-gate"  # in our image (Dockerfile)
POLICY: Final = "SAFETY_GATE_POLICY_PACKED"
MARK: Final = "SAFETY_GATE_REPORT_MARK"
LABEL: Final = "safety-gate-job"
OURS: Final = {"safety-gate": "judge"}
MOST_POLICY: Final = 512 * 1024  # bytes unpacked; a policy file has at most half of that


class BadOrder(GateError):
    """Something that a Job elsewhere cannot be given."""

    rule = "job-order-bad"
    exit_code = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOrder:
    """How Jobs are started for every adapter."""

    standard: Standard
    image: str  # the same version as ours
    flavor: str
    namespace: str  # who pays; empty: the user of the token
    timeout_s: int
    token: str = field(repr=False)  # may start Jobs; the Jobs never get it
    secrets: Mapping[str, str] = field(repr=False)  # passed on: the token that reads, ...

    def __post_init__(self) -> None:
        """Refuse at once what no Job could do.

        Raises:
            BadOrder: a file of this machine is named.
        """
        ask = self.standard.ask
        prompts = None if isinstance(ask.prompts, Dataset) else ask.prompts
        files = (prompts, ask.openings, ask.task, ask.baselines)
        standard = self.standard
        places = (standard.base, standard.aligned, standard.safety, ask.guard)
        mine = [str(file) for file in files if file is not None]
        mine += [str(place) for place in places if place and not isinstance(place, HubPlace)]
        if mine:
            raise BadOrder(
                "a Job of the Hub cannot read files of this machine",
                where=mine[0],
                expected="repositories on the Hub",
                hint="Put it on the Hub, or judge with --executor here.",
            )

    def command(self, work: Work) -> list[str]:
        """Return the command line of one Job; the commit is pinned."""
        standard = self.standard
        words = [PROGRAM, "hub-job", "--adapter", f"{work.repo}@{work.sha}"]
        words += _named("--base", standard.base) + _named("--aligned", standard.aligned)
        if standard.repair:
            words += ["--repair", *_named("--safety", standard.safety)]
        return [*words, *_asking(standard.ask)]

    def environment(self, mark: str) -> dict[str, str]:
        """Return what a Job finds in its environment, secrets apart."""
        return {POLICY: packed(self.standard.policy), MARK: mark}

    def labels(self, work: Work, policy: str) -> dict[str, str]:
        """Return by what a Job is found again after the worker that started it has died."""
        return {**OURS, LABEL: key_of(work, policy)}


def key_of(work: Work, policy: str) -> str:
    """Return one word for a commit and the policy that judges it."""
    return hashlib.sha256(f"{work.repo}\n{work.sha}\n{policy}".encode()).hexdigest()[:40]


def packed(policy: PolicyText) -> str:
    """Return a policy as one word; its bytes, and so its digest, stay the same."""
    origin = policy.origin.encode()
    return base64.b64encode(zlib.compress(origin + b"\0" + policy.data, 9)).decode()


def unpacked(word: str) -> PolicyText:
    """Return the policy that a Job was given.

    Raises:
        BadOrder: it is none.
    """
    try:
        raw = zlib.decompressobj().decompress(base64.b64decode(word, validate=True), MOST_POLICY)
        origin, zero, data = raw.partition(b"\0")
        if not zero:
            raise ValueError
        return PolicyText(data=data, origin=origin.decode())
    except (zlib.error, ValueError):
        raise BadOrder(
            "this is not a policy that was packed for a Job",
            where=POLICY,
            hint="Use the same version of Safety Gate here and in the Job's image.",
        ) from None


def _named(option: str, place: Where | None) -> list[str]:
    return [option, f"hf://{place}"] if place is not None else []


def _asking(ask: Ask) -> list[str]:
    words = ["--ask", ask.mode, "--device", ask.device, *_named("--guard", ask.guard)]
    if isinstance(ask.prompts, Dataset):
        words += ["--prompts", ask.prompts.text]
    if ask.judge_url:
        words += ["--judge-url", ask.judge_url, "--judge-model", ask.judge_model]
    return words + (["--show-answers"] if ask.keep_text else [])
