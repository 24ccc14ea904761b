"""A connection between two owners: made, and not yet the one of the protocol that will speak on it.

What the other side says first belongs to whoever comes next, so that each kind of line keeps it: a plain socket in the
kernel, TLS in a buffer of ours.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import TypeAlias

MAX_HELD = 65536  # bytes that a TLS line holds before it stops reading; a greeting and a proxy's head are far below


class SocketLine:
    """A connected, non-blocking socket. Owns it. secured: it leads into TLS with its target, by its maker's word.

    A `ssl.SSLSocket` has had its handshake. It is always `secured`, and not for the calls below.
    """

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop, *, secured: bool = False) -> None:
        self.sock, self.secured = sock, secured
        self._loop = loop

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)

    async def receive(self, count: int) -> bytes:
        """Wait for some bytes, at most `count`; b"" at the end. Raises OSError, as the others do."""
        return await self._loop.sock_recv(self.sock, count)

    def peek(self, count: int) -> bytes:
        """What has arrived, left where it is; b"" if nothing."""
        try:
            return self.sock.recv(count, socket.MSG_PEEK)
        except BlockingIOError:
            return b""

    def take(self, count: int) -> bytes:
        """At most `count` bytes that a peek has seen, now out of the line."""
        return self.sock.recv(count) if count else b""

    def close(self) -> None:
        self.sock.close()


class TlsLine(asyncio.Protocol):
    """A transport of the loop's TLS, and what it has received. Owns the transport. Made by `encrypted`."""

    secured = False

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._held = bytearray()
        self._stopped = self._full = self._ended = self._lost = False
        self._error: Exception | None = None
        self._changed: asyncio.Future[None] | None = None

    # -- the loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # that of a stream
        self._regulate()

    def data_received(self, data: bytes) -> None:
        self._held += data
        self._regulate()
        self._notify()

    def eof_received(self) -> None:
        self._ended = True
        self._notify()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = self._lost = True
        self._error = exc
        self._notify()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._notify()

    # -- the owner's side

    async def send(self, data: bytes) -> None:
        assert self.transport is not None
        if not self._ended:
            self.transport.write(data)
        while self._full and not self._ended:
            await self._news()
        if self._ended and not self._held:
            raise self._loss()

    async def receive(self, count: int) -> bytes:
        while not self._held:
            if self._error is not None:
                raise self._loss()
            if self._ended:
                return b""
            await self._news()
        return self.take(count)

    def peek(self, count: int) -> bytes:
        return bytes(self._held[:count])

    def take(self, count: int) -> bytes:
        data = bytes(self._held[:count])
        del self._held[:count]
        self._regulate()
        return data

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    @property
    def version(self) -> str:
        """ "TLSv1.3" """
        tls = self.transport.get_extra_info("ssl_object") if self.transport is not None else None
        return str(tls.version()) if tls is not None else "TLS"

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """The transport becomes the protocol's, who is told all that has happened: as if it had been there before."""
        assert self.transport is not None
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        if self._held:
            protocol.data_received(self.take(len(self._held)))
        if self._lost:
            protocol.connection_lost(self._error)
        elif self._ended:
            protocol.eof_received()

    def _loss(self) -> OSError:
        return self._error if isinstance(self._error, OSError) else ConnectionResetError("the connection was lost")

    def _regulate(self) -> None:
        if self.transport is None or self._lost or self.transport.is_closing():
            return
        if not self._stopped and len(self._held) > MAX_HELD:
            self._stopped = True
            self.transport.pause_reading()
        elif self._stopped and len(self._held) <= MAX_HELD:
            self._stopped = False
            self.transport.resume_reading()

    async def _news(self) -> None:
        self._changed = asyncio.get_running_loop().create_future()
        await self._changed

    def _notify(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)


Line: TypeAlias = SocketLine | TlsLine


async def encrypted(
    line: Line, context: ssl.SSLContext, name: str, seconds: float, loop: asyncio.AbstractEventLoop
) -> TlsLine:
    """TLS over a line, with whoever is at its end. The line is taken over: on failure it is closed.

    name     of the certificate, and for SNI
    seconds  that the caller gives it at most, by a deadline of its own
    raises   ssl.SSLError, OSError
    """
    made = TlsLine()
    try:
        # The loop's own deadline, 60 seconds, must not come first.
        if isinstance(line, SocketLine):
            await _over_socket(made, line.sock, context, name, 2 * seconds, loop)
        else:
            await _over_tls(made, line, context, name, 2 * seconds, loop)
    except BaseException:
        made.close()
        raise
    return made


async def _over_socket(
    made: TlsLine,
    sock: socket.socket,
    context: ssl.SSLContext,
    name: str,
    seconds: float,
    loop: asyncio.AbstractEventLoop,
) -> None:
    before = identity(sock)
    try:
        await loop.create_connection(
            lambda: made, sock=sock, ssl=context, server_hostname=name, ssl_handshake_timeout=seconds
        )
    except BaseException:
        let_go(sock, before, made.transport is None)
        raise


async def _over_tls(
    made: TlsLine, line: TlsLine, context: ssl.SSLContext, name: str, seconds: float, loop: asyncio.AbstractEventLoop
) -> None:
    try:
        if line._ended:
            raise line._loss()  # the loop would wait for a handshake that nobody answers
        if line._held:
            raise _spoke_first()
        assert line.transport is not None
        transport = await loop.start_tls(
            line.transport, made, context, server_hostname=name, ssl_handshake_timeout=seconds
        )
        if transport is None:
            # asyncio, when the connection is lost in the very moment that the handshake is done
            raise ConnectionResetError("the connection was lost")
    except TypeError as error:
        line.close()
        raise tls_failure(error) from None
    except BaseException:
        line.close()
        raise
    made.connection_made(transport)


def tls_failure(error: TypeError) -> BaseException:
    """Why TLS over TLS failed. asyncio of Python 3.11 trips over the failure itself: its SSLProtocol._abort() takes no
    argument and is given one, so that a TypeError comes out, with what happened as its context."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__context__
    return found or error


def _spoke_first() -> ssl.SSLError:
    """What OpenSSL would say of bytes that are no TLS: a server of TLS waits for us."""
    error = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
    error.reason = "WRONG_VERSION_NUMBER"
    return error


def identity(sock: socket.socket) -> int:
    """A number that no other open file has, or 0: it is closed, or the system (Windows) has no such number."""
    try:
        return os.fstat(sock.fileno()).st_ino
    except OSError:
        return 0


def let_go(sock: socket.socket, before: int, ours: bool) -> None:
    """Close a socket that was given to create_connection in vain; ours: no transport has it.

    before  its `identity` then. uvloop may have closed the descriptor without telling the socket object (a reset or a
            cancellation before it has taken the object over). Its close would then hit whatever file has got that
            number since.
    """
    if before and sock.fileno() >= 0 and identity(sock) != before:
        sock.detach()
    elif ours:
        sock.close()
