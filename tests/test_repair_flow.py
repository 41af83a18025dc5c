"""Judge, repair, judge again: on trained tiny models and on adapters that PEFT saved."""

import datetime
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from safety_gate import gate
from safety_gate.checkpoint import Checkpoint
from safety_gate.cli_repair import repair
from safety_gate.errors import GateError
from safety_gate.records import Finding, Place
from safety_gate.repair.forms import FORMS, SPARSE, Form, Merge
from safety_gate.repair.methods import (
    Attenuate,
    Drop,
    Method,
    SafeLora,
    SafeMerge,
    Scale,
    Unrevert,
)
from safety_gate.repair.plan import Auto, Order, Plan
from safety_gate.repair.record import Repaired, settled
from safety_gate.repair.sections import render_repair_markdown, repair_json
from safety_gate.repair.selection import Below, Every, Flagged, Lowest, Selection
from safety_gate.repair.watch import Needs, Watch
from safety_gate.repair.writing import Layout
from safety_gate.repairing import repair_and_judge
from safety_gate.report.json_report import report_schema
from tests.repair_models import (
    Pair,
    alignment_steps,
    calm,
    factors_of,
    merged_updates,
    raw,
    recast,
    write_adapter,
    write_pair,
)

TINY = Path("examples/tiny")
TODAY = datetime.date(2026, 1, 1)


