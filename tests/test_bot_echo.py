"""The whole bot against a Hub that echoes: real door, real publisher, killed workers."""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from benchmarks.bot_publish_kills import Trial, start
from benchmarks.bot_publish_worker import BOT
from safety_gate.jobs.location import open_store

ONE_OF_EACH = {
    "verdicts": 1,
    "verdict": 1,
    "commits": 1,
    "discussions": 1,
    "comments": 1,
    "statuses": 1,
    "all statuses": 1,
}


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    with ExitStack() as stack:
        yield start(stack, tmp_path_factory.mktemp("echo"))


@pytest.mark.parametrize("point", ["decide-after", "commit-made", "comment-made", "status-begun"])
def test_a_kill_while_publishing_leaves_one_of_each(trial: Trial, point: str) -> None:
    """All points, ten times each: benchmarks/bot_publish_kills.py."""
    repo = f"acme/{point}"
    sha = trial.push(repo, point)
    assert trial.worker(point) == -signal.SIGKILL
    trial.settle()
    assert trial.count(repo, sha) == ONE_OF_EACH


def test_our_own_commits_do_not_start_us_again(trial: Trial) -> None:
    sha = trial.push("acme/echo", "first")
    trial.settle()
    trial.settle()
    repo = trial.hub.repo("acme/echo")
    assert trial.count("acme/echo", sha) == ONE_OF_EACH
    assert repo.head.author == BOT
    echoed = [
        delivery
        for delivery in trial.hub.world.hooks.deliveries
        for moved in delivery.payload.get("updatedRefs", ())
        if moved["newSha"] == repo.head.id
    ]
    assert [delivery.status for delivery in echoed] == [202]


def test_many_pushes_end_with_the_last_head(trial: Trial) -> None:
    for number in range(50):
        trial.push("acme/busy", f"push {number}")
    last = trial.hub.repo("acme/busy").head.id
    trial.settle()
    count = trial.count("acme/busy", last)
    assert count == ONE_OF_EACH
    (thread,) = [one for one in trial.hub.repo("acme/busy").discussions if one.author == BOT]
    text = thread.comments[0]["data"]["latest"]["raw"]
    assert last in text


def test_a_verdict_for_an_older_head_is_not_told(trial: Trial) -> None:
    first = trial.push("acme/moved", "first")
    assert trial.worker("decide-after") == -signal.SIGKILL  # judged, and nothing told
    second = trial.push("acme/moved", "second")
    trial.settle()
    assert trial.count("acme/moved", second) == ONE_OF_EACH | {"verdicts": 2}
    assert trial.count("acme/moved", first)["statuses"] == 0


def test_a_pull_request_is_told_in_its_own_thread(trial: Trial) -> None:
    trial.push("acme/pulls", "main")
    trial.settle()
    repo, hub = trial.hub.repo("acme/pulls"), trial.hub
    change = {"adapter_model.safetensors": hub.world.content("a.txt", b"theirs")}
    pushed = hub.world.pull_request(repo, change, title="Mine", author="mallory")
    hub.world.hooks.flush()
    trial.settle()
    assert pushed.pull_request is not None
    ours = [one for one in pushed.pull_request.comments if one["author"]["name"] == BOT]
    assert len(ours) == 1
    assert pushed.commit.id in ours[0]["data"]["latest"]["raw"]


def test_the_store_tells_why_nothing_was_judged(trial: Trial) -> None:
    trial.push("acme/told", "first")
    trial.settle()
    store = open_store(trial.place.store)
    arrivals = store.counts().arrivals
    store.close_store()
    assert arrivals.get("own-commit", 0) >= 1, json.dumps(dict(arrivals))
