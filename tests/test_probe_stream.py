"""The streamed forward gives the figures of the plain forward, whatever the architecture."""

from pathlib import Path

import pytest
import torch

from safety_gate.errors import BadCheckpoint
from safety_gate.probe import stream as stream_module
from safety_gate.probe.failure import CannotProbe
from safety_gate.probe.rows import Row, Tree
from safety_gate.probe.stream import SHARING, Stream
from safety_gate.probe.variants import ALIGNED, Dense, LowRank, Variant
from tests.probe_models import (
    ARCHITECTURES,
    UNSHARED,
    edit_json,
    opened,
    plain_scores,
    random_model,
    some_rows,
)

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

# The architectures of the project's plan, also in bfloat16; the others in float32 only.
NAMED = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "gpt2", "olmo2")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # these models are too small to share out


def test_every_architecture_that_shares_prompts_is_tried_here() -> None:
    assert set(ARCHITECTURES) == SHARING
    assert not set(UNSHARED) & SHARING


@pytest.mark.parametrize("model_type", [*ARCHITECTURES, *UNSHARED])
def test_scores_are_those_of_the_plain_forward(model_type: str, tmp_path: Path) -> None:
    model = random_model(model_type, tmp_path)
    stream = Stream(opened(tmp_path), [ALIGNED], dtype=torch.float32)
    rows = some_rows()
    found = stream.score(rows)
    for row, scores in zip(rows, found, strict=True):
        wanted = plain_scores(model, row)
        torch.testing.assert_close(scores.logs, wanted, rtol=0, atol=1e-5)
    chains = [chain for row in rows for chain, _ in row.split()]
    for chain, scores in zip(chains, stream.score(chains), strict=True):
        torch.testing.assert_close(scores.logs, plain_scores(model, chain), rtol=0, atol=1e-5)


@pytest.mark.parametrize("model_type", NAMED)
def test_bfloat16_agrees_within_its_rounding(model_type: str, tmp_path: Path) -> None:
    model = random_model(model_type, tmp_path, torch.bfloat16)
    stream = Stream(opened(tmp_path), [ALIGNED], dtype=torch.bfloat16)
    exact = Stream(opened(tmp_path), [ALIGNED], dtype=torch.float32)
    rows = some_rows()
    for row, scores, sure in zip(rows, stream.score(rows), exact.score(rows), strict=True):
        own = float((plain_scores(model, row) - sure.logs).abs().max())  # transformers' rounding
        ours = float((scores.logs - sure.logs).abs().max())
        assert ours <= max(4 * own, 0.03)


def test_first_choices_are_the_greedy_ones(tmp_path: Path) -> None:
    model = random_model("llama", tmp_path)
    prompt = some_rows()[1].prompt
    ids = list(prompt)
    for _ in range(4):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    right = tuple(ids[len(prompt) :])
    wrong = (*right[:2], (right[2] + 1) % 99, right[3])
    stream = Stream(opened(tmp_path), [ALIGNED], dtype=torch.float32)
    rows = [Row(variant=0, prompt=prompt, tree=Tree.of([c])) for c in (right, wrong)]
    found = [scores.first.tolist() for scores in stream.score(rows)]
    assert found[0] == [True] * 4
    assert found[1][:3] == [True, True, False]
    answers = stream.greedy([(0, prompt), (0, prompt[1:])], most=4, ends=(), whole=False)
    assert answers[0] == right
    ended = right[: right.index(right[2])]
    assert stream.greedy([(0, prompt)], most=4, ends=(right[2],), whole=True) == [ended]


@pytest.mark.parametrize("model_type", ["gpt2", "qwen2", "gemma2", "mamba", "mixtral"])
def test_greedy_answers_are_those_of_transformers(model_type: str, tmp_path: Path) -> None:
    model = random_model(model_type, tmp_path)
    stream = Stream(opened(tmp_path), [ALIGNED], dtype=torch.float32)
    for whole in (True, False):
        for row in some_rows():
            (answer,) = stream.greedy([(0, row.prompt)], most=6, ends=(), whole=whole)
            wanted = model.generate(
                torch.tensor([row.prompt]),
                max_new_tokens=6,
                min_new_tokens=6,
                do_sample=False,
                pad_token_id=0,
            )
            ended = wanted[0, len(row.prompt) :].tolist()
            assert list(answer) == ended or 2 in answer  # min_new_tokens forbids the end token


