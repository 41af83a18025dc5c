"""The folder that a repair writes: PEFT loads exactly what was computed, and nothing else moved."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig
from safetensors import safe_open

from safety_gate.adapter.inventory import CONFIG, TENSORS
from safety_gate.repair.bench import Bench, Inputs, open_bench
from safety_gate.repair.factors import Factors
from safety_gate.repair.mending import rescaled
from safety_gate.repair.refusal import CannotRepair
from safety_gate.repair.scales import Scale, rewritten
from safety_gate.repair.writing import Documents, Layout, write_repaired
from safety_gate.sources.folder import FolderSource
from tests.repair_models import (
    Pair,
    calm,
    factors_of,
    merged_updates,
    raw,
    recast,
    write_adapter,
    write_pair,
)

CHANGED = ("model.layers.0.self_attn.q_proj", "model.layers.2.mlp.down_proj")
DOCUMENTS = Documents(card=lambda: "# card\n", manifest=lambda facts: f"{len(facts)}\n")


@pytest.fixture(autouse=True)
def _calm() -> Iterator[None]:
    with calm():
        yield


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[Pair, Path], Bench]]:
    with ExitStack() as stack:
        yield lambda pair, adapter: open_bench(
            stack,
            Inputs(
                aligned=FolderSource(pair.aligned),
                base=FolderSource(pair.base),
                adapter=FolderSource(adapter),
                safety=None,
            ),
            tmp_path / "private",
        )


def new_factors(bench: Bench, rank: int, scaling: float) -> dict[str, Factors]:
    """Return another update for the changed modules, with the scaling that they have."""
    generator = torch.Generator().manual_seed(7)
    found = {}
    for name in CHANGED:
        own = bench.modules()[name]
        a = torch.randn(rank, own.in_features, generator=generator, dtype=torch.float64)
        b = torch.randn(own.out_features, rank, generator=generator, dtype=torch.float64)
        found[name] = rescaled(Factors(a=a, b=b, scaling=scaling), own.scaling)
    return found


def dense(factors: Factors) -> torch.Tensor:
    return factors.scaling * (factors.b.double() @ factors.a.double())


CONFIGS: list[dict[str, Any]] = [
    {},
    {"use_rslora": True},
    {"rank_pattern": {"q_proj": 2, r"^model\.layers\.1\..*down_proj": 6}},
    {"alpha_pattern": {"q_proj": 5, "model.layers.0.self_attn.v_proj": 3}},
    {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
]


@pytest.mark.parametrize("uniform", [False, True], ids=["mixed-ranks", "uniform-rank"])
@pytest.mark.parametrize("rank", [4, 7, 1])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: "+".join(c) or "plain")
def test_peft_merges_what_was_computed(
    pair: Pair,
    tmp_path: Path,
    opened: Callable[[Pair, Path], Bench],
    config: dict[str, Any],
    rank: int,
    uniform: bool,
) -> None:
    adapter = write_adapter(pair, tmp_path / "adapter", seed=3, **config)
    before = merged_updates(pair, adapter)
    bench = opened(pair, adapter)
    changed = new_factors(bench, rank, scaling=1.0)
    layout = Layout(uniform_rank=uniform)
    write_repaired(tmp_path / "new", bench.adapter, changed, layout, DOCUMENTS)
    after = merged_updates(pair, tmp_path / "new")
    assert after.keys() == before.keys()
    for name, update in after.items():
        expected = dense(changed[name]) if name in changed else before[name]
        assert float((update - expected).norm()) <= 1e-6 * float(expected.norm())
    if uniform:
        assert len({a.shape[0] for a, _ in factors_of(tmp_path / "new").values()}) == 1
        assert json.loads((tmp_path / "new" / CONFIG).read_text())["rank_pattern"] == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_modules_that_are_not_changed_keep_their_bytes(
    pair: Pair, tmp_path: Path, opened: Callable[[Pair, Path], Bench], dtype: torch.dtype
) -> None:
    adapter = recast(write_adapter(pair, tmp_path / "adapter", seed=3), dtype)
    bench = opened(pair, adapter)
    write_repaired(tmp_path / "new", bench.adapter, new_factors(bench, 5, 1.0), Layout(), DOCUMENTS)
    before, after = raw(adapter), raw(tmp_path / "new")
    assert before.keys() == after.keys()
    for name, stored in before.items():
        assert after[name][0] == stored[0]  # the dtype is kept in changed modules as well
        changed = any(module in name for module in CHANGED)
        assert (after[name][1] == stored[1]) is not changed


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.bfloat16, 2.0**-7), (torch.float16, 2.0**-10)], ids=str
)
def test_sixteen_bits_round_by_no_more_than_stated(
    pair: Pair,
    tmp_path: Path,
    opened: Callable[[Pair, Path], Bench],
    dtype: torch.dtype,
    bound: float,
) -> None:
    """A factor in bf16 keeps 8 bits: off by at most 2**-9 of itself, and dW by twice that."""
    adapter = recast(write_adapter(pair, tmp_path / "adapter", seed=3), dtype)
    bench = opened(pair, adapter)
    changed = new_factors(bench, 4, 1.0)
    write_repaired(tmp_path / "same", bench.adapter, changed, Layout(), DOCUMENTS)
    wide = Layout(dtype="float32")
    write_repaired(tmp_path / "wide", bench.adapter, changed, wide, DOCUMENTS)
    rough, fine = (merged_updates(pair, tmp_path / folder) for folder in ("same", "wide"))
    for name, new in changed.items():
        size = float(dense(new).norm())
        assert 1e-5 * size < float((rough[name] - dense(new)).norm()) < bound * size
        assert float((fine[name] - dense(new)).norm()) < 1e-6 * size


def test_a_value_that_does_not_fit_is_refused_and_nothing_is_left(
    pair: Pair, tmp_path: Path, opened: Callable[[Pair, Path], Bench]
) -> None:
    adapter = recast(write_adapter(pair, tmp_path / "adapter", seed=3), torch.float16)
    bench = opened(pair, adapter)
    huge = {
        name: Factors(new.a, 1e6 * new.b, new.scaling)
        for name, new in new_factors(bench, 4, 1.0).items()
    }
    with pytest.raises(CannotRepair, match="does not fit"):
        write_repaired(tmp_path / "place" / "new", bench.adapter, huge, Layout(), DOCUMENTS)
    assert list((tmp_path / "place").iterdir()) == []


def test_a_folder_appears_whole_or_not_at_all(
    pair: Pair, tmp_path: Path, opened: Callable[[Pair, Path], Bench]
) -> None:
    bench = opened(pair, write_adapter(pair, tmp_path / "adapter", seed=3))
    place = tmp_path / "place"

    def card() -> str:
        assert not (place / "new").exists()
        (half,) = place.iterdir()  # the weights are there, the folder has no name yet
        assert (half / TENSORS).exists()
        raise KeyboardInterrupt

    documents = Documents(card=card, manifest=lambda _: "")
    with pytest.raises(KeyboardInterrupt):
        write_repaired(place / "new", bench.adapter, {}, Layout(), documents)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("kind", ["full-folder", "file", "link"])
def test_nothing_is_overwritten(
    pair: Pair, tmp_path: Path, opened: Callable[[Pair, Path], Bench], kind: str
) -> None:
    bench = opened(pair, write_adapter(pair, tmp_path / "adapter", seed=3))
    place = tmp_path / "new"
    match kind:
        case "full-folder":
            place.mkdir()
            (place / "mine.txt").write_text("mine")
        case "file":
            place.write_text("mine")
        case "link":
            (tmp_path / "other").mkdir()
            place.symlink_to(tmp_path / "other")
    with pytest.raises(CannotRepair, match="already"):
        write_repaired(place, bench.adapter, {}, Layout(), DOCUMENTS)


def test_files_come_along(
    pair: Pair, tmp_path: Path, opened: Callable[[Pair, Path], Bench]
) -> None:
    adapter = write_adapter(pair, tmp_path / "adapter", seed=3)
    for name in ("tokenizer.json", "chat_template.jinja", "LICENSE", "NOTICE", "other.jinja"):
        (adapter / name).write_text(f"{name}: words\n")
    for name in ("run.py", "notes.txt", "trainer_state.json"):
        (adapter / name).write_text("{}")
    bench = opened(pair, adapter)
    write_repaired(tmp_path / "new", bench.adapter, {}, Layout(), DOCUMENTS)
    names = {path.name for path in (tmp_path / "new").iterdir()}
    ours = {CONFIG, TENSORS, "README.md", "safety_gate_manifest.json"}
    copied = {"tokenizer.json", "chat_template.jinja", "LICENSE", "NOTICE", "other.jinja"}
    assert names == ours | copied
    for name in copied | {CONFIG}:  # the config too, byte for byte: no rank changed
        assert (tmp_path / "new" / name).read_bytes() == (adapter / name).read_bytes()
    with safe_open(tmp_path / "new" / TENSORS, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    digests = [
        hashlib.sha256((folder / TENSORS).read_bytes()).hexdigest()
        for folder in (adapter, tmp_path / "new")
    ]
    assert digests[0] == digests[1]  # even the header is as the library writes it


HARD_NAMES = (
    "model.layers.1.q",
    "tower.model.layers.1.q",  # ends with the first
    "model.layers.1_q",  # the first, read as a pattern, matches it
    "model.layers.11.q",
    "model.layers.1.q+",
    "h.1",
    "h.11",
)


@pytest.mark.parametrize("one", HARD_NAMES)
def test_a_pattern_matches_its_module_only(tmp_path: Path, one: str) -> None:
    """Read back by PEFT's own config and its own matching."""
    from peft.utils.other import get_pattern_key

    scales = {name: Scale(rank=4, scaling=2.0) for name in HARD_NAMES}
    scales[one] = Scale(rank=9, scaling=0.3)
    body = rewritten({"peft_type": "LORA", "r": 8, "use_rslora": True}, scales)
    (tmp_path / CONFIG).write_text(json.dumps(body, sort_keys=True))
    config: Any = PeftConfig.from_pretrained(str(tmp_path))
    for name, scale in scales.items():
        r = config.rank_pattern.get(get_pattern_key([*config.rank_pattern], name), config.r)
        key = get_pattern_key([*config.alpha_pattern], name)
        alpha = config.alpha_pattern.get(key, config.lora_alpha)
        assert (r, alpha / r) == (scale.rank, pytest.approx(scale.scaling, rel=1e-15))
    assert config.use_rslora is False
