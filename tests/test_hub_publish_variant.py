"""A repaired adapter on its way to the Hub: pull request, branch, new repository."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from safety_gate.publish.card import OPT_OUT, START, with_section
from safety_gate.publish.hub import HubWishes, is_ours, publish_hub
from safety_gate.publish.hub_desk import Target
from safety_gate.publish.hub_discussion import TITLE
from safety_gate.publish.hub_parcel import Variant
from safety_gate.publish.hub_told import HubTold
from safety_gate.publish.hub_variant import MANIFEST
from safety_gate.sources.hub_client import HubClient
from safety_gate.sources.hub_names import BadLocation
from tests.hub_publications import (
    BOT,
    CARD,
    FILES,
    OWNER,
    QUICK,
    REPAIRED,
    REPO,
    STRANGER,
    adapter_repo,
    desk_of,
    variant,
    writer,
)
from tests.loopback_hub import Fault, LoopbackHub
from tests.loopback_hub.history import Commit
from tests.sample_reports import blocked

pytest_plugins = ("tests.loopback_hub.fixtures",)


def offer(hub: LoopbackHub, target: Target, made: Variant, *, user: str = BOT) -> HubTold:
    wishes = HubWishes(discussion="never", comment="never", variant=made)
    published = publish_hub(writer(hub, user), target, blocked(), wishes, patience=QUICK)
    (told,) = published
    assert published.oids == ((told.oid,) if told.oid else ())
    return told


def contents(commit: Commit) -> dict[str, bytes]:
    return {path: content.data for path, content in commit.files.items()}


def expected(told: dict[str, bytes]) -> dict[str, bytes]:
    """Return what a pull request holds: the repaired files, and the owner's own card."""
    card = next(data for path, data in told.items() if path == "README.md")
    assert card.startswith(CARD + b"\n" + START.encode() + b"\n## Safety Gate: passed\n")
    assert b"repaired from commit" in card
    git = {".gitattributes": told[".gitattributes"]}
    return {**{p: d for p, d in REPAIRED.items() if p != "README.md"}, **git, "README.md": card}


def test_a_pull_request_by_somebody_who_may_not_write(hub: LoopbackHub, tmp_path: Path) -> None:
    target = adapter_repo(hub)
    told = offer(hub, target, variant(tmp_path))
    (found,) = hub.repo(REPO).discussions
    head = hub.repo(REPO).at("refs/pr/1")
    assert told == HubTold(
        channel="repaired adapter",
        state="created",
        url=f"{hub.endpoint}/{REPO}/discussions/1",
        oid=head.id,
    )
    assert (found.author, found.status, found.is_pull_request) == (BOT, "open", True)
    assert found.title == head.title == f"Repaired adapter for {target.sha[:12]} [safety-gate]"
    assert is_ours(found.title)
    assert head.parent == target.sha
    assert contents(head) == expected(contents(head))  # the pickle is gone
    assert "training_args.bin" not in head.files
    assert hub.repo(REPO).head.id == target.sha  # main is not touched
    assert len(hub.requests("commit")) == 1
    for part in ("was **blocked**", "**passed**", "`training_args.bin`", "To decline"):
        assert part in head.message


def test_what_is_read_from_the_pull_request_is_what_was_judged(
    hub: LoopbackHub, tmp_path: Path
) -> None:
    target = adapter_repo(hub)
    told = offer(hub, target, variant(tmp_path))
    reader = HubClient(endpoint=hub.endpoint, token=hub.token("reader"))
    pinned = reader.resolve(REPO, "refs/pr/1")
    assert pinned.sha == told.oid


def test_the_same_twice_is_one_pull_request(hub: LoopbackHub, tmp_path: Path) -> None:
    target, made = adapter_repo(hub), variant(tmp_path)
    first = offer(hub, target, made)
    again = offer(hub, target, made)
    assert (again.state, again.url, again.oid) == ("unchanged", first.url, "")
    assert len(hub.repo(REPO).discussions) == 1


@pytest.mark.parametrize("user", [OWNER, BOT])
def test_another_repair_of_the_same_commit_takes_the_place_of_the_first(
    hub: LoopbackHub, tmp_path: Path, user: str
) -> None:
    """In the same pull request where we may push to it, else in a new one."""
    target = adapter_repo(hub)
    first = offer(hub, target, variant(tmp_path), user=user)
    (tmp_path / "other").mkdir()
    better = {**REPAIRED, "adapter_model.safetensors": b"better weights" * 9}
    other = variant(tmp_path / "other", better)
    again = offer(hub, target, other, user=user)
    if user == OWNER:
        assert (again.state, again.url) == ("updated", first.url)
    else:
        assert again.state == "created"
    found = hub.repo(REPO).discussions
    assert [one.status for one in found] == ["closed"] * (len(found) - 1) + ["open"]
    head = hub.repo(REPO).at(f"refs/pr/{len(found)}")
    assert head.id == again.oid
    assert head.files["adapter_model.safetensors"].data == b"better weights" * 9
    assert offer(hub, target, other, user=user) == replace(again, state="unchanged", oid="")


