"""The webhook door, over real sockets and with a real store."""

import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safety_gate.bot import body as body_room
from safety_gate.bot import inbox
from safety_gate.bot.payload import Watch
from safety_gate.bot.secret import BadSecret, Secrets
from safety_gate.bot.server import PatientProtocol
from safety_gate.jobs.facts import Answer as Said
from safety_gate.jobs.facts import Arrival, Counts, Rules
from safety_gate.jobs.failures import StoreDown
from safety_gate.jobs.sql_store import SqlStore
from safety_gate.jobs.sqlite import open_sqlite
from tests.bot_door import OLD, POLICY, SECRET, Answer, Door, opened, payload, sha


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    store = open_sqlite(tmp_path / "jobs.db", Rules(queue_bound=3))
    yield store
    store.close_store()


@pytest.fixture
def door(store: SqlStore) -> Iterator[Door]:
    watch = Watch(policy=POLICY, watched=frozenset({"acme"}), opted_out=frozenset({"acme/shy"}))
    with opened(store, watch) as door:
        yield door


def jobs(store: SqlStore) -> int:
    return sum(store.counts().jobs.values())


def test_an_event_is_durable_before_it_is_answered(store: SqlStore, door: Door) -> None:
    answer = door.post(payload(1))
    assert (answer.status, answer.json) == (202, {"answers": ["queued"]})
    lease = store.claim("w")
    assert lease is not None
    assert (lease.repo, lease.ref, lease.sha, lease.policy) == (
        "acme/lora",
        "refs/heads/main",
        sha(1),
        POLICY,
    )
    assert door.post(payload(1)).json == {"answers": ["known"]}


@pytest.mark.parametrize(
    ("event", "answers"),
    [
        pytest.param(payload(None), ["ref-deleted"], id="deleted"),
        pytest.param(payload(1, ref="refs/tags/v1"), ["ref-ignored"], id="tag"),
        pytest.param(payload(1, ref="refs/convert/parquet"), ["ref-ignored"], id="convert"),
        pytest.param(payload(1, ref="refs/pr/3"), ["queued"], id="pull-request"),
        pytest.param(payload(1, ref="refs/heads/a/b-c"), ["queued"], id="branch"),
        pytest.param(payload(1, repo="acme/shy"), ["opted-out"], id="opted-out"),
        pytest.param(payload(1, repo="ACME/Shy"), ["opted-out"], id="opted-out-in-capitals"),
        pytest.param(payload(1, repo="other/lora"), ["not-watched"], id="not-watched"),
        pytest.param(payload(1, updatedRefs=[]), ["queued"], id="head-of-main"),
        pytest.param(
            payload(1, updatedRefs=[], event={"action": "create", "scope": "discussion"}),
            ["no-commit"],
            id="discussion",
        ),
        pytest.param(
            payload(1, event={"action": "update", "scope": "repo.content.new"}),
            ["queued"],
            id="narrower-scope",
        ),
        pytest.param(
            payload(1, repo="x", updatedRefs=[]) | {"repo": {"type": "kernel", "name": "a"}},
            ["not-an-adapter"],
            id="another-kind",
        ),
        pytest.param(payload(1, unheardOf={"a": [1]}), ["queued"], id="unknown-field"),
    ],
)
def test_what_an_event_asks_for(
    door: Door, store: SqlStore, event: dict[str, Any], answers: list[str]
) -> None:
    answer = door.post(event)
    assert (answer.status, answer.json) == (202, {"answers": answers})
    assert sum(store.counts().arrivals.values()) == 1  # recorded, judged or not


def test_every_ref_of_a_push_is_taken(door: Door) -> None:
    moved = [
        {"ref": "refs/heads/main", "oldSha": sha(9), "newSha": sha(1)},
        {"ref": "refs/heads/dev", "oldSha": None, "newSha": sha(2)},
        {"ref": "refs/heads/old", "oldSha": sha(3), "newSha": None},
    ]
    assert door.post(payload(1, updatedRefs=moved)).json["answers"] == [
        "queued",
        "queued",
        "ref-deleted",
    ]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("X-Webhook-Secret", "")],
        [("X-Webhook-Secret", SECRET[:-1])],
        [("X-Webhook-Secret", SECRET + "x")],
        [("X-Webhook-Secret", SECRET.upper())],
        [("X-Webhook-Secret", "geheim-\u00e4\u00f6\u00fc-geheim")],
        [("X-Webhook-Secret", SECRET), ("X-Webhook-Secret", SECRET)],
        [("X-Webhook-Secret", "wrong"), ("X-Webhook-Secret", SECRET)],
        [("Authorization", f"Bearer {SECRET}")],
    ],
)
def test_forged_events_make_no_job(
    door: Door, store: SqlStore, headers: list[tuple[str, str]]
) -> None:
    answer = door.ask("POST", "/webhook", json.dumps(payload(1)), headers)
    assert (answer.status, jobs(store)) == (401, 0)
    assert SECRET not in answer.text
    assert store.counts().arrivals == {}


