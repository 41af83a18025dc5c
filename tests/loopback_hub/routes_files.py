"""Bytes: resolve on the Hub, signed addresses on the CDN, tokens for Xet."""

import re
import time
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from tests.loopback_hub.accounts import check_files, check_write
from tests.loopback_hub.history import Commit, Content, Repo
from tests.loopback_hub.problem import Problem
from tests.loopback_hub.routes_repo import (
    API,
    TheLogin,
    TheRepo,
    TheWorld,
    find,
    unslashed,
)
from tests.loopback_hub.world import World

router = APIRouter()
cdn_router = APIRouter()
XET_SECONDS = 900  # for which a token of the Xet store is said to be good


def ranged(request: Request, data: bytes, headers: dict[str, str]) -> Response:
    """Answer GET or HEAD with all bytes or with the span asked for."""
    told = {**headers, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    status, body = 200, data
    if asked is not None:
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        if first > last:
            told["Content-Range"] = f"bytes */{len(data)}"
            return Response(status_code=416, headers=told)
        told["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        status, body = 206, data[first : last + 1]
    told["Content-Length"] = str(len(body))
    return Response(None if request.method == "HEAD" else body, status, told)


def _content(repo: Repo, commit: Commit, path: str) -> Content:
    content = commit.files.get(path)
    if content is None:
        raise Problem(404, f'"{path}" does not exist', code="EntryNotFound", commit=commit.id)
    return content


def _xet_headers(world: World, repo: Repo, commit: Commit, content: Content) -> dict[str, str]:
    if content.xet_hash is None:
        return {}
    route = f"{world.web}/api/{repo.kind}s/{repo.repo_id}/xet-read-token/{commit.id}"
    return {
        "X-Xet-Hash": content.xet_hash,
        "X-Xet-Refresh-Route": route,
        "Link": f'<{route}>; rel="xet-auth"',
    }


def _resolved(request: Request, world: World, repo: Repo, commit: Commit, path: str) -> Response:
    content = _content(repo, commit, path)
    headers = {"X-Repo-Commit": commit.id, "ETag": f'"{content.etag}"'}
    if content.lfs:
        headers |= {
            "X-Linked-ETag": f'"{content.sha256}"',
            "X-Linked-Size": str(len(content.data)),
            **_xet_headers(world, repo, commit, content),
        }
        return RedirectResponse(world.sign(repo, content), 302, headers)
    if request.app.state.resolve_cache:
        place = f"/api/resolve-cache/{repo.kind}s/{repo.repo_id}/{commit.id}/{quote(path)}"
        return RedirectResponse(place, 307, headers)
    return ranged(request, content.data, headers)


@router.api_route("/{ns}/{name}/resolve/{rev}/{path:path}", methods=["GET", "HEAD"])
async def resolve_model(  # noqa: PLR0913
    request: Request, world: TheWorld, login: TheLogin, ns: str, name: str, rev: str, path: str
) -> Response:
    return _resolve(request, world, login, ("models", f"{ns}/{name}", rev, path))


@router.api_route("/{kind}/{ns}/{name}/resolve/{rev}/{path:path}", methods=["GET", "HEAD"])
async def resolve_other(request: Request, world: TheWorld, login: TheLogin) -> Response:
    p = request.path_params
    place = (p["kind"], f"{p['ns']}/{p['name']}", p["rev"], p["path"])
    return _resolve(request, world, login, place)


def _resolve(
    request: Request, world: World, login: TheLogin, place: tuple[str, str, str, str]
) -> Response:
    kind, repo_id, rev, path = place
    repo = find(world, kind, repo_id)
    check_files(login, repo)
    return _resolved(request, world, repo, repo.at(unslashed(rev)), unslashed(path))


@router.api_route(
    "/api/resolve-cache/{kind}/{ns}/{name}/{sha}/{path:path}", methods=["GET", "HEAD"]
)
async def resolve_cache(request: Request, repo: TheRepo, login: TheLogin) -> Response:
    check_files(login, repo)
    commit = repo.at(request.path_params["sha"])
    content = _content(repo, commit, unslashed(request.path_params["path"]))
    headers = {"X-Repo-Commit": commit.id, "ETag": f'"{content.etag}"'}
    return ranged(request, content.data, headers)


@router.get(API + "/xet-read-token/{rev}")
async def xet_read_token(repo: TheRepo, world: TheWorld, login: TheLogin) -> Response:
    check_files(login, repo)
    return _xet_token(world)


@router.get(API + "/xet-write-token/{rev}")
async def xet_write_token(
    request: Request, repo: TheRepo, world: TheWorld, login: TheLogin
) -> Response:
    if "create_pr" not in request.query_params:
        check_write(login, repo)
    return _xet_token(world)


def _xet_token(world: World) -> Response:
    if world.xet is None:
        raise Problem(404, "This Hub has no Xet storage")
    until = int(time.time()) + XET_SECONDS
    told = {"accessToken": "xet_loopback", "exp": until, "casUrl": world.xet.url}
    headers = {
        "X-Xet-Access-Token": "xet_loopback",
        "X-Xet-Token-Expiration": str(until),
        "X-Xet-Cas-Url": world.xet.url,
    }
    return JSONResponse(told, headers=headers)


@cdn_router.api_route("/xet-bridge-us/{repo}/{sha256}", methods=["GET", "HEAD"])
async def bridge(request: Request, world: TheWorld, sha256: str) -> Response:
    """Serve a large file to whoever holds a signed address, and to nobody with a token."""
    if "authorization" in request.headers:
        raise Problem(400, "Only one auth mechanism allowed")
    query = request.query_params
    if not world.is_signed(sha256, query.get("Expires", "0"), query.get("Signature", "")):
        raise Problem(403, "AccessDenied")
    return ranged(request, world.uploaded(sha256, None).data, {"ETag": f'"{sha256}"'})