def test_a_closed_pull_request_is_not_opened_again(hub: LoopbackHub, tmp_path: Path) -> None:
    target, made = adapter_repo(hub), variant(tmp_path)
    offer(hub, target, made)
    hub.repo(REPO).discussions[0].set_status("closed", OWNER)
    told = offer(hub, target, made)
    assert (told.state, "closed" in told.why) == ("skipped", True)
    assert len(hub.repo(REPO).discussions) == 1


def test_a_newer_commit_replaces_the_older_offer(hub: LoopbackHub, tmp_path: Path) -> None:
    target, made = adapter_repo(hub), variant(tmp_path)
    offer(hub, target, made)
    hub.world.discuss(hub.repo(REPO), title="Mine", text="", author=STRANGER, pull_request=True)
    newer = hub.commit(REPO, {"adapter_model.safetensors": b"trained again" * 9})
    told = offer(hub, Target(repo_id=REPO, sha=newer.id), made)
    assert told.state == "created"
    assert [d.status for d in hub.repo(REPO).discussions] == ["closed", "draft", "open"]


def test_somebody_elses_pull_request_of_our_title_is_not_ours(
    hub: LoopbackHub, tmp_path: Path
) -> None:
    target, made = adapter_repo(hub), variant(tmp_path)
    title = f"Repaired adapter for {target.sha[:12]} [safety-gate]"
    hub.world.discuss(hub.repo(REPO), title=title, text="", author=STRANGER, pull_request=True)
    assert offer(hub, target, made).state == "created"
    theirs, ours = hub.repo(REPO).discussions
    assert (theirs.author, theirs.status, ours.author) == (STRANGER, "draft", BOT)


@pytest.mark.parametrize("how", ["opted out", "discussion closed", "moved on", "disabled"])
def test_an_offer_that_is_not_wanted(hub: LoopbackHub, tmp_path: Path, how: str) -> None:
    target, made = adapter_repo(hub), variant(tmp_path)
    repo = hub.repo(REPO)
    if how == "opted out":
        hub.commit(REPO, {"README.md": CARD + OPT_OUT.encode()})
    elif how == "discussion closed":
        hub.world.discuss(repo, title=TITLE, text="", author=BOT).set_status("closed", OWNER)
    elif how == "moved on":
        hub.commit(REPO, {"adapter_model.safetensors": b"newer"})
    else:
        repo.discussions_disabled = True
    assert offer(hub, target, made).state == "skipped"
    assert [ref for ref in repo.refs if ref.startswith("refs/pr/")] == []


def test_a_branch(hub: LoopbackHub, tmp_path: Path) -> None:
    target = adapter_repo(hub)
    made = replace(variant(tmp_path), way="branch")
    told = offer(hub, target, made, user=OWNER)
    name = f"safety-gate/repaired-{target.sha[:12]}"
    head = hub.repo(REPO).at(name)
    assert told.state == "updated"
    assert told.oid == head.id
    assert told.url.endswith(f"/{REPO}/tree/{name}")
    assert contents(head) == expected(contents(head))
    assert hub.repo(REPO).head.id == target.sha
    again = offer(hub, target, made, user=OWNER)
    assert (again.state, again.oid) == ("unchanged", "")


def test_a_branch_needs_a_token_that_may_write(hub: LoopbackHub, tmp_path: Path) -> None:
    told = offer(hub, adapter_repo(hub), replace(variant(tmp_path), way="branch"))
    assert (told.state, told.why) == ("failed", "the token may not do this (status 403)")


@pytest.mark.parametrize(
    ("change", "private"),
    [
        pytest.param({}, False, id="public"),
        pytest.param({"private": True}, True, id="private"),
        pytest.param({"gated": "auto"}, True, id="gated"),
    ],
)
def test_a_repository_of_its_own_is_no_more_public_than_the_first(
    hub: LoopbackHub, tmp_path: Path, change: dict[str, Any], private: bool
) -> None:
    target = adapter_repo(hub)
    for name, value in change.items():
        setattr(hub.repo(REPO), name, value)
    made = replace(variant(tmp_path), way="repository", repository="acme/lora-repaired")
    told = offer(hub, target, made, user=OWNER)
    there = hub.repo("acme/lora-repaired")
    assert told.url == f"{hub.endpoint}/acme/lora-repaired"
    assert told.oid == there.head.id
    assert there.private is private
    assert {p: d for p, d in contents(there.head).items() if p[0] != "."} == REPAIRED


def test_a_repository_of_its_own_is_kept_up_to_date(hub: LoopbackHub, tmp_path: Path) -> None:
    target = adapter_repo(hub)
    old = {**REPAIRED, "left.txt": b"from an earlier repair"}
    hub.add_repo("acme/lora-repaired", dict(old))
    made = replace(variant(tmp_path), way="repository", repository="acme/lora-repaired")
    assert offer(hub, target, made, user=OWNER).state == "updated"
    assert "left.txt" not in hub.repo("acme/lora-repaired").head.files
    assert offer(hub, target, made, user=OWNER).state == "unchanged"


