"""What the tests of publishing on the Hub share: an adapter repository, and who writes to it."""

import hashlib
from dataclasses import replace
from pathlib import Path

from huggingface_hub import HfApi

from safety_gate.publish.hub import connect
from safety_gate.publish.hub_desk import Desk, Target
from safety_gate.publish.hub_parcel import Variant
from safety_gate.records import FileFact, Report
from safety_gate.sources.hub_patience import Patience
from tests.loopback_hub import LoopbackHub
from tests.loopback_hub.talk import Discussion
from tests.sample_reports import blocked, passed

REPO = "acme/lora"
OWNER, BOT, STRANGER = "acme", "gate-bot", "mallory"
QUICK = Patience(attempts=5, first_wait=0.001, longest_backoff=0.01, longest_asked=1.0, added=0.0)
CARD = b"""---
license: mit   # a comment, and odd   spacing
tags: ['a', "b"]
---
# My adapter

Words of its owner.
"""
FILES = {
    "README.md": CARD,
    "adapter_config.json": b'{"peft_type": "LORA"}\n',
    "adapter_model.safetensors": b"old weights" * 9,
    "training_args.bin": b"a pickle",
}
REPAIRED = {
    "README.md": b"---\nlibrary_name: peft\n---\n# Adapter repaired by Safety Gate\n",
    "adapter_config.json": b'{"peft_type": "LORA"}\n',
    "adapter_model.safetensors": b"new weights" * 9,
    "safety_gate_manifest.json": b'{"format": "safety-gate/repair/v1"}\n',
}


def adapter_repo(hub: LoopbackHub, files: dict[str, bytes] | None = None) -> Target:
    """Make a repository; what was judged is its head."""
    repo = hub.add_repo(REPO, dict(FILES if files is None else files))
    return Target(repo_id=REPO, sha=repo.head.id)


def writer(hub: LoopbackHub, user: str = OWNER) -> HfApi:
    """Return a client of an account that may write to its own repositories."""
    return connect(hub.token(user, "write"), endpoint=hub.endpoint)


def desk_of(hub: LoopbackHub, user: str = BOT) -> Desk:
    return Desk(api=writer(hub, user), repo_id=REPO, patience=QUICK)


def card_of(hub: LoopbackHub, ref: str = "main") -> bytes:
    return hub.repo(REPO).at(ref).files["README.md"].data


def threads(hub: LoopbackHub) -> list[Discussion]:
    return [one for one in hub.repo(REPO).discussions if not one.is_pull_request]


def texts(discussion: Discussion) -> list[str]:
    return [event["data"]["latest"]["raw"] for event in discussion.comments]


def variant(tmp_path: Path, files: dict[str, bytes] | None = None) -> Variant:
    """Write a repaired adapter, and the report that its files passed."""
    folder = tmp_path / "repaired"
    folder.mkdir()
    contents = REPAIRED if files is None else files
    for path, data in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return Variant(
        folder=folder,
        before=blocked(),
        after=judged(contents),
        method="projection of 12 modules",
        removed=("training_args.bin",),
    )


def judged(contents: dict[str, bytes]) -> Report:
    report = passed()
    assert report.adapter is not None
    facts = tuple(
        FileFact(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for path, data in contents.items()
    )
    return replace(report, adapter=replace(report.adapter, name=REPO, files=facts))
