"""A sample of benchmarks/format_oracle.py: random adapters against PEFT's own merge."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from benchmarks.format_oracle import FACTS, OUTCOMES, Oracle, Tally, document
from tests.random_adapters import KINDS, MODELS

PAGE = Path(__file__).parents[1] / "docs" / "formats.md"


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield Oracle(tmp_path_factory.mktemp("oracle"))
    torch.set_num_threads(threads)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**20))
def test_no_silent_miss(seed: int, oracle: Oracle) -> None:
    tally = Tally()
    oracle.draw(seed, tally)
    event(*(outcome for _, _, outcome in tally.cells))
    assert tally.wrong == []


def test_the_page_prints_the_last_full_run() -> None:
    facts = json.loads(FACTS.read_text())
    assert document(facts) in PAGE.read_text()
    assert facts["wrong"] == []
    assert facts["models"] == list(MODELS)
    assert set(facts["cells"]) >= set(KINDS)
    numbers = [cell for row in facts["cells"].values() for cell in row.values()]
    equal, refused, peft_refuses = (sum(cell[i] for cell in numbers) for i in range(3))
    assert equal + refused + peft_refuses == facts["seeds"][1] - facts["seeds"][0]
    assert equal + refused >= 2000
    assert facts["outcomes"] == list(OUTCOMES)
    assert refused == sum(sum(rules.values()) for rules in facts["refused"].values())
