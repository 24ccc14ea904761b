"""`Server`: listeners, connections, counts. What a connection does is in connection.py and, with hooks, hooked.py."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
import socket
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from bulkmail.errors import ConfigError
from bulkmail.sink.admission import Admission
from bulkmail.sink.connection import SWEEP_SECONDS, Connection, UnseenConnection, log
from bulkmail.sink.faults import Faults
from bulkmail.sink.faulty import FaultyConnection
from bulkmail.sink.gate import Door, Gate, TlsListener
from bulkmail.sink.hooked import questions
from bulkmail.sink.hooks import check_hooks
from bulkmail.sink.options import (
    bind,
    reachable,
    read_auth,
    read_listen,
    read_options,
    read_place,
    read_without,
    shown,
    tls_context,
)
from bulkmail.sink.recent import Recent
from bulkmail.sink.refuse import Refuse
from bulkmail.sink.session import Ends, Message
from bulkmail.sink.store import Kept, Store
from bulkmail.wire.server_settings import ASK_END, ServerCounts, ServerSettings

if TYPE_CHECKING:
    from bulkmail.sink.web.page import Page

# Each costs some kilobytes here and a descriptor; the process's limit of those usually comes first.
MAX_CONNECTIONS = 20_000
BACKLOG = 1024
# What clients get to read their 421 and hooks to finish, when the server stops, after the time for messages under way.
STOP_SECONDS = 5.0
# What another thread's call waits for the loop, which a hook may block.
BUSY_SECONDS = 30.0
GOODBYE = b"4.3.2", b"Server shutting down"


class Server:
    """A server that receives: `async with Server(...) as server`, then `.port`, `.url`, `.messages`, `.counts`.

    hooks    any object; those methods it has of on_connect, on_auth, on_mail, on_rcpt, on_data, on_close are called,
             sync or async. They raise `Refuse` to say no.
    listen   "HOST:PORT", one or several; port 0 takes a free one
    options  named as the flags of `bulkmail sink` (`SinkOptions` has them)

    Accepted messages go to `store` (a Maildir, or a function) or `mbox`, nowhere with `discard`; else to `messages`.

    raises   ConfigError from the constructor, and from start() when an address cannot be listened on
    """

    def __init__(
        self, hooks: object = None, listen: str | int | Sequence[str | int] = "127.0.0.1:0", **options: Any
    ) -> None:
        self.options = read_options(options)
        check_hooks(hooks)
        self.hooks = hooks
        self.places = read_listen(listen)
        self.tls = tls_context(self.options.tls_cert, self.options.tls_key) if self.options.tls_cert else None
        self.faults = Faults(self.options.fault, self.options.seed)
        self.store: Store | None = self._choose_store()
        self._page = self._make_page()
        self.settings = self._settings()
        self.wire_counts = ServerCounts()
        self.admission = Admission(self.options)
        if self.admission.ignore:
            self.unseen_settings = self._unseen_settings()
            self.unseen_counts = ServerCounts()
        self.offers_auth = self.options.auth is not None or hasattr(hooks, "on_auth")
        self.connections: set[Connection | Door] = set()
        self._sockets: list[socket.socket] = []
        self._listeners: list[asyncio.Server | TlsListener] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._addresses: list[tuple[str, int]] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._idents = itertools.count(1)
        self._run = secrets.token_hex(3)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._protocol: type[Connection] = Connection
        if hooks is not None or self.faults.any:
            self._misbehave(self.faults.ask)

    def _choose_store(self) -> Store | None:
        options = self.options
        if callable(options.store):
            from bulkmail.sink.callback import Callback

            return Callback(options.store)
        if options.store is not None:
            from bulkmail.sink.maildir import Maildir

            return Maildir(options.store, options.fsync)
        if options.mbox is not None:
            from bulkmail.sink.mbox import Mbox

            return Mbox(options.mbox, options.fsync)
        if options.web is not None:
            return Recent()
        return None if options.discard else Kept()

    def _make_page(self) -> Page | None:
        if self.options.web is None:
            return None
        try:
            host, port = read_place(self.options.web)
        except ConfigError as error:
            raise ConfigError(f"'web': {error}") from error
        try:
            from bulkmail.sink.web.page import Page
        except ModuleNotFoundError as error:
            if error.name != "aiohttp":
                raise
            raise ConfigError(
                "the web page of a sink needs the package aiohttp: pip install 'bulkmail[web]'"
            ) from error
        return Page(host, port, lambda: {"url": self.url, "counts": self.counts})

    def _settings(self) -> ServerSettings:
        keeps = self.store is not None
        return self._settings_with(
            envelopes=keeps or self.hooks is not None or log.isEnabledFor(logging.INFO),
            content=keeps or hasattr(self.hooks, "on_data"),
            ask=questions(self.hooks) | (ASK_END if keeps else 0),
        )

    def _unseen_settings(self) -> ServerSettings:
        """For clients that are ignored: no hook is asked, nothing is kept."""
        return self._settings_with(envelopes=False, content=False, ask=0)

    def _settings_with(self, **wanted: Any) -> ServerSettings:
        options = self.options
        return ServerSettings(
            read_name(options.name),
            max_size=options.max_size,
            max_recipients=options.max_recipients,
            without=read_without(options.without),
            starttls=self.tls is not None and not options.tls_implicit,
            auth=read_auth(options.auth),
            lmtp=options.lmtp,
            lenient=options.lenient,
            **wanted,
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
        return f"{scheme}://{shown(reachable(host), port)}"

    @property
    def web_url(self) -> str | None:
        """Of the page, for a browser on this machine; None without `web`."""
        return None if self._page is None else self._page.url

    @property
    def messages(self) -> list[Message]:
        """The messages accepted so far, oldest first; clear() it at will. Empty where they are stored or discarded."""
        return self.store.messages if isinstance(self.store, Kept) else []

    @property
    def counts(self) -> dict[str, int]:
        """connections, messages, recipients, bytes, refused."""
        return self.wire_counts.as_dict()

    def fail_next(self, phase: str, reply: str, times: int = 1) -> None:
        """The next `times` events of `phase` get `reply`, or another action of `--fault` such as "drop", "delay=1s".

        Holds for connections that are open, too, and from any thread. Asked for again before all have happened, it is
        the turn of those asked for first. ConfigError for what is not in the language.
        """

        def ask() -> None:
            self._misbehave(self.faults.add_next(phase, str(reply), times))

        self._in_loop(ask)

    def _in_loop(self, work: Callable[[], None]) -> None:
        """Done when it returns, so that what the calling thread sends next meets it."""
        loop = self._loop
        if loop is None or not loop.is_running() or asyncio._get_running_loop() is loop:
            work()
            return
        done: Future[None] = Future()

        def run() -> None:
            try:
                work()
                done.set_result(None)
            except Exception as error:
                done.set_exception(error)

        loop.call_soon_threadsafe(run)
        try:
            done.result(BUSY_SECONDS)
        except TimeoutError:
            raise RuntimeError("the sink's loop does not answer: one of its hooks blocks it, or it has ended") from None

    def _misbehave(self, ask: int) -> None:
        """What the codec asks from now on, and connections that can carry faults out."""
        if ask:
            self.settings.ask_also(ask)
        if self._protocol is FaultyConnection:
            return
        self._protocol = FaultyConnection
        for connection in list(self.connections):
            if isinstance(connection, Connection):
                FaultyConnection.take_over(connection)

    # --- starting and stopping

    async def __aenter__(self) -> Server:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        await self.stop(None if kind is None else 0)  # who would finish a message has failed

    async def start(self) -> None:
        """Listen, once. On an error nothing is left open."""
        if self._addresses:
            raise RuntimeError("a server is started once: make another")
        loop = self._loop = asyncio.get_running_loop()
        sockets: list[socket.socket] = []
        try:
            for host, port in self.places:
                sockets.append(bind(host, port, BACKLOG))
            if self._page is not None:
                self._page.bind()
        except ConfigError:
            for listener in sockets:
                listener.close()
            self._close_store()
            raise
        self._sockets = sockets
        for listener in sockets:
            self._addresses.append(listener.getsockname()[:2])
            self._listeners.append(await self._listen(listener))
        if self._page is not None:
            await self._page.start(self.store)
        self._sweeper = loop.call_later(SWEEP_SECONDS, self.sweep)

    async def _listen(self, listener: socket.socket) -> asyncio.Server | TlsListener:
        if self.options.tls_implicit:  # a loop's own listener tells nobody of a handshake that failed
            return TlsListener(self, listener)
        loop = asyncio.get_running_loop()
        return await loop.create_server(self._first_protocol, sock=listener, backlog=BACKLOG)

    async def stop(self, grace: float | None = None) -> None:
        """Take no more connections and say 421 to those there are: at once, or after the message that is under way.

        grace   seconds for those messages, instead of the option's. Then the rest hear 421, too, and hooks may end.

        What was answered with 250 is stored and counted. A second call waits for the first.
        """
        if self._stopped is not None:
            await self._stopped.wait()
            return
        self._stopped = asyncio.Event()
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._close_listeners()
        try:
            await self._part(self.options.grace if grace is None else grace)
        finally:
            if self._page is not None:
                await self._page.stop()
            self._close_store()
            self._stopped.set()

    def hurry(self) -> None:
        """A stop() that waits does not wait any longer."""
        self._hurried = True
        self._left()

    def _close_listeners(self) -> None:
        for listener, server in zip(self._sockets, self._listeners, strict=True):
            if not self.options.tls_implicit:
                turn_away(listener)
            server.close()

    async def _part(self, grace: float) -> None:
        if grace:
            for connection in list(self.connections):
                connection.leave(*GOODBYE)
            await self._until(lambda: all(connection.closed for connection in self.connections), grace)
        for connection in list(self.connections):
            connection.hang_up(*GOODBYE)
        if await self._until(self._empty, STOP_SECONDS):
            return
        for connection in list(self.connections):
            connection.abort()
        for task in self._tasks:
            task.cancel()
        self._hurried = False
        await self._until(self._empty, STOP_SECONDS)

    def _empty(self) -> bool:
        return not self.connections and not self._tasks

    async def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether `condition()` came about in time, as connections and tasks ended, and before hurry()."""
        try:
            async with asyncio.timeout(seconds):
                while not condition() and not self._hurried:
                    self._gone = asyncio.get_running_loop().create_future()
                    await self._gone
        except TimeoutError:
            pass
        return condition()

    def _close_store(self) -> None:
        if self.store is not None:
            self.store.close()

    # --- what connections ask

    listener: Callable[[bytes], None] | None = None  # of all that clients are told

    _gone: asyncio.Future[None] | None = None
    _stopped: asyncio.Event | None = None  # set when stop() is through
    _hurried = False

    @property
    def stopping(self) -> bool:
        return self._stopped is not None

    def next_ident(self) -> str:
        return f"{self._run}-{next(self._idents)}"

    def _first_protocol(self) -> asyncio.BaseProtocol:
        """What the loop gives a new transport to: a gate only where there is something to find out first."""
        return Gate(self) if self.admission else self._protocol(self)

    def wants_header(self, address: str) -> bool:
        return address in self.admission.proxies

    def connection_of(self, ident: str, ends: Ends) -> Connection:
        """For a client that a gate has let through."""
        kind = UnseenConnection if ends.remote[0] in self.admission.ignore else self._protocol
        return kind(self, ident, ends)

    def has_room(self) -> bool:
        """For a client more; not while we stop, when nobody is to be waited for."""
        return not self.stopping and len(self.connections) < MAX_CONNECTIONS

    def admit(self, connection: Connection) -> Refuse | None:
        """None: it is one of ours until forget(). Otherwise what it hears in place of the greeting."""
        no = self._refusal(connection)
        if no is None:
            self.connections.add(connection)
            if self._protocol is FaultyConnection:  # since its TLS handshake began, perhaps
                FaultyConnection.take_over(connection, greeted=False)
        return no

    def _refusal(self, connection: Connection) -> Refuse | None:
        if self.stopping:
            return Refuse(421, "Server shutting down", "4.3.2")
        if not self.has_room():
            return Refuse(421, "Too many connections", "4.3.2")
        if connection.ends is None or not self.admission:
            return None
        ignored = isinstance(connection, UnseenConnection)
        place = self.admission.enter(connection.ends, asyncio.get_running_loop().time(), ignored=ignored)
        if isinstance(place, Refuse):
            return place
        connection.place = place
        return None

    def forget(self, connection: Connection | Door) -> None:
        self.connections.discard(connection)
        if isinstance(connection, Connection):
            connection.end_records()
        place, connection.place = connection.place, None
        if place is not None:
            self.admission.leave(place)
        self._left()

    def spawn(self, work: Coroutine[Any, Any, None], ident: str = "") -> asyncio.Task[None]:
        """A task that stop() waits for. `ident`: of the connection that it is for."""
        task = asyncio.get_running_loop().create_task(work, name=ident or None)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._left()
        if not task.cancelled() and task.exception() is not None:
            log.error("the connection failed", exc_info=task.exception(), extra={"cid": task.get_name()})

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


def turn_away(listener: socket.socket) -> None:
    """Say 421 to whoever waits to be accepted; closing the listener would reset them."""
    for _ in range(BACKLOG):
        try:
            client, _ = listener.accept()
        except OSError:  # BlockingIOError: nobody is left
            return
        with client, contextlib.suppress(OSError):
            client.setblocking(False)
            client.send(b"421 %s %s\r\n" % GOODBYE)


def read_name(name: str | None) -> str:
    """The server's name in its greeting: one printable ASCII word; the machine's unless given."""
    if name is None:
        name = socket.gethostname() or "localhost"
        return name if name.isascii() else "localhost"
    if not name.isascii() or not name.isprintable() or not name or " " in name:
        raise ConfigError(f"'name' is one word of printable ASCII, not {name!r}")
    return name
