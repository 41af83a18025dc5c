"""Every attack of hostile_adapters.py meets its finding, and nothing of it is ever executed."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from safety_gate.adapter.ledger import Adapter, factors, open_adapter
from safety_gate.records import Finding
from safety_gate.sources.folder import FolderSource
from tests.hostile_adapter_configs import CONFIGS, EVIL, FIELDS, SLOW
from tests.hostile_adapters import FILES, TENSORS, Attack, shapes, write

ATTACKS = [*FILES, *CONFIGS, *TENSORS]


def opened(folder: Path, private: Path, **more: dict[str, str]) -> Adapter:
    return open_adapter(
        FolderSource(folder),
        shapes=shapes(),
        model_type="llama",
        snapshot_dir=private,
        aligned_files=more.get("aligned_files"),
    )


@pytest.fixture
def _no_unpickling(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let a canary fall into tmp_path, where it is seen."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_no_unpickling")
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_meets_its_finding(attack: Attack, tmp_path: Path) -> None:
    attack.build(tmp_path / "adapter")
    adapter = opened(tmp_path / "adapter", tmp_path / "private")
    found = {finding.rule: finding for finding in adapter.findings}
    assert attack.rule in found, found.keys()
    assert found[attack.rule].severity == attack.severity
    assert not (tmp_path / "canary").exists()
    adapter.close()
    assert not (tmp_path / "private").exists()


def test_there_are_enough_attacks() -> None:
    assert len(ATTACKS) >= 100
    assert len({attack.name for attack in ATTACKS}) >= len(ATTACKS) - 4


@pytest.mark.parametrize("pattern", EVIL, ids=range(len(EVIL)))
@pytest.mark.parametrize("key", FIELDS)
def test_evil_patterns_end_within_a_second(key: str, pattern: str, tmp_path: Path) -> None:
    write(tmp_path / "adapter", config=FIELDS[key](pattern))
    start = time.process_time()
    adapter = opened(tmp_path / "adapter", tmp_path / "private")
    assert time.process_time() - start < 1.0
    refused = [f for f in adapter.findings if f.rule in ("pattern-too-slow", "pattern-refused")]
    if refused:
        assert adapter.modules == ()
        assert refused[0].place.name == key
        slow = refused[0].rule == "pattern-too-slow"
        assert refused[0].severity == ("block" if slow else "undecided")
    adapter.close()


@pytest.mark.parametrize("key", FIELDS)
def test_a_pattern_that_takes_too_long_blocks(key: str, tmp_path: Path) -> None:
    write(tmp_path / "adapter", config=FIELDS[key](SLOW))
    adapter = opened(tmp_path / "adapter", tmp_path / "private")
    assert ("pattern-too-slow", "block") in {(f.rule, f.severity) for f in adapter.findings}
    adapter.close()


def test_the_honest_adapter_has_no_grave_finding(tmp_path: Path) -> None:
    write(tmp_path / "adapter")
    adapter = opened(tmp_path / "adapter", tmp_path / "private")
    assert adapter.findings == ()
    assert len(adapter.modules) == 4
    assert all(entry.accounted for entry in adapter.ledger)
    assert sum(change.elements for change in adapter.changed) == 4 * 32 * 32
    module = adapter.modules[0]
    assert module.module == "model.layers.0.self_attn.q_proj"
    assert (module.scaling, module.rank, module.transposed) == (2.0, 4, False)
    a, b = factors(adapter, module)
    assert (a.shape, b.shape) == ((4, 32), (32, 4))
    adapter.close()


def test_every_file_tensor_and_key_stands_in_the_ledger(tmp_path: Path) -> None:
    write(tmp_path / "adapter", config={"strange": 1})
    (tmp_path / "adapter" / "odd.dat").write_bytes(bytes(range(100, 200)))
    adapter = opened(tmp_path / "adapter", tmp_path / "private")
    lines = {(entry.kind, entry.name): entry for entry in adapter.ledger}
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert {name for kind, name in lines if kind == "config"} == config.keys()
    assert adapter.tensors is not None
    assert {name for kind, name in lines if kind == "tensor"} == adapter.tensors.entries.keys()
    assert {name for kind, name in lines if kind == "file"} == {f.path for f in adapter.fact.files}
    unowned = {name for (_, name), entry in lines.items() if not entry.accounted}
    assert unowned == {"odd.dat", "strange"}


def test_unaccounted_lines_come_with_a_grave_finding(tmp_path: Path) -> None:
    for index, attack in enumerate(ATTACKS):
        attack.build(tmp_path / f"{index}")
        adapter = opened(tmp_path / f"{index}", tmp_path / f"private{index}")
        if not all(entry.accounted for entry in adapter.ledger):
            grave = {f.severity for f in adapter.findings} & {"block", "undecided"}
            assert grave, attack.name
        assert all(isinstance(finding, Finding) for finding in adapter.findings)
        adapter.close()


def test_templates_are_compared_with_the_aligned_models(tmp_path: Path) -> None:
    write(tmp_path / "adapter")
    (tmp_path / "adapter" / "chat_template.jinja").write_text("{{ messages }}")
    first = opened(tmp_path / "adapter", tmp_path / "a", aligned_files={})
    assert {f.rule: f.severity for f in first.findings} == {"tokenizer-differs": "warn"}
    digest = next(f.sha256 for f in first.fact.files if f.path.endswith("jinja"))
    assert digest is not None
    same = {"chat_template.jinja": digest}
    second = opened(tmp_path / "adapter", tmp_path / "b", aligned_files=same)
    assert second.findings == ()


@pytest.mark.parametrize("model_type", [None, "mixtral", "llava"])
def test_unknown_architectures_are_undecided(model_type: str | None, tmp_path: Path) -> None:
    write(tmp_path / "adapter")
    adapter = open_adapter(
        FolderSource(tmp_path / "adapter"),
        shapes=shapes(),
        model_type=model_type,
        snapshot_dir=tmp_path / "private",
    )
    assert {f.rule: f.severity for f in adapter.findings} == {"architecture-unknown": "undecided"}


def test_what_unsloth_adds_to_the_auto_mapping_is_harmless(tmp_path: Path) -> None:
    mapping = {
        "base_model_class": "LlamaForCausalLM",
        "parent_library": "transformers.models.llama.modeling_llama",
        "unsloth_fixed": True,
    }
    write(tmp_path / "adapter", config={"auto_mapping": mapping})
    adapter = opened(tmp_path / "adapter", tmp_path / "private")
    assert adapter.findings == ()


def test_negative_alpha_is_scored_as_peft_scores_it(tmp_path: Path) -> None:
    write(tmp_path / "adapter", config={"lora_alpha": -8})
    adapter = opened(tmp_path / "adapter", tmp_path / "private")
    assert {module.scaling for module in adapter.modules} == {-2.0}


def test_two_runs_find_the_same(tmp_path: Path) -> None:
    for index, attack in enumerate(ATTACKS[::7]):
        attack.build(tmp_path / f"{index}")
        runs = [
            opened(tmp_path / f"{index}", tmp_path / f"{index}-{run}")
            for run in ("first", "second")
        ]
        facts = [dataclasses.astuple(run.fact) for run in runs]
        assert facts[0] == facts[1]
        assert runs[0].findings == runs[1].findings
        assert runs[0].ledger == runs[1].ledger


def test_peft_and_transformers_are_not_needed() -> None:
    loaded = "import sys; import safety_gate.adapter.ledger; print(*sys.modules)"
    names = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"peft", "transformers", "torch"} & set(names)


def test_a_header_length_that_looks_like_zlib_is_no_pickle(tmp_path: Path) -> None:
    """Found by benchmarks/format_oracle.py: 376 bytes of header are 78 01 00 00 ..."""
    write(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    wanted = 0x10178 if size > 0x178 else 0x178
    header = data[8 : 8 + size].ljust(wanted)
    path.write_bytes(wanted.to_bytes(8, "little") + header + data[8 + size :])
    assert path.read_bytes()[:2] == b"x\x01"
    adapter = opened(tmp_path / "adapter", tmp_path / "private")
    assert adapter.findings == ()
    adapter.close()
