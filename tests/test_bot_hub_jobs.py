"""Jobs of the Hub: started by a worker, or by the Hub's own webhook; with the real client."""

import base64
import dataclasses
import hashlib
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub import HfApi
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_gate.asking import Ask
from safety_gate.bot.hub_judge import Standard
from safety_gate.bot.job_frame import LINE, BadFrame, framed, unframed
from safety_gate.bot.job_judge import JobFailed, JobJudge
from safety_gate.bot.job_order import (
    LABEL,
    MARK,
    PROGRAM,
    BadOrder,
    JobOrder,
    packed,
    unpacked,
)
from safety_gate.bot.one_event import PAYLOAD, REPO, SENT_SECRET, BadEvent, event_from
from safety_gate.cli_bot_parts import standard_from
from safety_gate.cli_hub_job import hub_job, order_from
from safety_gate.cli_webhook import webhook
from safety_gate.errors import GateError
from safety_gate.policy.file import PolicyText
from safety_gate.probe.datasets import parse_prompts
from safety_gate.report.json_report import to_json
from safety_gate.sources.hub_names import HubPlace
from safety_gate.worker.judging import Judged, NotJudged, Work
from tests.bot_door import SECRET, payload
from tests.hub_models import ALIGNED, BASE, BOT, OWNER, add_pair, push, use
from tests.loopback_hub import LoopbackHub
from tests.loopback_hub.compute import Job, pause
from tests.sample_reports import passed

pytest_plugins = ("tests.loopback_hub.fixtures",)

TEXT = PolicyText(
    data=(Path("safety_gate") / "policies" / "default.yml").read_bytes(), origin="preset default"
)
DIGEST = hashlib.sha256(TEXT.data).hexdigest()
STANDARD = Standard(policy=TEXT, base=BASE, aligned=ALIGNED)
IMAGE = "registry.example/safety-gate:0.1.0"
REPOSITORY = f"{OWNER}/support-lora"
NONCE = "0123456789abcdef" * 2


