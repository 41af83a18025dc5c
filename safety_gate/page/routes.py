"""The addresses of the page. All of them only read.

/                                overview           /json
/queue                           what waits         /queue/json
/verdicts?q=&word=&before=       search             /verdicts/json
/o/OWNER                         of an owner        /o/OWNER/json
/r/OWNER/NAME                    of a repository    /r/OWNER/NAME/json
/r/OWNER/NAME/SHA                a report; it stays /r/OWNER/NAME/SHA/json, .../repaired/json
/r/OWNER/NAME/badge.svg          the main branch
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias

import anyio
from fastapi import FastAPI, Path, Query, Request, Response

from safety_gate.action.report_reader import BadReport
from safety_gate.jobs.facts import Page, Search
from safety_gate.jobs.failures import StoreDown
from safety_gate.jobs.store import JobStore
from safety_gate.page import as_html, as_json
from safety_gate.page.access import CHALLENGE, Access
from safety_gate.page.answers import as_json as json_answer
from safety_gate.page.answers import headers, html
from safety_gate.page.badge import badge_svg
from safety_gate.page.facts import FEW, MAIN, MOST, head_of, listed, sheet_of
from safety_gate.page.links import list_link
from safety_gate.page.render import stylesheet
from safety_gate.sources.hub_names import is_repo_id

AT_ONCE: Final = 2  # pages that are made at the same time; the webhook shares the processor
WAITING: Final = 32  # requests that wait for that; more are asked to come back

Owner = Annotated[str, Path(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,95}$")]
Sha = Annotated[str, Path(pattern=r"^[0-9a-f]{40}$")]
Text = Annotated[str, Query(max_length=100)]
Word = Annotated[Literal["", "passed", "blocked", "undecided"], Query()]
Before = Annotated[int | None, Query(ge=1, le=2**53)]
Made: TypeAlias = Callable[[], Response]


class Busy(Exception):
    """Too many pages are asked for at once."""


@dataclass(slots=True)
class PageDoor:
    """Makes pages in threads, a few at a time."""

    store: JobStore
    policy: str
    access: Access
    _limiter: anyio.CapacityLimiter
    _inside: int = 0

    async def answer(self, request: Request, make: Made) -> Response:
        """Return a page to who may see it."""
        if not self.access.shown:
            return _refused(404, "There is no page here")
        if not self.access.allows(request.headers.get("authorization", "")):
            refused = _refused(401, "This page asks for its token, as the password of any user")
            refused.headers["WWW-Authenticate"] = CHALLENGE
            return refused
        try:
            response = await self._made(make)
        except Busy:
            return _busy("Too many pages are asked for at once")
        except StoreDown:
            return _busy("The database does not answer")
        response.headers.update(headers(private=self.access.is_locked))
        return response

    async def _made(self, make: Made) -> Response:
        if self._inside >= WAITING:
            raise Busy
        self._inside += 1
        try:
            return await anyio.to_thread.run_sync(make, limiter=self._limiter)
        finally:
            self._inside -= 1

    def home(self, *, as_data: bool) -> Response:
        """Return the first page."""
        counts = self.store.counts()
        line = self.store.unfinished(Page(limit=FEW))
        recent = listed(self.store, Search(), None)
        if as_data:
            return json_answer(as_json.overview(counts, line, recent))
        return html(as_html.home(counts, line, recent, time.time()))

    def queue(self, *, as_data: bool) -> Response:
        """Return what runs and what waits."""
        line = self.store.unfinished(Page(limit=MOST))
        if as_data:
            return json_answer({"queue": [as_json.standing(one) for one in line]})
        return html(as_html.queue(line, self.store.counts(), time.time()))

    def verdicts(self, search: Search, before: int | None, *, as_data: bool) -> Response:
        """Return a list of verdicts."""
        found = listed(self.store, search, before)
        if not as_data:
            return html(as_html.verdicts(found, search))
        path = f"/o/{search.owner}/json" if search.owner else "/verdicts/json"
        query = {"q": search.text, "word": search.word}
        following = list_link(path, **query, before=found.before) if found.before else None
        return json_answer(as_json.listed(found, following))

    def repository(self, repo: str, before: int | None, *, as_data: bool) -> Response:
        """Return what is known about a repository."""
        if not is_repo_id(repo):
            return _missing(as_data=as_data)
        head = head_of(self.store, repo, MAIN, self.policy)
        found = listed(self.store, Search(repo=repo), before)
        if head.standing is None and not found.briefs:
            return _missing(as_data=as_data)
        if not as_data:
            return html(as_html.repository(repo, head, found))
        path = f"/r/{repo}/json"
        following = list_link(path, before=found.before) if found.before else None
        return json_answer(as_json.listed(found, following) | {"head": as_json.head(head)})

    def badge(self, repo: str) -> Response:
        """Return the badge of the main branch; of a repository we do not know, too."""
        known = is_repo_id(repo)
        word = head_of(self.store, repo, MAIN, self.policy).word if known else "unknown"
        return Response(badge_svg(word), media_type="image/svg+xml")

    def report(self, repo: str, sha: str, part: Literal["page", "json", "repaired"]) -> Response:
        """Return the report about a commit."""
        sheet = sheet_of(self.store, repo, sha, self.policy) if is_repo_id(repo) else None
        if sheet is None:
            return _missing(as_data=part != "page")
        if part == "page":
            try:
                return html(as_html.report(sheet))
            except BadReport:
                why = "Another version of Safety Gate wrote this report; it is there as JSON"
                return html(as_html.problem("This report cannot be shown", why), 200)
        text = sheet.stored.report if part == "json" else sheet.stored.repaired
        if not text:
            return _missing(as_data=True)
        return Response(text, media_type="application/json")


def _refused(status: int, what: str) -> Response:
    response = html(as_html.problem("Not shown", what), status)
    response.headers.update(headers(private=True))
    return response


def _busy(what: str) -> Response:
    response = _refused(503, what)
    response.headers["Retry-After"] = "5"
    return response


def _missing(*, as_data: bool) -> Response:
    what = "Nothing is known about this; it may be judged later"
    if as_data:
        return json_answer({"error": what}, 404)
    return html(as_html.problem("Not found", what), 404)


def add_page(app: FastAPI, store: JobStore, policy: str, access: Access) -> None:
    """Add the page to the door.

    Args:
        app: the door.
        store: what is shown.
        policy: sha256 of the policy whose verdicts are today's.
        access: who may see it.
    """
    door = PageDoor(store, policy, access, anyio.CapacityLimiter(AT_ONCE))
    for path, handler in {**_lists(door), **_of_repository(door)}.items():
        app.add_api_route(
            path, handler, response_model=None, response_class=Response, responses=_answers(path)
        )


def _answers(path: str) -> dict[int | str, dict[str, Any]]:
    """Return what a path may answer, for the description of the API."""
    kind = {"json": "application/json", "svg": "image/svg+xml", "css": "text/css"}
    own = kind.get(path.replace(".", "/").rsplit("/", 1)[-1], "text/html")
    found: dict[int | str, dict[str, Any]] = {200: {"content": {own: {}}}}
    for status, why in {
        401: "The token is missing or wrong",
        404: "Nothing is known about this, or there is no page",
        503: "Too many ask at once, or the database does not answer; come back later",
    }.items():
        content: dict[str, Any] = {"text/html": {}, "application/json": {}}
        found[status] = {"description": why, "content": content}
    return found


Handlers: TypeAlias = dict[str, Callable[..., Awaitable[Response]]]


def _lists(door: PageDoor) -> Handlers:
    async def home(request: Request) -> Response:
        return await door.answer(request, lambda: door.home(as_data=False))

    async def home_json(request: Request) -> Response:
        return await door.answer(request, lambda: door.home(as_data=True))

    async def queue(request: Request) -> Response:
        return await door.answer(request, lambda: door.queue(as_data=False))

    async def queue_json(request: Request) -> Response:
        return await door.answer(request, lambda: door.queue(as_data=True))

    def verdicts(as_data: bool) -> Callable[..., Awaitable[Response]]:
        async def handler(
            request: Request, q: Text = "", word: Word = "", before: Before = None
        ) -> Response:
            search = Search(text=q.strip(), word=word)
            return await door.answer(
                request, lambda: door.verdicts(search, before, as_data=as_data)
            )

        return handler

    def of_owner(as_data: bool) -> Callable[..., Awaitable[Response]]:
        async def handler(request: Request, owner: Owner, before: Before = None) -> Response:
            search = Search(owner=owner)
            return await door.answer(
                request, lambda: door.verdicts(search, before, as_data=as_data)
            )

        return handler

    async def style(request: Request) -> Response:
        return await door.answer(request, lambda: Response(stylesheet(), media_type="text/css"))

    return {
        "/": home,
        "/json": home_json,
        "/queue": queue,
        "/queue/json": queue_json,
        "/verdicts": verdicts(False),
        "/verdicts/json": verdicts(True),
        "/o/{owner}": of_owner(False),
        "/o/{owner}/json": of_owner(True),
        "/page.css": style,
    }


def _of_repository(door: PageDoor) -> Handlers:
    async def badge(request: Request, owner: Owner, name: Owner) -> Response:
        return await door.answer(request, lambda: door.badge(f"{owner}/{name}"))

    def repository(as_data: bool) -> Callable[..., Awaitable[Response]]:
        async def handler(
            request: Request, owner: Owner, name: Owner, before: Before = None
        ) -> Response:
            repo = f"{owner}/{name}"
            return await door.answer(
                request, lambda: door.repository(repo, before, as_data=as_data)
            )

        return handler

    def report(part: Literal["page", "json", "repaired"]) -> Callable[..., Awaitable[Response]]:
        async def handler(request: Request, owner: Owner, name: Owner, sha: Sha) -> Response:
            repo = f"{owner}/{name}"
            return await door.answer(request, lambda: door.report(repo, sha, part))

        return handler

    # The fixed endings go first: none of them could be a commit.
    return {
        "/r/{owner}/{name}/badge.svg": badge,
        "/r/{owner}/{name}/json": repository(True),
        "/r/{owner}/{name}/{sha}/repaired/json": report("repaired"),
        "/r/{owner}/{name}/{sha}/json": report("json"),
        "/r/{owner}/{name}/{sha}": report("page"),
        "/r/{owner}/{name}": repository(False),
    }
