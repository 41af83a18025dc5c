"""The registry of known pairs."""

import pytest

from safety_gate.errors import BadPolicy
from safety_gate.sources.hub_names import HubPlace, parse_location
from safety_gate.sources.pairs import Pair, Pairs, _shipped


def test_a_known_claim_gives_both_checkpoints() -> None:
    pair = Pairs.shipped().find("meta-llama/Llama-2-7b-chat-hf")
    assert pair is not None
    assert pair.base == "meta-llama/Llama-2-7b-hf"
    assert pair.aligned == "meta-llama/Llama-2-7b-chat-hf"


def test_an_earlier_name_gives_the_name_of_today() -> None:
    pair = Pairs.shipped().find("meta-llama/Meta-Llama-3.1-8B-Instruct")
    assert pair is not None
    assert pair.aligned == "meta-llama/Llama-3.1-8B-Instruct"


@pytest.mark.parametrize(
    "claim",
    [
        "",
        "evil/Llama-2-7b-chat-hf",
        "meta-llama/Llama-2-7b-chat-hf ",
        "meta-llama/Llama-2-7b-hf",  # a base: nothing is aligned to it
        "/root/meta-llama/Llama-2-7b-chat-hf",
        "http://169.254.169.254/latest",
        "meta-llama/Llama-2-7b-chat-hf@main",
    ],
)
def test_any_other_claim_gives_nothing(claim: str) -> None:
    assert Pairs.shipped().find(claim) is None


def test_every_pair_names_repositories_of_the_hub() -> None:
    for pair in Pairs.shipped():
        assert pair.base != pair.aligned
        for text in (pair.claim, pair.aligned, pair.base):
            assert parse_location(f"hf://{text}") == HubPlace(repo_id=text, revision=None)


def test_aligned_and_base_have_one_owner_and_size() -> None:
    for pair in Pairs.shipped():
        assert pair.aligned.split("/")[0] == pair.base.split("/")[0]


def test_a_policy_adds_pairs_and_goes_before() -> None:
    known = len(Pairs.shipped())
    pairs = Pairs.shipped().extended(
        {
            "acme/chat": ("./models/chat", "acme/base@main"),
            "meta-llama/llama-2-7b-chat-hf": ("mirror/chat", "mirror/base"),
        }
    )
    assert len(pairs) == known + 1
    assert pairs.find("acme/chat") == Pair(
        claim="acme/chat", aligned="./models/chat", base="acme/base@main", origin="the policy file"
    )
    replaced = pairs.find("meta-llama/Llama-2-7b-chat-hf")
    assert replaced is not None
    assert replaced.base == "mirror/base"


@pytest.mark.parametrize(
    "text",
    [
        "families: {}\n",
        "families: {}\naliases: {}\nmore: {}\n",
        "families: {x: {a/b: a/c}}\naliases: {a/d: a/e}\n",
        "families: {x: {a/b: a/c}, y: {a/b: a/d}}\naliases: {}\n",
        "families: {x: {a/b: a/c, a/b: a/d}}\naliases: {}\n",
        "families: {x: {a/b: ../c}}\naliases: {}\n",
        "families: {x: {a/b: 1}}\naliases: {}\n",
        "families: [",
    ],
)
def test_a_damaged_list_is_refused(text: str) -> None:
    with pytest.raises(BadPolicy):
        _shipped(text)
