"""From an endpoint to a session that can take transactions: dial, TLS, greeting, EHLO, STARTTLS, AUTH."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import ssl
from dataclasses import dataclass
from typing import Any

from bulkmail.errors import (
    BulkmailError,
    ConnectError,
    ConnectionLost,
    ProtocolError,
    TimedOut,
    TlsError,
)
from bulkmail.net import dial as net_dial
from bulkmail.net import tls as net_tls
from bulkmail.net.resolve import ehlo_name
from bulkmail.smtp.auth.tokens import TokenSource, token_source
from bulkmail.smtp.envelope import ServerInfo
from bulkmail.smtp.login import log_in
from bulkmail.smtp.session import CLOSED_BY_US, Session, Turn
from bulkmail.smtp.wirelog import make_trace
from bulkmail.url import Endpoint
from bulkmail.wire.extensions import parse_extensions

QUIT_SECONDS = 5.0  # politeness; whoever does not answer by then is hung up on


@dataclass
class Opened:
    """What is kept with a session (its `label`)."""

    id: str
    endpoint: Endpoint
    info: ServerInfo
    egress: str | None = None

    @property
    def tls(self) -> str | None:
        return self.info.tls


async def open_session(
    endpoint: Endpoint, turn: Turn, *, sock: socket.socket | None = None, tokens: TokenSource | None = None
) -> Session:
    """Connect and negotiate. The session's `label` is an `Opened`. sock: already connected, or None to dial.

    tokens  what all sessions of an owner log in with; None: a source of its own, if the options name one

    Raises ConnectError, ResolveError, TimedOut, ProxyError, TlsError, AuthError, AuthUnavailable, ProtocolError,
    ConnectionLost; then nothing is left open.
    """
    tokens = tokens or token_source(endpoint.options)
    try:
        return await _open(endpoint, turn, sock, tokens, with_login=endpoint.logs_in)
    except _BrokenHandshake as broken:
        if sock is not None:
            # where a given socket leads only its owner knows: another one might go past a tunnel
            raise broken.failure from broken.failure.__cause__
        # tls=opportunistic: try again in clear, and show no password to a line that somebody may have tampered with
        options = dataclasses.replace(endpoint.options, tls="never")
        plain = dataclasses.replace(endpoint, user=None, password=None, options=options)
        return await _open(plain, turn, None, None, with_login=False)


class _BrokenHandshake(Exception):
    def __init__(self, failure: BulkmailError) -> None:
        self.failure = failure


async def _open(
    endpoint: Endpoint, turn: Turn, sock: socket.socket | None, tokens: TokenSource | None, *, with_login: bool
) -> Session:
    loop = asyncio.get_running_loop()
    options = endpoint.options
    cid, trace = make_trace(options.wire_log)
    if sock is None:
        sock = await _dial(endpoint)
    session = Session(loop, turn, options.command_timeout, options.data_timeout, trace)
    identity = _identity(sock)
    try:
        await _attach(loop, session, endpoint, sock)
        info = await _negotiate(session, endpoint, tokens, with_login=with_login)
        if session.error is not None:
            raise session.error  # it ended behind its last reply
    except BaseException as error:
        session.abort(error if isinstance(error, BulkmailError) else ConnectionLost("the connection was abandoned"))
        _let_go(sock, identity, session.transport is None)
        if isinstance(error, ConnectionLost) and isinstance(error.__cause__, ssl.SSLError):
            # with TLS 1.3 a server refuses a client's certificate when the client thinks that all is well
            raise net_tls.tls_error(error.__cause__, endpoint.host, options) from error.__cause__
        raise
    session.label = Opened(cid, endpoint, info, str(options.proxy) if options.proxy else None)
    return session


async def _dial(endpoint: Endpoint) -> socket.socket:
    if endpoint.path is not None:
        return await net_dial.dial_unix(endpoint.path, options=endpoint.options)
    return await net_dial.dial(endpoint.host, endpoint.port, options=endpoint.options)


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


async def _attach(loop: asyncio.AbstractEventLoop, session: Session, endpoint: Endpoint, sock: socket.socket) -> None:
    options = endpoint.options
    if endpoint.scheme != "smtps":
        try:
            await loop.create_connection(lambda: session, sock=sock)
        except OSError as error:
            raise ConnectionLost(f"the connection was lost: {error}") from error
        return
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


async def _negotiate(
    session: Session, endpoint: Endpoint, tokens: TokenSource | None, *, with_login: bool
) -> ServerInfo:
    options = endpoint.options
    greeting = await session.greeting(options.greeting_timeout)
    if greeting.code != 220:
        raise ConnectError(
            f"{endpoint.place} refused us in its greeting: {greeting}", reply=greeting, command="greeting"
        )
    session.wire.lmtp = endpoint.lmtp
    await _hello(session, options)
    if endpoint.scheme != "smtps":
        await _start_tls(session, endpoint)
    used = None
    if with_login:
        used = await log_in(session, endpoint, endpoint.user, endpoint.password, tokens)
    return server_info(session, greeting.text, used)


def server_info(session: Session, greeting: str, used: str | None) -> ServerInfo:
    peer = session.transport.get_extra_info("peername")
    host = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer or "")
    tls = session.transport.get_extra_info("ssl_object")
    return ServerInfo(greeting, dict(session.wire.extensions), host, tls.version() if tls else None, used)


async def _hello(session: Session, options: Any) -> None:
    """EHLO, or HELO where the server does not know it (RFC 5321 section 3.2); LHLO by LMTP (RFC 2033 section 4.1)."""
    name = (options.name or await ehlo_name(session.transport.get_extra_info("socket"))).encode("ascii", "replace")
    verb = "LHLO" if session.wire.lmtp else "EHLO"
    reply = await session.call(verb.encode() + b" " + name + b"\r\n", verb)
    if reply.code in (500, 501, 502, 504, 550) and verb == "EHLO":
        refused = reply
        reply = await session.call(b"HELO " + name + b"\r\n", "HELO")
        if reply.code != 250:
            raise ConnectError(f"the server refused EHLO ({refused}) and HELO ({reply})", reply=reply, command="HELO")
        session.wire.extensions = {}
    elif reply.code != 250:
        raise ConnectError(f"the server refused {verb}: {reply}", reply=reply, command=verb)
    else:
        offered = parse_extensions(reply)
        if not _verified(session):
            offered.pop("REQUIRETLS", None)  # RFC 8689 section 4.2.1: it may be the offer of a man in the middle
        session.wire.extensions = offered
    session.wire.pipelining = options.pipelining and "PIPELINING" in session.wire.extensions
    session.wire.chunking = options.chunking and "CHUNKING" in session.wire.extensions


def _verified(session: Session) -> bool:
    """Whether the connection is encrypted to a server whose certificate was verified."""
    tls = session.transport.get_extra_info("ssl_object")
    return tls is not None and tls.context.verify_mode != ssl.CERT_NONE


async def _start_tls(session: Session, endpoint: Endpoint) -> None:
    options = endpoint.options
    policy = options.tls
    offered = "STARTTLS" in session.wire.extensions
    if policy == "never" or (policy in ("auto", "opportunistic") and not offered):
        return
    reply = await session.call(b"STARTTLS\r\n", "STARTTLS")
    if reply.code == 421:
        raise session.error or session.wire.parting()
    if reply.code != 220:
        if policy == "opportunistic":
            return
        raise TlsError(f"{endpoint.host} refused STARTTLS: {reply}", reply=reply, command="STARTTLS", permanent=False)
    if session.error is not None:
        raise session.error  # text came behind the 220
    if policy == "opportunistic":
        options = dataclasses.replace(options, verify=False)
    context = net_tls.client_context(options, endpoint.host)
    try:
        await session.start_tls(context, net_tls.server_hostname(options, endpoint.host), options.connect_timeout)
    except ProtocolError:
        raise
    except (ssl.SSLError, OSError, BulkmailError) as error:
        failure = error if isinstance(error, BulkmailError) else net_tls.tls_error(error, endpoint.host, options)
        if policy == "opportunistic":
            raise _BrokenHandshake(failure) from error
        raise failure  # noqa: B904  its cause is set, or it is this very error
    await _hello(session, options)  # RFC 3207 section 4.2: what was said before TLS is forgotten


async def close_politely(session: Session) -> None:
    """QUIT, wait a little for the 221, close. Raises nothing but CancelledError, and then it is closed too."""
    if session.error is None:
        try:
            await session.call(b"QUIT\r\n", "QUIT", QUIT_SECONDS)
        except (BulkmailError, RuntimeError):
            pass
        finally:
            session.abort(ConnectionLost(CLOSED_BY_US))
