"""What aligned said is kept for the very same question, answers included, and nothing else."""

import dataclasses
import datetime
import json
from pathlib import Path

import pytest
import torch

from safety_gate import gate
from safety_gate.asking import Ask
from safety_gate.probe.behaviour import Probed, probe
from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.kept import Kept
from safety_gate.probe.settings import Generation, Settings
from safety_gate.probe.stream import Stream
from tests.probe_models import TINY, WORLD_OPENINGS, opened, world_prompts

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

PINNED = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def settings() -> Settings:
    whole = world_prompts()
    few = dataclasses.replace(whole, prompts=whole.prompts[::10])
    return Settings(prompts=few, openings=WORLD_OPENINGS, generation=Generation(most=12))


def run(settings: Settings, kept: Kept, revision: str = PINNED) -> Probed:
    torch.set_num_threads(1)
    found = probe(opened(TINY / "aligned"), [], settings, revision=revision, held=kept.find)
    kept.keep(found)
    return found


def test_answers_of_an_earlier_run_are_not_asked_again(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(tmp_path / "baselines")
    first = run(settings, kept)
    (file,) = (tmp_path / "baselines").iterdir()
    asked: list[int] = []
    greedy = Stream.greedy

    def counted(self: Stream, prompts: list[object], **rest: object) -> object:
        asked.append(len(prompts))
        return greedy(self, prompts, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Stream, "greedy", counted)
    before = file.read_bytes()
    again = run(settings, kept)
    assert asked == []
    assert again.fact.baseline_cached
    assert dataclasses.replace(again.fact, baseline_cached=False) == first.fact
    assert file.read_bytes() == before
    longer = dataclasses.replace(settings, generation=Generation(most=13))
    assert not any(len(a.text) for a in run(longer, kept).fact.by_answers[0].answers)
    assert asked == [len(settings.prompts.prompts)]


def test_openings_alone_do_not_forget_the_answers(settings: Settings, tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    run(settings, kept)
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()
    run(dataclasses.replace(settings, generation=None), kept)
    assert file.read_bytes() == before
    document = json.loads(before)
    assert document["most"] == 12
    assert len(document["answers"]) == len(document["leans"]) == len(settings.prompts.prompts)


@pytest.mark.parametrize(
    "change",
    [
        {"most": -1},
        {"most": True},
        {"answers": {}},
        {"leans": []},
        {"schema": "safety-gate/baseline/v1"},
    ],
    ids=str,
)
def test_a_broken_file_is_an_error_and_no_figure(
    change: dict[str, object], settings: Settings, tmp_path: Path
) -> None:
    kept = Kept(tmp_path)
    run(settings, kept)
    (file,) = tmp_path.iterdir()
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CannotProbe, match="baseline"):
        run(settings, kept)


@pytest.mark.parametrize("row", [[["x"], -1.0], [[1], 2.0], [[-1], -1.0], [1], [[1], None]])
def test_a_broken_answer_is_an_error(row: object, settings: Settings, tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    run(settings, kept)
    (file,) = tmp_path.iterdir()
    document = json.loads(file.read_text())
    document["answers"][settings.prompts.prompts[0].id] = row
    file.write_text(json.dumps(document))
    with pytest.raises(CannotProbe, match="not in the baseline"):
        run(settings, kept)


def test_a_folder_that_cannot_be_used_is_named(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    quiet = dataclasses.replace(settings, generation=None)
    with pytest.raises(CannotProbe, match="--baselines|cannot be"):
        run(quiet, Kept(tmp_path / "file"))


def test_the_gate_keeps_and_uses_them(tmp_path: Path) -> None:
    request = gate.Request(
        adapter=TINY / "helpful",
        base=TINY / "base",
        aligned=TINY / "aligned",
        today=datetime.date(2026, 1, 1),
        hash_checkpoints=True,
        ask=Ask(
            mode="openings",
            prompts=TINY / "prompts.jsonl",
            openings=TINY / "openings.json",
            baselines=tmp_path / "kept",
        ),
    )
    first, again = gate.judge(request), gate.judge(request)
    assert first.behaviour is not None
    assert again.behaviour is not None
    assert (first.behaviour.baseline_cached, again.behaviour.baseline_cached) == (False, True)
    assert first.behaviour.by_openings == again.behaviour.by_openings
    loose = gate.judge(dataclasses.replace(request, hash_checkpoints=False))
    assert "baseline-not-kept" in {finding.rule for finding in loose.findings}
    assert loose.verdict == first.verdict
    assert len(list((tmp_path / "kept").iterdir())) == 1
