"""What stands at the door of a server with policies or proxies, until it is known who the client is. Then a connection
takes the transport over, and the gate is gone."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Any, Final

from bulkmail.sink.connection import HUNG_UP, TLS_SECONDS, log
from bulkmail.sink.session import Ends, end_of, ends_of
from bulkmail.wire.proxy_reader import ProxyReader

if TYPE_CHECKING:
    from bulkmail.sink.admission import Key
    from bulkmail.sink.server import Server

# For the whole header, from the connection on, however it drips. A proxy sends it at once, before the client says a
# word.
HEADER_SECONDS: Final = 5.0
LATE: Final = f"it was not there within {HEADER_SECONDS:g} seconds"
ENDED: Final = "the connection ended in it"
# asyncio's own pause after an accept() that failed.
ACCEPT_SECONDS: Final = 1.0


class Door:
    """What both gates share. Among the server's connections it is one like any other."""

    place: Key | None = None
    closed = False

    def __init__(self, server: Server) -> None:
        self.server = server
        self.ident = server.next_ident()
        self.reader = ProxyReader()

    def client_ends(self, sockets: Ends) -> Ends:
        """As the header has them; the sockets' own where it does not say."""
        info = self.reader.info
        if info is None:
            return sockets
        return Ends(info.source or sockets.remote, info.destination or sockets.local, sockets.remote, info)

    def complain(self, remote: str, why: str) -> None:
        """The one log line of a header that is no good; nothing that comes after is parsed."""
        self.server.wire_counts.connections += 1
        self.server.wire_counts.refused += 1
        log.warning("no PROXY header from %s: %s", remote, why, extra={"cid": self.ident})

    def hang_up(self, enhanced: bytes, text: bytes) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        raise NotImplementedError

    def leave(self, enhanced: bytes, text: bytes) -> None:
        self.hang_up(enhanced, text)  # no message is under way

    def watch(self) -> None:
        pass  # HEADER_SECONDS are far less than what a sweep looks for


class Gate(Door, asyncio.Protocol):
    """Where the transport that we are given is the one to speak SMTP on."""

    transport: Any
    _timer: asyncio.TimerHandle | None = None
    _begun = _over = False

    # --- what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.sockets = ends_of(transport)
        if not self.server.wants_header(self.sockets.remote[0]) or not self.server.has_room():
            self.open(b"")  # where there is no room, to hear so
            return
        self.server.connections.add(self)  # so that it is told when the server stops
        self._timer = asyncio.get_running_loop().call_later(HEADER_SECONDS, self.close, LATE)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        self._begun = True
        used = self.reader.feed(data)
        if self.reader.error is not None:
            self.close(self.reader.error)
        elif self.reader.info is not None:
            self.open(data[used:])

    def connection_lost(self, exc: Exception | None) -> None:
        if self._begun and not self._over:
            self.complain(self.sockets.remote[0], ENDED)
        self.done()
        self.server.forget(self)

    # --- the ends of it

    def done(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()

    def close(self, why: str) -> None:
        self.done()  # first: where the client has just gone, too, that is told once
        self.complain(self.sockets.remote[0], why)
        self.hang_up(b"4.7.0", b"A PROXY header was expected")

    def hang_up(self, enhanced: bytes, text: bytes) -> None:
        if self.transport.is_closing():
            return
        self.done()
        self.transport.write(self.server.settings.line(b"421 %s %s" % (enhanced, text)))
        self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    def open(self, rest: bytes) -> None:
        self.done()
        self.server.connections.discard(self)
        connection = self.server.connection_of(self.ident, self.client_ends(self.sockets))
        self.transport.set_protocol(connection)
        connection.connection_made(self.transport)
        if rest:
            connection.data_received(rest)


class TlsGate(Door):
    """Where TLS begins behind the header: a plain socket until then, of which no byte of TLS's is read."""

    _handed_on = False

    def __init__(self, server: Server, sock: socket.socket) -> None:
        super().__init__(server)
        self._sock = sock
        self._task = asyncio.current_task()

    async def run(self) -> None:
        """From the accepted socket to the connection, or to the end of it."""
        try:
            if self.server.has_room():
                self.server.connections.add(self)
                await self.begin()
        except OSError:
            pass  # the client has gone
        finally:
            self.server.forget(self)
            if not self._handed_on:
                self._sock.close()

    async def begin(self) -> None:
        sockets = Ends(end_of(self._sock.getpeername()), end_of(self._sock.getsockname()))
        if not self.server.wants_header(sockets.remote[0]) or await self.read_header(sockets.remote[0]):
            await self.open(self.client_ends(sockets))

    async def read_header(self, remote: str) -> bool:
        try:
            async with asyncio.timeout(HEADER_SECONDS):
                why = await self.receive()
        except TimeoutError:
            why = LATE
        if why:
            self.complain(remote, why)
        return self.reader.info is not None

    async def receive(self) -> str | None:
        """Why there is no header; None if there is, or if nobody asked for it to be read."""
        loop, begun = asyncio.get_running_loop(), False
        while self.reader.need:
            try:
                data = await loop.sock_recv(self._sock, self.reader.need)
            except ConnectionError:
                data = b""
            if not data:
                return ENDED if begun else None
            self.reader.feed(data)
            begun = True
        return self.reader.error

    async def open(self, ends: Ends) -> None:
        connection = self.server.connection_of(self.ident, ends)
        self._handed_on = True
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection, self._sock, ssl=self.server.tls, ssl_handshake_timeout=TLS_SECONDS
            )
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            connection.note(logging.WARNING, "TLS handshake failed: %s", str(error) or HUNG_UP)

    def hang_up(self, enhanced: bytes, text: bytes) -> None:
        self.abort()  # nothing can be said before the handshake is done

    def abort(self) -> None:
        if self._task is not None:
            self._task.cancel()


class TlsListener:
    """Accepts for TlsGate: a loop's own listener would read ahead, begin TLS too early, or not tell that it failed."""

    def __init__(self, server: Server, listener: socket.socket) -> None:
        self._server, self._listener = server, listener
        self._task = server.spawn(self._accept())
        # Not sooner: its number must not be another socket's while the loop still watches it.
        self._task.add_done_callback(lambda _: listener.close())

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                log.error("no connection can be accepted: %s", error)
                await asyncio.sleep(ACCEPT_SECONDS)  # out of descriptors: some will be free again
                continue
            sock.setblocking(False)
            self._server.spawn(self._serve(sock))

    async def _serve(self, sock: socket.socket) -> None:
        await TlsGate(self._server, sock).run()

    def close(self) -> None:
        self._task.cancel()
