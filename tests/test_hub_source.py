"""HubSource against the loopback Hub: pinning, listing, reading, digests, budgets."""

import hashlib
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from safety_gate.errors import ChangedWhileRead, MissingFile, SourceError, UnsafePath
from safety_gate.sources.hub import BUDGET, HEAD, SMALL, HubLimits, HubSource
from safety_gate.sources.hub_ahead import AheadLimits
from safety_gate.sources.hub_digests import Digest
from safety_gate.sources.hub_errors import (
    HubError,
    HubOffline,
    HubRevisionMissing,
    HubTooLarge,
    HubWrongBytes,
)
from safety_gate.sources.hub_names import BadLocation
from safety_gate.sources.hub_plan import Span
from safety_gate.sources.snapshot import snapshot
from safety_gate.sources.source import FileEntry, Source
from tests.loopback_hub import Fault, LoopbackHub
from tests.loopback_hub.history import Storage
from tests.loopback_hub.quick import quick_client

pytest_plugins = ("tests.loopback_hub.fixtures",)

REPO = "acme/model"
BIG = random.Random(0).randbytes(SMALL + 3 * 2**20 + 17)  # noqa: S311 - a large file, read by ranges
LIMITS = HubLimits(ahead=AheadLimits(connections=3, buffer_bytes=3 * 2**20, piece_bytes=2**20))


@contextmanager
def opened(
    hub: LoopbackHub,
    revision: str | None = None,
    *,
    limits: HubLimits = LIMITS,
    cache: Path | None = None,
    whole: bool = False,
) -> Iterator[HubSource]:
    client = quick_client(hub)
    source = HubSource(REPO, revision, client=client, limits=limits, cache=cache, whole=whole)
    try:
        yield source
    finally:
        source.close()


def read(source: Source, path: str, start: int, stop: int) -> bytes:
    room = bytearray(stop - start)
    source.read_into(path, start, memoryview(room))
    return bytes(room)


def test_the_source_protocol(hub: LoopbackHub) -> None:
    repo = hub.add_repo(REPO, {"config.json": "{}", "sub/b c.txt": "é", "a": b""})
    with opened(hub) as source:
        as_source: Source = source
        assert as_source.name == REPO
        assert as_source.revision == repo.head.id
        assert as_source.files() == (
            FileEntry(path=".gitattributes", size=25),
            FileEntry(path="a", size=0),
            FileEntry(path="config.json", size=2),
            FileEntry(path="sub/b c.txt", size=2),
        )
        assert read(source, "sub/b c.txt", 0, 2) == "é".encode()
        assert read(source, "a", 0, 0) == b""
        as_source.verify()


@pytest.mark.parametrize("resolve_cache", [True, False])
@pytest.mark.parametrize("storage", ["regular", "lfs", "xet"])
def test_every_kind_of_storage(hub: LoopbackHub, storage: Storage, resolve_cache: bool) -> None:
    data = b"small and stored in some way"
    hub.set_resolve_cache(resolve_cache)
    hub.add_repo(REPO, {"model.safetensors": data}, storage=storage)
    with opened(hub) as source:
        assert read(source, "model.safetensors", 0, len(data)) == data
        assert read(source, "model.safetensors", 6, 9) == data[6:9]
        source.verify()
    sides = {request.side for request in hub.requests(method="GET") if request.route != "info"}
    assert ("cdn" in sides) == (storage != "regular")


@pytest.mark.parametrize("storage", ["lfs", "xet"])
def test_a_large_file_is_read_by_ranges(hub: LoopbackHub, storage: Storage) -> None:
    hub.add_repo(REPO, {"model.safetensors": BIG}, storage=storage)
    with opened(hub) as source:
        assert read(source, "model.safetensors", 0, 8) == BIG[:8]
        assert read(source, "model.safetensors", 0, 5000) == BIG[:5000]
        assert read(source, "model.safetensors", 7_000_001, 7_400_000) == BIG[7_000_001:7_400_000]
        assert read(source, "model.safetensors", len(BIG) - 9, len(BIG)) == BIG[-9:]
        assert source.received == HEAD + 399_999 + 9
    heads = hub.requests("resolve", method="HEAD")
    assert len(heads) == 1
    assert all(request.headers["range"] for request in hub.requests("cdn"))
    assert len(hub.requests("cdn")) == 3