def test_two_secrets_while_one_is_rotated(door: Door) -> None:
    assert door.post(payload(1), secret=OLD).status == 202
    assert door.post(payload(2), secret=SECRET).status == 202


@pytest.mark.parametrize(
    "given", ["", "short", "fifteen-letters", " padded-with-blanks ", "ä" * 20]
)
def test_no_secret_no_start(given: str) -> None:
    with pytest.raises(BadSecret) as caught:
        Secrets.read({"SAFETY_GATE_WEBHOOK_SECRET": given})
    assert not given or given not in str(caught.value)
    with pytest.raises(BadSecret):
        Secrets.read(
            {"SAFETY_GATE_WEBHOOK_SECRET": SECRET, "SAFETY_GATE_WEBHOOK_SECRET_OLD": given or "x"}
        )


def test_secrets_do_not_show() -> None:
    secrets = Secrets.read({"SAFETY_GATE_WEBHOOK_SECRET": SECRET})
    assert SECRET not in repr(secrets)
    assert "_digests" not in repr(secrets)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "null",
        "[]",
        "1e999",
        '"text"',
        "[" * 100_000,
        '{"a":' * 50_000,
        "\ud800".encode("utf-8", "surrogatepass"),
        b"\x00\xff",
        json.dumps(payload(1) | {"repo": {"type": "model", "name": "../etc"}}),
        json.dumps(payload(1) | {"repo": {"type": "model", "name": "a/b/c"}}),
        json.dumps(payload(1) | {"repo": {"type": "model", "name": 3}}),
        json.dumps(payload(1, updatedRefs=[{"ref": "refs/heads/main", "newSha": "HEAD"}])),
        json.dumps(payload(1, updatedRefs=[{"ref": "refs/heads/x\n", "newSha": sha(1)}])),
        json.dumps(payload(1, updatedRefs=[{"ref": "main", "newSha": sha(1)}])),
        json.dumps(payload(1, updatedRefs=[{"ref": "refs/pr/1", "newSha": sha(1) + "\n"}])),
        json.dumps(payload(1, updatedRefs=[{"ref": "refs/pr/1", "newSha": sha(1)}] * 1001)),
        json.dumps(payload(1, event="update")),
    ],
)
def test_what_is_no_event_is_refused(door: Door, store: SqlStore, body: str | bytes) -> None:
    answer = door.post(body)
    assert (answer.status, jobs(store)) == (422, 0)
    assert answer.json == {"error": "the body is not an event of the Hub"}


def test_a_long_body_is_refused_unread(door: Door, store: SqlStore) -> None:
    declared = door.ask(
        "POST",
        "/webhook",
        None,
        [("X-Webhook-Secret", SECRET), ("Content-Length", str(10**12))],
    )
    assert declared.status == 413
    assert jobs(store) == 0


def test_a_chunked_body_without_end_is_cut(door: Door) -> None:
    with socket.create_connection(("127.0.0.1", door.port), timeout=20) as sock:
        head = f"POST /webhook HTTP/1.1\r\nHost: x\r\nX-Webhook-Secret: {SECRET}\r\n"
        sock.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
        sent = 0
        try:
            while sent < 64 * len(chunk):
                sock.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass  # the door has closed while we were still sending
        else:
            assert b" 413 " in sock.recv(4096)[:40]


@pytest.mark.parametrize("packing", ["gzip", "br", "gzip, identity"])
def test_a_packed_body_is_refused(door: Door, packing: str) -> None:
    assert door.post(payload(1), Content_Encoding=packing).status == 415


def test_a_slow_body_is_refused(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_room, "SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", door.port), timeout=20) as sock:
        head = f"POST /webhook HTTP/1.1\r\nHost: x\r\nX-Webhook-Secret: {SECRET}\r\n"
        sock.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        assert b" 408 " in sock.recv(4096)[:40]


def test_slow_headers_are_hung_up_on(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientProtocol, "head_s", 0.2)
    with socket.create_connection(("127.0.0.1", door.port), timeout=20) as sock:
        sock.sendall(b"POST /webhook HTTP/1.1\r\nX-A: ")
        began = time.monotonic()
        assert sock.recv(4096) == b""
        assert time.monotonic() - began < 5


