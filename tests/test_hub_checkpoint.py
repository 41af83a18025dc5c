"""Checkpoints on the Hub are the same to the rooms above as checkpoints in a folder."""

import json
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from safety_gate.checkpoint import Checkpoint
from safety_gate.errors import ChangedWhileRead, GateError
from safety_gate.places import fact_of
from safety_gate.sources.folder import FolderSource
from safety_gate.sources.hub import HubLimits, HubSource
from safety_gate.sources.hub_ahead import AheadLimits
from safety_gate.sources.hub_plan import Span
from safety_gate.tensors import read_tensor
from safety_gate.weights import Stored
from tests.loopback_hub import Fault, LoopbackHub
from tests.loopback_hub.history import Storage
from tests.loopback_hub.quick import quick_client

pytest_plugins = ("tests.loopback_hub.fixtures",)

REPO = "acme/model"
SHARDS = 2
LIMITS = HubLimits(
    small_bytes=5000, ahead=AheadLimits(connections=3, buffer_bytes=2**20, piece_bytes=2**16)
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a checkpoint of two shards, larger than what is read whole."""
    generator = torch.Generator().manual_seed(3)
    weight_map: dict[str, str] = {}
    total = 0
    for shard in range(SHARDS):
        name = f"model-0000{shard + 1}-of-0000{SHARDS}.safetensors"
        tensors = {
            f"model.layers.{shard}.{part}.weight": torch.randn(
                300, 200, generator=generator
            ).bfloat16()
            for part in ("q_proj", "k_proj", "v_proj")
        }
        save_file(tensors, tmp_path / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        total += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    return tmp_path


def upload(hub: LoopbackHub, folder: Path, storage: Storage = "lfs") -> None:
    hub.add_repo(REPO, {path.name: path.read_bytes() for path in folder.iterdir()}, storage=storage)


def spans_of(checkpoint: Checkpoint) -> list[Span]:
    """Return the tensors in the order of the model, as the gate plans them."""
    spans = []
    for name in checkpoint.names:
        (extent,) = checkpoint.extents(name)
        spans.append(Span(path=extent.path, start=extent.start, stop=extent.stop))
    return spans


@pytest.mark.parametrize("storage", ["lfs", "xet"])
def test_every_tensor_is_the_same(hub: LoopbackHub, folder: Path, storage: Storage) -> None:
    upload(hub, folder, storage)
    with (
        closing(FolderSource(folder)) as local,
        closing(HubSource(REPO, client=quick_client(hub), limits=LIMITS)) as remote,
    ):
        here, there = (Checkpoint.open(source, "base") for source in (local, remote))
        assert there.names == here.names
        assert remote.plan(spans_of(there)).bytes == sum(e.size for e in spans_of(here))
        for name in here.names:
            a, b = (
                read_tensor(weight.source, weight.file, weight.entry)
                for weight in (here.weights[name], there.weights[name])
                if isinstance(weight, Stored)
            )
            assert torch.equal(a, b)
        facts = here.fact(hash_files=True), there.fact(hash_files=True)
        assert facts[0].files == facts[1].files
        assert facts[1].revision == hub.repo(REPO).head.id
        digests = remote.expected_digests()
        for file in facts[1].files:
            if file.path.endswith(".safetensors"):
                assert file.sha256 == digests[file.path].hex
        remote.verify()


def test_rows_are_read_in_few_requests(hub: LoopbackHub, folder: Path) -> None:
    upload(hub, folder)
    with closing(HubSource(REPO, client=quick_client(hub), limits=LIMITS)) as source:
        checkpoint = Checkpoint.open(source, "base")
        hub.requests.clear()
        before = source.received
        source.plan(spans_of(checkpoint))  # reading ahead begins here
        room = torch.empty(400 * 10, dtype=torch.uint8)
        for name in checkpoint.names:
            for row in range(0, 300, 10):
                checkpoint.rows(name, row, row + 10, room)
        assert source.received - before == SHARDS * 3 * 300 * 400
        assert len(hub.requests("cdn")) < 20  # 180 reads; the pieces have 64 KiB
        assert hub.requests(side="hub") == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(route="cdn", ignore_range=True, times=None),
        Fault(route="cdn", cut_after=10, times=None),
        Fault(route="cdn", drop=True, times=None),
        Fault(route="resolve", status=403, headers={"X-Error-Code": "GatedRepo"}, times=None),
    ],
)
def test_what_cannot_be_read_is_an_error_of_the_gate(
    hub: LoopbackHub, folder: Path, fault: Fault
) -> None:
    upload(hub, folder)
    hub.faults.add(fault)
    with (
        closing(HubSource(REPO, client=quick_client(hub), limits=LIMITS)) as source,
        pytest.raises(GateError),
    ):
        Checkpoint.open(source, "base")


def huge_header(data: bytes) -> bytes:
    return (26_000_000).to_bytes(8, "little") + data[8:]


def offsets_out_of_bounds(data: bytes) -> bytes:
    return data.replace(b'"data_offsets":[0,', b'"data_offsets":[9,', 1)


@pytest.mark.parametrize("broken", [huge_header, offsets_out_of_bounds])
def test_a_header_that_lies(hub: LoopbackHub, folder: Path, broken: object) -> None:
    assert callable(broken)
    shard = next(folder.glob("model-00001*"))
    shard.write_bytes(broken(shard.read_bytes()))
    upload(hub, folder)
    with (
        closing(HubSource(REPO, client=quick_client(hub), limits=LIMITS)) as source,
        pytest.raises(GateError),
    ):
        Checkpoint.open(source, "base")


def test_a_shard_that_the_index_names_is_missing(hub: LoopbackHub, folder: Path) -> None:
    next(folder.glob("model-00002*")).unlink()
    upload(hub, folder)
    with (
        closing(HubSource(REPO, client=quick_client(hub), limits=LIMITS)) as source,
        pytest.raises(GateError),
    ):
        Checkpoint.open(source, "base")


def test_a_large_header(hub: LoopbackHub, tmp_path: Path) -> None:
    tensors = {f"model.layers.{i}.{'x' * 60}.weight": torch.zeros(1) for i in range(4000)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "model.safetensors").stat().st_size > 300_000
    (tmp_path / "config.json").write_text("{}")
    upload(hub, tmp_path)
    with closing(HubSource(REPO, client=quick_client(hub), limits=LIMITS)) as source:
        assert len(Checkpoint.open(source, "base").names) == 4000


def test_whole_files_are_compared_with_the_commit(hub: LoopbackHub, folder: Path) -> None:
    """Ranges carry no digest of their own; --hash-checkpoints reads the file and compares it."""
    upload(hub, folder)
    with closing(HubSource(REPO, client=quick_client(hub), limits=LIMITS)) as source:
        checkpoint = Checkpoint.open(source, "base")
        assert fact_of(checkpoint, whole=True).files[1].sha256
        hub.faults.add(Fault(route="cdn", times=None, corrupt=True))
        fact_of(checkpoint, whole=False)
    with closing(HubSource(REPO, client=quick_client(hub), limits=LIMITS)) as source:
        hub.faults.clear()
        checkpoint = Checkpoint.open(source, "base")
        hub.faults.add(Fault(route="cdn", times=None, corrupt=True))
        with pytest.raises(ChangedWhileRead, match="not those of the commit"):
            fact_of(checkpoint, whole=True)