def test_small_reads_in_a_row_become_large_ones(hub: LoopbackHub) -> None:
    hub.add_repo(REPO, {"model.safetensors": BIG})
    first, last, step = 1000, 12_000_000, 100_000
    with opened(hub) as source:
        source.plan([Span(path="model.safetensors", start=first, stop=last)])
        got = b"".join(
            read(source, "model.safetensors", start, min(start + step, last))
            for start in range(first, last, step)
        )
        assert got == BIG[first:last]
        # The first read takes the head; the plan's bytes come once, and nothing besides.
        assert source.received <= last - first + HEAD
    assert len(hub.requests("cdn")) <= 3 + last // LIMITS.ahead.piece_bytes


def test_several_threads_read_at_once(hub: LoopbackHub) -> None:
    hub.add_repo(REPO, {"model.safetensors": BIG, "small.json": "x" * 5000})
    step = 300_000
    with opened(hub) as source:

        def work(seed: int) -> None:
            chance = random.Random(seed)  # noqa: S311
            at = chance.randrange(len(BIG))
            for _ in range(12):
                stop = min(at + step, len(BIG))
                assert read(source, "model.safetensors", at, stop) == BIG[at:stop]
                assert read(source, "small.json", 7, 4000) == b"x" * 3993
                at = stop if stop < len(BIG) else chance.randrange(len(BIG))

        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(work, seed) for seed in range(8)]:
                future.result()
    assert len(hub.requests("resolve", method="HEAD")) == 2
    assert len(hub.requests("resolve-cache", method="GET")) == 1


def test_a_branch_that_moves_does_not_move_the_bytes(hub: LoopbackHub) -> None:
    repo = hub.add_repo(REPO, {"config.json": "old", "model.safetensors": BIG})
    sha = repo.head.id
    with opened(hub, "main") as source:
        assert read(source, "config.json", 0, 3) == b"old"
        hub.commit(REPO, {"config.json": "newer", "model.safetensors": b"short"})
        assert source.revision == sha
        assert read(source, "model.safetensors", 11_000_000, 11_000_009) == BIG[11000000:11000009]
        assert source.files()[1].size == 3
        source.verify()
    with opened(hub, "main") as source:
        assert read(source, "config.json", 0, 5) == b"newer"
    with opened(hub, sha) as source:
        assert read(source, "config.json", 0, 3) == b"old"
    reads = hub.requests("resolve")
    assert reads
    assert all(sha in request.path or repo.head.id in request.path for request in reads)


def test_every_read_names_the_commit(hub: LoopbackHub) -> None:
    hub.add_repo(REPO, {"config.json": "{}"})
    with opened(hub) as source:
        read(source, "config.json", 0, 2)
        source.verify()
        info, *others = hub.requests(side="hub")
        assert info.path.endswith("/revision/main")
        assert others
        assert all(source.revision in request.path for request in others)


@pytest.mark.parametrize("revision", ["refs/pr/1", "v1", "dev/branch"])
def test_other_revisions(hub: LoopbackHub, revision: str) -> None:
    repo = hub.add_repo(REPO, {"config.json": "{}"})
    repo.refs["refs/heads/dev/branch"] = repo.refs["refs/tags/v1"] = repo.head.id
    changes = {"config.json": hub.world.content("config.json", b"[]")}
    hub.world.pull_request(repo, changes, title="t", author="someone")
    with opened(hub, revision) as source:
        expected = b"[]" if revision == "refs/pr/1" else b"{}"
        assert read(source, "config.json", 0, 2) == expected
        assert source.revision == repo.at(revision).id


def test_a_renamed_repository_is_read_under_its_new_name(hub: LoopbackHub) -> None:
    hub.add_repo("acme/new-name", {"config.json": "{}"})
    hub.add_repo(REPO).renamed_to = "acme/new-name"
    with opened(hub) as source:
        assert source.name == REPO
        assert source.pinned.repo_id == "acme/new-name"
        assert read(source, "config.json", 0, 2) == b"{}"


def test_a_tree_of_many_pages(hub: LoopbackHub) -> None:
    hub.add_repo(REPO, {f"part-{i}.txt": str(i) for i in range(25)})
    hub.set_page_size(10)
    with opened(hub) as source:
        assert len(source.files()) == 26
    assert len(hub.requests("tree")) == 3


