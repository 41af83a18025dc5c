"""The loopback Hub: two servers in one thread, and the handle that tests hold."""

import asyncio
import logging
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from tests.loopback_hub import (
    routes_commit,
    routes_discussions,
    routes_files,
    routes_jobs,
    routes_repo,
    routes_webhooks,
)
from tests.loopback_hub.accounts import Role
from tests.loopback_hub.faults import Faults
from tests.loopback_hub.history import MAIN, Commit, Content, Gate, Kind, Repo, Storage
from tests.loopback_hub.problem import Problem
from tests.loopback_hub.recorder import App, Recorder, Requests, Side
from tests.loopback_hub.world import World

START_SECONDS = 10.0  # for both servers to listen
FILES = Mapping[str, bytes | str | None]


async def _told(_: Request, problem: Exception) -> JSONResponse:
    if not isinstance(problem, Problem):
        raise problem
    return JSONResponse({"error": problem.message}, problem.status, problem.headers())


def _application(world: World, side: Side) -> FastAPI:
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.state.world = world
    app.state.page = routes_repo.PAGE
    app.state.resolve_cache = True
    app.add_exception_handler(Problem, _told)
    routers = {
        "hub": (
            routes_jobs.router,  # before /api/{kind}/{ns}/{name}, which would take its paths
            routes_repo.router,
            routes_commit.router,
            routes_discussions.router,
            routes_webhooks.router,
            routes_files.router,
        ),
        "cdn": (routes_files.cdn_router, routes_commit.upload_router),
    }
    for router in routers[side]:
        app.include_router(router)
    return app