def test_a_full_queue_asks_to_come_back(door: Door, store: SqlStore) -> None:
    for number in range(3):
        assert door.post(payload(1, repo=f"acme/r{number}")).status == 202
    refused = door.post(payload(1, repo="acme/r9"))
    assert (refused.status, refused.headers["retry-after"]) == (429, "30")
    assert door.post(payload(2, repo="acme/r0")).status == 202  # replaces its older commit
    assert door.ask("GET", "/readyz").status == 503
    assert jobs(store) == 4
    lease = store.claim("w")
    assert lease is not None
    store.close(lease, "done")
    assert door.post(payload(1, repo="acme/r9")).status == 202


class Broken:
    """A store that does not answer, or not soon."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store
        self.rules = store.rules
        self.down = True
        self.gate = threading.Event()
        self.gate.set()

    def receive(self, arrivals: list[Arrival]) -> list[Said]:
        assert self.gate.wait(20)
        if self.down:
            raise StoreDown("no answer", where="db", hint="Wait.")
        return self.store.receive(arrivals)

    def counts(self) -> Counts:
        if self.down:
            raise StoreDown("no answer", where="db", hint="Wait.")
        return self.store.counts()


def test_a_store_that_is_down_is_not_ready(store: SqlStore) -> None:
    broken = Broken(store)
    with opened(broken) as door:  # type: ignore[arg-type]
        assert (door.post(payload(1)).status, door.ask("GET", "/readyz").status) == (503, 503)
        assert door.ask("GET", "/healthz").text == "ok\n"
        metrics = door.ask("GET", "/metrics").text
        assert "safety_gate_store_up 0.0" in metrics
        broken.down = False
        assert (door.post(payload(1)).status, door.ask("GET", "/readyz").status) == (202, 200)


def test_more_than_can_be_written_is_refused_at_once(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "WAITING", 2)
    broken = Broken(store)
    broken.down = False
    broken.gate.clear()
    answers: list[Answer] = []
    with opened(broken) as door:  # type: ignore[arg-type]

        def send() -> None:
            answers.append(door.post(payload(1)))

        senders = [threading.Thread(target=send) for _ in range(12)]
        for sender in senders:
            sender.start()
        ends = time.monotonic() + 20
        while len(answers) < 6 and time.monotonic() < ends:
            time.sleep(0.01)
        broken.gate.set()
        for sender in senders:
            sender.join()
    statuses = [answer.status for answer in answers]
    assert set(statuses) == {202, 429}
    assert jobs(store) == 1


def test_a_sender_that_hangs_up_loses_nothing(door: Door, store: SqlStore) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", door.port)
    connection.request("POST", "/webhook", json.dumps(payload(1)), {"X-Webhook-Secret": SECRET})
    connection.close()
    ends = time.monotonic() + 20
    while jobs(store) == 0 and time.monotonic() < ends:
        time.sleep(0.01)
    assert jobs(store) == 1


def test_metrics_tell_what_happened(door: Door, store: SqlStore) -> None:
    door.post(payload(1))
    door.post(payload(1))
    door.post(payload(1), secret="wrong")  # noqa: S106
    lease = store.claim("w")
    assert lease is not None
    store.decide(lease, "blocked", "{}")
    text = door.ask("GET", "/metrics").text
    for line in (
        'safety_gate_webhook_requests_total{status="202"} 2.0',
        'safety_gate_webhook_requests_total{status="401"} 1.0',
        'safety_gate_events_total{answer="known"} 1.0',
        'safety_gate_jobs{state="running"} 1.0',
        'safety_gate_verdicts{verdict="blocked"} 1.0',
        'safety_gate_verdicts{verdict="passed"} 0.0',
        "safety_gate_store_up 1.0",
    ):
        assert line in text.splitlines()
    assert "acme" not in text  # names of private repositories are nobody's business


def test_nothing_else_is_served(door: Door) -> None:
    assert door.ask("GET", "/").status == 404
    assert door.ask("GET", "/webhook").status == 405
    assert door.ask("GET", "/docs").status == 404
    assert "server" not in door.ask("GET", "/healthz").headers


def test_logs_name_commits_and_no_secret(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        door.post(payload(1))
        door.post(payload(1), secret="a-secret-that-is-wrong")  # noqa: S106
    (event,) = [record for record in caplog.records if record.message == "event"]
    assert (event.__dict__["repo"], event.__dict__["answer"]) == ("acme/lora", "queued")
    assert SECRET not in caplog.text
    assert "a-secret-that-is-wrong" not in caplog.text
