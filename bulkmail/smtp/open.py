"""From an endpoint to a session that can take transactions: dial, TLS, greeting, EHLO, STARTTLS, AUTH."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bulkmail.errors import (
    BulkmailError,
    ConnectError,
    ConnectionLost,
    ProtocolError,
    TlsError,
)
from bulkmail.net import tls as net_tls
from bulkmail.net.bypass import routed
from bulkmail.net.certificate import peer_certificate
from bulkmail.net.line import Line
from bulkmail.net.resolve import ehlo_name
from bulkmail.net.steps import OnStep, unwatched
from bulkmail.smtp.attach import attach, attach_transport, dial, given, handshake
from bulkmail.smtp.classify import refused
from bulkmail.smtp.envelope import ServerInfo
from bulkmail.smtp.session import CLOSED_BY_US, Session, Turn
from bulkmail.smtp.wirelog import LOGGER, log, make_trace
from bulkmail.url import Endpoint
from bulkmail.wire.extensions import parse_extensions

if TYPE_CHECKING:
    from bulkmail.smtp.auth.tokens import TokenSource

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
    endpoint: Endpoint,
    turn: Turn,
    *,
    sock: socket.socket | None = None,
    transport: Any = None,
    tokens: TokenSource | None = None,
    egress: str | None = None,
    on_step: OnStep = unwatched,
) -> Session:
    """Connect and negotiate. The session's `label` is an `Opened`.

    sock, transport   what is connected already, in clear or by TLS; None: dial
    tokens            what all sessions of an owner log in with; None: a source of its own, if the options name one
    egress            what the way there is called; None: the name of its proxy, if it has one
    on_step           told of each step as it begins and ends

    Raises ConnectError, ResolveError, TimedOut, ProxyError, TlsError, AuthError, AuthUnavailable, ProtocolError,
    ConnectionLost; then nothing is left open.
    """
    if sock is None and transport is None:
        endpoint = await routed(endpoint, on_step)
    opening = _Opening(endpoint, turn, sock, transport, tokens or tokens_of(endpoint.options), on_step, egress)
    try:
        return await opening.run(with_login=endpoint.logs_in)
    except _BrokenHandshake as broken:
        if sock is not None or transport is not None:
            # where a given socket leads only its owner knows: another one might go past a tunnel
            raise broken.failure from broken.failure.__cause__
        # tls=opportunistic: try again in clear, and show no password to a line that somebody may have tampered with
        on_step("tls", {"broken": broken.failure})
        options = dataclasses.replace(endpoint.options, tls="never")
        plain = dataclasses.replace(endpoint, user=None, password=None, options=options)
        return await _Opening(plain, turn, None, None, None, on_step, egress).run(with_login=False)


def tokens_of(options: Any) -> TokenSource | None:
    """Where the tokens come from that the options name; None: they name none, and nothing of logins is loaded."""
    if options.token is None and options.token_command is None and options.oauth2 is None:
        return None
    from bulkmail.smtp.auth.tokens import token_source

    return token_source(options)


class _BrokenHandshake(Exception):
    def __init__(self, failure: BulkmailError) -> None:
        self.failure = failure


def _record_end(endpoint: Endpoint, cid: str, closed: asyncio.Future[BaseException]) -> None:
    if closed.cancelled() or str(closed.result()) == CLOSED_BY_US:
        return
    error = closed.result()
    phase, reply = getattr(error, "command", None) or "idle", getattr(error, "reply", None)
    log(logging.INFO, endpoint, cid, phase, "the connection ended: %s", error, reply=reply)


@dataclass
class _Opening:
    endpoint: Endpoint
    turn: Turn
    sock: socket.socket | None
    transport: Any
    tokens: TokenSource | None
    on_step: OnStep
    egress: str | None

    async def run(self, *, with_login: bool) -> Session:
        endpoint, options = self.endpoint, self.endpoint.options
        cid, trace = make_trace(options.wire_log)
        session = None
        try:
            line: Line | None = given(self.sock) if self.sock is not None else None
            if line is None and self.transport is None:
                line = await dial(endpoint, self.on_step)
            loop = asyncio.get_running_loop()
            session = Session(loop, self.turn, options.command_timeout, options.data_timeout, trace)
            if line is not None:
                await attach(session, endpoint, line, self.on_step)
            else:
                await attach_transport(session, endpoint, self.transport)
            info = await _negotiate(session, endpoint, self.tokens, self.on_step, with_login=with_login)
            if session.error is not None:
                raise session.error  # it ended behind its last reply
        except BaseException as error:
            self._failed(cid, session, error)
            raise
        session.label = Opened(cid, endpoint, info, self.egress or (str(options.proxy) if options.proxy else None))
        log(logging.INFO, endpoint, cid, "connect", "connected to %s (%s)", endpoint.place, info.tls or "in clear")
        if LOGGER.isEnabledFor(logging.INFO):
            session.closed.add_done_callback(functools.partial(_record_end, endpoint, cid))
        return session

    def _failed(self, cid: str, session: Session | None, error: BaseException) -> None:
        endpoint = self.endpoint
        if session is not None:
            session.abort(error if isinstance(error, BulkmailError) else ConnectionLost("the connection was abandoned"))
        if isinstance(error, BulkmailError):
            log(logging.INFO, endpoint, cid, "connect", "no connection to %s: %s", endpoint.place, error)
        ours = session is not None and session.tls is not None  # as opposed to TLS with a proxy
        if ours and isinstance(error, ConnectionLost) and isinstance(error.__cause__, ssl.SSLError):
            # with TLS 1.3 a server refuses a client's certificate when the client thinks that all is well
            raise net_tls.tls_error(error.__cause__, endpoint.host, endpoint.options) from error.__cause__


async def _negotiate(
    session: Session, endpoint: Endpoint, tokens: TokenSource | None, on_step: OnStep, *, with_login: bool
) -> ServerInfo:
    options = endpoint.options
    if session.encrypted:
        on_step("tls", {"session": session})
    on_step("greeting", None)
    greeting = await session.greeting(options.greeting_timeout)
    if greeting.code != 220:
        said = f"{endpoint.place} refused us in its greeting: {greeting}"
        raise refused(ConnectError, said, greeting, "greeting")
    on_step("greeting", {"reply": greeting})
    session.wire.lmtp = endpoint.lmtp
    await _hello(session, options, on_step)
    if not session.encrypted:
        await _start_tls(session, endpoint, on_step)
    used = None
    if with_login:
        from bulkmail.smtp.login import log_in  # with all mechanisms, and what they are made of

        on_step("login", None)
        used = await log_in(session, endpoint, endpoint.user, endpoint.password, tokens)
        on_step("login", {"mechanism": used})
    return server_info(session, greeting.text, used)


def server_info(session: Session, greeting: str, used: str | None) -> ServerInfo:
    peer = session.transport.get_extra_info("peername")
    host = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer or "")
    return ServerInfo(greeting, dict(session.wire.extensions), host, tls_version(session), used)


def tls_version(session: Session) -> str | None:
    """ "TLSv1.3"; "TLS" where another vouches for it and nobody knows more; None in clear."""
    if session.tls is not None:
        return str(session.tls.version())
    return "TLS" if session.encrypted else None


def full_info(session: Session, known: ServerInfo) -> ServerInfo:
    """`known` with what the server offers now and what TLS says of it, which is read only for whoever asks."""
    tls = session.tls
    return dataclasses.replace(
        known,
        extensions=dict(session.wire.extensions),
        cipher=tls.cipher()[0] if tls else None,
        certificate=peer_certificate(tls) if tls else None,
    )


async def _hello(session: Session, options: Any, on_step: OnStep) -> None:
    """EHLO, or HELO where the server does not know it (RFC 5321 section 3.2); LHLO by LMTP (RFC 2033 section 4.1)."""
    on_step("ehlo", None)
    name = (options.name or await ehlo_name(session.transport.get_extra_info("socket"))).encode("ascii", "replace")
    verb = "LHLO" if session.wire.lmtp else "EHLO"
    reply = await session.call(verb.encode() + b" " + name + b"\r\n", verb)
    # A server that expects no PROXY header answers its line by one of these codes too: behind HELO every reply would be
    # taken for the answer to the command after its own.
    old = verb == "EHLO" and options.proxy_protocol is None
    if reply.code in (500, 501, 502, 504, 550) and old:
        first = reply
        reply = await session.call(b"HELO " + name + b"\r\n", "HELO")
        if reply.code != 250:
            raise ConnectError(f"the server refused EHLO ({first}) and HELO ({reply})", reply=reply, command="HELO")
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
    on_step("ehlo", {"name": name.decode(), "extensions": session.wire.extensions})


def _verified(session: Session) -> bool:
    """Whether the connection is encrypted to a server whose certificate was verified."""
    tls = session.tls
    return tls is not None and tls.context.verify_mode != ssl.CERT_NONE


async def _start_tls(session: Session, endpoint: Endpoint, on_step: OnStep) -> None:
    options = endpoint.options
    policy = options.tls
    offered = "STARTTLS" in session.wire.extensions
    if policy == "never" or (policy in ("auto", "opportunistic") and not offered):
        on_step("tls", {"skipped": "tls=never" if policy == "never" else "the server does not offer STARTTLS"})
        return
    on_step("tls", None)
    reply = await session.call(b"STARTTLS\r\n", "STARTTLS")
    if reply.code == 421:
        raise session.error or session.wire.parting()
    if reply.code != 220:
        if policy == "opportunistic":
            on_step("tls", {"skipped": f"the server refused STARTTLS: {reply}"})
            return
        did = "refused" if offered else "does not offer, and refused,"
        text = f"{endpoint.place} {did} STARTTLS: {reply}"
        raise TlsError(text, reply=reply, command="STARTTLS", permanent=False)
    if session.error is not None:
        raise session.error  # text came behind the 220
    if policy == "opportunistic":
        options = dataclasses.replace(options, verify=False)
    try:
        await handshake(session, endpoint, options)
    except ProtocolError:
        raise
    except BulkmailError as failure:
        if policy == "opportunistic":
            raise _BrokenHandshake(failure) from failure
        raise
    on_step("tls", {"session": session})
    try:
        await _hello(session, options, on_step)  # RFC 3207 section 4.2: what was said before TLS is forgotten
    except ConnectionLost as lost:
        if policy == "opportunistic":  # a server that refuses the handshake when it is done (TLS 1.3) hangs up now
            raise _BrokenHandshake(lost) from lost
        raise


async def close_politely(session: Session) -> None:
    """QUIT, wait a little for the 221, close. Raises nothing but CancelledError, and then it is closed too."""
    if session.error is None:
        try:
            await session.call(b"QUIT\r\n", "QUIT", QUIT_SECONDS)
        except (BulkmailError, RuntimeError):
            pass
        finally:
            session.abort(ConnectionLost(CLOSED_BY_US))
