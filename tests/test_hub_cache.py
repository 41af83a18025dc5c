"""The cache on disk: right bytes, no network the second time, damage and full disks survived."""

import os
from pathlib import Path
from typing import Any

import pytest

from safety_gate.sources import hub_cache
from safety_gate.sources.hub import HubLimits, HubSource
from safety_gate.sources.hub_ahead import AheadLimits
from safety_gate.sources.hub_cache import BLOCK
from tests.loopback_hub import LoopbackHub
from tests.loopback_hub.quick import quick_client

pytest_plugins = ("tests.loopback_hub.fixtures",)

REPO = "acme/model"
BIG = os.urandom(2 * BLOCK + 12_345)
LIMITS = HubLimits(small_bytes=1000, ahead=AheadLimits(connections=2, buffer_bytes=2 * BLOCK))
SPANS = ((0, 8), (BLOCK - 10, BLOCK + 10), (300_000, 1_300_000), (2 * BLOCK, len(BIG)))


@pytest.fixture
def full(hub: LoopbackHub) -> LoopbackHub:
    hub.add_repo(REPO, {"config.json": "{}", "model.safetensors": BIG})
    return hub


def read_all(hub: LoopbackHub, cache: Path, revision: str | None = None) -> HubSource:
    source = HubSource(REPO, revision, client=quick_client(hub), limits=LIMITS, cache=cache)
    data = hub.repo(REPO).at(source.revision).files["model.safetensors"].data
    for start, stop in SPANS:
        room = bytearray(stop - start)
        source.read_into("model.safetensors", start, memoryview(room))
        assert room == data[start:stop]
    source.read_into("config.json", 0, memoryview(bytearray(2)))
    source.close()
    return source


def blocks(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


def test_the_second_time_nothing_comes_over_the_network(full: LoopbackHub, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert read_all(full, cache).received == len(BIG) + 2
    assert len(blocks(cache)) == 4
    full.requests.clear()
    assert read_all(full, cache).received == 0
    assert {request.route for request in full.requests()} == {"info", "tree"}


def test_another_commit_has_other_blocks(full: LoopbackHub, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = read_all(full, cache).revision
    full.commit(REPO, {"model.safetensors": BIG[::-1]})
    assert read_all(full, cache).received == len(BIG) + 2
    assert read_all(full, cache, first).received == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "empty", "swap"])
def test_damage_is_noticed(full: LoopbackHub, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    read_all(full, cache)
    kept = {block: block.read_bytes() for block in blocks(cache)}
    for block, data in kept.items():
        middle = len(data) // 2
        changed = {
            "flip": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "cut": data[:-1],
            "grow": data + b"x",
            "empty": b"",
            "swap": next(other for path, other in kept.items() if path != block),
        }
        block.write_bytes(changed[damage])
    assert read_all(full, cache).received == len(BIG) + 2
    assert read_all(full, cache).received == 0


def test_a_link_in_the_cache_is_not_followed(full: LoopbackHub, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    read_all(full, cache)
    block = blocks(cache)[0]
    block.rename(tmp_path / "elsewhere")
    block.symlink_to(tmp_path / "elsewhere")
    assert read_all(full, cache).received > 0


@pytest.mark.parametrize("step", ["open", "write", "replace"])
def test_a_full_disk_ends_the_keeping_and_not_the_reading(
    full: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    cache = tmp_path / "cache"
    left = [2]  # blocks that still fit

    def no_room(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    real = hub_cache.HubCache._store

    def store(self: Any, *args: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            with pytest.MonkeyPatch.context() as patch:
                owner = {"open": "builtins.open", "write": "os.write"}.get(step)
                if owner:
                    patch.setattr(owner, no_room)
                else:
                    patch.setattr(Path, "replace", no_room)
                real(self, *args)
        else:
            real(self, *args)

    monkeypatch.setattr(hub_cache.HubCache, "_store", store)
    assert read_all(full, cache).received > len(BIG)
    assert len(blocks(cache)) == 2
    assert not [path for path in blocks(cache) if path.name.startswith(".")]


def test_a_cache_that_cannot_be_made(full: LoopbackHub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    read_all(full, tmp_path / "file" / "cache")


def test_the_cache_is_private(full: LoopbackHub, tmp_path: Path) -> None:
    read_all(full, tmp_path / "cache")
    folders = [path for path in (tmp_path / "cache").rglob("*") if path.is_dir()]
    assert folders
    assert all(path.stat().st_mode & 0o077 == 0 for path in folders if len(path.name) == 64)


def test_without_a_cache_nothing_is_written(
    full: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Any, *_: Any, **__: Any) -> None:
        raise AssertionError(f"opened {path}")

    source = HubSource(REPO, client=quick_client(full), limits=LIMITS)
    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(os, "open", refuse)
    source.read_into("model.safetensors", 300_000, memoryview(bytearray(1000)))
    source.verify()
    source.close()
