"""The bot from a push to what people read: real door, real gate, real publisher, loopback Hub."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from safety_gate.action.report_reader import read_report
from safety_gate.bot.hub_eyes import HubEyes
from safety_gate.bot.hub_judge import HubJudge, Standard
from safety_gate.bot.hub_steps import HubSteps
from safety_gate.bot.payload import Watch
from safety_gate.errors import BadPolicy
from safety_gate.jobs.facts import Rules, Stored
from safety_gate.jobs.sql_store import SqlStore
from safety_gate.jobs.sqlite import open_sqlite
from safety_gate.policy.file import PolicyText
from safety_gate.publish.hub import HubWishes
from safety_gate.worker.judging import Judged, NotJudged, Work
from safety_gate.worker.loop import Hands, Worker
from tests.bot_door import SECRET, opened
from tests.hub_models import ALIGNED, BASE, BOT, OWNER, add_pair, files, push
from tests.hub_publications import QUICK
from tests.loopback_hub import LoopbackHub
from tests.loopback_hub.hooks import Webhook

pytest_plugins = ("tests.loopback_hub.fixtures",)

POLICY = PolicyText(
    data=(Path("safety_gate") / "policies" / "default.yml").read_bytes(), origin="preset default"
)
STANDARD = Standard(policy=POLICY, base=BASE, aligned=ALIGNED)
REPO = f"{OWNER}/support-lora"


@dataclass
class Bot:
    """A whole bot beside its Hub."""

    hub: LoopbackHub
    store: SqlStore
    judge: HubJudge
    worker: Worker

    def push(self, name: str, repo: str = REPO) -> str:
        sha = push(self.hub, repo, name)
        self.hub.world.hooks.flush()
        return sha

    def work(self) -> int:
        rounds = 0
        while self.worker.once():
            rounds += 1
            assert rounds < 20
            self.hub.world.hooks.flush()
        return rounds

    def verdict(self, sha: str, repo: str = REPO) -> Stored:
        found = self.store.verdict_for(repo, sha, self.judge.policy)
        assert found is not None
        return found

    def section(self, repo: str = REPO) -> str:
        card = self.hub.repo(repo).head.files["README.md"].data.decode()
        _, start, rest = card.partition("<!-- safety-gate:start")
        assert start
        return rest.partition("<!-- safety-gate:end")[0]

    def letters(self, repo: str = REPO) -> list[list[str]]:
        mine = [one for one in self.hub.repo(repo).discussions if one.author == BOT]
        return [[event["data"]["latest"]["raw"] for event in one.comments] for one in mine]


@pytest.fixture
def bot(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bot]:
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", hub.token("reader"))
    add_pair(hub)
    store = open_sqlite(tmp_path / "jobs.db", Rules(backoff_s=0.0))
    judge = HubJudge(STANDARD)
    writing = HfApi(endpoint=hub.endpoint, token=hub.token(BOT, "write", orgs=(OWNER,)))
    publisher = HubSteps(
        writing,
        lambda text: read_report(json.loads(text), where="store"),
        HubWishes(card=True, discussion="on-failure", picture=False),
        patience=QUICK,
    )
    reading = HfApi(endpoint=hub.endpoint, token=hub.token("reader"))
    eyes = HubEyes(reading, account=BOT)
    hands = Hands(store=store, judge=judge, publisher=publisher, eyes=eyes)
    with opened(store, Watch(policy=judge.policy, watched=frozenset({OWNER}))) as door:
        hub.world.hooks.hooks.append(
            Webhook(
                owner=OWNER,
                url=f"http://127.0.0.1:{door.port}/webhook",
                job=None,
                watched=[{"type": "user", "name": OWNER}],
                domains=["repo"],
                secret=SECRET,
            )
        )
        yield Bot(hub, store, judge, Worker(hands, holder="w"))
    store.close_store()


def test_a_push_is_judged_and_told_and_the_next_one_replaces_it(bot: Bot) -> None:
    first = bot.push("harmful")
    assert bot.work() >= 1
    assert bot.verdict(first).word == "blocked"
    report = json.loads(bot.verdict(first).report)
    assert report["adapter"]["name"] == REPO
    assert report["adapter"]["revision"] == first
    assert report["aligned"]["name"] == ALIGNED.repo_id
    assert len(report["modules"]) > 0
    assert first in bot.section()
    assert "blocked" in bot.section().lower()
    ((letter,),) = bot.letters()
    assert first in letter

    second = bot.push("helpful")
    bot.work()
    assert bot.verdict(second).word == "passed"
    assert second in bot.section()
    assert first not in bot.section()
    (texts,) = bot.letters()
    assert any(second in text for text in texts)  # the same thread goes on
    history = bot.hub.repo(REPO).history("main")
    assert sum(commit.author == BOT for commit in history) == 2  # one section each, no echo judged
    assert bot.store.counts().verdicts == {"blocked": 1, "passed": 1}


def test_what_is_no_adapter_is_not_judged(bot: Bot) -> None:
    bot.hub.add_repo("acme/dataset-card", {"README.md": "# Nothing\n"})
    bot.hub.world.hooks.flush()
    bot.work()
    assert bot.store.counts().verdicts == {}
    assert bot.store.counts().arrivals["not-an-adapter"] >= 1


def test_the_pair_is_looked_up_where_none_is_named(bot: Bot) -> None:
    """The tiny models are on no list: Undecided, with the next step, and nothing is fetched."""
    sha = push(bot.hub, REPO, "helpful")
    bot.hub.requests.clear()
    found = HubJudge(Standard(policy=POLICY)).judge(Work(repo=REPO, ref="refs/heads/main", sha=sha))
    assert isinstance(found, Judged)
    assert found.report.verdict.word == "undecided"
    assert any("no known pair" in finding.what for finding in found.report.findings)
    assert not [r for r in bot.hub.requests() if "tiny-aligned" in r.path]


def test_the_commit_that_was_named_is_read_though_the_branch_has_moved(bot: Bot) -> None:
    old = push(bot.hub, REPO, "harmful")
    push(bot.hub, REPO, "helpful")
    found = bot.judge.judge(Work(repo=REPO, ref="refs/heads/main", sha=old))
    assert isinstance(found, Judged)
    assert found.report.verdict.word == "blocked"


def test_several_adapters_of_a_repository_get_the_gravest_verdict(bot: Bot) -> None:
    inside = {
        f"{folder}/{path}": data
        for folder in ("helpful", "harmful")
        for path, data in files(folder).items()
    }
    bot.hub.add_repo("acme/two", inside)
    head = bot.hub.repo("acme/two").head.id
    found = bot.judge.judge(Work(repo="acme/two", ref="refs/heads/main", sha=head))
    assert isinstance(found, Judged)
    assert found.report.verdict.word == "blocked"
    assert found.report.adapter is not None
    assert found.report.adapter.name == "acme/two/harmful"
    assert "several-adapters" in [finding.rule for finding in found.report.findings]


def test_a_repository_without_an_adapter(bot: Bot) -> None:
    head = bot.hub.repo(BASE.repo_id).head.id
    found = bot.judge.judge(Work(repo=BASE.repo_id, ref="refs/heads/main", sha=head))
    assert found == NotJudged(reason="not-an-adapter")


def test_a_policy_that_cannot_be_followed_stops_the_start() -> None:
    with pytest.raises(BadPolicy):
        HubJudge(Standard(policy=PolicyText(data=b"nonsense: 1\n", origin="x.yml")))


def test_a_repaired_copy_is_shown_beside_the_verdict_and_releases_nothing(bot: Bot) -> None:
    sha = push(bot.hub, REPO, "harmful")
    judge = HubJudge(dataclasses.replace(STANDARD, repair=True))
    found = judge.judge(Work(repo=REPO, ref="refs/heads/main", sha=sha))
    assert isinstance(found, Judged)
    assert found.report.verdict.word == "blocked"
    assert found.repaired is not None
    assert found.repaired.adapter is not None
    assert found.repaired.adapter.name == f"{REPO}, repaired"
    assert found.repaired.total is not None
    assert found.report.total is not None
    assert found.repaired.total.drift.undone < found.report.total.drift.undone
    good = push(bot.hub, REPO, "helpful")
    untouched = judge.judge(Work(repo=REPO, ref="refs/heads/main", sha=good))
    assert isinstance(untouched, Judged)
    assert (untouched.report.verdict.word, untouched.repaired) == ("passed", None)
