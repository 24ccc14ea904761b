"""What stands at the door of a server with policies or proxies, until it is known who the client is. Then a connection
takes the transport over, and the gate is gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from bulkmail.sink.connection import log
from bulkmail.sink.session import Ends, ends_of
from bulkmail.wire.proxy_reader import ProxyReader

if TYPE_CHECKING:
    from bulkmail.sink.admission import Key
    from bulkmail.sink.server import Server
    from bulkmail.wire.proxy_info import ProxyInfo

# For the whole header, from the connection on, however it drips. A proxy sends it at once, before the client says a
# word.
HEADER_SECONDS: Final = 5.0


class Door:
    """What both gates share. Among the server's connections it is one like any other."""

    transport: Any
    place: Key | None = None
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, server: Server) -> None:
        self.server = server
        self.ident = server.next_ident()
        self.reader = ProxyReader()
        self._begun = self._over = False

    # --- what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.ends = ends_of(transport)
        if self.ends.remote[0] not in self.server.admission.proxies:
            self.open(b"")
        elif self.server.has_room():
            self.server.connections.add(self)  # so that it is told when the server stops
            self._timer = asyncio.get_running_loop().call_later(HEADER_SECONDS, self.late)
        else:
            self.close("there are too many connections")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._begun and not self._over:
            self.complain("the connection ended in it")
        self.done()
        self.server.forget(self)

    # --- the header

    def read(self, data: bytes) -> None:
        if self._over:
            return
        self._begun = True
        used = self.reader.feed(data)
        if self.reader.error is not None:
            self.close(self.reader.error)
        elif self.reader.info is not None:
            self.learn(self.reader.info)
            self.server.connections.discard(self)
            self.open(data[used:])

    def learn(self, info: ProxyInfo) -> None:
        sockets = self.ends
        remote, local = info.source or sockets.remote, info.destination or sockets.local
        self.ends = Ends(remote, local, sockets.remote, info)

    def late(self) -> None:
        self.close(f"it was not there within {HEADER_SECONDS:g} seconds")

    def done(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()

    def close(self, why: str) -> None:
        self.complain(why)
        self.hang_up(b"4.7.0", b"A PROXY header was expected")

    def complain(self, why: str) -> None:
        """The one log line of a header that is no good; nothing that comes after is parsed."""
        self.done()
        self.server.wire_counts.connections += 1
        self.server.wire_counts.refused += 1
        log.warning("no PROXY header from %s: %s", self.ends.remote[0], why, extra={"cid": self.ident})

    finishing = False

    def hang_up(self, enhanced: bytes, text: bytes) -> None:
        if self.transport.is_closing():
            return
        self.done()
        if not self.server.options.tls_implicit:
            self.transport.write(self.server.settings.line(b"421 %s %s" % (enhanced, text)))
        self.transport.close()

    leave = hang_up  # no message is under way

    def watch(self) -> None:
        pass  # the timer does

    def open(self, rest: bytes) -> None:
        raise NotImplementedError


class Gate(Door, asyncio.Protocol):
    """Where the transport that we are given is the one to speak SMTP on."""

    def data_received(self, data: bytes) -> None:
        self.read(data)

    def open(self, rest: bytes) -> None:
        self.done()
        connection = self.server.connection_of(self.ident, self.ends)
        self.transport.set_protocol(connection)
        connection.connection_made(self.transport)
        if rest:
            connection.data_received(rest)


class TlsGate(Door, asyncio.BufferedProtocol):
    """Where TLS begins behind the header. It reads no byte of TLS's: a loop cannot be given those back."""

    def get_buffer(self, sizehint: int) -> bytearray:
        self._buffer = bytearray(self.reader.need or 1)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.read(bytes(self._buffer[:nbytes]))

    def open(self, rest: bytes) -> None:
        self.done()
        self.transport.pause_reading()  # until TLS listens
        connection = self.server.connection_of(self.ident, self.ends)
        self.server.connections.add(connection)
        connection.transport = self.transport
        connection._handshake = self.server.spawn(connection.open_in_tls())
