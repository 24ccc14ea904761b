"""`Server`: listeners, connections, counts. What a connection does is in connection.py and, with hooks, hooked.py."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import socket
from collections.abc import Coroutine, Sequence
from typing import Any

from bulkmail.errors import ConfigError
from bulkmail.sink.connection import SWEEP_SECONDS, TLS_SECONDS, Connection
from bulkmail.sink.hooked import HookedConnection, questions
from bulkmail.sink.options import bind, read_auth, read_listen, read_options, read_without, shown, tls_context
from bulkmail.sink.session import Message
from bulkmail.sink.store import Kept, Maildir, Store
from bulkmail.wire.server_settings import ASK_END, ServerCounts, ServerSettings

# Each costs some kilobytes here and a descriptor; the process's limit of those usually comes first.
MAX_CONNECTIONS = 20_000
BACKLOG = 1024
# What clients get to read their 421 and hooks to finish, when the server stops.
STOP_SECONDS = 5.0


class Server:
    """A server that receives: `async with Server(...) as server`, then `.port`, `.url`, `.messages`, `.counts`.

    hooks    any object; those methods it has of on_connect, on_auth, on_mail, on_rcpt, on_data, on_close are called,
             sync or async. They raise `Refuse` to say no.
    listen   "HOST:PORT", one or several; port 0 takes a free one
    options  named as the flags of `bulkmail sink` (`SinkOptions` has them)

    Accepted messages go to `store` (a Maildir), nowhere with `discard`, and otherwise to `messages`.

    raises   ConfigError from the constructor, and from start() when an address cannot be listened on
    """

    def __init__(self, hooks: object = None, listen: str | Sequence[str] = "127.0.0.1:0", **options: Any) -> None:
        self.options = read_options(options)
        self.hooks = hooks
        self.places = read_listen(listen)
        self.tls = tls_context(self.options.tls_cert, self.options.tls_key) if self.options.tls_cert else None
        self.store: Store | None = self._choose_store()
        self.settings = self._settings()
        self.wire_counts = ServerCounts()
        self.offers_auth = self.options.auth is not None or hasattr(hooks, "on_auth")
        self.connections: set[Connection] = set()
        self._listeners: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._addresses: list[tuple[str, int]] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._idents = itertools.count(1)
        self._run = secrets.token_hex(3)
        self._protocol = Connection if hooks is None else HookedConnection

    def _choose_store(self) -> Store | None:
        if self.options.store is not None:
            return Maildir(self.options.store)
        return None if self.options.discard else Kept()

    def _settings(self) -> ServerSettings:
        options, keeps = self.options, self.store is not None
        return ServerSettings(
            read_name(options.name),
            max_size=options.max_size,
            max_recipients=options.max_recipients,
            without=read_without(options.without),
            starttls=self.tls is not None and not options.tls_implicit,
            auth=read_auth(options.auth),
            lmtp=options.lmtp,
            lenient=options.lenient,
            envelopes=keeps or self.hooks is not None,
            content=keeps or hasattr(self.hooks, "on_data"),
            ask=questions(self.hooks) | (ASK_END if keeps else 0),
        )

    # --- what users ask

    @property
    def port(self) -> int:
        """Of the first listener."""
        return self.addresses[0][1]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """(host, port) of each listener, as bound."""
        if not self._addresses:
            raise RuntimeError("the server has not been started")
        return self._addresses

    @property
    def url(self) -> str:
        """Of the first listener, for a client on this machine. A password is not in it."""
        scheme = "lmtp" if self.options.lmtp else "smtps" if self.options.tls_implicit else "smtp"
        host, port = self.addresses[0]
        return f"{scheme}://{shown({'0.0.0.0': '127.0.0.1', '::': '::1'}.get(host, host), port)}"

    @property
    def messages(self) -> list[Message]:
        """The messages accepted so far, oldest first; clear() it at will. Empty where they are stored or discarded."""
        return self.store.messages if isinstance(self.store, Kept) else []

    @property
    def counts(self) -> dict[str, int]:
        """connections, messages, recipients, bytes, refused."""
        return self.wire_counts.as_dict()

    # --- starting and stopping

    async def __aenter__(self) -> Server:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen. On an error nothing is left open."""
        loop = asyncio.get_running_loop()
        sockets: list[socket.socket] = []
        try:
            for host, port in self.places:
                sockets.append(bind(host, port, BACKLOG))
        except ConfigError:
            for listener in sockets:
                listener.close()
            self._close_store()
            raise
        tls: dict[str, Any] = {}
        if self.options.tls_implicit:
            tls = {"ssl": self.tls, "ssl_handshake_timeout": TLS_SECONDS}
        for listener in sockets:
            self._addresses.append(listener.getsockname()[:2])
            self._listeners.append(
                await loop.create_server(lambda: self._protocol(self), sock=listener, backlog=BACKLOG, **tls)
            )
        self._sweeper = loop.call_later(SWEEP_SECONDS, self.sweep)

    async def stop(self) -> None:
        """Take no more connections, say 421 to those there are, and let their hooks finish. What was accepted stays."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for listener in self._listeners:
            listener.close()
        for connection in list(self.connections):
            connection.hang_up(b"4.3.2", b"Server shutting down")
        if not await self._all_gone(STOP_SECONDS):
            for connection in list(self.connections):
                connection.transport.abort()
            for task in self._tasks:
                task.cancel()
            await self._all_gone(STOP_SECONDS)
        self._close_store()

    async def _all_gone(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                while self.connections or self._tasks:
                    self._gone = asyncio.get_running_loop().create_future()
                    await self._gone
        except TimeoutError:
            return False
        return True

    def _close_store(self) -> None:
        if isinstance(self.store, Maildir):
            self.store.close()

    # --- what connections ask

    _gone: asyncio.Future[None] | None = None

    def next_ident(self) -> str:
        return f"{self._run}-{next(self._idents)}"

    def admit(self, connection: Connection) -> bool:
        if len(self.connections) >= MAX_CONNECTIONS:
            return False
        self.connections.add(connection)
        return True

    def forget(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self._left()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._left()
        if not task.cancelled() and task.exception() is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a connection of the sink failed", "exception": task.exception(), "task": task}
            )

    def _left(self) -> None:
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    def sweep(self) -> None:
        """One timer for all connections. Time is counted in sweeps: while the loop stands still, nobody's runs out."""
        for connection in list(self.connections):
            connection.watch()
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self.sweep)


def read_name(name: str | None) -> str:
    """The server's name in its greeting: one printable ASCII word; the machine's unless given."""
    if name is None:
        name = socket.gethostname() or "localhost"
        return name if name.isascii() else "localhost"
    if not name.isascii() or not name.isprintable() or not name or " " in name:
        raise ConfigError(f"'name' is one word of printable ASCII, not {name!r}")
    return name
