"""Model card, discussion and comment, by the real client against the loopback Hub."""

import threading
from dataclasses import replace

import pytest

from safety_gate.publish.card import END, OPT_OUT, START
from safety_gate.publish.hub import HubWishes, connect, is_ours, publish_hub
from safety_gate.publish.hub_desk import Target
from safety_gate.publish.hub_discussion import TITLE
from safety_gate.publish.hub_told import HubPublished, HubTold
from safety_gate.records import Report
from tests.hub_publications import (
    BOT,
    CARD,
    OWNER,
    QUICK,
    REPO,
    STRANGER,
    adapter_repo,
    card_of,
    texts,
    threads,
    writer,
)
from tests.loopback_hub import LoopbackHub
from tests.sample_reports import blocked, passed, undecided

pytest_plugins = ("tests.loopback_hub.fixtures",)

CARD_ONLY = HubWishes(card=True, discussion="never", comment="never")
TALK_ONLY = HubWishes(picture=False)


def publish(
    hub: LoopbackHub,
    target: Target,
    report: Report,
    wishes: HubWishes = CARD_ONLY,
    *,
    user: str = OWNER,
) -> HubTold:
    """Publish in one channel."""
    published = publish_hub(writer(hub, user), target, report, wishes, patience=QUICK)
    (told,) = published
    return told


def pull_request(hub: LoopbackHub, *, author: str = STRANGER) -> Target:
    """Open a pull request with new weights; its head is what was judged."""
    repo = hub.repo(REPO)
    new = {"adapter_model.safetensors": hub.world.content("a.safetensors", b"theirs" * 9)}
    pushed = hub.world.pull_request(repo, new, title="Better weights", author=author)
    assert pushed.pull_request is not None
    return Target(repo_id=REPO, sha=pushed.commit.id, pull_request=pushed.pull_request.num)


# -- the model card --------------------------------------------------------------------------------


def test_the_section_is_added_and_everything_else_stays(hub: LoopbackHub) -> None:
    target = adapter_repo(hub)
    told = publish(hub, target, blocked())
    head = hub.repo(REPO).head
    assert told == HubTold(
        channel="model card",
        state="updated",
        url=f"{hub.endpoint}/{REPO}/blob/main/README.md",
        oid=head.id,
    )
    card = card_of(hub)
    assert card.startswith(CARD + b"\n" + START.encode() + b"\n## Safety Gate: blocked\n")
    assert card.endswith(END.encode() + b"\n")
    assert target.sha.encode() in card
    assert head.parent == target.sha
    assert is_ours(head.title)
    assert {p: c for p, c in head.files.items() if p != "README.md"} == {
        p: c for p, c in hub.repo(REPO).commits[target.sha].files.items() if p != "README.md"
    }


def test_the_same_twice_is_one_commit_and_no_commit_of_ours(hub: LoopbackHub) -> None:
    target = adapter_repo(hub)
    first = publish(hub, target, blocked())
    again = publish(hub, target, blocked())
    assert (first.state, again.state, again.oid) == ("updated", "unchanged", "")
    assert hub.repo(REPO).head.id == first.oid


def test_a_new_verdict_replaces_the_old(hub: LoopbackHub) -> None:
    target = adapter_repo(hub)
    publish(hub, target, blocked())
    told = publish(hub, target, passed())
    card = card_of(hub)
    assert told.state == "updated"
    assert card.count(START.encode()) == card.count(END.encode()) == 1
    assert b"Safety Gate: passed" in card
    assert b"Safety Gate: blocked" not in card


def test_a_missing_card_is_made(hub: LoopbackHub) -> None:
    target = adapter_repo(hub, {"adapter_config.json": b"{}"})
    assert publish(hub, target, undecided()).state == "created"
    assert card_of(hub).startswith(START.encode())


def test_a_newer_commit_has_a_run_of_its_own(hub: LoopbackHub) -> None:
    target = adapter_repo(hub)
    hub.commit(REPO, {"adapter_model.safetensors": b"newer weights"})
    told = publish(hub, target, passed())
    assert told.state == "skipped"
    assert "newer commit" in told.why
    assert card_of(hub) == CARD


def test_a_newer_card_of_the_owner_is_kept(hub: LoopbackHub) -> None:
    target = adapter_repo(hub)
    hub.commit(REPO, {"README.md": CARD + b"More words.\n"})
    assert publish(hub, target, passed()).state == "updated"
    assert card_of(hub).startswith(CARD + b"More words.\n\n" + START.encode())


def test_the_owner_can_opt_out_in_the_card(hub: LoopbackHub) -> None:
    target = adapter_repo(hub, {"README.md": CARD + OPT_OUT.encode() + b"\n"})
    published = publish_hub(
        writer(hub), target, blocked(), HubWishes(card=True, discussion="always"), patience=QUICK
    )
    assert [told.state for told in published] == ["skipped", "skipped"]
    assert all("left alone" in told.why for told in published)
    assert threads(hub) == []
    assert hub.repo(REPO).head.id == target.sha


