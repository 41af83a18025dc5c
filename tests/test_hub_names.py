"""Which texts are repositories, and which are folders."""

from pathlib import Path

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from hypothesis import given
from hypothesis import strategies as st

from safety_gate.sources.hub_names import (
    BadLocation,
    FolderPlace,
    HubPlace,
    is_repo_id,
    is_revision,
    parse_location,
)

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("acme/lora", HubPlace(repo_id="acme/lora", revision=None)),
        ("acme/lora@main", HubPlace(repo_id="acme/lora", revision="main")),
        (f"acme/lora@{SHA}", HubPlace(repo_id="acme/lora", revision=SHA)),
        ("acme/lora@refs/pr/7", HubPlace(repo_id="acme/lora", revision="refs/pr/7")),
        ("hf://acme/lora@v1.0", HubPlace(repo_id="acme/lora", revision="v1.0")),
        ("./acme/lora", FolderPlace(path=Path("./acme/lora"))),
        ("../acme/lora", FolderPlace(path=Path("../acme/lora"))),
        ("/acme/lora", FolderPlace(path=Path("/acme/lora"))),
        ("~/lora", FolderPlace(path=Path("~/lora"))),
        ("lora", FolderPlace(path=Path("lora"))),
        ("models/acme/lora", FolderPlace(path=Path("models/acme/lora"))),
        ("acme/lo ra", FolderPlace(path=Path("acme/lo ra"))),
        ("acme/../lora", FolderPlace(path=Path("acme/../lora"))),
        ("", FolderPlace(path=Path())),
    ],
)
def test_what_a_text_names(text: str, place: HubPlace | FolderPlace) -> None:
    assert parse_location(text) == place


@pytest.fixture
def shadow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "acme" / "lora").mkdir(parents=True)
    (tmp_path / "acme" / "lora@main").mkdir()
    monkeypatch.chdir(tmp_path)
    return "acme/lora"


def test_an_existing_folder_wins(shadow: str) -> None:
    assert parse_location(shadow) == FolderPlace(path=Path(shadow))


def test_where_strangers_bring_folders_a_shadow_is_refused(shadow: str) -> None:
    with pytest.raises(BadLocation) as caught:
        parse_location(shadow, shadowing="refuse")
    assert caught.value.hint


@pytest.mark.parametrize("text", ["hf://acme/lora", "acme/lora@main", f"acme/lora@{SHA}"])
def test_no_folder_shadows_what_says_it_is_a_repository(shadow: str, text: str) -> None:
    assert isinstance(parse_location(text), HubPlace)


@pytest.mark.usefixtures("shadow")
def test_a_dot_slash_is_always_a_folder() -> None:
    place = parse_location("./acme/lora", shadowing="refuse")
    assert place == FolderPlace(path=Path("./acme/lora"))


@pytest.mark.parametrize(
    "text",
    ["hf://", "hf://acme", "hf://acme/lora/x", "hf://a/b@", "hf://a/b@..", "hf://../x", "a/b@a b"],
)
def test_a_repository_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadLocation):
        parse_location(text)


@pytest.mark.parametrize(
    "repo_id",
    ["a--b/c", "a/b..c", "a/b.git", "-a/b", "a/b-", "a/.b", "a", "a/b/c", "a/" + "b" * 97, "a/b\n"],
)
def test_ids_that_the_hub_does_not_have(repo_id: str) -> None:
    assert not is_repo_id(repo_id)


@given(st.from_regex(r"[A-Za-z0-9_.\-]{1,9}/[A-Za-z0-9_.\-]{1,99}", fullmatch=True))
def test_ids_are_never_laxer_than_the_client(repo_id: str) -> None:
    if is_repo_id(repo_id):
        try:
            validate_repo_id(repo_id)
        except HFValidationError:
            pytest.fail(f"{repo_id!r} is accepted here and refused by the client")


@pytest.mark.parametrize(
    "revision",
    ["", "-x", "a b", "a..b", "a//b", "/a", "a/", "a.lock", "a~1", "a^", "a:b", "a\n", "x" * 256],
)
def test_revisions_that_git_or_the_hub_do_not_have(revision: str) -> None:
    assert not is_revision(revision)
