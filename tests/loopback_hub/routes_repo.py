"""Accounts, repositories, trees, refs and history."""

import hashlib
import json
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from tests.loopback_hub.accounts import (
    Login,
    check_files,
    check_read,
    check_write,
    member,
)
from tests.loopback_hub.history import Commit, Content, Kind, Repo
from tests.loopback_hub.problem import Problem
from tests.loopback_hub.recorder import SLASH
from tests.loopback_hub.world import World, described, lfs_part

PAGE = 1000  # entries of one page of a tree; tests make it smaller
KINDS: dict[str, Kind] = {"models": "model", "datasets": "dataset", "spaces": "space"}

router = APIRouter()


async def world_of(request: Request) -> World:
    """Return the state that the application was built around."""
    found = request.app.state.world
    if not isinstance(found, World):
        raise AssertionError("an application without a world")
    return found


async def login_of(request: Request) -> Login | None:
    """Return who asks."""
    return (await world_of(request)).accounts.login(request.headers.get("authorization"))


TheWorld = Annotated[World, Depends(world_of)]
TheLogin = Annotated[Login | None, Depends(login_of)]


def unslashed(part: str) -> str:
    """Return a path parameter with its encoded slashes."""
    return part.replace(SLASH, "/")


def find(world: World, kind: str, repo_id: str) -> Repo:
    """Return a repository by the plural of its kind, as paths have it."""
    if kind not in KINDS:
        raise Problem(404, "Not Found")
    return world.repo(KINDS[kind], repo_id)


async def readable(request: Request, world: TheWorld, login: TheLogin) -> Repo:
    """Return the repository of an API path, if this login may see it."""
    parts = request.path_params
    repo = find(world, parts["kind"], f"{parts['ns']}/{parts['name']}")
    check_read(login, repo)
    return repo


TheRepo = Annotated[Repo, Depends(readable)]
API = "/api/{kind}/{ns}/{name}"


@router.get("/api/whoami-v2")
async def whoami(world: TheWorld, login: TheLogin) -> dict[str, Any]:
    if login is None:
        raise Problem(401, "Invalid username or password.")
    account = login.account
    return {
        "type": "user",
        "id": account.id,
        "name": account.name,
        "fullname": account.name,
        "isPro": False,
        "orgs": [{"name": name, "type": "org"} for name in sorted(account.orgs)],
        "auth": {
            "type": "access_token",
            "accessToken": {"displayName": "t", "role": login.role},
        },
    }


@router.post("/api/repos/create")
async def create(request: Request, world: TheWorld, login: TheLogin) -> Response:
    if login is None:
        raise Problem(401, "Invalid username or password.")
    asked = await request.json()
    namespace = asked.get("organization") or login.account.name
    if login.role != "write" or namespace not in {login.account.name, *login.account.orgs}:
        raise Problem(403, "You don't have the rights to create a model under this namespace")
    kind: Kind = asked.get("type") or "model"
    repo_id = f"{namespace}/{asked['name']}"
    prefix = "" if kind == "model" else f"{kind}s/"
    told = {"url": f"{world.web}/{prefix}{repo_id}", "name": repo_id}
    if (kind, repo_id) in world.repos:
        told["error"] = "You already created this model repo"
        return JSONResponse(told, 409, {"X-Error-Message": told["error"]})
    repo = world.create(kind, repo_id, private=asked.get("visibility") == "private")
    return JSONResponse(told | {"id": repo.id})


@router.delete("/api/repos/delete")
async def delete(request: Request, world: TheWorld, login: TheLogin) -> dict[str, Any]:
    asked = await request.json()
    kind: Kind = asked.get("type") or "model"
    namespace = asked.get("organization") or (login.account.name if login else "")
    repo = world.repo(kind, f"{namespace}/{asked['name']}")
    check_write(login, repo)
    del world.repos[kind, repo.repo_id]
    world.hooks.emit("repo", "delete", repo)
    return {}