def test_front_matter_that_the_hub_refuses_is_told(hub: LoopbackHub) -> None:
    card = b"---\na: [1\n---\n# A\n"
    target = adapter_repo(hub, {"README.md": card})
    told = publish(hub, target, passed())
    assert told.state == "failed"
    assert "metadata" in told.why
    assert card_of(hub) == card


def test_front_matter_that_would_explode_is_not_parsed_by_us(hub: LoopbackHub) -> None:
    lines = [b"---", b"a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [b"a%d: &a%d [%s]" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 9)]
    card = b"\n".join([*lines, b"---", b"# A", b""])
    target = adapter_repo(hub, {"README.md": card})
    assert publish(hub, target, passed()).state == "updated"
    assert card_of(hub).startswith(card)


@pytest.mark.parametrize(
    ("card", "why"),
    [
        pytest.param(b"caf\xe9\n", "not UTF-8", id="latin-1"),
        pytest.param(b"x" * (2**20 + 1), "too large", id="too large"),
    ],
)
def test_a_card_that_cannot_be_edited_is_left_alone(
    hub: LoopbackHub, card: bytes, why: str
) -> None:
    target = adapter_repo(hub, {"README.md": card})
    told = publish(hub, target, passed())
    assert told.state == "failed"
    assert why in told.why
    assert card_of(hub) == card


def test_a_token_that_may_not_write_is_told(hub: LoopbackHub) -> None:
    target = adapter_repo(hub)
    told = publish(hub, target, passed(), user=STRANGER)
    assert told.state == "failed"
    assert told.why == "the token may not do this (status 403)"
    assert "docs/hub_publishing.md" in told.hint


def test_many_runs_at_once_write_one_section(hub: LoopbackHub) -> None:
    target = adapter_repo(hub)
    reports = [passed(), blocked(), undecided()]
    found: list[HubPublished] = []
    patience = replace(QUICK, attempts=40, longest_backoff=0.2)
    api = writer(hub)

    def run(number: int) -> None:
        report = reports[number % 3]
        found.append(publish_hub(api, target, report, CARD_ONLY, patience=patience))

    threads_ = [threading.Thread(target=run, args=(number,)) for number in range(12)]
    for thread in threads_:
        thread.start()
    for thread in threads_:
        thread.join()
    told = [one for published in found for one in published]
    assert len(told) == 12
    assert {one.state for one in told} <= {"updated", "unchanged"}
    card = card_of(hub)
    assert card.startswith(CARD)
    assert card.count(START.encode()) == card.count(END.encode()) == 1
    oids = {oid for published in found for oid in published.oids}
    history = [one.id for one in hub.repo(REPO).history("main")]
    assert set(history[: len(oids)]) == oids  # every commit since is known as ours


# -- the discussion --------------------------------------------------------------------------------


def test_one_discussion_is_opened_and_then_edited(hub: LoopbackHub) -> None:
    target = adapter_repo(hub)
    first = publish(hub, target, blocked(), TALK_ONLY, user=BOT)
    (thread,) = threads(hub)
    assert (first.state, first.url) == ("created", f"{hub.endpoint}/{REPO}/discussions/1")
    assert (thread.title, thread.author) == (TITLE, BOT)
    (text,) = texts(thread)
    lines = text.splitlines()
    assert lines[2] == "## Safety Gate: blocked"  # behind two hidden lines
    for part in (f"`{BOT}`", "an automatic check", "To be left alone", "close this discussion"):
        assert part in text
    again = publish(hub, target, blocked(), TALK_ONLY, user=BOT)
    assert again == replace(first, state="unchanged")
    resolved = publish(hub, target, passed(), TALK_ONLY, user=BOT)
    assert resolved.state == "updated"
    (thread,) = threads(hub)
    (text,) = texts(thread)
    assert "## Safety Gate: passed" in text
    assert len(thread.events) == 1


def test_nothing_is_opened_for_a_verdict_that_asks_nothing(hub: LoopbackHub) -> None:
    target = adapter_repo(hub)
    assert publish(hub, target, passed(), TALK_ONLY, user=BOT).state == "skipped"
    assert threads(hub) == []
    always = replace(TALK_ONLY, discussion="always")
    assert publish(hub, target, passed(), always, user=BOT).state == "created"


def test_a_closed_discussion_means_leave_us_alone(hub: LoopbackHub) -> None:
    target = adapter_repo(hub)
    publish(hub, target, blocked(), TALK_ONLY, user=BOT)
    threads(hub)[0].set_status("closed", OWNER)
    told = publish(hub, target, passed(), TALK_ONLY, user=BOT)
    assert (told.state, "leave us alone" in told.why) == ("skipped", True)
    assert len(threads(hub)) == 1
    other = pull_request(hub)
    told = publish(hub, other, blocked(), TALK_ONLY, user=BOT)
    assert (told.state, "leave us alone" in told.why) == ("skipped", True)


def test_a_hidden_first_comment_means_the_same(hub: LoopbackHub) -> None:
    target = adapter_repo(hub)
    publish(hub, target, blocked(), TALK_ONLY, user=BOT)
    (thread,) = threads(hub)
    thread.hide(thread.comments[0]["id"])
    told = publish(hub, target, passed(), TALK_ONLY, user=BOT)
    assert (told.state, "leave us alone" in told.why) == ("skipped", True)


def test_nobody_is_believed_for_our_title_or_marker(hub: LoopbackHub) -> None:
    """A stranger's look-alike is neither edited, nor does it keep us from speaking."""
    target = adapter_repo(hub)
    publish(hub, target, blocked(), TALK_ONLY, user=BOT)
    forged = texts(threads(hub)[0])[0].replace("blocked", "passed")
    hub.reset()
    target = adapter_repo(hub)
    hub.world.discuss(hub.repo(REPO), title=TITLE, text=forged, author=STRANGER)
    assert publish(hub, target, blocked(), TALK_ONLY, user=BOT).state == "created"
    theirs, ours = threads(hub)
    assert texts(theirs) == [forged]
    assert ours.author == BOT
    theirs.set_status("closed", OWNER)
    assert publish(hub, target, passed(), TALK_ONLY, user=BOT).state == "updated"


def test_of_two_discussions_the_older_stays(hub: LoopbackHub) -> None:
    """Two runs at once: the second sees, after it has opened its own, that it was second."""
    target = adapter_repo(hub)
    text = "<!-- safety-gate:comment safety-gate -->\nfirst"
    older: list[bool] = []
    opened = hub.world.discuss

    def discuss(*args: object, **named: object) -> object:
        if not older:
            older.append(True)
            opened(hub.repo(REPO), title=TITLE, text=text, author=BOT)
        return opened(*args, **named)  # type: ignore[arg-type]

    hub.world.discuss = discuss  # type: ignore[method-assign,assignment]
    told = publish(hub, target, blocked(), TALK_ONLY, user=BOT)
    first, second = threads(hub)
    assert told.state == "updated"
    assert (first.status, second.status) == ("open", "closed")
    assert "## Safety Gate: blocked" in texts(first)[0]
    assert publish(hub, target, passed(), TALK_ONLY, user=BOT).state == "updated"


def test_a_second_discussion_of_ours_is_closed(hub: LoopbackHub) -> None:
    """A Hub that was too slow for us, and heard us after all."""
    target = adapter_repo(hub)
    publish(hub, target, blocked(), TALK_ONLY, user=BOT)
    hub.world.discuss(hub.repo(REPO), title=TITLE, text="late", author=BOT)
    assert publish(hub, target, passed(), TALK_ONLY, user=BOT).state == "updated"
    assert [one.status for one in threads(hub)] == ["open", "closed"]
    assert publish(hub, target, passed(), TALK_ONLY, user=BOT).state == "unchanged"


def test_disabled_discussions_are_no_failure(hub: LoopbackHub) -> None:
    target = adapter_repo(hub)
    hub.repo(REPO).discussions_disabled = True
    told = publish(hub, target, blocked(), TALK_ONLY, user=BOT)
    assert told.state == "skipped"
    assert "disabled discussions" in told.why


def test_a_stale_verdict_is_not_published(hub: LoopbackHub) -> None:
    target = adapter_repo(hub)
    hub.commit(REPO, {"adapter_config.json": b"{}"})
    told = publish(hub, target, blocked(), TALK_ONLY, user=BOT)
    assert (told.state, "newer commit" in told.why) == ("skipped", True)


def test_the_picture_is_shown_where_it_can_be(hub: LoopbackHub) -> None:
    target = adapter_repo(hub)
    publish(hub, target, blocked(), replace(TALK_ONLY, picture=True), user=BOT)
    (text,) = texts(threads(hub)[0])
    (line,) = [line for line in text.splitlines() if line.startswith("![")]
    assert line.startswith("![Heat map of the share of the alignment step")
    assert f"]({hub.cdn}/uploads/production/" in line
    assert hub.world.objects["upload"].startswith(b"\x89PNG")


# -- the comment on a pull request -----------------------------------------------------------------


def test_one_comment_on_the_judged_pull_request(hub: LoopbackHub) -> None:
    adapter_repo(hub)
    target = pull_request(hub)
    first = publish(hub, target, blocked(), TALK_ONLY, user=BOT)
    (found,) = hub.repo(REPO).discussions
    _, ours = found.comments
    assert first.state == "created"
    assert first.url == f"{hub.endpoint}/{REPO}/discussions/{found.num}#{ours['id']}"
    assert publish(hub, target, blocked(), TALK_ONLY, user=BOT).state == "unchanged"
    assert publish(hub, target, passed(), TALK_ONLY, user=BOT).state == "updated"
    assert len(found.comments) == 2
    assert "## Safety Gate: passed" in texts(found)[1]


def test_a_pull_request_that_moved_on_is_not_commented(hub: LoopbackHub) -> None:
    adapter_repo(hub)
    target = pull_request(hub)
    ref = f"refs/pr/{target.pull_request}"
    hub.commit(REPO, {"adapter_config.json": b"{ }"}, ref=ref)
    told = publish(hub, target, blocked(), TALK_ONLY, user=BOT)
    assert (told.state, "newer commit" in told.why) == ("skipped", True)


@pytest.mark.parametrize("how", ["hidden", "opted out", "merged"])
def test_a_pull_request_is_left_alone(hub: LoopbackHub, how: str) -> None:
    adapter_repo(hub)
    target = pull_request(hub)
    (found,) = hub.repo(REPO).discussions
    if how == "hidden":
        publish(hub, target, blocked(), TALK_ONLY, user=BOT)
        found.hide(found.comments[1]["id"])
    elif how == "opted out":
        hub.commit(REPO, {"README.md": OPT_OUT + "\n"})
    else:
        found.status = "merged"
    before = texts(found)
    told = publish(hub, target, passed(), TALK_ONLY, user=BOT)
    assert told.state == "skipped"
    assert texts(found) == before


def test_an_opt_out_in_the_pull_request_itself_does_not_count(hub: LoopbackHub) -> None:
    adapter_repo(hub)
    repo = hub.repo(REPO)
    new = {"README.md": hub.world.content("README.md", OPT_OUT.encode())}
    pushed = hub.world.pull_request(repo, new, title="Silence", author=STRANGER)
    assert pushed.pull_request is not None
    target = Target(repo_id=REPO, sha=pushed.commit.id, pull_request=pushed.pull_request.num)
    assert publish(hub, target, blocked(), TALK_ONLY, user=BOT).state == "created"


def test_the_card_belongs_to_the_main_branch(hub: LoopbackHub) -> None:
    adapter_repo(hub)
    told = publish(hub, pull_request(hub), passed(), CARD_ONLY)
    assert told.state == "skipped"
    assert card_of(hub) == CARD


# -- all together ----------------------------------------------------------------------------------


def test_nothing_is_asked_where_nothing_is_wanted(hub: LoopbackHub) -> None:
    target = adapter_repo(hub)
    silent = HubWishes(discussion="never", comment="never")
    assert publish_hub(writer(hub), target, blocked(), silent).told == ()
    assert hub.requests() == []


def test_our_own_commit_is_followed_by_no_other(hub: LoopbackHub) -> None:
    """A bot that judges and publishes for every push, and forgets what it did itself."""
    adapter_repo(hub)
    api, repo = writer(hub), hub.repo(REPO)
    rounds = [
        publish_hub(
            api, Target(repo_id=REPO, sha=repo.head.id), blocked(), CARD_ONLY, patience=QUICK
        )
        for _ in range(4)
    ]
    assert [len(published.oids) for published in rounds] == [1, 0, 0, 0]
    assert [told.state for published in rounds for told in published][1:] == ["unchanged"] * 3


def test_a_commit_that_was_never_judged_does_not_stay_in_the_section(hub: LoopbackHub) -> None:
    target = adapter_repo(hub)
    publish(hub, target, passed())
    forged = card_of(hub).replace(target.sha.encode(), b"0" * 40)
    hub.commit(REPO, {"README.md": forged})
    told = publish(hub, target, passed())
    assert told.state == "updated"
    assert target.sha.encode() in card_of(hub)


@pytest.mark.parametrize("bad", ["main", "0" * 39, "A" * 40])
def test_only_a_pinned_commit_is_published(bad: str) -> None:
    with pytest.raises(AssertionError, match="pinned"):
        Target(repo_id=REPO, sha=bad)


def test_a_token_never_shows(hub: LoopbackHub, caplog: pytest.LogCaptureFixture) -> None:
    target = adapter_repo(hub)
    token = "hf_not_a_real_one"  # noqa: S105
    api = connect(token, endpoint=hub.endpoint)
    wishes = HubWishes(card=True, discussion="always")
    published = publish_hub(api, target, blocked(), wishes, patience=QUICK)
    assert [told.state for told in published] == ["failed", "failed"]
    assert all("token is not valid" in told.why for told in published)
    assert token not in f"{published!r} {caplog.text} {target!r}"
