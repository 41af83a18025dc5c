"""Jobs: start, list, look at, cancel, and read the log as a stream of events."""

import json
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse

from tests.loopback_hub.accounts import Login
from tests.loopback_hub.compute import Job
from tests.loopback_hub.history import now
from tests.loopback_hub.problem import Problem
from tests.loopback_hub.routes_repo import TheLogin, TheWorld, body_of

router = APIRouter()
BASE = "/api/jobs/{namespace}"


async def payer(login: TheLogin, namespace: str) -> Login:
    """Return the login; Jobs need a token that can write, of the namespace that pays."""
    if login is None:
        raise Problem(401, "Invalid username or password.")
    if login.role != "write" or namespace not in {login.account.name, *login.account.orgs}:
        raise Problem(403, "Forbidden: this token cannot manage Jobs of this namespace")
    return login


Payer = Annotated[Login, Depends(payer)]


async def own_job(world: TheWorld, login: Payer, namespace: str, job_id: str) -> Job:
    job = world.compute.find(job_id)
    if job is None or job.namespace != namespace:
        raise Problem(404, "Job not found", code="RepoNotFound")
    return job


TheJob = Annotated[Job, Depends(own_job)]


@router.post(BASE)
async def run(request: Request, world: TheWorld, login: Payer, namespace: str) -> dict[str, Any]:
    spec = await body_of(request)
    if not (bool(spec.get("dockerImage")) ^ bool(spec.get("spaceId"))) or not spec.get("command"):
        raise Problem(400, "A Job needs one image and a command")
    secrets = spec.pop("secrets", {})
    return world.compute.start(Job(namespace=namespace, spec=spec, secrets=secrets)).described()


@router.get(BASE)
async def listed(
    request: Request, world: TheWorld, login: Payer, namespace: str
) -> list[dict[str, Any]]:
    stages = request.query_params.getlist("stage")
    labels = [label.partition("=") for label in request.query_params.getlist("label")]
    return [
        job.described()
        for job in reversed(world.compute.jobs)
        if job.namespace == namespace
        and (not stages or job.stage in stages)
        and all(job.spec.get("labels", {}).get(key) == value for key, _, value in labels)
    ]


@router.get(BASE + "/{job_id}")
async def got(job: TheJob) -> dict[str, Any]:
    return job.described()


@router.post(BASE + "/{job_id}/cancel")
async def cancel(job: TheJob) -> dict[str, Any]:
    if job.stage in ("SCHEDULING", "RUNNING"):
        job.stage = "CANCELED"
    return job.described()


@router.get(BASE + "/{job_id}/logs")
async def logs(job: TheJob) -> StreamingResponse:
    def events() -> Iterator[str]:
        for line in [f"===== Job started at {now()} =====", *job.lines]:
            yield f"data: {json.dumps({'data': line, 'timestamp': job.created})}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")
