"""No secret in a log: canaries through every part of a record."""

import io
import json
import logging
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety_gate.bot.logs import GONE, JsonFormatter, Redactor, log_to

CANARIES = {
    "HF_TOKEN": "hf_CanaryCanaryCanaryCanary123456",
    "SAFETY_GATE_WEBHOOK_SECRET": 'quite"odd\\secret of words',
    "SAFETY_GATE_DATABASE_URL": "postgresql://gate:canary-password@db/jobs",
    "GITHUB_TOKEN": "ghs_CanaryCanaryCanaryCanary12345678",
}


@pytest.fixture
def log() -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(Redactor.of(CANARIES)))
    logger = logging.Logger("canary")
    logger.addHandler(handler)
    return logger, stream


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("canary", CANARIES.values(), ids=CANARIES)
def test_a_canary_never_comes_out(log: tuple[logging.Logger, io.StringIO], canary: str) -> None:
    logger, stream = log
    logger.info("it is %s here", canary)
    logger.info("event", extra={"note": canary, "deep": {"list": [canary], canary: 1}})
    logger.info("event", extra={"shown": ValueError(canary)})
    try:
        raise RuntimeError(f"failed with {canary}")
    except RuntimeError:
        logger.exception("failed", stack_info=True)
    out = stream.getvalue()
    for form in (canary, json.dumps(canary)[1:-1], repr(canary)[1:-1]):
        assert form not in out
    assert out.count(GONE) >= 6
    assert len(lines(stream)) == 4


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abcdefgh12345678",
        "https://user:hunter2hunter2@example.org/x",
        "postgresql://gate:other-password@db:5432/jobs",
        "POST /webhook?secret=somethingsecret HTTP/1.1",
        "https://cdn/x?Expires=1&Signature=abcdefgh",
        "hf_jwt_eyJhbGciOi.eyJzdWIi.sig",
        "github_pat_11ABCDEFG0abcdefgh",
    ],
)
def test_shapes_of_tokens_are_known(text: str) -> None:
    cleaned = Redactor(()).clean(text)
    assert GONE in cleaned
    for word in ("abcdefgh", "hunter2", "other-password", "somethingsecret", "eyJ"):
        assert word not in cleaned


def test_honest_text_stays() -> None:
    text = "acme/lora@0123456789012345678901234567890123456789 refs/pr/3: passed"
    assert Redactor(["x", ""]).clean(text) == text


@given(st.text(min_size=8, max_size=60), st.text(max_size=40), st.text(max_size=40))
def test_any_secret_is_removed(secret: str, before: str, after: str) -> None:
    out = Redactor([secret]).clean(before + secret + after)
    assert secret not in out.replace(GONE, "")


def test_the_process_log_is_json_of_one_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "HF_TOKEN", CANARIES["HF_TOKEN"])
    root, kept = logging.getLogger(), logging.getLogger().handlers[:]
    level = root.level
    stream = io.StringIO()
    try:
        log_to(stream)
        logging.getLogger("x").info("a\nb %s", CANARIES["HF_TOKEN"], extra={"repo": "a/b"})
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = kept
        root.setLevel(level)
    (line,) = lines(stream)
    assert line["message"] == f"a\nb {GONE}"
    assert (line["level"], line["repo"], line["logger"]) == ("info", "a/b", "x")