@pytest.fixture(autouse=True)
def _calm() -> Iterator[None]:
    with calm():
        yield


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def adapter(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an adapter that takes back half of the alignment step."""
    return write_adapter(pair, tmp_path_factory.mktemp("adapters") / "bad", seed=3, back=0.5)


@pytest.fixture(scope="module")
def safety(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a safety adapter of another rank that has no update of down_proj."""
    folder = tmp_path_factory.mktemp("adapters") / "safety"
    return write_adapter(pair, folder, seed=4, rank=6, targets=("q_proj", "v_proj"))


def request_for(pair: Pair, adapter: Path) -> gate.Request:
    return gate.Request(adapter=adapter, base=pair.base, aligned=pair.aligned, today=TODAY)


def run(
    pair: Pair,
    adapter: Path,
    output: Path,
    method: Method | None,
    selection: Selection | None = None,
    *,
    safety: Path | None = None,
    **order: Any,
) -> Repaired:
    """Repair; without a method, search for one."""
    chosen = selection or Every()
    choice = Plan(method=method, selection=chosen) if method is not None else Auto()
    return repair_and_judge(
        request_for(pair, adapter), Order(choice=choice, output=output, safety=safety, **order)
    )


def tiny_pair() -> Pair:
    return Pair(TINY / "base", TINY / "aligned")


def dense_cosine(v: torch.Tensor, delta: torch.Tensor) -> float:
    c = v @ v.T / v.norm()
    return float((c @ delta * delta).sum() / ((c @ delta).norm() * delta.norm()))


def test_safemerge_on_trained_models_equals_its_formulas(tmp_path: Path) -> None:
    """The published settings: tau 0.35, weights 0.8 and 0.2, linear; and the exact sum."""
    pair = tiny_pair()
    task, other = (factors_of(TINY / name) for name in ("harmful", "safety"))
    scalings = []
    for name in ("harmful", "safety"):
        config = json.loads((TINY / name / "adapter_config.json").read_text())
        scalings.append(config["lora_alpha"] / config["r"])
    results = {}
    for form in ("linear", "cat"):
        method = SafeMerge(merge=Merge(form=form))
        run(
            pair,
            TINY / "harmful",
            tmp_path / form,
            method,
            Below(tau=0.35),
            safety=TINY / "safety",
        )
        results[form] = factors_of(tmp_path / form), merged_updates(pair, tmp_path / form)
    flagged = 0
    for name, v in alignment_steps(pair).items():
        if name not in task:
            continue
        (a1, b1), (a2, b2) = task[name], other[name]
        delta1 = scalings[0] * (b1.double() @ a1.double())
        delta2 = scalings[1] * (b2.double() @ a2.double())
        if dense_cosine(v.double(), delta1) >= 0.35:
            for factors, _ in results.values():
                assert torch.equal(factors[name][0], a1)
                assert torch.equal(factors[name][1], b1)
            continue
        flagged += 1
        w1, w2 = (0.8 * scalings[0]) ** 0.5, (0.2 * scalings[1]) ** 0.5
        (a, b), merged = results["linear"][0][name], results["linear"][1][name]
        expected = (w1 * b1 + w2 * b2).double() @ (w1 * a1 + w2 * a2).double()
        torch.testing.assert_close(a, w1 * a1 + w2 * a2)
        torch.testing.assert_close(b * scalings[0], w1 * b1 + w2 * b2)
        assert float((merged - expected).norm()) <= 1e-5 * float(expected.norm())
        exact = 0.8 * delta1 + 0.2 * delta2
        assert float((results["cat"][1][name] - exact).norm()) <= 1e-5 * float(exact.norm())
    assert 0 < flagged < len(task)


METHODS: list[Method] = [
    SafeMerge(merge=Merge(form="cat")),
    SafeMerge(merge=Merge(form="svd", weights=(0.6, 0.4))),
    SafeLora(),
    Scale(factor=0.5),
    Drop(),
    Attenuate(strength=4.0),
    Unrevert(keep=0.2),
]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_files_hold_what_the_record_says(
    pair: Pair, adapter: Path, safety: Path, tmp_path: Path, method: Method
) -> None:
    """PEFT merges both folders; the change it makes is the change on record, and no other."""
    done = run(pair, adapter, tmp_path / "new", method, Lowest(number=5), safety=safety)
    assert done.made is not None
    assert len(done.made.modules) == 5
    before, after = merged_updates(pair, adapter), merged_updates(pair, tmp_path / "new")
    for fact in done.made.modules:
        old = before.pop(fact.module)
        new = after.pop(fact.module, torch.zeros_like(old))
        assert float((new - old).norm()) == pytest.approx(fact.change, rel=1e-5)
        assert float(new.norm()) == pytest.approx(fact.after_norm, rel=1e-5)
        assert fact.rounding < 1e-6
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    old_bytes, new_bytes = raw(adapter), raw(tmp_path / "new")
    kept = {name for name in old_bytes if old_bytes[name] == new_bytes[name]}
    for module in before:
        assert {f"base_model.model.{module}.lora_{part}.weight" for part in "AB"} <= kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("uniform", [False, True], ids=["mixed-ranks", "uniform-rank"])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_second_judgment_is_that_of_a_fresh_gate(
    pair: Pair, safety: Path, tmp_path: Path, method: Method, uniform: bool, dtype: torch.dtype
) -> None:
    """What was measured ahead, while V was at hand, is what measuring the files gives."""
    folder = recast(write_adapter(pair, tmp_path / "adapter", seed=3, back=0.5), dtype)
    done = run(
        pair,
        folder,
        tmp_path / "new",
        method,
        Lowest(number=4),
        safety=safety,
        layout=Layout(uniform_rank=uniform),
    )
    assert done.before == gate.judge(request_for(pair, folder))
    fresh = gate.judge(request_for(pair, tmp_path / "new"))
    assert done.after is not None
    fresh = settled(done.before, fresh, ruled=True)  # what only the weights say stays undecided
    assert done.after.verdict == fresh.verdict
    assert done.after.adapter == fresh.adapter
    assert [f.rule for f in done.after.findings] == [f.rule for f in fresh.findings]
    for ours, theirs in zip(done.after.modules, fresh.modules, strict=True):
        assert replace(ours, drift=theirs.drift) == theirs
        assert ours.drift.values() == pytest.approx(theirs.drift.values(), rel=1e-4, abs=1e-5)


def test_judging_again_reads_no_weights(
    pair: Pair, adapter: Path, safety: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit-equal factors in the same place were measured against the same V already."""
    reads: list[str] = []
    real = Checkpoint.rows

    def rows(self: Checkpoint, name: str, *rest: Any) -> torch.Tensor:
        reads.append(name)
        return real(self, name, *rest)

    monkeypatch.setattr(Checkpoint, "rows", rows)
    gate.judge(request_for(pair, adapter))
    once = len(reads)
    reads.clear()
    for number, method in enumerate(METHODS):
        run(pair, adapter, tmp_path / f"{number}", method, safety=safety)
    assert len(reads) == once * len(METHODS)


def test_a_later_judgment_leaves_what_the_repair_is_made_of(
    pair: Pair, adapter: Path, safety: Path
) -> None:
    """A candidate of the search is judged with the same watch: the next is not made of it."""
    watch = Watch(Needs(along=True))
    gate.judge(request_for(pair, adapter), memory=watch)
    watch.fill()
    before, sums = dict(watch.sights), dict(watch.sums)
    gate.judge(request_for(pair, safety), memory=watch)
    assert before
    assert all(watch.sights[module] is sight for module, sight in before.items())
    assert all(watch.sums[module] is figures for module, figures in sums.items())


@pytest.mark.parametrize("form", FORMS)
def test_weight_one_is_the_identity_bit_for_bit(
    pair: Pair, adapter: Path, safety: Path, tmp_path: Path, form: Form
) -> None:
    density = 0.5 if form in SPARSE else None
    method = SafeMerge(merge=Merge(form=form, weights=(1.0, 0.0), density=density))
    done = run(pair, adapter, tmp_path / "new", method, safety=safety)
    name = "adapter_model.safetensors"
    assert (tmp_path / "new" / name).read_bytes() == (adapter / name).read_bytes()
    assert done.ending == "nothing to repair"


def test_what_the_safety_adapter_lacks_is_scaled_and_said(
    pair: Pair, adapter: Path, safety: Path, tmp_path: Path
) -> None:
    method = SafeMerge(merge=Merge(form="cat"))
    done = run(pair, adapter, tmp_path / "new", method, safety=safety)
    before, after = merged_updates(pair, adapter), merged_updates(pair, tmp_path / "new")
    for name in before:
        if name.endswith("down_proj"):
            assert float((after[name] - 0.8 * before[name]).norm()) <= 1e-6 * before[name].norm()
    assert done.made is not None
    assert any("no update of 3 of the changed modules" in note for note in done.made.notes)


@pytest.mark.parametrize("rslora", [False, True], ids=["plain", "rslora"])
def test_safety_adapters_of_other_rank_and_scaling_are_merged_exactly(
    pair: Pair, adapter: Path, tmp_path: Path, rslora: bool
) -> None:
    other = write_adapter(
        pair, tmp_path / "safety", seed=9, rank=7, lora_alpha=3, use_rslora=rslora
    )
    run(pair, adapter, tmp_path / "new", SafeMerge(merge=Merge(form="cat")), safety=other)
    parts = [merged_updates(pair, folder) for folder in (adapter, other, tmp_path / "new")]
    for name, new in parts[2].items():
        expected = 0.8 * parts[0][name] + 0.2 * parts[1][name]
        assert float((new - expected).norm()) <= 1e-6 * float(expected.norm())


def dora(pair: Pair, folder: Path) -> Path:
    return write_adapter(pair, folder, seed=4, use_dora=True)


def saving_modules(pair: Pair, folder: Path) -> Path:
    return write_adapter(pair, folder, seed=4, modules_to_save=["lm_head"])


def with_bias(pair: Pair, folder: Path) -> Path:
    return write_adapter(pair, folder, seed=4, lora_bias=True)


def foreign(pair: Pair, folder: Path) -> Path:
    write_adapter(pair, folder, seed=4)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "acme/another-model"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def elsewhere(pair: Pair, folder: Path) -> Path:
    return write_adapter(pair, folder, seed=4, targets=("o_proj",))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (dora, "not plain LoRA"),
        (saving_modules, "not plain LoRA"),
        (with_bias, "not plain LoRA"),
        (foreign, "another base"),
        (elsewhere, "no module that the adapter changes"),
        (None, "needs a safety adapter"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(
    pair: Pair, adapter: Path, tmp_path: Path, build: Any, words: str
) -> None:
    other = build(pair, tmp_path / "safety") if build else None
    method = SafeMerge(merge=Merge())
    done = run(pair, adapter, tmp_path / "new", method, safety=other)
    assert done.ending == "refused"
    assert words in done.why
    assert done.exit_code == 1  # the adapter itself is blocked, and stays so
    assert not (tmp_path / "new").exists()


def test_another_base_can_be_allowed(pair: Pair, adapter: Path, tmp_path: Path) -> None:
    other = foreign(pair, tmp_path / "safety")
    method = SafeMerge(merge=Merge())
    done = run(pair, adapter, tmp_path / "new", method, safety=other, any_safety_base=True)
    assert done.ending == "repaired"


@pytest.mark.parametrize("build", [dora, saving_modules, with_bias])
def test_an_adapter_that_is_more_than_lora_is_not_repaired(
    pair: Pair, tmp_path: Path, build: Any
) -> None:
    """A repair would lose the rest in silence."""
    done = run(pair, build(pair, tmp_path / "adapter"), tmp_path / "new", Scale(factor=0.5))
    assert done.ending == "refused"
    assert done.exit_code == 3
    assert not (tmp_path / "new").exists()


def test_a_pickle_beside_the_adapter_does_not_come_along(
    pair: Pair, adapter: Path, tmp_path: Path
) -> None:
    folder = write_adapter(pair, tmp_path / "adapter", seed=3)
    (folder / "run.py").write_text("print()\n")
    done = run(pair, folder, tmp_path / "new", Scale(factor=0.5))
    assert done.made is not None
    assert done.made.left_out == ("run.py",)
    assert done.before.verdict.word == "blocked"
    assert done.after is not None
    assert done.after.verdict.word == "passed"
    assert (done.unsettled, done.exit_code) == (False, 0)  # no figure blocked it


def test_bf16_storage_is_judged_from_its_files_and_its_rounding_is_said(
    pair: Pair, tmp_path: Path
) -> None:
    folder = write_adapter(pair, tmp_path / "adapter", seed=3, back=0.5)
    recast(folder, torch.bfloat16)
    done = run(pair, folder, tmp_path / "new", Unrevert())
    wide = run(pair, folder, tmp_path / "wide", Unrevert(), layout=Layout(dtype="float32"))
    assert done.made is not None
    assert wide.made is not None
    assert 1e-4 < max(fact.rounding for fact in done.made.modules) < 2.0**-7
    assert any("rounds the update" in note for note in done.made.notes)
    assert max(fact.rounding for fact in wide.made.modules) < 1e-6
    exact = merged_updates(pair, tmp_path / "wide")
    rough = merged_updates(pair, tmp_path / "new")
    for fact in done.made.modules:
        off = float((rough[fact.module] - exact[fact.module]).norm()) / fact.before_norm
        assert off == pytest.approx(fact.rounding, rel=1e-2)


def test_the_search_finds_the_smallest_repair_that_passes(
    pair: Pair, adapter: Path, safety: Path, tmp_path: Path
) -> None:
    done = run(pair, adapter, tmp_path / "new", None, safety=safety)
    assert done.ending == "repaired"
    assert done.exit_code == 3  # the figures that blocked it were changed; nobody asked the model
    assert done.unsettled
    assert done.made is not None
    good = [attempt for attempt in done.tried if attempt.forecast]
    assert done.made.change == pytest.approx(min(a.change for a in good), rel=1e-4)
    assert [a.judged for a in done.tried if a.judged] == ["passed"]
    assert {"unrevert", "scale", "attenuate", "safemerge", "safelora", "drop"} <= {
        attempt.method.split()[0].rstrip(",") for attempt in done.tried
    }


def test_an_answer_settles_what_weights_cannot(pair: Pair, adapter: Path, tmp_path: Path) -> None:
    done = run(pair, adapter, tmp_path / "new", Unrevert())
    fresh = gate.judge(request_for(pair, tmp_path / "new"))
    told = replace(fresh, evidence="the model was asked")
    asked = settled(done.before, told, ruled=True)
    assert fresh.verdict.word == "passed"
    few = Finding(
        rule="few-refusals",
        severity="warn",
        place=Place(kind="checkpoint", name="the aligned model"),
        what="it refuses too few of the questions",
        hint="Ask others.",
    )
    thin = replace(told, findings=(*told.findings, few))
    for unsettled in (
        settled(done.before, thin, ruled=True),
        settled(done.before, told, ruled=False),
    ):
        assert unsettled.verdict.word == "undecided"
    assert (done.unsettled, done.exit_code) == (True, 3)
    assert asked.verdict.word == "passed"
    assert settled(done.before, fresh, ruled=True).verdict.word == "undecided"


def impossible(tmp_path: Path) -> Path:
    """Return a policy that no adapter fulfils."""
    policy = tmp_path / "policy.yml"
    policy.write_text(
        "version: 1\nname: none\nrules:\n- {id: any, scope: adapter, severity: block,"
        " message: nothing passes, when: [{metric: size, above: 0}]}\n"
    )
    return policy


def test_beyond_repair_says_what_was_tried_and_writes_nothing(
    pair: Pair, adapter: Path, tmp_path: Path
) -> None:
    request = replace(request_for(pair, adapter), policy=impossible(tmp_path))
    done = repair_and_judge(request, Order(choice=Auto(), output=tmp_path / "new"))
    assert (done.ending, done.exit_code) == ("beyond repair", 1)
    assert len(done.tried) > 5
    assert not (tmp_path / "new").exists()
    assert "beyond repair" in render_repair_markdown(done)


def test_what_no_weights_can_lift_is_not_searched(pair: Pair, tmp_path: Path) -> None:
    """Base equal to aligned in one module: it stays undecided whatever the factors are."""
    folder = write_adapter(pair, tmp_path / "adapter", seed=3, back=0.5)
    tensors = load_file(pair.base / "model.safetensors")
    aligned = load_file(pair.aligned / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    other = tmp_path / "base"
    other.mkdir()
    save_file(tensors | {name: aligned[name]}, other / "model.safetensors")
    (other / "config.json").write_bytes((pair.base / "config.json").read_bytes())
    done = run(Pair(other, pair.aligned), folder, tmp_path / "new", None)
    assert done.ending == "beyond repair"
    assert "step-zero" in done.why
    assert done.tried == ()


def test_an_adapter_that_passes_is_copied_as_it_is(pair: Pair, tmp_path: Path) -> None:
    folder = write_adapter(pair, tmp_path / "adapter", seed=3)
    done = run(pair, folder, tmp_path / "new", None)
    assert (done.ending, done.exit_code) == ("nothing to repair", 0)
    assert raw(folder) == raw(tmp_path / "new")


def test_dropping_everything_is_undecided_and_never_passed(
    pair: Pair, adapter: Path, tmp_path: Path
) -> None:
    done = run(pair, adapter, tmp_path / "new", Drop())
    assert done.exit_code == 3
    assert merged_updates(pair, tmp_path / "new") == {}


def test_selections(pair: Pair, adapter: Path) -> None:
    from safety_gate.repair.selection import selected

    report = gate.judge(request_for(pair, adapter))
    ranked = sorted(report.modules, key=lambda s: s.drift.cosine)
    tau = ranked[3].drift.cosine
    assert len(selected(Below(tau=tau), report)) == 3  # SafeMERGE: strictly below
    assert len(selected(Below(tau=tau, inclusive=True), report)) == 4  # Safe LoRA: at most
    assert set(selected(Lowest(number=2), report)) == {s.module for s in ranked[:2]}
    named = {f.place.name for f in report.findings if f.place.kind == "module"}
    assert set(selected(Flagged(), report)) == named
    assert selected(Flagged(rule="no-such-rule"), report) == ()
    alone = replace(report, findings=tuple(f for f in report.findings if f.place.kind == "adapter"))
    assert selected(Flagged(), alone) == tuple(s.module for s in report.modules)


def test_the_manifest_holds_the_digest_of_every_file(
    pair: Pair, adapter: Path, safety: Path, tmp_path: Path
) -> None:
    request = replace(request_for(pair, adapter), hash_checkpoints=True)
    method = SafeMerge(merge=Merge())
    plan = Plan(method=method, selection=Every())
    repair_and_judge(request, Order(choice=plan, output=tmp_path / "new", safety=safety))
    manifest = json.loads((tmp_path / "new" / "safety_gate_manifest.json").read_text())
    inputs = manifest["inputs"]
    places = {
        "adapter": adapter,
        "safety_adapter": safety,
        "base": pair.base,
        "aligned": pair.aligned,
    }
    for role, folder in places.items():
        assert str(folder) not in json.dumps(manifest)  # no path of this machine
        for file in inputs[role]["files"]:
            digest = hashlib.sha256((folder / file["path"]).read_bytes()).hexdigest()
            assert file["sha256"] == digest
    written = {file["path"]: file["sha256"] for file in manifest["outputs"]}
    there = {p.name for p in (tmp_path / "new").iterdir()} - {"safety_gate_manifest.json"}
    assert written.keys() == there
    for name, digest in written.items():
        data = (tmp_path / "new" / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == digest


def test_the_card_says_what_was_done_and_strangers_text_stays_text(
    pair: Pair, safety: Path, tmp_path: Path
) -> None:
    folder = write_adapter(pair, tmp_path / "<img src=x>|[a](b)", seed=3, back=0.5)
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\ntags:\n- mine\n- 'base_model:adapter:/home/me'\n"
        '- "<b>"\nbase_model: evil\n---\n# <script>\n'
    )
    run(pair, folder, tmp_path / "new", SafeMerge(merge=Merge()), safety=safety)
    card = (tmp_path / "new" / "README.md").read_text()
    front, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert 'base_model: "acme/tiny-chat"' in front
    assert 'license: "apache-2.0"' in front
    assert '- "mine"' in front
    assert "<b>" not in card
    assert "/home/me" not in card
    assert "<script>" not in card
    assert "<img" not in body
    assert "safemerge cat, 0.8 adapter + 0.2 safety" in body
    assert str(tmp_path) not in card


def test_json_follows_both_schemas(pair: Pair, adapter: Path, safety: Path, tmp_path: Path) -> None:
    file = resources.files("safety_gate") / "schemas" / "repair.schema.json"
    schema = json.loads(file.read_text(encoding="utf-8"))
    for method in (None, Unrevert()):
        done = run(pair, adapter, tmp_path / f"{method}", method, safety=safety)
        body = json.loads(repair_json(done))
        part = body.pop("repair")
        jsonschema.validate(body, report_schema())
        jsonschema.validate(part, schema)
        jsonschema.validate(part["before"], report_schema())
        assert body["verdict"] == "undecided"
        assert part["unsettled"] is True
        assert part["before"]["verdict"] == "blocked"


def command(pair: Pair, adapter: Path, output: Path, *more: str) -> tuple[int, str]:
    arguments = [str(adapter), "--base", str(pair.base), "--aligned", str(pair.aligned)]
    result = CliRunner().invoke(repair, [*arguments, "--output", str(output), *more])
    if isinstance(result.exception, GateError):
        return 3, str(result.exception)
    return result.exit_code, result.output


def test_the_command_shows_both_judgments_side_by_side(
    pair: Pair, adapter: Path, tmp_path: Path
) -> None:
    code, text = command(pair, adapter, tmp_path / "new", "--method", "unrevert")
    assert code == 3
    assert "the model was not asked" in " ".join(text.split())
    row = next(line for line in text.splitlines() if line.startswith("verdict"))
    assert row.split() == ["verdict", "blocked", "undecided"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--method scale", "needs --factor"),
        ("--method scale --factor 2", "out of range"),
        ("--method drop --keep 0.1", "means nothing to --method drop"),
        ("--method safelora", "needs --cos-threshold"),
        ("--method drop --lowest 2 --select all", "together"),
        ("--method safemerge --select all --weights 1", "two numbers"),
        ("--method safemerge --select all --weights 0.7,0.3 --merge-ratio 0.2", "says otherwise"),
        ("--method auto --select all", "cannot be used"),
    ],
)
def test_wrong_usage(pair: Pair, adapter: Path, tmp_path: Path, more: str, words: str) -> None:
    code, text = command(pair, adapter, tmp_path / "new", *more.split())
    assert code == 2
    assert words in " ".join(text.split())
    assert not (tmp_path / "new").exists()


def test_the_published_command_line_has_its_counterpart(
    pair: Pair, adapter: Path, safety: Path, tmp_path: Path
) -> None:
    more = "--method safemerge --cos-threshold 0.6 --merge-ratio 0.2 --form cat --density 0.5"
    weights = ("--weights", "[0.8, 0.2]", "--safety-adapter", str(safety))
    code, text = command(pair, adapter, tmp_path / "new", *more.split(), *weights)
    assert code in (0, 1), text
    assert (tmp_path / "new" / "adapter_model.safetensors").exists()


def test_a_taken_place_stops_before_anything_is_read(
    pair: Pair, adapter: Path, tmp_path: Path
) -> None:
    (tmp_path / "new").write_text("mine")
    code, text = command(pair, adapter, tmp_path / "new", "--method", "unrevert")
    assert code == 3
    assert "already" in text