class LoopbackHub:
    """A Hub on 127.0.0.1 and its CDN on localhost, for the ``with`` statement.

        with LoopbackHub() as hub:
            hub.add_repo("acme/lora", {"adapter_config.json": "{}"})
            api = HfApi(endpoint=hub.endpoint, token=hub.token("acme"))
            assert [r.method for r in hub.requests("resolve")] == []

    Two origins, so that a client which sends its token along to the CDN is caught: the CDN answers
    400 to any Authorization.

    Attributes:
        endpoint: address of the Hub, for ``HfApi(endpoint=...)``.
        faults: what shall go wrong; see faults.py.
        requests: what came so far; see recorder.py.
        world: the state itself: repositories, discussions, events, deliveries.
    """

    def __init__(self, *, xet_folder: Path | None = None) -> None:
        """Prepare a Hub; it listens from ``with`` on.

        Args:
            xet_folder: empty folder for Xet storage on disk; None: no Xet, so clients have to
                run with HF_HUB_DISABLE_XET=1 when they upload large files.
        """
        self._xet_folder = xet_folder
        self.faults = Faults()
        self.requests = Requests()
        self.world = World(xet_folder)
        self._hub = _application(self.world, "hub")
        self._cdn = _application(self.world, "cdn")
        self._servers: list[uvicorn.Server] = []
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Start to listen."""
        sockets = [_listener(), _listener()]
        ports = [sock.getsockname()[1] for sock in sockets]
        self.world.web = f"http://127.0.0.1:{ports[0]}"
        self.world.cdn = f"http://localhost:{ports[1]}"
        for app, side in ((self._hub, "hub"), (self._cdn, "cdn")):
            self._servers.append(self._server(app, "hub" if side == "hub" else "cdn"))
        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(sockets, started)), name="hub", daemon=True
        )
        self._thread.start()
        if not started.wait(START_SECONDS):
            raise AssertionError("the loopback Hub did not start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening and end all threads."""
        for server in self._servers:
            server.should_exit = True
        if self._thread is not None:
            self._thread.join()
        self.world.hooks.close()
        self.world.compute.wait()

    def _server(self, app: App, side: Side) -> uvicorn.Server:
        # The log would only repeat what Requests records, and the aborts that faults cause.
        for name in ("uvicorn.error", "uvicorn.access"):
            logging.getLogger(name).disabled = True
        recorder = Recorder(app, side, self.requests, self.faults)
        config = uvicorn.Config(
            recorder,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        return uvicorn.Server(config)

    async def _serve(self, sockets: list[socket.socket], started: threading.Event) -> None:
        pairs = zip(self._servers, sockets, strict=True)
        tasks = [asyncio.create_task(server.serve([sock])) for server, sock in pairs]
        while not all(server.started for server in self._servers):
            await asyncio.sleep(0.005)
        started.set()
        await asyncio.gather(*tasks)

    @property
    def endpoint(self) -> str:
        """Return the address of the Hub, without a slash at its end."""
        return self.world.web

    @property
    def cdn(self) -> str:
        """Return the address of the CDN."""
        return self.world.cdn

    def reset(self) -> None:
        """Forget everything; the addresses stay, and so does the Xet storage."""
        old = self.world
        old.hooks.close()
        self.world = World()
        self.world.web, self.world.cdn, self.world.xet = old.web, old.cdn, old.xet
        for app in (self._hub, self._cdn):
            app.state.world = self.world
            app.state.page = routes_repo.PAGE
            app.state.resolve_cache = True
        self.faults.clear()
        self.requests.clear()

    def set_page_size(self, entries: int) -> None:
        """Cut trees into pages of so many entries; the Hub's have 1,000."""
        self._hub.state.page = entries

    def set_resolve_cache(self, on: bool) -> None:
        """Choose whether small files are redirected to /api/resolve-cache, as on the Hub."""
        self._hub.state.resolve_cache = on

    def token(
        self, user: str = "reader", role: Role = "read", *, orgs: tuple[str, ...] = ()
    ) -> str:
        """Return a new token of a user, who is made where he is not there."""
        self.world.accounts.add(user, orgs=orgs)
        return self.world.accounts.add_token(user, role)

    def add_repo(  # noqa: PLR0913
        self,
        repo_id: str,
        files: FILES | None = None,
        *,
        kind: Kind = "model",
        private: bool = False,
        gated: Gate | None = None,
        storage: Storage | None = None,
    ) -> Repo:
        """Make a repository with one commit of these files besides the first.

        Args:
            repo_id: "org/name".
            files: contents by path; str is encoded.
            kind: model, dataset or space.
            private: only its owner sees it.
            gated: only accounts in ``repo.let_in`` read its files.
            storage: of large files (as their names tell); None is LFS.
        """
        repo = self.world.create(kind, repo_id, private=private)
        repo.gated = gated
        if files:
            self.commit(repo_id, files, kind=kind, title="Upload", storage=storage)
        return repo

    def repo(self, repo_id: str, kind: Kind = "model") -> Repo:
        """Return a repository."""
        return self.world.repo(kind, repo_id)

    def commit(  # noqa: PLR0913
        self,
        repo_id: str,
        files: FILES,
        *,
        kind: Kind = "model",
        ref: str = MAIN,
        title: str = "A commit",
        author: str | None = None,
        storage: Storage | None = None,
    ) -> Commit:
        """Push a commit, as someone with git would; None deletes a file.

        Args:
            repo_id: "org/name".
            files: contents by path.
            kind: model, dataset or space.
            ref: full name of a branch or pull request.
            title: of the commit.
            author: user name; the owner by default.
            storage: of large files; None is LFS.
        """
        repo = self.repo(repo_id, kind)
        changes = {path: self._content(path, data, storage) for path, data in files.items()}
        return self.world.commit(repo, changes, ref=ref, title=title, author=author)

    def _content(
        self, path: str, data: bytes | str | None, storage: Storage | None
    ) -> Content | None:
        if data is None:
            return None
        raw = data.encode() if isinstance(data, str) else data
        plain = self.world.content(path, raw)
        return self.world.content(path, raw, storage) if storage and plain.lfs else plain


def _listener() -> socket.socket:
    # With the protocol named, asyncio sets TCP_NODELAY; without it, every answer waits 40 ms.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    return sock
