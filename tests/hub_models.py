"""The tiny trained models as repositories of a loopback Hub."""

from pathlib import Path
from typing import Final

import pytest
from huggingface_hub import HfApi

from safety_gate.demo import examples_folder
from safety_gate.sources.hub_names import HubPlace
from tests.loopback_hub import LoopbackHub

BASE: Final = HubPlace(repo_id="safety-gate/tiny-base", revision=None)
ALIGNED: Final = HubPlace(repo_id="safety-gate/tiny-aligned", revision=None)
OWNER: Final = "acme"
BOT: Final = "gate-bot"


def files(name: str) -> dict[str, bytes | str | None]:
    """Return the files of a folder of examples/tiny."""
    folder: Path = examples_folder() / name
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def add_pair(hub: LoopbackHub) -> None:
    """Put base and aligned on the Hub."""
    for place, name in ((BASE, "base"), (ALIGNED, "aligned")):
        hub.add_repo(place.repo_id, files(name))


def push(hub: LoopbackHub, repo: str, name: str) -> str:
    """Push an adapter of examples/tiny as its owner would; return the commit."""
    if not any(key == ("model", repo) for key in hub.world.repos):
        hub.add_repo(repo)
    return hub.commit(repo, files(name), author=OWNER).id


def use(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this Hub the one that commands in this process talk to."""
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    real = HfApi.__init__  # reads the variable when it is imported, which was long ago

    def here(self: HfApi, endpoint: str | None = None, **more: object) -> None:
        real(self, endpoint=endpoint or hub.endpoint, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(HfApi, "__init__", here)
