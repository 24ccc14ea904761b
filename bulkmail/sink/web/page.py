"""The web page of a server: its listener and its life."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from importlib.resources import files

from aiohttp import web
from aiohttp.typedefs import Handler

from bulkmail.sink.maildir import Maildir
from bulkmail.sink.networks import is_loopback
from bulkmail.sink.options import bind, reachable, shown
from bulkmail.sink.store import Kept, Store
from bulkmail.sink.web.api import Api
from bulkmail.sink.web.guard import PAGE_POLICY, guard, secure
from bulkmail.sink.web.inbox import FiledInbox, Inbox, KeptInbox

log = logging.getLogger("bulkmail.sink")

# A browser opens six. Each may hold an attachment in memory that its client does not fetch, and has no time limit.
MAX_CONNECTIONS = 64
BACKLOG = 64
IDLE_SECONDS = 30.0
MAX_BODY = 4096  # bytes of a request's; none is used
STOP_SECONDS = 1.0  # for answers under way

STATIC = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/app.js": ("app.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class Page:
    """bind(), start() and stop() are called by the server; the first raises ConfigError.

    about   what /api/server tells, besides the store
    """

    def __init__(self, host: str, port: int, about: Callable[[], dict[str, object]]) -> None:
        self._place = host, port
        self._about = about
        self._socket: socket.socket | None = None
        self._listener: asyncio.Server | None = None
        self._runner: web.AppRunner | None = None
        self._api: Api | None = None

    @property
    def url(self) -> str:
        """For a browser on this machine."""
        if self._socket is None:
            raise RuntimeError("the server has not been started")
        return self._url

    def bind(self) -> None:
        self._socket = bind(*self._place, BACKLOG)
        host, port = self._socket.getsockname()[:2]
        self._url = f"http://{shown(reachable(host), port)}/"
        if not is_loopback(host):
            log.warning("the web page has no login: everyone who reaches %s can read the messages", shown(host, port))

    async def start(self, store: Store | None) -> None:
        assert self._socket is not None
        self._api = Api(inbox_of(store), self._about)
        app = web.Application(middlewares=[guard(self._place[0])], client_max_size=MAX_BODY)
        app.on_response_prepare.append(secure)
        app.add_routes([*static_routes(), *self._api.routes()])
        self._runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=IDLE_SECONDS,
            shutdown_timeout=STOP_SECONDS,
            handler_cancellation=True,  # nobody searches on for a browser that has gone
        )
        await self._runner.setup()
        self._listener = await asyncio.get_running_loop().create_server(
            self._connection, sock=self._socket, backlog=BACKLOG
        )

    def _connection(self) -> asyncio.BaseProtocol:
        assert self._runner is not None and self._runner.server is not None
        if len(self._runner.server.connections) >= MAX_CONNECTIONS:
            return Closed()
        return self._runner.server()

    async def stop(self) -> None:
        """Also of one that was bound and never started."""
        if self._listener is not None:
            self._listener.close()
        elif self._socket is not None:
            self._socket.close()
        if self._api is not None:
            self._api.stopping.set()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._api is not None:
            self._api.close()


class Closed(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def inbox_of(store: Store | None) -> Inbox:
    if isinstance(store, Maildir):
        return FiledInbox(store.folder)
    assert isinstance(store, Kept)  # options.py refuses the others
    return KeptInbox(store)


def static_routes() -> list[web.RouteDef]:
    return [web.get(path, static(name, kind)) for path, (name, kind) in STATIC.items()]


def static(name: str, kind: str) -> Handler:
    body = (files("bulkmail.sink.web") / "static" / name).read_bytes()
    headers = {"Content-Type": f"{kind}; charset=utf-8", "Content-Security-Policy": PAGE_POLICY}

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, headers=headers)

    return answer