@pytest.fixture
def work(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> Work:
    """Put pair and adapter on the Hub; return what is to be judged."""
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    add_pair(hub)
    sha = push(hub, REPOSITORY, "harmful")
    return Work(repo=REPOSITORY, ref="refs/heads/main", sha=sha)


def order(**change: object) -> JobOrder:
    fields = {
        "standard": STANDARD,
        "image": IMAGE,
        "flavor": "cpu-basic",
        "namespace": BOT,
        "timeout_s": 600,
        "token": "unused: the client has its own",
        "secrets": {"HF_TOKEN": "hf_reading"},
    }
    return JobOrder(**fields | change)  # type: ignore[arg-type]


def judge_on(hub: LoopbackHub, **change: object) -> JobJudge:
    api = HfApi(endpoint=hub.endpoint, token=hub.token(BOT, "write"))
    return JobJudge(order(**change), api=api, poll_s=0.02)


def report_for(work: Work, policy: str = DIGEST) -> str:
    report = passed()
    assert report.adapter is not None
    assert report.policy is not None
    adapter = dataclasses.replace(report.adapter, name=work.repo, revision=work.sha)
    fact = dataclasses.replace(report.policy, sha256=policy)
    return to_json(dataclasses.replace(report, adapter=adapter, policy=fact))


def answering(text: str) -> Callable[[Job], int]:
    """Return a container that prints a report, between other lines."""

    def run(job: Job) -> int:
        job.lines.append("starting")
        job.lines += framed(text, job.spec["environment"][MARK])
        job.lines.append("done")
        return 0

    return run


def test_an_adapter_is_judged_in_a_job(
    hub: LoopbackHub, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way: the Job is a process that runs `safety-gate hub-job` and reads the Hub."""
    found = judge_on(hub, secrets={"HF_TOKEN": hub.token("reader")}).judge(work)
    assert isinstance(found, Judged)
    assert found.report.verdict.word == "blocked"
    assert found.report.adapter is not None
    assert (found.report.adapter.name, found.report.adapter.revision) == (work.repo, work.sha)
    (job,) = hub.world.compute.jobs
    assert job.spec["command"][:4] == [PROGRAM, "hub-job", "--adapter", f"{work.repo}@{work.sha}"]
    assert job.spec["flavor"] == "cpu-basic"
    assert job.spec["timeoutSeconds"] == 600
    assert job.spec["labels"][LABEL]
    assert list(job.secrets) == ["HF_TOKEN"]
    assert "hf_" not in json.dumps(job.spec)  # no secret outside of the secrets


def test_a_job_shows_a_repair_beside_its_verdict(
    hub: LoopbackHub, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    standard = dataclasses.replace(STANDARD, repair=True)
    judge = judge_on(hub, standard=standard, secrets={"HF_TOKEN": hub.token("reader")})
    found = judge.judge(work)
    assert isinstance(found, Judged)
    assert found.report.verdict.word == "blocked"
    assert found.repaired is not None
    assert found.repaired.adapter is not None
    assert found.repaired.adapter.name == f"{work.repo}, repaired"
    good = push(hub, REPOSITORY, "helpful")
    again = judge.judge(dataclasses.replace(work, sha=good))
    assert isinstance(again, Judged)
    assert (again.report.verdict.word, again.repaired) == ("passed", None)


def test_a_repair_that_was_lost_in_the_log_is_not_taken_for_none(
    hub: LoopbackHub, work: Work
) -> None:
    hub.world.compute.images[IMAGE] = answering(report_for(work))  # an older image
    with pytest.raises(BadFrame):
        judge_on(hub, standard=dataclasses.replace(STANDARD, repair=True)).judge(work)


def test_a_worker_that_died_left_a_job_and_nobody_pays_twice(hub: LoopbackHub, work: Work) -> None:
    hub.world.compute.images[IMAGE] = answering(report_for(work))
    for _ in range(2):  # a second worker, with a judge of its own
        found = judge_on(hub).judge(work)
        assert isinstance(found, Judged)
    assert len(hub.world.compute.jobs) == 1


@pytest.mark.parametrize("forged", ["command", "dockerImage", "environment"])
def test_a_copied_label_makes_no_job_ours(hub: LoopbackHub, work: Work, forged: str) -> None:
    """Someone of the same organisation labels a Job of his own, which passes everything."""
    ours = order()
    spec = {
        "dockerImage": IMAGE,
        "command": ours.command(work),
        "arguments": [],
        "environment": ours.environment(NONCE),
        "labels": ours.labels(work, DIGEST),
    }
    other: dict[str, object] = {
        "command": ["sh", "-c", "echo passed"],
        "dockerImage": "registry.example/other",
        "environment": {**ours.environment(NONCE), "PYTHONPATH": "/evil"},
    }
    hub.token(BOT, "write")
    hub.world.compute.images |= {str(spec["dockerImage"]): answering(report_for(work))}
    hub.world.compute.images["registry.example/other"] = answering(report_for(work))
    theirs = hub.world.compute.start(
        Job(namespace=BOT, spec={**spec, forged: other[forged]}, secrets={})
    )
    hub.world.compute.wait()
    judge_on(hub).judge(work)
    assert [job.id for job in hub.world.compute.jobs if job.id != theirs.id]


@pytest.mark.parametrize("case", ["other policy", "other commit", "other repo", "no json", "lost"])
def test_a_report_about_something_else_is_refused(hub: LoopbackHub, work: Work, case: str) -> None:
    texts = {
        "other policy": report_for(work, "b" * 64),
        "other commit": report_for(dataclasses.replace(work, sha="1" * 40)),
        "other repo": report_for(dataclasses.replace(work, repo="acme/innocent")),
        "no json": "passed",
    }

    def lost(job: Job) -> int:
        job.lines += list(framed(report_for(work), job.spec["environment"][MARK]))[1:]
        return 0

    hub.world.compute.images[IMAGE] = lost if case == "lost" else answering(texts[case])
    judge = judge_on(hub)
    for number in (1, 2):  # the spoilt Job is not taken up again
        with pytest.raises(GateError):
            judge.judge(work)
        assert len(hub.world.compute.jobs) == number


def test_a_job_that_fails_says_how(hub: LoopbackHub, work: Work) -> None:
    def out_of_memory(job: Job) -> int:
        return 137

    hub.world.compute.images[IMAGE] = out_of_memory
    with pytest.raises(JobFailed, match="exit code 137") as failed:
        judge_on(hub).judge(work)
    assert hub.world.compute.jobs[0].id in failed.value.where


def test_a_job_that_hangs_is_cancelled(
    hub: LoopbackHub, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safety_gate.bot.job_judge.SCHEDULING_S", 0.0)
    hub.world.compute.images[IMAGE] = pause
    with pytest.raises(JobFailed, match="cancelled"):
        judge_on(hub, timeout_s=0).judge(work)
    assert hub.world.compute.jobs[0].stage == "CANCELED"


def test_no_job_for_what_is_no_adapter(hub: LoopbackHub, work: Work) -> None:
    head = hub.repo(BASE.repo_id).head.id
    found = judge_on(hub).judge(Work(repo=BASE.repo_id, ref="refs/heads/main", sha=head))
    assert found == NotJudged(reason="not-an-adapter")
    assert hub.world.compute.jobs == []


def test_who_may_not_start_jobs_gets_a_reason(hub: LoopbackHub, work: Work) -> None:
    api = HfApi(endpoint=hub.endpoint, token=hub.token("reader"))
    with pytest.raises(GateError):
        JobJudge(order(), api=api).judge(work)


@pytest.mark.parametrize(
    "change",
    [
        {"base": Path("base")},
        {"aligned": Path("aligned")},
        {"repair": True, "safety": Path("safety")},
        {"ask": Ask(mode="openings", prompts=Path("prompts.jsonl"))},
    ],
)
def test_a_job_cannot_read_files_of_this_machine(change: dict[str, object]) -> None:
    with pytest.raises(BadOrder) as refused:
        order(standard=dataclasses.replace(STANDARD, **change))  # type: ignore[arg-type]
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    "text", ["acme/set@main:a b.csv?column=q&intent=kind&rows=7", "acme/set:x.jsonl?category=c%26d"]
)
def test_a_job_is_told_of_a_dataset(text: str, work: Work) -> None:
    prompts = parse_prompts(text)
    standard = dataclasses.replace(STANDARD, ask=Ask(mode="openings", prompts=prompts))
    words = order(standard=standard).command(work)
    assert parse_prompts(words[words.index("--prompts") + 1]) == prompts


def test_a_job_reads_its_order_as_it_was_meant(work: Work) -> None:
    ask = Ask(
        mode="generate",
        prompts=parse_prompts("acme/set@main:x.jsonl?rows=7"),
        device="cuda",
        guard=HubPlace(repo_id="acme/guard", revision="v1"),
        judge_url="https://judge.example/v1",
        judge_model="judge",
        keep_text=True,
    )
    safety = HubPlace(repo_id="acme/safety", revision=None)
    standard = dataclasses.replace(STANDARD, ask=ask, repair=True, safety=safety)
    words = order(standard=standard).command(work)
    given = hub_job.make_context("hub-job", words[2:]).params
    there = standard_from(given)
    assert dataclasses.replace(there, policy=TEXT, threads=standard.threads) == standard
    assert given["adapter"] == HubPlace(repo_id=work.repo, revision=work.sha)


def test_secrets_do_not_show() -> None:
    shown = repr(order(token="hf_starting", secrets={"HF_TOKEN": "hf_reading"}))  # noqa: S106
    assert "hf_" not in shown


def test_a_job_gets_what_it_reads_with_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"image": IMAGE, "flavor": "cpu-basic", "namespace": BOT, "job_timeout": 1}
    read = {"HF_TOKEN": "hf_reading", "SAFETY_GATE_HUB_GB": "900"}
    own = {"SAFETY_GATE_JOBS_TOKEN": "hf_starting", "SAFETY_GATE_HUB_WRITE_TOKEN": "hf_writing"}
    for name, value in (read | own).items():
        monkeypatch.setenv(name, value)
    made = order_from(given, STANDARD)
    assert made.secrets == read
    assert made.token == own["SAFETY_GATE_JOBS_TOKEN"]


def test_a_policy_travels_byte_by_byte() -> None:
    assert unpacked(packed(TEXT)) == TEXT
    bomb = base64.b64encode(zlib.compress(b"x" * 10**8, 9)).decode()
    for word in ("", "!!!", "aGVsbG8=", bomb, packed(TEXT)[:-9]):
        with pytest.raises(BadOrder):
            unpacked(word)


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=3 * LINE), drop=st.integers(0, 50), noise=st.text(max_size=99))
def test_a_frame_gives_back_the_same_text_or_nothing(text: str, drop: int, noise: str) -> None:
    lines = list(framed(text.encode("utf-8", "ignore").decode(), NONCE))
    assert all(len(line) <= LINE + 60 for line in lines)
    mixed = [noise, *reversed(lines), *lines]
    assert unframed(mixed, NONCE, where="log") == text.encode("utf-8", "ignore").decode()
    left = [line for number, line in enumerate(lines) if number != drop % len(lines)]
    with pytest.raises(BadFrame):
        unframed(left, NONCE, where="log")
    with pytest.raises(BadFrame):  # another mark: a line that a stranger wrote
        unframed([line.replace(NONCE, "f" * 32) for line in lines], NONCE, where="log")


def test_a_frame_of_another_report_is_noticed() -> None:
    one, other = list(framed("one", NONCE)), list(framed("other", NONCE))
    with pytest.raises(BadFrame, match="digest"):
        unframed([one[0], other[1]], NONCE, where="log")


# -- a Job that the Hub's webhook starts ----------------------------------------------------------


def environ(**change: str) -> dict[str, str]:
    told = {PAYLOAD: json.dumps(payload(1, repo=REPOSITORY)), REPO: REPOSITORY}
    return told | change


def test_an_event_is_read_from_the_environment() -> None:
    assert event_from(environ()).repo.name == REPOSITORY
    known = {"SAFETY_GATE_WEBHOOK_SECRET": SECRET}
    assert event_from(environ(**known, **{SENT_SECRET: SECRET})).repo.name == REPOSITORY
    for broken in (
        {},
        {PAYLOAD: "{"},
        environ(**{REPO: "acme/other"}),
        environ(**known),
        environ(**known, **{SENT_SECRET: "guessed"}),
    ):
        with pytest.raises(BadEvent):
            event_from(broken)


@pytest.fixture
def admin(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """Return what runs the commands as the account that pays."""
    values = {
        "SAFETY_GATE_ADMIN_TOKEN": hub.token(BOT, "write", orgs=(OWNER,)),
        "SAFETY_GATE_WEBHOOK_SECRET": SECRET,
        "HF_TOKEN": hub.token("reader"),
        "SAFETY_GATE_HUB_WRITE_TOKEN": hub.token(BOT, "write", orgs=(OWNER,)),
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    use(hub, monkeypatch)
    return CliRunner()


def ran(runner: CliRunner, *words: str) -> str:
    result = runner.invoke(webhook, list(words))
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_webhooks_are_made_shown_and_deleted(hub: LoopbackHub, admin: CliRunner) -> None:
    made = ran(admin, "create", "--url", "https://gate.example/webhook", "--watch", "org:acme",
               "--watch", "model:umbrella/roleplay")  # fmt: skip
    (hook,) = hub.world.hooks.hooks
    assert (hook.url, hook.secret, hook.domains) == (
        "https://gate.example/webhook",
        SECRET,
        ["repo"],
    )
    assert hook.watched == [
        {"type": "org", "name": "acme"},
        {"type": "model", "name": "umbrella/roleplay"},
    ]
    assert hook.id in made
    listed = ran(admin, "list")
    assert listed == made
    assert SECRET not in listed
    assert ran(admin, "delete", hook.id) == f"deleted {hook.id}\n"
    assert hub.world.hooks.hooks == []
    again = admin.invoke(webhook, ["delete", hook.id])
    assert isinstance(again.exception, GateError)


@pytest.mark.parametrize(
    "words",
    [
        ["--watch", "org:acme"],
        ["--watch", "org:acme", "--url", "https://x", "--job", "1"],
        ["--watch", "org:acme", "--url", "http://x"],
        ["--watch", "acme", "--url", "https://x"],
        ["--watch", "model:acme", "--url", "https://x"],
        ["--url", "https://x"],
    ],
)
def test_what_makes_no_webhook(admin: CliRunner, hub: LoopbackHub, words: list[str]) -> None:
    assert admin.invoke(webhook, ["create", *words]).exit_code == 2
    assert hub.world.hooks.hooks == []


def test_a_token_that_makes_no_webhook_is_named(
    admin: CliRunner, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["create", "--url", "https://x.example/webhook", "--watch", "org:acme"]
    for token in ("hf_unknown", hub.token("reader")):
        monkeypatch.setenv("SAFETY_GATE_ADMIN_TOKEN", token)
        refused = admin.invoke(webhook, words).exception
        assert isinstance(refused, GateError)
        assert "SAFETY_GATE_ADMIN_TOKEN" in refused.hint
    assert hub.world.hooks.hooks == []


def test_a_push_starts_a_job_that_judges_and_tells(hub: LoopbackHub, admin: CliRunner) -> None:
    """No server at all: the Hub starts `safety-gate hub-job`, which reads, judges and publishes."""
    add_pair(hub)
    hub.add_repo(REPOSITORY)
    arguments = ["--publish", "--account", BOT, "--ask", "none"]
    arguments += ["--base", f"hf://{BASE}", "--aligned", f"hf://{ALIGNED}"]
    words = [word for argument in arguments for word in ("--argument", argument)]
    ran(admin, "create", "--image", IMAGE, "--watch", f"org:{OWNER}", *words)
    hub.world.compute.wait()
    (source,) = hub.world.compute.jobs
    assert source.stage == "COMPLETED", source.lines
    assert source.secrets == {}
    sha = push(hub, REPOSITORY, "harmful")
    hub.world.compute.wait()
    jobs = hub.world.compute.jobs[1:]
    assert [job.message for job in jobs][0] == "Job failed with exit code 1", jobs[0].lines
    assert any(f"{REPOSITORY}@{sha}: blocked" in line for line in jobs[0].lines)
    repo = hub.repo(REPOSITORY)
    card = repo.head.files["README.md"].data.decode()
    assert sha in card.partition("safety-gate:start")[2]
    assert repo.head.author == BOT
    echoes = jobs[1:]  # our own commit starts Jobs as well; they see whose it is, and end
    assert echoes
    assert all(job.stage == "COMPLETED" for job in echoes), [job.lines for job in echoes]
    assert sum(commit.author == BOT for commit in repo.history("main")) == 1
    everything = "\n".join(line for job in jobs for line in job.lines)
    assert "hf_" not in everything


def test_hub_job_needs_a_pinned_commit() -> None:
    result = CliRunner().invoke(hub_job, ["--adapter", "acme/lora@main"])
    assert result.exit_code == 2
    assert "pinned" in result.output
