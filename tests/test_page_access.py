"""Who sees the page, and with which headers."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from safety_gate.bot.secret import BadSecret
from safety_gate.jobs.failures import StoreDown
from safety_gate.jobs.sql_store import SqlStore
from safety_gate.jobs.sqlite import open_sqlite
from safety_gate.page.access import TOKEN, Access, access_for
from safety_gate.page.answers import headers
from tests.page_world import OPEN, RULES, filled, shown

SECRET = "a-token-of-the-page-1234"  # noqa: S105
PATHS = ("/", "/json", "/queue", "/verdicts", "/o/acme", "/r/acme/support-lora", "/page.css")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    store = open_sqlite(tmp_path / "jobs.db", RULES)
    filled(store)
    yield store
    store.close_store()


def basic(password: str, user: str = "any") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


LOCKED = access_for({TOKEN: SECRET}, host="0.0.0.0", public=False)  # noqa: S104


@pytest.mark.parametrize(
    ("sent", "opens"),
    [
        ("", False),
        (f"Bearer {SECRET}", True),
        (f"bearer {SECRET}", True),
        (basic(SECRET), True),
        (basic(SECRET, "someone else"), True),
        (f"Bearer {SECRET}x", False),
        (f"Bearer {SECRET[:-1]}", False),
        (basic(""), False),
        (basic(SECRET).replace("Basic", "Digest"), False),
        ("Basic !!!", False),
        ("Bearer", False),
        (SECRET, False),
    ],
)
def test_the_token_opens_the_page(sent: str, opens: bool) -> None:
    assert LOCKED.allows(sent) is opens


@pytest.mark.parametrize(
    ("host", "public", "seen"),
    [
        ("127.0.0.1", False, True),
        ("::1", False, True),
        ("localhost", False, True),
        ("0.0.0.0", False, False),  # noqa: S104
        ("192.0.2.7", False, False),
        ("gate.example", False, False),
        ("0.0.0.0", True, True),  # noqa: S104
    ],
)
def test_without_a_token_the_page_stays_at_home(host: str, public: bool, seen: bool) -> None:
    access = access_for({}, host=host, public=public)
    assert (access.shown, access.allows("")) == (seen, seen)


def test_a_token_that_anyone_could_guess_is_refused() -> None:
    with pytest.raises(BadSecret, match=TOKEN) as refused:
        access_for({TOKEN: "short"}, host="127.0.0.1", public=False)
    assert refused.value.exit_code == 2
    assert "short" not in str(refused.value)
    assert SECRET not in repr(LOCKED)


def test_every_page_asks_for_the_token(store: SqlStore) -> None:
    with shown(store, LOCKED) as door:
        for path in PATHS:
            refused = door.ask("GET", path)
            assert refused.status == 401, path
            assert refused.headers["www-authenticate"].startswith("Basic ")
            assert "acme" not in refused.text
            opened = door.ask("GET", path, headers=[("Authorization", basic(SECRET))])
            assert opened.status == 200, path
            assert opened.headers["cache-control"] == "private, no-store"
        assert door.ask("GET", "/healthz").status == 200


def test_no_page_at_all(store: SqlStore) -> None:
    with shown(store, Access(False)) as door:
        for path in PATHS:
            assert door.ask("GET", path).status == 404
            assert "acme" not in door.ask("GET", path).text


def test_nothing_can_be_written(store: SqlStore) -> None:
    with shown(store, OPEN) as door:
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            for path in (*PATHS, "/r/acme/support-lora/badge.svg"):
                assert door.ask(method, path, b"").status == 405, (method, path)


def test_headers_leave_nothing_to_what_slips_through(store: SqlStore) -> None:
    with shown(store, OPEN) as door:
        for path in PATHS:
            found = door.ask("GET", path).headers
            policy = found["content-security-policy"]
            assert policy.startswith("default-src 'none'; style-src 'self'; img-src 'self'")
            assert "script" not in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert found["x-content-type-options"] == "nosniff"
            assert found["referrer-policy"] == "no-referrer"
    space = headers(private=False, environ={"SPACE_ID": "acme/gate"})
    assert "frame-ancestors https://huggingface.co" in space["Content-Security-Policy"]


def test_a_store_that_is_down_asks_to_come_back(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: object) -> None:
        raise StoreDown("no answer", where="db", hint="Wait.")

    with shown(store, OPEN) as door:
        monkeypatch.setattr(store, "counts", down)
        refused = door.ask("GET", "/")
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        assert door.ask("GET", "/verdicts").status == 200


def test_more_readers_than_can_be_served_come_back_later(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safety_gate.page.routes.WAITING", 0)
    with shown(store, OPEN) as door:
        refused = door.ask("GET", "/queue")
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        assert door.post({}, secret="wrong").status == 401  # noqa: S106 - the webhook goes on
