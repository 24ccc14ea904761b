"""From an endpoint, or from what its owner has connected already, to a session with a transport under it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from bulkmail.errors import BulkmailError, ConfigError, ConnectionLost, TimedOut
from bulkmail.net import dial as net_dial
from bulkmail.net import tls as net_tls
from bulkmail.net.hub import hub_of
from bulkmail.net.line import Line, SocketLine, TlsLine, encrypted, identity, let_go, tls_failure
from bulkmail.net.steps import OnStep
from bulkmail.net.stream import Stream
from bulkmail.net.tls_socket import TlsSocketTransport
from bulkmail.net.tls_stream import shake_hands
from bulkmail.smtp.introduce import introduce, refuse_encrypted
from bulkmail.smtp.session import Session
from bulkmail.url import Endpoint


async def dial(endpoint: Endpoint, on_step: OnStep) -> Line:
    """A connected line. Raises what net.dial raises."""
    if endpoint.path is None:
        return await net_dial.reach(endpoint.host, endpoint.port, options=endpoint.options, on_step=on_step)
    sock = await net_dial.dial_unix(endpoint.path, options=endpoint.options, on_step=on_step)
    return SocketLine(sock, asyncio.get_running_loop())


def given(sock: socket.socket) -> SocketLine:
    """The line of a connected socket that its owner gave. A `ssl.SSLSocket` has had its handshake."""
    return SocketLine(sock, asyncio.get_running_loop(), secured=isinstance(sock, ssl.SSLSocket))


async def attach(session: Session, endpoint: Endpoint, line: Line, on_step: OnStep) -> None:
    """Put a transport over a connected line, TLS included where it begins with that.

    Raises ConnectionLost, TimedOut, TlsError; then the line is closed.
    """
    if isinstance(line, TlsLine):
        try:
            await _over_proxy_tls(session, endpoint, line, on_step)
        except BaseException:
            line.close()
            raise
        return
    before = identity(line.sock)
    session.secured = line.secured
    try:
        if line.secured:
            refuse_encrypted(line.sock, endpoint, encrypted=True)
        await introduce(line.sock, endpoint)
        if isinstance(line.sock, ssl.SSLSocket):
            TlsSocketTransport(asyncio.get_running_loop(), line.sock, session)
        else:
            await _over_socket(session, endpoint, line, on_step)
    except BaseException:
        let_go(line.sock, before, session.transport is None)
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
    """TLS over what is in clear so far. Raises TlsError, TimedOut, ProtocolError, ConnectionLost, ConfigError."""
    context = net_tls.client_context(options, endpoint.host)
    try:
        await session.start_tls(context, net_tls.server_hostname(options, endpoint.host), options.connect_timeout)
    except TimedOut as error:
        raise TimedOut(f"timed out in the TLS handshake with {endpoint.host}", phase="connect") from error.__cause__
    except BulkmailError:
        raise
    except (OSError, TypeError) as error:  # ssl.SSLError is an OSError
        cause = tls_failure(error) if isinstance(error, TypeError) else error
        raise net_tls.tls_error(cause, endpoint.host, options) from cause


async def _over_socket(session: Session, endpoint: Endpoint, line: SocketLine, on_step: OnStep) -> None:
    loop, seconds = asyncio.get_running_loop(), endpoint.options.connect_timeout
    if line.secured or not endpoint.implicit_tls:
        try:
            hub = hub_of(loop)
            if hub is not None:
                Stream(hub, line.sock, session)
            else:
                await loop.create_connection(lambda: session, sock=line.sock)
        except OSError as error:
            raise ConnectionLost(f"the connection was lost: {error}") from error
        return

    async def shake(context: ssl.SSLContext, name: str) -> None:
        hub = hub_of(loop)
        if hub is not None:
            await shake_hands(hub, line.sock, session, context, name)
            return
        await loop.create_connection(
            lambda: session,
            sock=line.sock,
            ssl=context,
            server_hostname=name,
            ssl_handshake_timeout=2 * seconds,  # the loop's own, 60 seconds, must not come first
        )

    await _with_tls(endpoint, on_step, shake)


async def _over_proxy_tls(session: Session, endpoint: Endpoint, line: TlsLine, on_step: OnStep) -> None:
    """Over TLS with a proxy, which is none with the relay: that of smtps:// is put over it, and STARTTLS may be."""
    await introduce(line.transport, endpoint)
    if not endpoint.implicit_tls:
        session.tunnelled = True
        line.hand_over(session)
        return
    loop, seconds = asyncio.get_running_loop(), endpoint.options.connect_timeout
    inner = await _with_tls(endpoint, on_step, lambda context, name: encrypted(line, context, name, seconds, loop))
    inner.hand_over(session)


Shaken = TypeVar("Shaken")


async def _with_tls(
    endpoint: Endpoint, on_step: OnStep, shake: Callable[[ssl.SSLContext, str], Awaitable[Shaken]]
) -> Shaken:
    """The handshake with a relay whose connections begin with TLS."""
    options = endpoint.options
    on_step("tls", None)
    context = net_tls.client_context(options, endpoint.host)
    name = net_tls.server_hostname(options, endpoint.host)
    try:
        async with asyncio.timeout(options.connect_timeout):
            return await shake(context, name)
    except TimeoutError as error:
        raise TimedOut(f"timed out in the TLS handshake with {endpoint.host}", phase="connect") from error
    except OSError as error:  # ssl.SSLError is one
        raise net_tls.tls_error(error, endpoint.host, options) from error
