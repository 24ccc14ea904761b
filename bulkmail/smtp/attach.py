"""From an endpoint, or from what its owner has connected already, to a session with a transport under it."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import Any

from bulkmail.errors import ConfigError, ConnectionLost, TimedOut
from bulkmail.net import dial as net_dial
from bulkmail.net import tls as net_tls
from bulkmail.net.steps import OnStep
from bulkmail.net.tls_socket import TlsSocketTransport
from bulkmail.smtp.introduce import introduce
from bulkmail.smtp.session import Session
from bulkmail.url import Endpoint


async def dial(endpoint: Endpoint, on_step: OnStep) -> socket.socket:
    """A connected socket. Raises what net.dial raises."""
    if endpoint.path is None:
        return await net_dial.dial(endpoint.host, endpoint.port, options=endpoint.options, on_step=on_step)
    return await net_dial.dial_unix(endpoint.path, options=endpoint.options, on_step=on_step)


async def attach(session: Session, endpoint: Endpoint, sock: socket.socket, on_step: OnStep) -> None:
    """Put a transport over a connected socket, TLS included where it begins with that.

    A `ssl.SSLSocket` has had its handshake. Raises ConnectionLost, TimedOut, TlsError; then the socket is closed.
    """
    identity = _identity(sock)
    try:
        await introduce(sock, endpoint)
        if isinstance(sock, ssl.SSLSocket):
            TlsSocketTransport(asyncio.get_running_loop(), sock, session)
        else:
            await _over_socket(session, endpoint, sock, on_step)
    except BaseException:
        _let_go(sock, identity, session.transport is None)
        raise


async def attach_transport(session: Session, endpoint: Endpoint, transport: Any) -> None:
    """Take a transport over; what it has received before is its former protocol's. Raises ConfigError, TlsError."""
    if not isinstance(transport, asyncio.Transport) and not hasattr(transport, "set_protocol"):
        raise ConfigError(f"transport is {type(transport).__name__}, expected a transport of an event loop")
    if transport.is_closing():
        raise ConfigError("the given transport is closed")
    transport.set_protocol(session)
    session.connection_made(transport)
    await introduce(transport, endpoint)
    transport.resume_reading()
    if endpoint.implicit_tls and not session.encrypted:
        await handshake(session, endpoint, endpoint.options)


async def handshake(session: Session, endpoint: Endpoint, options: Any) -> None:
    """TLS over what is in clear so far. Raises ssl.SSLError, OSError, TimedOut, ProtocolError."""
    context = net_tls.client_context(options, endpoint.host)
    try:
        await session.start_tls(context, net_tls.server_hostname(options, endpoint.host), options.connect_timeout)
    except TimedOut as error:
        raise TimedOut(f"timed out in the TLS handshake with {endpoint.host}", phase="connect") from error.__cause__


async def _over_socket(session: Session, endpoint: Endpoint, sock: socket.socket, on_step: OnStep) -> None:
    loop, options = asyncio.get_running_loop(), endpoint.options
    if not endpoint.implicit_tls:
        try:
            await loop.create_connection(lambda: session, sock=sock)
        except OSError as error:
            raise ConnectionLost(f"the connection was lost: {error}") from error
        return
    on_step("tls", None)
    context = net_tls.client_context(options, endpoint.host)
    name = net_tls.server_hostname(options, endpoint.host)
    try:
        async with asyncio.timeout(options.connect_timeout):
            await loop.create_connection(
                lambda: session,
                sock=sock,
                ssl=context,
                server_hostname=name,
                ssl_handshake_timeout=2 * options.connect_timeout,  # the loop's own, 60 seconds, must not come first
            )
    except TimeoutError as error:
        raise TimedOut(f"timed out in the TLS handshake with {endpoint.host}", phase="connect") from error
    except (ssl.SSLError, OSError) as error:
        raise net_tls.tls_error(error, endpoint.host, options) from error


def _identity(sock: socket.socket) -> int:
    """A number that no other open file has, or 0: it is closed, or the system (Windows) has no such number."""
    try:
        return os.fstat(sock.fileno()).st_ino
    except OSError:
        return 0


def _let_go(sock: socket.socket, identity: int, ours: bool) -> None:
    """Close a socket that was given to create_connection in vain; ours: no transport has it.

    uvloop may have closed the descriptor without telling the socket object (a reset or a cancellation before it has
    taken the object over). Its close would then hit whatever file has got that number since.
    """
    if identity and sock.fileno() >= 0 and _identity(sock) != identity:
        sock.detach()
    elif ours:
        sock.close()
