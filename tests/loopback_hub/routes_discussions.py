"""Discussions, pull requests, comments."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import PlainTextResponse

from tests.loopback_hub.accounts import Login, check_talk, check_write, member
from tests.loopback_hub.problem import Problem
from tests.loopback_hub.routes_repo import API, TheLogin, TheRepo, TheWorld, body_of
from tests.loopback_hub.talk import Discussion

router = APIRouter()
BASE = API + "/discussions"
PAGE = 10  # discussions of one page
OPEN = ("open", "draft")


async def talker(repo: TheRepo, login: TheLogin) -> Login:
    """Return the login, if it may take part."""
    return check_talk(login, repo)


async def discussion(repo: TheRepo, world: TheWorld, num: int) -> Discussion:
    """Return the discussion of a path."""
    if repo.discussions_disabled:
        raise Problem(403, "Discussions are disabled for this repo")
    return world.discussion(repo, num)


Talker = Annotated[Login, Depends(talker)]
Talk = Annotated[Discussion, Depends(discussion)]


@router.get(BASE)
async def listed(request: Request, repo: TheRepo) -> dict[str, Any]:
    if repo.discussions_disabled:
        raise Problem(403, "Discussions are disabled for this repo")
    query = request.query_params
    kind, status = query.get("type", "all"), query.get("status", "all")
    found = [
        d
        for d in reversed(repo.discussions)
        if kind == "all" or d.is_pull_request == (kind == "pull_request")
        if status == "all" or (d.status in OPEN) == (status == "open")
        if query.get("author") in (None, "", d.author)
    ]
    start = int(query.get("p", "0")) * PAGE
    page = [d.summary() for d in found[start : start + PAGE]]
    return {"discussions": page, "count": len(found), "start": start}


@router.post(BASE)
async def opened(request: Request, repo: TheRepo, world: TheWorld, login: Talker) -> dict[str, Any]:
    asked = await body_of(request)
    made = world.discuss(
        repo,
        title=asked["title"],
        text=asked["description"],
        author=login.account.name,
        pull_request=bool(asked.get("pullRequest")),
    )
    page = f"{world.web}/{repo.repo_id}/discussions/{made.num}"
    return {"num": made.num, "url": page, "pullRequest": made.is_pull_request}


@router.get(BASE + "/{num}")
async def details(found: Talk) -> dict[str, Any]:
    return found.details()


@router.post(BASE + "/{num}/comment")
async def comment(request: Request, found: Talk, world: TheWorld, login: Talker) -> dict[str, Any]:
    event = found.comment(login.account.name, (await body_of(request))["comment"])
    world.hooks.commented(found, event, "create")
    return {"newMessage": event}


@router.post(BASE + "/{num}/comment/{event_id}/edit")
async def edit(
    request: Request, found: Talk, world: TheWorld, login: Talker, event_id: str
) -> dict[str, Any]:
    text = (await body_of(request))["content"]
    event = found.edit(event_id, login.account.name, text)
    world.hooks.commented(found, event, "update")
    return {"updatedComment": event}


@router.post(BASE + "/{num}/comment/{event_id}/hide")
async def hide(found: Talk, world: TheWorld, login: Talker, event_id: str) -> dict[str, Any]:
    own = found.find_comment(event_id)["author"]["name"] == login.account.name
    if not own and not member(login, found.repo):
        raise Problem(403, "You cannot hide this comment")
    event = found.hide(event_id)
    world.hooks.commented(found, event, "update")
    return {"updatedComment": event}


def _check_own(found: Discussion, login: Login) -> None:
    if found.author != login.account.name and not member(login, found.repo):
        raise Problem(403, "You cannot change this discussion")


@router.post(BASE + "/{num}/title")
async def title(request: Request, found: Talk, world: TheWorld, login: Talker) -> dict[str, Any]:
    _check_own(found, login)
    event = found.rename((await body_of(request))["title"], login.account.name)
    world.hooks.discussed(found, "update")
    return {"newTitle": event}


@router.post(BASE + "/{num}/status")
async def status(request: Request, found: Talk, world: TheWorld, login: Talker) -> dict[str, Any]:
    _check_own(found, login)
    asked = await body_of(request)
    if asked.get("comment"):
        world.hooks.commented(found, found.comment(login.account.name, asked["comment"]), "create")
    event = found.set_status(asked["status"], login.account.name)
    world.hooks.discussed(found, "update")
    return {"newStatus": event}


@router.post(BASE + "/{num}/merge")
async def merge(request: Request, found: Talk, world: TheWorld, login: TheLogin) -> dict[str, Any]:
    author = check_write(login, found.repo).account.name
    asked = await body_of(request)
    if asked.get("comment"):
        found.comment(author, asked["comment"])
    return {"commitOid": world.merge(found, author).id}


@router.post("/uploads")
async def upload(request: Request, world: TheWorld, login: TheLogin) -> PlainTextResponse:
    if login is None:
        raise Problem(401, "Invalid username or password.")
    world.objects["upload"] = await request.body()
    return PlainTextResponse(f"{world.cdn}/uploads/production/{login.account.id}/image.png")
