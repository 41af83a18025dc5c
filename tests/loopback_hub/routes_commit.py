"""Uploads and commits."""

import base64
import hashlib
import io
import json
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tests.loopback_hub.accounts import Login, check_talk, check_write
from tests.loopback_hub.history import Commit, Content, Repo, storage_for
from tests.loopback_hub.problem import Problem
from tests.loopback_hub.routes_repo import API, TheLogin, TheRepo, TheWorld, find, unslashed
from tests.loopback_hub.world import STALE, Pushed, World

router = APIRouter()


@router.post("/api/validate-yaml")
async def validate_yaml(request: Request) -> Response:
    text = (await request.json())["content"]
    parts = text.split("---\n")
    errors: list[dict[str, str]] = []
    if text.startswith("---\n") and len(parts) >= 3:
        try:
            YAML(typ="safe", pure=True).load(io.StringIO(parts[1]))
        except YAMLError as error:
            errors.append({"message": str(error)})
    return JSONResponse({"errors": errors, "warnings": []}, 400 if errors else 200)


@router.post(API + "/preupload/{rev}")
async def preupload(
    request: Request, repo: TheRepo, world: TheWorld, login: TheLogin, rev: str
) -> dict[str, Any]:
    _check_push(request, repo, login)
    there = repo.at(unslashed(rev)).files
    told = []
    for file in (await request.json())["files"]:
        old = there.get(file["path"])
        told.append(
            {
                "path": file["path"],
                "uploadMode": storage_for(file["path"], file["size"]),
                "shouldIgnore": False,
                "oid": old.etag if old else None,
            }
        )
    return {"files": told}


def _check_push(request: Request, repo: Repo, login: Login | None) -> Login:
    """Return the login; a pull request needs no right to write."""
    if "create_pr" in request.query_params:
        return check_talk(login, repo)
    return check_write(login, repo)


@router.post("/{ns}/{name}.git/info/lfs/objects/batch")
async def lfs_batch(
    request: Request, world: TheWorld, login: TheLogin, ns: str, name: str
) -> Response:
    repo = find(world, "models", f"{ns}/{name}")
    check_talk(login, repo)
    told = []
    for item in (await request.json())["objects"]:
        entry = {"oid": item["oid"], "size": item["size"]}
        if item["oid"] not in world.objects:
            entry["actions"] = {
                "upload": {"href": f"{world.cdn}/upload/{item['oid']}", "header": {}},
                "verify": {
                    "href": f"{world.web}/{ns}/{name}.git/info/lfs/verify",
                    "header": {},
                },
            }
        told.append(entry)
    return JSONResponse({"transfer": "basic", "objects": told})


@router.post("/{ns}/{name}.git/info/lfs/verify")
async def lfs_verify(request: Request, world: TheWorld) -> dict[str, Any]:
    asked = await request.json()
    if len(world.objects.get(asked["oid"], b"")) != asked["size"]:
        raise Problem(404, "Object was not uploaded")
    return {}


upload_router = APIRouter()


@upload_router.put("/upload/{oid}")
async def lfs_put(request: Request, world: TheWorld, oid: str) -> Response:
    data = await request.body()
    if hashlib.sha256(data).hexdigest() != oid:
        raise Problem(400, "The bytes are not those of the oid")
    world.objects[oid] = data
    return Response(status_code=200)


@router.post(API + "/commit/{rev}")
async def commit(
    request: Request, repo: TheRepo, world: TheWorld, login: TheLogin, rev: str
) -> dict[str, Any]:
    author = _check_push(request, repo, login).account.name
    lines = [json.loads(line) for line in (await request.body()).splitlines() if line]
    header = next(line["value"] for line in lines if line["key"] == "header")
    with world.lock:
        ref = repo.ref_of(unslashed(rev))
        if ref is None:
            raise Problem(404, f"Invalid rev id: {rev}", code="RevisionNotFound")
        parent = _parent(repo, ref, header.get("parentCommit"), request)
        changes = _changes(world, parent, lines)
        pushed = _push(world, repo, (ref, parent), changes, header, author, request)
    told = {
        "success": True,
        "commitOid": pushed.commit.id,
        "commitUrl": f"{world.web}/{repo.repo_id}/commit/{pushed.commit.id}",
        "hookOutput": "",
    }
    if pushed.pull_request is not None:
        num = pushed.pull_request.num
        told["pullRequestUrl"] = f"{world.web}/{repo.repo_id}/discussions/{num}"
    return told


def _parent(repo: Repo, ref: str, asked: str | None, request: Request) -> Commit:
    """Return the commit to build on; 412 where a branch has moved on."""
    head = repo.commits[repo.refs[ref]]
    if asked is None or head.id.startswith(asked):
        return head
    if "create_pr" in request.query_params:
        return repo.at(asked)
    raise Problem(412, STALE)


def _push(  # noqa: PLR0913
    world: World,
    repo: Repo,
    base: tuple[str, Commit],
    changes: dict[str, Content | None],
    header: dict[str, Any],
    author: str,
    request: Request,
) -> Pushed:
    title, text = header["summary"], header.get("description") or ""
    ref, parent = base
    if "create_pr" in request.query_params:
        return world.pull_request(
            repo, changes, title=title, text=text, author=author, parent=parent
        )
    made = world.commit(repo, changes, ref=ref, title=title, message=text, author=author)
    if ref.startswith("refs/pr/"):
        found = world.discussion(repo, int(ref.removeprefix("refs/pr/")))
        found.add("commit", author, {"subject": title, "oid": made.id})
    return Pushed(commit=made)


def _changes(
    world: World, parent: Commit, lines: list[dict[str, Any]]
) -> dict[str, Content | None]:
    """Read the operations of a commit."""
    changes: dict[str, Content | None] = {}
    for line in lines:
        value, path = line["value"], line["value"].get("path", "")
        if line["key"] == "file":
            changes[path] = Content(base64.b64decode(value["content"]), lfs=False)
        elif line["key"] == "lfsFile":
            changes[path] = world.uploaded(value["oid"], value.get("size"))
        elif line["key"] == "deletedFile":
            changes |= _deleted(parent, [p for p in parent.files if p == path], path)
        elif line["key"] == "deletedFolder":
            inside = [p for p in parent.files if p.startswith(path.rstrip("/") + "/")]
            changes |= _deleted(parent, inside, path)
    return changes


def _deleted(parent: Commit, found: list[str], path: str) -> dict[str, Content | None]:
    if not found:
        raise Problem(
            404,
            f"A file with this name doesn't exist: {path}",
            code="EntryNotFound",
            commit=parent.id,
        )
    return dict.fromkeys(found)
