"""Management of webhooks, under the settings of a user."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from tests.loopback_hub.accounts import Login
from tests.loopback_hub.hooks import Webhook
from tests.loopback_hub.problem import Problem
from tests.loopback_hub.routes_repo import TheLogin, TheWorld, body_of

router = APIRouter()
BASE = "/api/settings/webhooks"


async def owner(login: TheLogin) -> Login:
    """Return the login; webhooks belong to users with a token that can write."""
    if login is None:
        raise Problem(401, "Invalid username or password.")
    if login.role != "write":
        raise Problem(403, "Forbidden: this token cannot manage webhooks")
    return login


Owner = Annotated[Login, Depends(owner)]


async def own_hook(world: TheWorld, login: Owner, hook_id: str) -> Webhook:
    """Return a webhook of this user."""
    for hook in world.hooks.hooks:
        if (hook.id, hook.owner) == (hook_id, login.account.name):
            return hook
    raise Problem(404, "Webhook not found")


Hook = Annotated[Webhook, Depends(own_hook)]


@router.get(BASE)
async def listed(world: TheWorld, login: Owner) -> list[dict[str, Any]]:
    return [h.described() for h in world.hooks.hooks if h.owner == login.account.name]


@router.post(BASE)
async def create(request: Request, world: TheWorld, login: Owner) -> dict[str, Any]:
    asked = await body_of(request)
    hook = Webhook(
        owner=login.account.name,
        url=asked.get("url"),
        job=asked.get("jobSourceId"),
        watched=asked["watched"],
        domains=asked.get("domains") or ["repo", "discussion"],
        secret=asked.get("secret"),
        secrets=asked.get("secrets") or {},
    )
    if hook.job is not None and world.compute.find(hook.job) is None:
        raise Problem(404, "Source Job not found", code="RepoNotFound")
    world.hooks.hooks.append(hook)
    return {"webhook": hook.described()}


@router.get(BASE + "/{hook_id}")
async def got(hook: Hook) -> dict[str, Any]:
    return {"webhook": hook.described()}


@router.post(BASE + "/{hook_id}")
async def update(request: Request, hook: Hook) -> dict[str, Any]:
    asked = await body_of(request)
    hook.url = asked.get("url") or hook.url
    hook.watched = asked.get("watched", hook.watched)
    hook.domains = asked.get("domains") or hook.domains
    hook.secret = asked.get("secret") or hook.secret
    return {"webhook": hook.described()}


@router.post(BASE + "/{hook_id}/{action}")
async def toggle(hook: Hook, action: str) -> dict[str, Any]:
    hook.disabled = action == "disable"
    return {"webhook": hook.described()}


@router.delete(BASE + "/{hook_id}")
async def delete(world: TheWorld, hook: Hook) -> dict[str, Any]:
    world.hooks.hooks.remove(hook)
    return {}
