"""A sample of benchmarks/format_oracle.py: random adapters against PEFT's own merge."""

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.delta_oracle import checkpoint_of, verdict
from tests.random_adapters import KINDS, MODELS, config_of, model_of

PEFT_ERRORS = (ValueError, TypeError, KeyError, RuntimeError, ImportError)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    yield {name: checkpoint_of(model_of(name), root / name) for name in MODELS}
    torch.set_num_threads(threads)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(["LORA"] * 8 + list(KINDS)),
    name=st.sampled_from([*MODELS]),
    seed=st.integers(0, 2**16),
)
def test_no_silent_miss(kind: str, name: str, seed: int, checkpoints: dict[str, Path]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            config = config_of(random.Random(seed), name, kind)  # noqa: S311
        except PEFT_ERRORS:
            return
        said = verdict(model_of(name), checkpoints[name], config, Path(folder), seed=seed)
        event(said.split(":")[0])
        assert said == "equal" or said.startswith(("refused", "PEFT refuses")), said