def test_too_many_files(hub: LoopbackHub) -> None:
    hub.add_repo(REPO, {f"part-{i}.txt": str(i) for i in range(25)})
    with pytest.raises(HubTooLarge), opened(hub, limits=HubLimits(files=20)):
        pass


@pytest.mark.parametrize("path", ["../x", "a/../b", "C:x", "a\\b", "/x", "a\nb", "NUL", "a//b"])
def test_a_path_that_leads_outside_is_refused(hub: LoopbackHub, path: str) -> None:
    hub.add_repo(REPO, {path: "x"})
    with pytest.raises(UnsafePath), opened(hub):
        pass


def test_what_is_not_there(hub: LoopbackHub) -> None:
    hub.add_repo(REPO, {"config.json": "{}"})
    with opened(hub) as source:
        with pytest.raises(MissingFile):
            read(source, "nothing.json", 0, 1)
        for start, stop in ((0, 3), (3, 4), (2, 3)):
            with pytest.raises(SourceError):
                read(source, "config.json", start, stop)
    with pytest.raises(HubRevisionMissing), opened(hub, "no-such-branch"):
        pass
    with pytest.raises(HubRevisionMissing), opened(hub, "0" * 40):
        pass
    with pytest.raises(BadLocation):
        HubSource("acme/../x", client=quick_client(hub))


