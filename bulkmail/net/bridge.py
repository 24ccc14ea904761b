"""A plain socket that leads into a line which is none: what it reads and writes goes through TLS at the other end.

For handlers of proxies, which speak over sockets, and for the TLS sockets that they return. Each byte is copied twice
more than elsewhere.
"""

from __future__ import annotations

import asyncio
import socket
import ssl

from bulkmail.net.line import Line, SocketLine
from bulkmail.net.tls_socket import TlsSocketTransport


async def plain_socket(line: Line) -> socket.socket:
    """A non-blocking socket over a line, which it takes over. What the line holds is not lost; both close together."""
    if isinstance(line, SocketLine) and not isinstance(line.sock, ssl.SSLSocket):
        return line.sock
    near, far = _Side(), _Side()
    near.other, far.other = far, near
    try:
        ours, theirs = socket.socketpair()
    except OSError:
        line.close()
        raise
    loop = asyncio.get_running_loop()
    try:
        ours.setblocking(False)
        theirs.setblocking(False)
        await loop.create_connection(lambda: near, sock=theirs)
        if isinstance(line, SocketLine):
            assert isinstance(line.sock, ssl.SSLSocket)
            TlsSocketTransport(loop, line.sock, far)
        else:
            line.hand_over(far)
    except BaseException:
        ours.close()
        theirs.close() if near.transport is None else near.transport.abort()
        line.close()
        raise
    return ours


class _Side(asyncio.Protocol):
    """One end of a pump: what arrives here is written there, no faster than it leaves there."""

    other: _Side
    transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # that of a stream

    def data_received(self, data: bytes) -> None:
        if self.other.transport is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        source = self.other.transport
        if source is not None and not source.is_closing():
            source.pause_reading()

    def resume_writing(self) -> None:
        source = self.other.transport
        if source is not None and not source.is_closing():
            source.resume_reading()

    def eof_received(self) -> None:
        """TLS has no half of a connection: with one direction the other ends."""

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other.transport is not None:
            self.other.transport.close()  # what it still holds is written first
