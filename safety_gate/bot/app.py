"""The webhook door: check the secret, write the job, answer 202.

Nothing here asks the Hub: what an event names is looked at by the worker that judges it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import ValidationError

from safety_gate import __version__
from safety_gate.bot.body import Refused, body_of
from safety_gate.bot.inbox import Inbox, Overrun
from safety_gate.bot.metrics import TYPE, Metrics
from safety_gate.bot.payload import Payload, Watch, arrivals, payload_schema
from safety_gate.bot.secret import Secrets
from safety_gate.jobs.facts import Answer
from safety_gate.jobs.failures import StoreDown
from safety_gate.jobs.store import JobStore

RETRY_S: Final = 30  # seconds that a sender is asked to wait

log = logging.getLogger(__name__)

_ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}
_REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"description": why, "content": {"application/json": {"schema": _ERROR}}}
    for status, why in {
        400: "The request is broken",
        401: "The secret is missing or wrong",
        408: "The body came too slowly",
        413: "The body is too long",
        415: "The body is packed",
        422: "The body is not an event of the Hub",
        429: "Too many jobs wait; come back later",
        503: "The store does not answer; come back later",
    }.items()
}


def make_app(store: JobStore, watch: Watch, secrets: Secrets) -> FastAPI:
    """Return the door in front of a store."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        inbox.start()
        yield
        await inbox.stop()

    inbox, metrics = Inbox(store), Metrics(store)
    app = FastAPI(
        title="Safety Gate",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.inbox, app.state.metrics = inbox, metrics
    app.state.store, app.state.watch, app.state.secrets = store, watch, secrets
    app.add_exception_handler(Refused, _refused)
    _add_routes(app)
    return app


def _add_routes(app: FastAPI) -> None:
    schema = {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": payload_schema()}},
        },
        "parameters": [
            {
                "name": "X-Webhook-Secret",
                "in": "header",
                "required": True,
                "schema": {"type": "string"},
            }
        ],
    }
    app.add_api_route(
        "/webhook",
        _webhook,
        methods=["POST"],
        status_code=202,
        responses=_REFUSALS,
        openapi_extra=schema,
        response_model=None,
    )
    app.add_api_route("/healthz", _healthz, response_class=PlainTextResponse)
    app.add_api_route("/readyz", _readyz, responses={503: _REFUSALS[503]}, response_model=None)
    app.add_api_route("/metrics", _metrics, response_class=PlainTextResponse)


async def _webhook(request: Request) -> Response:
    """Take in one event of the Hub."""
    began = time.perf_counter()
    metrics: Metrics = request.app.state.metrics
    try:
        answers = await _received(request)
    except Refused as refusal:
        metrics.requests.labels(refusal.status).inc()
        raise
    metrics.requests.labels(202).inc()
    metrics.seconds.observe(time.perf_counter() - began)
    return JSONResponse({"answers": answers}, 202)


async def _received(request: Request) -> list[Answer]:
    """Check, read and write; what was answered is on the disk."""
    state = request.app.state
    # First the secret: whoever does not know it costs us no body, no parsing and no line of log.
    if not state.secrets.accept(
        [value for name, value in request.headers.raw if name == b"x-webhook-secret"]
    ):
        raise Refused(401, "the secret is missing or wrong")
    body = await body_of(request)
    try:
        wanted = arrivals(Payload.model_validate_json(body), state.watch)
    except ValidationError:  # its text would repeat what the sender wrote
        raise Refused(422, "the body is not an event of the Hub") from None
    try:
        answers: list[Answer] = await state.inbox.receive(wanted)
    except Overrun:
        raise Refused(429, "too many events at once", retry_s=1) from None
    except StoreDown:
        raise Refused(503, "the store does not answer", retry_s=RETRY_S) from None
    for arrival, answer in zip(wanted, answers, strict=True):
        extra = {"repo": arrival.repo, "ref": arrival.ref, "sha": arrival.sha, "answer": answer}
        log.info("event", extra=extra)
    if "full" in answers:
        raise Refused(429, "too many jobs wait", retry_s=RETRY_S)
    return answers


async def _refused(request: Request, refusal: Exception) -> Response:
    if not isinstance(refusal, Refused):
        raise refusal
    headers = {} if refusal.retry_s is None else {"Retry-After": str(refusal.retry_s)}
    if refusal.status in (401, 408, 413, 415):
        headers["Connection"] = "close"  # the rest of the body is not read
    return JSONResponse({"error": refusal.why}, refusal.status, headers)


async def _healthz() -> str:
    """Tell that this process runs."""
    return "ok\n"


async def _readyz(request: Request) -> Response:
    """Tell whether events can be written."""
    store: JobStore = request.app.state.store
    try:
        counts = await asyncio.to_thread(store.counts)
    except StoreDown:
        raise Refused(503, "the store does not answer", retry_s=RETRY_S) from None
    if counts.jobs["queued"] >= store.rules.queue_bound:
        raise Refused(503, "the queue is full", retry_s=RETRY_S)
    return JSONResponse({"ready": True, "queued": counts.jobs["queued"]})


async def _metrics(request: Request) -> Response:
    """Return the figures in the text format of Prometheus."""
    metrics: Metrics = request.app.state.metrics
    return Response(await asyncio.to_thread(metrics.text), media_type=TYPE)