@router.put(API + "/settings")
async def settings(
    request: Request, repo: TheRepo, world: TheWorld, login: TheLogin
) -> dict[str, Any]:
    check_write(login, repo)
    asked = await request.json()
    if "gated" in asked:
        repo.gated = asked["gated"] or None
    if "visibility" in asked:
        repo.private = asked["visibility"] == "private"
        world.hooks.emit("repo.config", "update", repo, updatedConfig={"private": repo.private})
    return {"gated": repo.gated or False, "private": repo.private}


@router.get(API + "/auth-check")
async def auth_check(repo: TheRepo, login: TheLogin) -> dict[str, Any]:
    check_files(login, repo)
    return {}


@router.get(API + "/auth-check/write")
async def auth_check_write(repo: TheRepo, login: TheLogin) -> dict[str, Any]:
    check_write(login, repo)
    return {}


@router.get("/api/models")
async def models(request: Request, world: TheWorld, login: TheLogin) -> list[dict[str, Any]]:
    """List what this login may see, of one owner or of all."""
    author = request.query_params.get("author")
    tags = request.query_params.getlist("filter")
    found = []
    for repo in world.repos.values():
        if repo.kind != "model" or (author is not None and repo.namespace != author):
            continue
        if (repo.private and not member(login, repo)) or any(t not in repo.tags for t in tags):
            continue
        found.append(described(world, repo, repo.head, blobs=False))
    return found


@router.get(API)
async def info(request: Request, repo: TheRepo, world: TheWorld) -> Response:
    return await info_at(request, repo, world, "main")


@router.get(API + "/revision/{rev}")
async def info_at(request: Request, repo: TheRepo, world: TheWorld, rev: str) -> Response:
    if repo.renamed_to is not None:
        target = request.url.path.replace(repo.repo_id, repo.renamed_to)
        return RedirectResponse(target.replace(SLASH, "%2F"), 307)
    blobs = "blobs" in request.query_params
    return JSONResponse(described(world, repo, repo.at(unslashed(rev)), blobs=blobs))


def file_entry(path: str, content: Content) -> dict[str, Any]:
    """Return one file as a tree tells it."""
    xet = {"xetHash": content.xet_hash} if content.xet_hash else {}
    size = len(content.data)
    common = {"type": "file", "path": path, "size": size, "oid": content.git_oid}
    return {**common, **lfs_part(content, "oid"), **xet}