def test_offline_means_no_request(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_repo(REPO, {"config.json": "{}", "model.safetensors": BIG})
    with opened(hub) as source:
        read(source, "model.safetensors", 0, 8)
        hub.requests.clear()
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(HubOffline):
            read(source, "model.safetensors", 9_000_000, 9_000_001)
        with pytest.raises(HubOffline):
            source.verify()
    with pytest.raises(HubOffline), opened(hub):
        pass
    assert hub.requests() == []


def test_the_endpoint_of_the_environment(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_repo(REPO, {"config.json": "{}"})
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint + "/")
    from safety_gate.sources.hub_client import HubClient

    source = HubSource(REPO, client=HubClient(token=False))
    assert read(source, "config.json", 0, 2) == b"{}"
    source.close()


def test_the_digests_of_the_tree(hub: LoopbackHub) -> None:
    hub.add_repo(REPO, {"config.json": "{}", "x.safetensors": b"weights"})
    with opened(hub) as source:
        digests = source.expected_digests()
        # printf '{}' | git hash-object --stdin
        oid = "9e26dfeeb6e641a33dae4961196235bdb965b21b"
        assert digests["config.json"] == Digest(kind="git-sha1", hex=oid)
        sha256 = hashlib.sha256(b"weights").hexdigest()
        assert digests["x.safetensors"] == Digest(kind="sha256", hex=sha256)


@pytest.mark.parametrize("path", ["config.json", "x.safetensors"])
def test_a_small_file_with_other_bytes_is_refused(hub: LoopbackHub, path: str) -> None:
    hub.add_repo(REPO, {"config.json": "{}", "x.safetensors": b"weights"})
    route = "cdn" if path.endswith("safetensors") else "resolve-cache"
    hub.faults.add(Fault(route=route, method="GET", corrupt=True))
    with opened(hub) as source:
        with pytest.raises(HubWrongBytes):
            read(source, path, 0, 1)
        assert read(source, path, 0, 1) in (b"{", b"w")  # the fault is gone, and nothing was kept


def test_a_snapshot_of_an_adapter(hub: LoopbackHub, tmp_path: Path) -> None:
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": BIG, "README.md": b"hi"}
    repo = hub.add_repo(REPO, files)
    with opened(hub, whole=True) as source:
        copy, facts, _ = snapshot(source, tmp_path / "copy")
        assert copy.revision == repo.head.id
        assert {fact.path: fact.sha256 for fact in facts} == {
            path: content.sha256 for path, content in repo.head.files.items()
        }
        copy.close()


@pytest.mark.parametrize("nth", [1, 3, 5])
def test_a_snapshot_with_one_wrong_bit_is_refused(
    hub: LoopbackHub, tmp_path: Path, nth: int
) -> None:
    hub.add_repo(REPO, {"adapter_model.safetensors": BIG})
    hub.faults.add(Fault(route="cdn", nth=nth, corrupt=True))
    with opened(hub, whole=True) as source, pytest.raises(HubWrongBytes):
        snapshot(source, tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_not_read_whole_is_not_vouched_for(hub: LoopbackHub) -> None:
    hub.add_repo(REPO, {"adapter_model.safetensors": BIG})
    with opened(hub, whole=True) as source:
        read(source, "adapter_model.safetensors", 0, 1000)
        with pytest.raises(ChangedWhileRead):
            source.verify()


def test_verify_asks_the_hub_again(hub: LoopbackHub) -> None:
    repo = hub.add_repo(REPO, {"config.json": "{}", "README.md": "x"})
    with opened(hub) as source:
        read(source, "config.json", 0, 1)
        source.verify()
        commit = repo.commits[source.revision]
        other = {**commit.files, "config.json": hub.world.content("config.json", b"[]")}
        repo.commits[commit.id] = replace(commit, files=other)
        with pytest.raises(ChangedWhileRead):
            source.verify()
        repo.commits[commit.id] = commit
        source.verify()
        del repo.commits[source.revision]
        with pytest.raises(HubRevisionMissing):
            source.verify()


def test_a_plan_counts_and_is_held_against_the_budget(hub: LoopbackHub) -> None:
    hub.add_repo(REPO, {"model.safetensors": BIG})
    spans = [Span(path="model.safetensors", start=s, stop=s + 1_000_000) for s in (0, 3_000_000)]
    with opened(hub, limits=HubLimits(bytes=1_999_999)) as source:
        hub.requests.clear()
        with pytest.raises(HubTooLarge) as caught:
            source.plan(spans)
        assert "2000000" in str(caught.value)
        assert hub.requests() == []
    with opened(hub) as source:
        fact = source.plan([*spans, spans[0]])
        assert (fact.bytes, fact.spans, fact.files) == (2_000_000, 2, 1)
        with pytest.raises(SourceError):
            source.plan([Span(path="model.safetensors", start=0, stop=len(BIG) + 1)])
        with pytest.raises(MissingFile):
            source.plan([Span(path="other.safetensors", start=0, stop=1)])


def test_reading_beyond_the_budget_stops(hub: LoopbackHub) -> None:
    hub.add_repo(REPO, {"model.safetensors": BIG})
    with opened(hub, limits=HubLimits(bytes=200_000)) as source:
        read(source, "model.safetensors", 1_000_000, 1_500_000)
        with pytest.raises(HubTooLarge):
            read(source, "model.safetensors", 5_000_000, 5_500_000)


def test_the_budget_of_the_environment(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safety_gate.sources.hub.GB", 10**6)  # a file of gigabytes takes too long
    hub.add_repo(REPO, {"model.safetensors": BIG})
    for text, refused in (("2", True), ("3", False)):
        monkeypatch.setenv(BUDGET, text)
        source = HubSource(REPO, client=quick_client(hub))
        with pytest.raises(HubTooLarge) if refused else nullcontext() as caught:
            source.plan([Span(path="model.safetensors", start=0, stop=2_000_001)])
        assert caught is None or BUDGET in caught.value.hint
        source.close()


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "1e3", "inf", "100001", "9" * 5000, "²", "x"])
def test_a_budget_that_is_no_number(text: str) -> None:
    with pytest.raises(HubError) as caught:
        HubLimits.given({BUDGET: text})
    assert caught.value.where == BUDGET


def test_budgets_that_are_numbers() -> None:
    assert HubLimits.given({BUDGET: "900"}).bytes == 900 * 10**9
    assert HubLimits.given({BUDGET: ""}) == HubLimits.given({}) == HubLimits()


def test_an_adapter_beyond_the_budget_is_refused_before_it_is_read(hub: LoopbackHub) -> None:
    hub.add_repo(REPO, {"adapter_model.safetensors": BIG})
    with pytest.raises(HubTooLarge), opened(hub, limits=HubLimits(bytes=1000), whole=True):
        pass
    assert hub.requests("resolve") == []


def test_a_closed_source_reads_no_more(hub: LoopbackHub) -> None:
    hub.add_repo(REPO, {"model.safetensors": BIG})
    with opened(hub) as source:
        read(source, "model.safetensors", 1_000_000, 1_500_000)
    source.close()
    with pytest.raises(HubError):
        read(source, "model.safetensors", 1_000_000, 1_500_000)