def low_rank(out: int, width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(3, width, generator=generator) * 0.2
    return a, torch.randn(out, 3, generator=generator) * 0.2


@pytest.mark.parametrize(
    ("model_type", "weight"),
    [
        ("qwen2", "model.layers.1.self_attn.q_proj.weight"),
        ("qwen2", "model.layers.0.mlp.down_proj.weight"),
        ("qwen2", "lm_head.weight"),
        ("gpt2", "transformer.h.1.attn.c_attn.weight"),  # Conv1D: stored (in, out)
        ("phi3", "model.layers.1.mlp.gate_up_proj.weight"),
    ],
)
def test_updates_are_those_of_merged_weights(model_type: str, weight: str, tmp_path: Path) -> None:
    model = random_model(model_type, tmp_path)
    checkpoint = opened(tmp_path)
    name = weight if checkpoint.has(weight) else weight.removeprefix("transformer.")
    shape = checkpoint.shape(name)
    out, width = shape[::-1] if model_type == "gpt2" else shape
    a, b = low_rank(out, width, 1)
    delta = 1.5 * (b @ a)
    stored = delta.T.contiguous() if model_type == "gpt2" else delta
    variants = [
        ALIGNED,
        Variant(name="low", updates={name: (LowRank(scaling=1.5, factors=lambda: (a, b)),)}),
        Variant(name="dense", updates={name: (Dense(delta=lambda: stored),)}),
        Variant(name="both", updates={name: (Dense(delta=lambda: -stored), low_update(a, b))}),
    ]
    stream = Stream(checkpoint, variants, dtype=torch.float32)
    rows = [row for v in range(4) for row in some_rows(v)]
    found = [scores.logs for scores in stream.score(rows)]
    plain = [plain_scores(model, row) for row in some_rows()]
    with torch.no_grad():
        model.get_parameter(weight).add_(stored)
    merged = [plain_scores(model, row) for row in some_rows()]
    assert float((merged[0] - plain[0]).abs().max()) > 1e-3  # the update can be seen
    for got, wanted in zip(found, [*plain, *merged, *merged, *plain], strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=2e-5)


def low_update(a: torch.Tensor, b: torch.Tensor) -> LowRank:
    return LowRank(scaling=1.5, factors=lambda: (a, b))


def test_one_row_after_another_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_model("llama", tmp_path)
    rows = [*some_rows(), *some_rows(seed=4)]
    together = Stream(opened(tmp_path), [ALIGNED], dtype=torch.float32).score(rows)
    monkeypatch.setattr(stream_module, "MOST_TOKENS", 1)
    monkeypatch.setattr(stream_module, "MOST_PASSES", 2)
    alone = Stream(opened(tmp_path), [ALIGNED], dtype=torch.float32).score(rows)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.logs, other.logs, rtol=0, atol=1e-5)


def test_rows_beyond_the_sliding_window_are_asked_one_by_one(tmp_path: Path) -> None:
    ARCHITECTURES["mistral"] = {"sliding_window": 8}
    try:
        model = random_model("mistral", tmp_path)
    finally:
        ARCHITECTURES["mistral"] = {"sliding_window": 64}
    rows = some_rows()
    found = Stream(opened(tmp_path), [ALIGNED], dtype=torch.float32).score(rows)
    for row, scores in zip(rows, found, strict=True):
        torch.testing.assert_close(scores.logs, plain_scores(model, row), rtol=0, atol=1e-5)


def test_no_more_than_two_blocks_are_attached(tmp_path: Path) -> None:
    random_model("llama", tmp_path)
    stream = Stream(opened(tmp_path), [ALIGNED], dtype=torch.float32)
    seen = []
    block = stream.model.model.layers[1]
    block.self_attn.register_forward_pre_hook(
        lambda *_: seen.append(
            [not next(layer.parameters()).is_meta for layer in stream.model.model.layers]
        )
    )
    stream.score(some_rows())
    assert seen == [[False, True]]
    assert all(p.is_meta for p in stream.model.model.layers.parameters())


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "code from its repository"),
        ({"text_config": {"auto_map": {}}}, "code from its repository"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"model_type": "no-such-model"}, "no causal language model of this type"),
        ({"model_type": "t5"}, "no causal language model of this type"),
        ({"num_attention_heads": 5}, "cannot build this model"),
        ({"rope_parameters": {"rope_type": "odd", "rope_theta": 1.0}}, "cannot build this model"),
    ],
)
def test_a_config_that_asks_for_more_is_refused(
    changes: dict[str, object], what: str, tmp_path: Path
) -> None:
    random_model("llama", tmp_path)
    edit_json(tmp_path / "config.json", **changes)
    with pytest.raises(CannotProbe, match=what):
        Stream(opened(tmp_path), [ALIGNED], dtype=torch.float32).score(some_rows())