def tree_entries(commit: Commit, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    """Return the files and folders below a folder."""
    prefix = f"{folder}/" if folder else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, content in sorted(commit.files.items()):
        if not path.startswith(prefix):
            continue
        parents = [str(p) for p in PurePosixPath(path).parents if str(p) != "."]
        for parent in reversed(parents):
            if parent.startswith(prefix):
                oid = hashlib.sha1(parent.encode(), usedforsecurity=False).hexdigest()
                entries[parent] = {"type": "directory", "path": parent, "oid": oid, "size": 0}
        entries[path] = file_entry(path, content)
    found = list(entries.values())
    return found if recursive else [e for e in found if "/" not in e["path"][len(prefix) :]]


@router.get(API + "/tree/{rev}")
async def tree(request: Request, repo: TheRepo, world: TheWorld, rev: str) -> Response:
    return await tree_below(request, repo, world, rev, "")


@router.get(API + "/tree/{rev}/{folder:path}")
async def tree_below(
    request: Request, repo: TheRepo, world: TheWorld, rev: str, folder: str
) -> Response:
    commit = repo.at(unslashed(rev))
    query = request.query_params
    recursive = query.get("recursive", "false").lower() == "true"
    entries = tree_entries(commit, unslashed(folder), recursive=recursive)
    if folder and not entries:
        raise Problem(404, f"{folder} does not exist", code="EntryNotFound", commit=commit.id)
    first = int(query.get("cursor", "0"))
    size = request.app.state.page
    headers = {}
    if first + size < len(entries):
        following = request.url.include_query_params(cursor=first + size)
        raw = request.scope["raw_path"].decode()
        headers["Link"] = f'<{world.web}{raw}?{following.query}>; rel="next"'
    return JSONResponse(entries[first : first + size], headers=headers)


@router.post(API + "/paths-info/{rev}")
async def paths_info(request: Request, repo: TheRepo, rev: str) -> list[dict[str, Any]]:
    commit = repo.at(unslashed(rev))
    asked = parse_qs((await request.body()).decode())
    entries = {e["path"]: e for e in tree_entries(commit, "", recursive=True)}
    return [entries[path] for path in asked.get("paths", []) if path in entries]


@router.get(API + "/refs")
async def refs(request: Request, repo: TheRepo) -> dict[str, Any]:
    told: dict[str, Any] = {"branches": [], "converts": [], "tags": []}
    groups = {"refs/heads/": "branches", "refs/tags/": "tags", "refs/pr/": "pullRequests"}
    if "include_prs" in request.query_params:
        told["pullRequests"] = []
    for ref, sha in repo.refs.items():
        prefix = next(p for p in groups if ref.startswith(p))
        name = ref if prefix == "refs/pr/" else ref.removeprefix(prefix)
        if groups[prefix] in told:
            told[groups[prefix]].append({"name": name, "ref": ref, "targetCommit": sha})
    return told


@router.get(API + "/commits/{rev}")
async def commits(repo: TheRepo, rev: str) -> list[dict[str, Any]]:
    return [
        {
            "id": commit.id,
            "title": commit.title,
            "message": commit.message,
            "authors": [{"user": commit.author, "avatar": ""}],
            "date": commit.date,
        }
        for commit in repo.history(unslashed(rev))
    ]


async def body_of(request: Request) -> dict[str, Any]:
    """Return a JSON body; {} where there is none."""
    raw = await request.body()
    told = json.loads(raw) if raw else {}
    return told if isinstance(told, dict) else {}


async def _new_ref(request: Request, world: World, repo: Repo, ref: str, rev: str) -> Response:
    check_write(await login_of(request), repo)
    if ref in repo.refs:
        raise Problem(409, f"Reference already exists: {ref}")
    repo.refs[ref] = repo.at(rev).id
    world.hooks.ref_moved(repo, ref, None, repo.refs[ref])
    return Response(status_code=201)


async def _drop_ref(request: Request, world: World, repo: Repo, ref: str) -> Response:
    check_write(await login_of(request), repo)
    if ref not in repo.refs:
        raise Problem(404, "Invalid rev id", code="RevisionNotFound")
    old = repo.refs.pop(ref)
    world.hooks.ref_moved(repo, ref, old, None)
    return Response(status_code=200)


@router.post(API + "/branch/{branch}")
async def new_branch(request: Request, repo: TheRepo, world: TheWorld, branch: str) -> Response:
    start = (await body_of(request)).get("startingPoint") or "main"
    return await _new_ref(request, world, repo, f"refs/heads/{unslashed(branch)}", start)


@router.delete(API + "/branch/{branch}")
async def drop_branch(request: Request, repo: TheRepo, world: TheWorld, branch: str) -> Response:
    return await _drop_ref(request, world, repo, f"refs/heads/{unslashed(branch)}")


@router.post(API + "/tag/{rev}")
async def new_tag(request: Request, repo: TheRepo, world: TheWorld, rev: str) -> Response:
    tag = (await body_of(request))["tag"]
    return await _new_ref(request, world, repo, f"refs/tags/{tag}", unslashed(rev))


@router.delete(API + "/tag/{tag}")
async def drop_tag(request: Request, repo: TheRepo, world: TheWorld, tag: str) -> Response:
    return await _drop_ref(request, world, repo, f"refs/tags/{unslashed(tag)}")


@router.post(API + "/super-squash/{branch}")
async def squash(
    request: Request, repo: TheRepo, world: TheWorld, login: TheLogin, branch: str
) -> dict[str, Any]:
    """Replace the history of a branch; the old commits are gone."""
    author = check_write(login, repo).account.name
    ref = f"refs/heads/{unslashed(branch)}"
    old = repo.at(ref)
    title = (await body_of(request)).get("message") or "Super-squash branch"
    for commit in repo.history(ref):
        if commit.id not in [sha for name, sha in repo.refs.items() if name != ref]:
            del repo.commits[commit.id]
    new = repo.add_commit(ref, old.files, title=title, author=author, parent=None)
    world.hooks.ref_moved(repo, ref, old.id, new.id)
    return {}
