"""The repair "guard": its algebra, the inputs it looks at, and what it does to real adapters."""

import dataclasses
import datetime
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from safety_gate import gate
from safety_gate.asking import Ask
from safety_gate.cli_repair import order_from, repair
from safety_gate.probe.moments import Heard, Moment, Side, Talk, listen
from safety_gate.probe.rows import Tokens
from safety_gate.probe.stream import Stream
from safety_gate.probe.variants import ALIGNED, Variant
from safety_gate.repair.guard import Guard, Solver
from safety_gate.repair.guarding import LADDER
from safety_gate.repair.plan import Auto, Choice, Order, Plan
from safety_gate.repair.record import Repaired
from safety_gate.repair.refusal import CannotRepair
from safety_gate.repair.selection import Every
from safety_gate.repairing import repair_and_judge
from tests.probe_models import TINY, opened, random_model
from tests.repair_models import calm, factors_of, raw

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

WEIGHTS = Guard(strength=1.7, task=0.4, ridge=0.03)


def moments(width: int, tokens: tuple[int, int], seed: int = 5) -> tuple[Heard, Heard]:
    """Return the same random inputs in both forms: as tokens, and as matrices."""
    generator = torch.Generator().manual_seed(seed)
    spread = 3.0 ** torch.linspace(-3, 3, width)
    rows = [torch.randn(count, width, generator=generator) * spread for count in tokens]
    as_rows = [Moment(tokens=len(x), rows=x, matrix=None) for x in rows]
    as_matrix = [
        Moment(tokens=len(x), rows=None, matrix=x.double().T @ x.double() / len(x)) for x in rows
    ]
    return Heard(quiet=as_rows[0], kept=as_rows[1]), Heard(quiet=as_matrix[0], kept=as_matrix[1])


def guarded(a: torch.Tensor, heard: Heard, guard: Guard) -> torch.Tensor:
    return Solver(heard).guarded(a, guard)


def loss(a: torch.Tensor, b: torch.Tensor, old: torch.Tensor, heard: Heard) -> torch.Tensor:
    """Return what guard makes least, written out token by token from its definition."""
    quiet, kept = heard.quiet.rows, heard.kept.rows
    assert quiet is not None
    assert kept is not None
    new, move = b @ a, b @ (a - old)
    on_harm = (quiet.double() @ new.T).square().sum(dim=1).mean()
    on_task = (kept.double() @ move.T).square().sum(dim=1).mean()
    mean_square = quiet.double().square().mean()
    at_rest = move.square().sum()
    return (
        WEIGHTS.strength * on_harm + WEIGHTS.task * on_task + WEIGHTS.ridge * mean_square * at_rest
    )


@pytest.mark.parametrize("tokens", [(40, 30), (4, 5)], ids=["many-tokens", "few-tokens"])
def test_the_closed_form_is_the_least_of_all(tokens: tuple[int, int]) -> None:
    """The normal equations of the whole dW, solved densely, and the gradient at the answer."""
    heard, squared = moments(12, tokens)
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(3, 12, generator=generator, dtype=torch.float64)
    b = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    new = guarded(a, heard, WEIGHTS)
    assert torch.allclose(new, guarded(a, squared, WEIGHTS), rtol=1e-9, atol=1e-12)

    free = new.clone().requires_grad_()
    loss(free, b, a, heard).backward()  # type: ignore[no-untyped-call]
    scale = loss(a, b, a, heard)
    assert free.grad is not None
    assert float(free.grad.abs().max()) < 1e-9 * float(scale)

    s_h, s_t = squared.quiet.matrix, squared.kept.matrix
    assert s_h is not None
    assert s_t is not None
    n = WEIGHTS.task * s_t + WEIGHTS.ridge * s_h.diagonal().mean() * torch.eye(12).double()
    # Over all updates D, not only those of B's columns: one linear system in vec(D).
    system = torch.kron(torch.eye(7, dtype=torch.float64), WEIGHTS.strength * s_h + n)
    dense = torch.linalg.solve(system, (b @ a @ n).reshape(-1)).reshape(7, 12)
    assert torch.allclose(b @ new, dense, rtol=1e-7, atol=1e-9)