def test_a_repository_of_somebody_else_is_not_overwritten(hub: LoopbackHub, tmp_path: Path) -> None:
    target = adapter_repo(hub)
    there = hub.add_repo("acme/precious", {"adapter_config.json": b"mine"})
    head = there.head.id
    made = replace(variant(tmp_path), way="repository", repository="acme/precious")
    told = offer(hub, target, made, user=OWNER)
    assert (told.state, "not one of ours" in told.why) == ("failed", True)
    assert there.head.id == head


def test_what_did_not_pass_is_not_offered(hub: LoopbackHub, tmp_path: Path) -> None:
    made = replace(variant(tmp_path), after=blocked())
    told = offer(hub, adapter_repo(hub), made)
    assert (told.state, "did not pass" in told.why) == ("failed", True)
    assert hub.repo(REPO).discussions == []


@pytest.mark.parametrize("how", ["changed", "gone", "link", "outside"])
def test_only_the_judged_bytes_are_offered(hub: LoopbackHub, tmp_path: Path, how: str) -> None:
    made = variant(tmp_path)
    weights = made.folder / "adapter_model.safetensors"
    if how == "changed":
        weights.write_bytes(b"harmful weights")
    elif how == "gone":
        weights.unlink()
    elif how == "link":
        copy = tmp_path / "copy"
        copy.write_bytes(weights.read_bytes())
        weights.unlink()
        weights.symlink_to(copy)
    else:
        adapter = made.after.adapter
        assert adapter is not None
        files = tuple(replace(f, path=f"../repaired/{f.path}") for f in adapter.files)
        made = replace(made, after=replace(made.after, adapter=replace(adapter, files=files)))
    told = offer(hub, adapter_repo(hub), made)
    assert (told.state, "not those that were judged" in told.why) == ("failed", True)
    assert hub.requests("commit") == []


def test_a_file_that_was_not_judged_stays_at_home(hub: LoopbackHub, tmp_path: Path) -> None:
    made = variant(tmp_path)
    (made.folder / "secrets.txt").write_text("a token")
    offer(hub, adapter_repo(hub), made)
    assert "secrets.txt" not in hub.repo(REPO).at("refs/pr/1").files


@pytest.mark.parametrize("name", ["acme/../x", "x", "acme/lora/deep", "https://evil.example/a/b"])
def test_only_a_plain_name_is_a_repository(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadLocation):
        replace(variant(tmp_path), way="repository", repository=name)


@pytest.mark.parametrize("way", ["pull request", "branch", "repository"])
@pytest.mark.parametrize("cut", [None, 0])
def test_a_lost_answer_is_no_second_offer(
    hub: LoopbackHub, tmp_path: Path, way: Any, cut: int | None
) -> None:
    """The commit is made and its answer lost, or it is not made: the next try looks first."""
    target = adapter_repo(hub)
    made = replace(variant(tmp_path), way=way, repository="acme/lora-repaired")
    fault = Fault(route="commit", cut_after=cut) if cut is not None else Fault(
        route="commit", drop=True
    )  # fmt: skip
    hub.faults.add(fault)
    told = offer(hub, target, made, user=OWNER)
    repo = hub.repo("acme/lora-repaired" if way == "repository" else REPO)
    own = [one for one in repo.commits.values() if is_ours(one.title)]
    assert [one.id for one in own] == [told.oid]
    assert len(hub.repo(REPO).discussions) == (1 if way == "pull request" else 0)


def test_a_branch_that_moves_is_read_again(hub: LoopbackHub, tmp_path: Path) -> None:
    target = adapter_repo(hub)
    hub.faults.add(Fault(route="commit", status=412))
    told = offer(hub, target, replace(variant(tmp_path), way="branch"), user=OWNER)
    assert told.state == "updated"
    assert len(hub.requests("commit")) == 2


def test_a_card_with_a_section_gets_no_second_one(hub: LoopbackHub, tmp_path: Path) -> None:
    card = with_section(CARD, "## Safety Gate: blocked\n\nold\n")
    target = adapter_repo(hub, {**FILES, "README.md": card})
    offer(hub, target, variant(tmp_path))
    text = hub.repo(REPO).at("refs/pr/1").files["README.md"].data
    assert text.count(START.encode()) == 1
    assert b"Safety Gate: passed" in text


def test_our_own_account_is_asked_for_once(hub: LoopbackHub, tmp_path: Path) -> None:
    desk = desk_of(hub)
    assert [desk.account, desk.account] == [BOT, BOT]
    assert len(hub.requests("whoami")) == 1
    assert MANIFEST in REPAIRED


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's own
def test_without_xet_large_files_go_over_lfs(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hub.world, "xet", None)
    target = adapter_repo(hub)
    told = offer(hub, target, variant(tmp_path))
    assert told.state == "created", told
    assert len(hub.requests("lfs-put")) == 1
    head = hub.repo(REPO).at("refs/pr/1")
    assert contents(head) == expected(contents(head))


def test_a_hub_without_xet_is_told_about(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(hub.world, "xet", None)
    target = adapter_repo(hub)
    told = offer(hub, target, variant(tmp_path))
    assert told.state == "failed"
    assert "HF_HUB_DISABLE_XET=1" in told.hint
