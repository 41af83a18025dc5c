"""The routes of the loopback GitHub, without the prefix; permissions as for a workflow's token."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from tests.loopback_github import answers, rules
from tests.loopback_github.rules import Refused
from tests.loopback_github.state import CheckRun, Comment, Json, Repository, Status, Token

NOT_ALLOWED = "Resource not accessible by integration"
MOST_COMPARED = 300  # files that a comparison lists
MOST_FILES = 3000  # files that a pull request lists


class World:
    """All state, and who asks."""

    def __init__(self, api: str) -> None:
        self.api = api
        self.repositories: dict[str, Repository] = {}
        self.tokens: dict[str, Token] = {}

    def caller(self, request: Request) -> Token:
        """Return who asks."""
        value = request.headers.get("authorization", "")
        if not value:
            raise Refused(401, "Requires authentication")
        token = self.tokens.get(value.partition(" ")[2])
        if token is None:
            raise Refused(401, "Bad credentials")
        return token

    def writer(self, request: Request, *scopes: str) -> Token:
        """Return who asks, if one of these permissions is theirs."""
        token = self.caller(request)
        if not any(token.permissions.get(scope) == "write" for scope in scopes):
            raise Refused(403, NOT_ALLOWED)
        return token

    def repo(self, owner: str, name: str) -> Repository:
        """Return a repository."""
        try:
            return self.repositories[f"{owner}/{name}"]
        except KeyError:
            raise Refused(404, "Not Found") from None

    def paged(
        self, request: Request, items: Sequence[Any], key: str = "", most: int = 100_000
    ) -> JSONResponse:
        """Return one page, with the address of the next."""
        per_page = min(int(request.query_params.get("per_page", "30")), 100)
        page = int(request.query_params.get("page", "1"))
        items = items[:most]
        end = page * per_page
        shown = items[end - per_page : end]
        headers = {}
        if end < len(items):
            path = request.url.path
            kept = {**request.query_params, "page": str(page + 1)}
            query = "&".join(f"{name}={value}" for name, value in kept.items())
            headers["Link"] = f'<{self.api}{path}?{query}>; rel="next"'
        body = {key: shown, "total_count": len(items)} if key else list(shown)
        return JSONResponse(body, headers=headers)


def build(world: World) -> FastAPI:
    """Return the application."""
    app = FastAPI(openapi_url=None)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return JSONResponse(error.answer, status_code=error.status)

    for add in (_who, _pulls, _comments, _files, _checks, _scanning):
        add(app, world)
    return app


def _who(app: FastAPI, world: World) -> None:
    @app.post("/graphql")
    async def graphql(request: Request) -> Json:
        login = world.caller(request).login
        return {"data": {"viewer": {"login": login}}}

    @app.get("/user")
    async def user(request: Request) -> Json:
        token = world.caller(request)
        if token.kind != "User":
            raise Refused(403, NOT_ALLOWED)
        return answers.user(token.login, token.kind)

    @app.get("/repos/{owner}/{name}")
    async def repository(request: Request, owner: str, name: str) -> Json:
        world.caller(request)
        return answers.repository(world.api, world.repo(owner, name))


def _pulls(app: FastAPI, world: World) -> None:
    @app.get("/repos/{owner}/{name}/pulls")
    async def pulls(request: Request, owner: str, name: str) -> JSONResponse:
        world.caller(request)
        repo, head = world.repo(owner, name), request.query_params.get("head", "")
        found = [
            one
            for one in (answers.pull(world.api, repo, pull) for pull in repo.pulls.values())
            if one["state"] == request.query_params.get("state", "open")
            and head in ("", one["head"]["label"])
        ]
        return world.paged(request, found)

    @app.get("/repos/{owner}/{name}/pulls/{number}")
    async def pull(request: Request, owner: str, name: str, number: int) -> Json:
        world.caller(request)
        repo = world.repo(owner, name)
        if number not in repo.pulls:
            raise Refused(404, "Not Found")
        return answers.pull(world.api, repo, repo.pulls[number])

    @app.get("/repos/{owner}/{name}/pulls/{number}/files")
    async def files(request: Request, owner: str, name: str, number: int) -> JSONResponse:
        world.caller(request)
        return world.paged(request, world.repo(owner, name).pulls[number].files, most=MOST_FILES)

    @app.get("/repos/{owner}/{name}/commits/{sha}/pulls")
    async def of_commit(request: Request, owner: str, name: str, sha: str) -> JSONResponse:
        world.caller(request)
        repo = world.repo(owner, name)
        # Commits of forks are not found by this; see the query by head above.
        own = [p for p in repo.pulls.values() if p.head == sha and p.head_repository == repo.name]
        return world.paged(request, [answers.pull(world.api, repo, pull) for pull in own])


def _comments(app: FastAPI, world: World) -> None:
    scopes = ("issues", "pull-requests")

    def found(repo: Repository, number: int) -> tuple[int, Comment]:
        for issue, comments in repo.comments.items():
            for comment in comments:
                if comment.id == number:
                    return issue, comment
        raise Refused(404, "Not Found")

    @app.get("/repos/{owner}/{name}/issues/{number}/comments")
    async def listed(request: Request, owner: str, name: str, number: int) -> JSONResponse:
        world.caller(request)
        repo = world.repo(owner, name)
        shown = [answers.comment(world.api, repo, number, c) for c in repo.comments[number]]
        return world.paged(request, shown)

    @app.post("/repos/{owner}/{name}/issues/{number}/comments", status_code=201)
    async def create(request: Request, owner: str, name: str, number: int) -> Json:
        token, repo = world.writer(request, *scopes), world.repo(owner, name)
        if number in repo.pulls and repo.pulls[number].locked:
            raise Refused(403, "Unable to create comment because issue is locked.")
        text = rules.check_comment(await request.json())
        comment = repo.add_comment(number, text, token.login, token.kind)
        return answers.comment(world.api, repo, number, comment)

    @app.patch("/repos/{owner}/{name}/issues/comments/{number}")
    async def edit(request: Request, owner: str, name: str, number: int) -> Json:
        token, repo = world.writer(request, *scopes), world.repo(owner, name)
        issue, comment = found(repo, number)
        if comment.login != token.login:
            raise Refused(403, "You cannot edit this comment.")
        comment.body = rules.check_comment(await request.json())
        return answers.comment(world.api, repo, issue, comment)

    @app.delete("/repos/{owner}/{name}/issues/comments/{number}", status_code=204)
    async def delete(request: Request, owner: str, name: str, number: int) -> Response:
        world.writer(request, *scopes)
        repo = world.repo(owner, name)
        issue, comment = found(repo, number)
        repo.comments[issue].remove(comment)
        return Response(status_code=204)


def _files(app: FastAPI, world: World) -> None:
    @app.get("/repos/{owner}/{name}/contents/{path:path}")
    async def contents(request: Request, owner: str, name: str, path: str) -> Any:
        world.caller(request)
        repo = world.repo(owner, name)
        found = answers.contents(world.api, repo, request.query_params.get("ref", "main"), path)
        if found is None:
            raise Refused(404, "Not Found")
        return found

    @app.get("/repos/{owner}/{name}/compare/{span}")
    async def compare(request: Request, owner: str, name: str, span: str) -> Json:
        world.caller(request)
        base, _, head = span.partition("...")
        files = world.repo(owner, name).comparisons.get((base, head))
        if files is None:
            raise Refused(404, "Not Found")
        url = f"{world.api}{request.url.path}"
        return {"url": url, "status": "ahead", "commits": [], "files": files[:MOST_COMPARED]}


def _checks(app: FastAPI, world: World) -> None:
    @app.post("/repos/{owner}/{name}/check-runs", status_code=201)
    async def create(request: Request, owner: str, name: str) -> Json:
        token, repo = world.writer(request, "checks"), world.repo(owner, name)
        if token.kind != "Bot":
            raise Refused(403, "You must authenticate via a GitHub App.")
        body = await request.json()
        annotations = rules.check_check_run(body, new=True)
        run = CheckRun(next(repo.ids), body["head_sha"], body, list(annotations))
        repo.check_runs.append(run)
        return answers.check_run(world.api, repo, run)

    @app.patch("/repos/{owner}/{name}/check-runs/{number}")
    async def edit(request: Request, owner: str, name: str, number: int) -> Json:
        world.writer(request, "checks")
        repo, body = world.repo(owner, name), await request.json()
        run = next(run for run in repo.check_runs if run.id == number)
        run.annotations += rules.check_check_run(body, new=False)
        run.fields |= body
        return answers.check_run(world.api, repo, run)

    @app.get("/repos/{owner}/{name}/commits/{sha}/check-runs")
    async def listed(request: Request, owner: str, name: str, sha: str) -> JSONResponse:
        world.caller(request)
        repo = world.repo(owner, name)
        wanted = request.query_params.get("check_name")
        own = [
            answers.check_run(world.api, repo, run)
            for run in repo.check_runs
            if run.head_sha == sha and wanted in (None, run.fields["name"])
        ]
        return world.paged(request, own, "check_runs")

    @app.post("/repos/{owner}/{name}/statuses/{sha}", status_code=201)
    async def status(request: Request, owner: str, name: str, sha: str) -> Json:
        world.writer(request, "statuses")
        body = await request.json()
        rules.check_status(body)
        own = {key: body.get(key) or "" for key in ("state", "context", "description")}
        made = Status(sha=sha, target_url=body.get("target_url") or "", **own)
        world.repo(owner, name).statuses.append(made)
        return {"id": 1, "url": f"{world.api}/statuses/{sha}", **body}


def _scanning(app: FastAPI, world: World) -> None:
    @app.post("/repos/{owner}/{name}/code-scanning/sarifs", status_code=202)
    async def upload(request: Request, owner: str, name: str) -> Json:
        world.writer(request, "security-events")
        repo, body = world.repo(owner, name), await request.json()
        if not repo.code_scanning:
            raise Refused(403, "Code scanning is not enabled for this repository.")
        repo.sarifs.append({**body, "sarif": rules.check_sarif(body)})
        return {"id": "47177e22", "url": f"{world.api}/repos/{repo.name}/code-scanning/sarifs/47"}