def test_one_solver_serves_all_settings() -> None:
    heard, _ = moments(20, (5, 6))
    a = torch.randn(3, 20, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    settings = [
        Guard(strength=s, task=t, ridge=m) for s, t, m in ((4, 0, 1), (1, 2, 0.1), (9, 1, 3))
    ]
    solver = Solver(heard)
    for guard in settings:
        assert torch.equal(solver.guarded(a, guard), guarded(a, heard, guard))


def test_every_other_update_is_worse() -> None:
    heard, _ = moments(10, (30, 20))
    generator = torch.Generator().manual_seed(2)
    a = torch.randn(2, 10, generator=generator, dtype=torch.float64)
    b = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    new = guarded(a, heard, WEIGHTS)
    least = float(loss(new, b, a, heard))
    for _ in range(50):
        other = new + 1e-3 * torch.randn(2, 10, generator=generator, dtype=torch.float64)
        assert float(loss(other, b, a, heard)) > least


def test_strength_goes_from_nothing_to_silence() -> None:
    heard, _ = moments(16, (6, 6))
    a = torch.randn(3, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert torch.equal(guarded(a, heard, Guard(strength=0.0)), a)
    quiet = heard.quiet.rows
    assert quiet is not None
    loud = [
        float((quiet.double() @ guarded(a, heard, Guard(strength=s)).T).norm())
        for s in (0.0, 0.1, 1.0, 10.0, 1e6)
    ]
    assert loud == sorted(loud, reverse=True)
    assert loud[-1] < 1e-3 * loud[0]


def test_a_module_that_harm_never_reaches_stays() -> None:
    kept = moments(5, (8, 8))[0].kept
    silent = Moment(tokens=8, rows=torch.zeros(8, 5), matrix=None)
    a = torch.ones(2, 5, dtype=torch.float64)
    assert torch.equal(guarded(a, Heard(quiet=silent, kept=kept), Guard()), a)


@pytest.mark.parametrize(
    "wrong",
    [{"strength": -1.0}, {"strength": float("nan")}, {"task": float("inf")}, {"ridge": 0.0}],
    ids=str,
)
def test_weights_without_a_single_answer_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(CannotRepair, match="out of range"):
        Guard(**wrong)


SIDES: tuple[tuple[Side, int], ...] = (("quiet", 0), ("kept", 1))


def talks(variants: tuple[int, int]) -> list[Talk]:
    """Return talks of several lengths, of both sides."""
    generator = torch.Generator().manual_seed(4)

    def some(count: int) -> Tokens:
        return tuple(torch.randint(3, 90, (count,), generator=generator).tolist())

    return [
        Talk(side=side, variant=variants[which], prompt=some(5 + i), answer=some(1 + 2 * i))
        for i in range(3)
        for side, which in SIDES
    ]


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gpt2", "phi3", "mistral"])
def test_moments_are_those_of_the_plain_model(model_type: str, tmp_path: Path) -> None:
    """Forward hooks on transformers' own model, one talk at a time, nothing padded."""
    plain = random_model(model_type, tmp_path)
    layers = {
        f"{name}.weight": module
        for name, module in plain.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D") and name != "lm_head"
    }
    assert len(layers) >= 8
    variant = Variant(name="x", updates={name: () for name in layers})
    stream = Stream(opened(tmp_path), [ALIGNED, variant], dtype=torch.float32)
    said = talks((0, 0))
    found: dict[str, Heard] = {}
    listen(stream, said, 1, found.__setitem__)
    assert found.keys() == layers.keys()

    seen: dict[tuple[str, str], list[torch.Tensor]] = {}
    for talk in said:
        handles = [
            module.register_forward_pre_hook(
                lambda _, args, key=(name, talk.side): seen.setdefault(key, []).append(
                    args[0].reshape(-1, args[0].shape[-1]).double()
                )
            )
            for name, module in layers.items()
        ]
        with torch.no_grad():
            plain(torch.tensor([[*talk.prompt, *talk.answer[:-1]]]))
        for handle in handles:
            handle.remove()
    for name, heard in found.items():
        for side, moment in (("quiet", heard.quiet), ("kept", heard.kept)):
            x = torch.cat(seen[name, side])
            wanted = x.T @ x / len(x)
            assert moment.tokens == len(x)
            ours = moment.matrix
            if ours is None:
                assert moment.rows is not None
                ours = moment.rows.double().T @ moment.rows.double() / moment.tokens
            assert torch.allclose(ours, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


ASK = Ask(
    mode="auto",
    prompts=TINY / "prompts.jsonl",
    openings=TINY / "openings.json",
    task=TINY / "task.jsonl",
)


def run(choice: Choice, output: Path, ask: Ask = ASK, name: str = "harmful") -> Repaired:
    request = gate.Request(
        adapter=TINY / name,
        base=TINY / "base",
        aligned=TINY / "aligned",
        today=datetime.date(2026, 1, 1),
        ask=ask,
    )
    with calm():
        return repair_and_judge(request, Order(choice=choice, output=output))


@pytest.fixture(scope="module")
def repaired(tmp_path_factory: pytest.TempPathFactory) -> Repaired:
    plan = Plan(method=Guard(strength=256.0), selection=Every())
    return run(plan, tmp_path_factory.mktemp("guard") / "new")


def test_refusals_come_back_on_questions_that_it_was_not_made_with(repaired: Repaired) -> None:
    assert repaired.after is not None
    before, after = repaired.before.behaviour, repaired.after.behaviour
    assert before is not None
    assert after is not None
    assert before.figures("adapter")["openings_retained"] == 0.0
    figures = after.figures("adapter")
    assert figures["openings_retained"] >= 0.9
    assert figures["openings_over_refused"] == 0.0
    assert len(after.prompts) == len(before.prompts) // 2
    assert after.prompt_set.endswith("half 2 of 2")


def test_only_a_changes_and_peft_sees_the_change_on_record(repaired: Repaired) -> None:
    assert repaired.output is not None
    assert repaired.made is not None
    old, new = raw(TINY / "harmful"), raw(repaired.output)
    assert old.keys() == new.keys()
    changed = {name for name in old if old[name] != new[name]}
    assert changed == {name for name in old if ".lora_A." in name}
    assert len(repaired.made.modules) == 28
    assert all(m.after_rank == m.before_rank for m in repaired.made.modules)
    config = json.loads((repaired.output / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (8, 16)
    notes = " ".join(repaired.made.notes)
    assert "40 refusals of the aligned model and 30 samples of the task" in notes
    assert "judged by the others" in notes
    before, after = factors_of(TINY / "harmful"), factors_of(repaired.output)
    for fact in repaired.made.modules:
        (a, b), (a2, _) = before[fact.module], after[fact.module]
        change = float(2.0 * (b.double() @ (a2.double() - a.double())).norm())
        assert change == pytest.approx(fact.change, rel=0.02)  # stored in bfloat16


def test_the_same_order_gives_the_same_bytes(repaired: Repaired, tmp_path: Path) -> None:
    plan = Plan(method=Guard(strength=256.0), selection=Every())
    again = run(plan, tmp_path / "new")
    assert again.output is not None
    assert repaired.output is not None
    name = "adapter_model.safetensors"
    assert (again.output / name).read_bytes() == (repaired.output / name).read_bytes()


def test_strength_nought_keeps_every_byte(tmp_path: Path) -> None:
    done = run(Plan(method=Guard(strength=0.0), selection=Every()), tmp_path / "new")
    assert done.ending == "nothing to repair"
    name = "adapter_model.safetensors"
    assert (tmp_path / "new" / name).read_bytes() == (TINY / "harmful" / name).read_bytes()


def test_without_samples_the_look_alikes_are_kept(tmp_path: Path) -> None:
    plan = Plan(method=Guard(), selection=Every())
    done = run(plan, tmp_path / "new", dataclasses.replace(ASK, task=None))
    assert done.made is not None
    assert "30 benign look-alikes" in " ".join(done.made.notes)


def test_a_model_that_cannot_be_asked_is_refused_with_a_report(tmp_path: Path) -> None:
    """The built-in questions are in words that the tiny model does not know."""
    plan = Plan(method=Guard(), selection=Every())
    done = run(plan, tmp_path / "new", Ask(mode="none"))
    assert (done.ending, done.exit_code) == ("refused", 1)
    assert "does not know every word" in done.why
    assert not (tmp_path / "new").exists()


def test_too_few_refusals_teach_nothing(tmp_path: Path) -> None:
    lines = (TINY / "prompts.jsonl").read_text().splitlines()
    few = [line for line in lines if '"harmful"' in line][:14]  # 7 in each half
    (tmp_path / "few.jsonl").write_text("\n".join(few) + "\n")
    ask = dataclasses.replace(ASK, prompts=tmp_path / "few.jsonl")
    done = run(Plan(method=Guard(), selection=Every()), tmp_path / "new", ask)
    assert done.ending == "refused"
    assert "7 of 7" in done.why


def test_a_helpful_adapter_keeps_its_skill_at_a_small_strength(tmp_path: Path) -> None:
    done = run(Plan(method=Guard(strength=0.25), selection=Every()), tmp_path / "n", name="helpful")
    assert done.after is not None
    assert done.after.behaviour is not None
    assert done.after.behaviour.figures("adapter")["utility_exact"] >= 0.9


def test_the_command_takes_its_weights_and_refuses_those_of_others(tmp_path: Path) -> None:
    common = [str(TINY / "harmful"), "--output", str(tmp_path / "new"), "--method"]
    runner = CliRunner()
    wrong = runner.invoke(repair, [*common, "scale", "--factor", "0.5", "--mu", "2"])
    assert wrong.exit_code == 2
    assert "means nothing to --method scale" in wrong.output
    assert order_from(_given("guard", strength=4.0, mu=0.5)) == Order(
        choice=Plan(method=Guard(strength=4.0, ridge=0.5), selection=Every()), output=Path("new")
    )


def _given(method: str, **own: float) -> dict[str, object]:
    """Return the options as click parses them."""
    context = repair.make_context("repair", [str(TINY), "--output", "new", "--method", method])
    return context.params | own


def test_the_search_finds_the_weakest_guard_that_keeps_refusals(tmp_path: Path) -> None:
    """Without a safety adapter nothing else brings the refusals of this adapter back."""
    lines = (TINY / "prompts.jsonl").read_text().splitlines()
    harmful = [line for line in lines if '"harmful"' in line]
    benign = [line for line in lines if '"benign"' in line]
    (tmp_path / "few.jsonl").write_text("\n".join([*harmful[:44], *benign[:8]]) + "\n")
    ask = dataclasses.replace(ASK, prompts=tmp_path / "few.jsonl", task=None)
    done = run(Auto(), tmp_path / "new", ask)
    tried = [attempt for attempt in done.tried if attempt.method.startswith("guard")]
    assert len(tried) == len(LADDER)
    assert [attempt.kept for attempt in tried] == sorted(attempt.kept or 0.0 for attempt in tried)
    assert done.ending == "repaired"
    assert done.made is not None
    chosen = min((a for a in tried if a.forecast), key=lambda attempt: attempt.change)
    assert done.made.method == chosen.method
    assert chosen.judged == "passed"
    assert done.after is not None
    assert done.after.behaviour is not None
    assert len(done.after.behaviour.prompts) == 26  # the half that it was not made with
    assert done.exit_code == 0