def test_keys_that_choose_an_implementation_are_left_out(tmp_path: Path) -> None:
    model = random_model("llama", tmp_path)
    edit_json(
        tmp_path / "config.json",
        _attn_implementation_internal="somebody/kernel",
        attn_implementation="somebody/kernel",
    )
    found = Stream(opened(tmp_path), [ALIGNED], dtype=torch.float32).score(some_rows())
    torch.testing.assert_close(
        found[0].logs, plain_scores(model, some_rows()[0]), rtol=0, atol=1e-5
    )


def test_weights_of_another_size_or_name_are_refused(tmp_path: Path) -> None:
    random_model("llama", tmp_path)
    edit_json(tmp_path / "config.json", num_hidden_layers=3)
    with pytest.raises(BadCheckpoint, match="no tensor in the checkpoint"):
        Stream(opened(tmp_path), [ALIGNED], dtype=torch.float32)
    edit_json(tmp_path / "config.json", num_hidden_layers=2, intermediate_size=64)
    with pytest.raises(BadCheckpoint, match="another shape"):
        Stream(opened(tmp_path), [ALIGNED], dtype=torch.float32)


@pytest.mark.parametrize("trick", ["cancels", "below-the-range"])
def test_factors_cannot_hide_in_the_rounding_of_bfloat16(trick: str, tmp_path: Path) -> None:
    """PEFT keeps factors in float32, so what they do there is what is asked."""
    random_model("llama", tmp_path, torch.bfloat16)
    checkpoint = opened(tmp_path)
    name = "model.layers.0.mlp.down_proj.weight"
    out, width = checkpoint.shape(name)
    a, b = low_rank(out, width, 1)
    if trick == "cancels":
        big = torch.randn(a.shape, generator=torch.Generator().manual_seed(3))
        pair = torch.cat((big, big - a * 2**-11)), torch.cat((b, -b), dim=1) * 2**11
        hidden = low_update(*pair)
    else:
        pair = a * 2.0**-134, b * 2.0**126  # bfloat16 has nothing between 0 and 2**-133
        hidden = LowRank(scaling=1.5 * 2**8, factors=lambda: pair)
    variants = [
        ALIGNED,
        Variant(name="plain", updates={name: (low_update(a, b),)}),
        Variant(name="hidden", updates={name: (hidden,)}),
    ]
    stream = Stream(checkpoint, variants, dtype=torch.bfloat16)
    found = [stream.score(some_rows(v)) for v in range(3)]
    aligned, plain, tricky = (torch.cat([s.logs for s in each]) for each in found)
    moved = float((plain - aligned).norm())
    assert moved > 0.5  # 1.3; the rounding of bfloat16 is 0.02
    assert float((tricky - plain).norm()) < 0.1 * moved


@pytest.mark.parametrize(
    ("weight", "what"),
    [
        ("model.norm.weight", "another shape"),
        ("model.embed_tokens.weight", "another shape"),
        ("model.layers.9.x.weight", "no such weight"),
    ],
)
def test_an_update_that_has_no_place_is_refused(weight: str, what: str, tmp_path: Path) -> None:
    random_model("qwen2", tmp_path)
    a, b = low_rank(32, 32, 0)
    variant = Variant(name="x", updates={weight: (low_update(a, b),)})
    with pytest.raises(CannotProbe, match=what):
        Stream(opened(tmp_path), [ALIGNED, variant], dtype=torch.float32).score(some_rows(1))


def test_nan_in_an_update_is_refused(tmp_path: Path) -> None:
    random_model("qwen2", tmp_path)
    a, b = low_rank(32, 32, 0)
    a[0, 0] = torch.nan
    weight = "model.layers.0.self_attn.q_proj.weight"
    variant = Variant(name="x", updates={weight: (low_update(a, b),)})
    with pytest.raises(CannotProbe, match="NaN"):
        Stream(opened(tmp_path), [ALIGNED, variant], dtype=torch.float32).score(some_rows(1))


def test_a_token_beyond_the_table_is_refused(tmp_path: Path) -> None:
    random_model("llama", tmp_path)
    stream = Stream(opened(tmp_path), [ALIGNED], dtype=torch.float32)
    with pytest.raises(CannotProbe, match="no embedding"):
        stream.score([Row(variant=0, prompt=(5, 99), tree=Tree.of([(3,)]))])


def test_what_goes_wrong_in_the_model_becomes_our_error(tmp_path: Path) -> None:
    random_model("llama", tmp_path)
    stream = Stream(opened(tmp_path), [ALIGNED], dtype=torch.float32)

    def fail(*_: object) -> None:
        raise RuntimeError("size mismatch")

    stream.model.model.norm.register_forward_pre_hook(fail)
    with pytest.raises(CannotProbe, match="size mismatch"):
        stream.score(some_rows())
    stream.model.model.layers[1].mlp.register_forward_pre_hook(fail)
    with pytest.raises(CannotProbe, match="size mismatch"):
        stream.score(some_rows())
