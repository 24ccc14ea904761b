"""`Connection`: one SMTP connection for callers who want the dialogue in their own hands."""

from __future__ import annotations

import asyncio
import dataclasses
import socket as socket_module
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Any, Self

from bulkmail.errors import (
    BulkmailError,
    ConfigError,
    ConnectError,
    ConnectionLost,
    EnvelopeRefused,
    MessageError,
    ProtocolError,
    TimedOut,
)
from bulkmail.loginoptions import TokenFunction, parse_token
from bulkmail.net.resolve import resolve
from bulkmail.smtp import open as opening
from bulkmail.smtp.auth.tokens import token_source
from bulkmail.smtp.envelope import (
    Envelope,
    Receipt,
    ServerInfo,
    transaction_flags,
    wire_content,
    wire_envelope,
)
from bulkmail.smtp.introduce import refuse_encrypted
from bulkmail.smtp.login import log_in
from bulkmail.smtp.outcome import message_id, receipt
from bulkmail.smtp.parameters import mail_asks, rcpt_parameters
from bulkmail.smtp.sender import try_sender
from bulkmail.smtp.session import CLOSED_BY_US, Session, Turn
from bulkmail.url import Endpoint, parse_endpoint
from bulkmail.wire.reply import Reply
from bulkmail.wire.transaction import NOT_TAKEN, WAITING, Transaction

READ_SIZE = 64 * 1024  # a file is read in pieces of this size: a few socket buffers full
MAX_COMMAND = 512  # RFC 5321 section 4.5.3.1.4, with the CRLF
# Commands that change what we know of the dialogue, and SEND, SOML, SAML and TURN (RFC 821), which are like MAIL.
KEPT = {"EHLO", "HELO", "LHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "QUIT"}
KEPT |= {"SEND", "SOML", "SAML", "TURN"}
SMALLEST_PIECE = 16 * 1024  # what is written at once: a BDAT, and its reply, for each line would be a waste


class Connection:
    """One connection to an SMTP server (interface: `connect`, `login`, `send`, `reset`, `noop`, `quit`, `close`).

    url        smtp:// or smtps:// with options, or "host" (smtp://host)
    socket     a socket to use instead of dialling: connected, or not (then it is connected to the URL's host and port);
               a `ssl.SSLSocket` has had its handshake and counts as encrypted
    transport  an event loop's transport to use instead, in clear or with TLS
    options    see docs/manifest.md; the same names as in a URL's query

    `async with` connects, and ends with QUIT. A call that is cancelled closes the connection.
    Errors: `bulkmail.errors`; every call on a closed connection raises what closed it.
    """

    def __init__(
        self, url: str, *, socket: socket_module.socket | None = None, transport: Any = None, **options: Any
    ) -> None:
        if transport is not None and socket is not None:
            raise ConfigError("Connection takes a socket or a transport, not both")
        self._endpoint: Endpoint = parse_endpoint(url if "://" in url else f"smtp://{url}", **options)
        for given in (socket, transport):
            refuse_encrypted(given, self._endpoint)
        self._tokens = token_source(self._endpoint.options)
        self._given, self._transport = socket, transport
        self._session: Session | None = None
        self._info: ServerInfo | None = None
        self._connecting: asyncio.Task[Any] | None = None
        self._unwanted = False  # close() was called while it was being connected
        self.id = ""

    async def connect(self) -> None:
        """Dial, negotiate TLS and log in if the URL has a user. close() ends it meanwhile: ConnectionLost."""
        if self._connecting is not None:
            raise ConfigError("this Connection is already being connected")
        if self._is_open():
            raise ConfigError("this Connection is already connected")
        self._connecting, self._unwanted = asyncio.current_task(), False
        try:
            await self._connect()
        except asyncio.CancelledError:
            if self._unwanted and self._connecting is not None and not self._connecting.uncancel():
                raise ConnectionLost(CLOSED_BY_US) from None
            raise
        finally:
            self._connecting = None

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        sock = await self._prepare(self._given) if self._given is not None else None
        transport, self._given, self._transport = self._transport, None, None
        turn = Turn(loop, lambda: self._on_turn(turn), 0)
        self._session = await opening.open_session(
            self._endpoint, turn, sock=sock, transport=transport, tokens=self._tokens
        )
        self._info = self._session.label.info
        self.id = self._session.label.id

    async def _prepare(self, sock: socket_module.socket) -> socket_module.socket:
        if sock.fileno() < 0:
            raise ConfigError("the given socket is closed")
        sock.setblocking(False)
        try:
            sock.getpeername()
        except OSError as error:
            if isinstance(sock, ssl.SSLSocket):
                raise ConfigError("the given TLS socket is not connected: connect it and shake hands first") from error
            try:
                await self._connect_given(sock)
            except BaseException:
                sock.close()
                raise
        with suppress(OSError):  # it may not be TCP
            sock.setsockopt(socket_module.IPPROTO_TCP, socket_module.TCP_NODELAY, 1)
        return sock

    async def _connect_given(self, sock: socket_module.socket) -> None:
        host, port, options = self._endpoint.host, self._endpoint.port, self._endpoint.options
        found = await resolve(host, port, timeout=options.dns_timeout)
        address = next((address for address in found if address.family == sock.family), None)
        if address is None:
            raise ConnectError(f"{host}:{port}: it has no address of the given socket's family")
        try:
            async with asyncio.timeout(options.connect_timeout):
                await asyncio.get_running_loop().sock_connect(sock, address.sockaddr)
        except TimeoutError:
            raise TimedOut(
                f"{host}:{port}: no connection within {options.connect_timeout:g} s", phase="connect"
            ) from None
        except OSError as error:
            raise ConnectError(f"{host}:{port}: cannot connect: {error}") from error

    @staticmethod
    def _on_turn(turn: Turn) -> None:
        for tx in turn.take_done():
            if not tx.tag.done():
                tx.tag.set_result(None)
        turn.take_hungry()
        turn.take_ended()

    # -- what is known

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted."""
        return self.tls is not None

    @property
    def tls(self) -> str | None:
        """The TLS version ("TLSv1.3"), or None in clear."""
        return self._info.tls if self._info else None

    @property
    def extensions(self) -> dict[str, str]:
        """EHLO keywords (upper case) with their parameters."""
        return dict(self._session.wire.extensions) if self._session else {}

    @property
    def peer(self) -> str:
        """The server's address and port."""
        return self._info.peer if self._info else ""

    @property
    def info(self) -> ServerInfo:
        """What the server said of itself; raises ConnectionLost before connect()."""
        session = self._live()
        assert self._info is not None
        return opening.full_info(session, self._info)

    def _is_open(self) -> bool:
        return self._session is not None and self._session.error is None

    def _live(self) -> Session:
        if self._session is None:
            raise ConnectionLost("not connected: call connect() first")
        if self._session.error is not None:
            raise self._session.error
        return self._session

    # -- commands

    async def login(self, user: str, password: str | None = None, *, token: str | TokenFunction | None = None) -> None:
        """AUTH with the mechanism that option `auth` names. Raises AuthUnavailable (nothing was sent) or AuthError.

        token  an access token in place of the password, or a function (sync or async) that returns one
        """
        session = self._live()
        if password is not None and token is not None:
            raise ConfigError("a password and a token are given, expected one of them")
        tokens = None if password is not None else self._tokens
        if token is not None:
            tokens = token_source(token=parse_token(token, "token"))
        used = await log_in(session, self._reached(session), user, password, tokens)
        assert self._info is not None
        self._info = dataclasses.replace(self._info, auth=used)

    def _reached(self, session: Session) -> Endpoint:
        """The endpoint with the proxy that this connection has: none, if no_proxy covers the host."""
        options = dataclasses.replace(self._endpoint.options, proxy=session.label.endpoint.options.proxy)
        return dataclasses.replace(self._endpoint, options=options)

    async def _simple(self, verb: str, expected: tuple[int, ...]) -> Reply:
        session = self._live()
        reply = await session.call(verb.encode() + b"\r\n", verb)
        if reply.code == 421:
            raise session.error or session.wire.parting()
        if reply.code not in expected:
            raise EnvelopeRefused(
                f"the server answered {verb} with {reply}", reply=reply, command=verb, scope="connection"
            )
        return reply

    async def reset(self) -> Reply:
        """RSET (RFC 5321 section 4.1.1.5)."""
        return await self._simple("RSET", (250,))

    async def noop(self) -> Reply:
        """NOOP: is the other side still there?"""
        return await self._simple("NOOP", (250,))

    async def command(self, line: str) -> Reply:
        """A command that has no method here, such as "VRFY ann" or "HELP"; its reply, whatever it says.

        raises  ConfigError      for what is not one line, and for a command that belongs to the dialogue that we keep
                EnvelopeRefused  for what is beyond ASCII where SMTPUTF8 is not offered
        """
        session = self._live()
        verb, data = _command_line(line)
        if not line.isascii() and "SMTPUTF8" not in session.wire.extensions:
            raise EnvelopeRefused(f"{verb} with characters beyond ASCII, and the server does not offer SMTPUTF8")
        reply = await session.call(data, verb)
        if reply.code == 421:
            raise session.error or session.wire.parting()
        if 300 <= reply.code < 400:  # it waits for something that only the caller of a method could give
            session.abort(ProtocolError(f"the server answered {verb} with {reply}", reply=reply, command=verb))
        return reply

    async def verify(self) -> ServerInfo:
        """What the server offers, once it has answered a NOOP. Raises what is wrong."""
        await self.noop()
        return self.info

    async def mail(self, sender: str) -> Reply:
        """Ask whether MAIL from `sender` is allowed, and take it back with RSET. Raises EnvelopeRefused."""
        return await try_sender(self._live(), sender)

    async def send(self, envelope: Envelope, data: Any, *, timeout: float | None = None) -> Receipt:
        """One transaction.

        timeout  seconds for all of it, besides the deadline of each phase; what is under way then ends the connection
        data     bytes, str, a binary file, or an iterator (sync or async) of bytes; newlines made CRLF, dots escaped
        returns  Receipt with at least one accepted recipient
        raises   EnvelopeRefused, MessageRefused if nobody was accepted; InDoubt, ConnectionLost, TimedOut;
                 MessageError, ConfigError before anything is sent
        """
        session = self._live()
        sender, rcpts = wire_envelope(envelope.sender, envelope.addresses)
        if not rcpts:
            raise ConfigError("the envelope has no recipients")
        content = _content(data)
        body = wire_content(envelope, content) if content is not None else None
        declared = envelope.size if body is None and envelope.size is not None else -1
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        flags = transaction_flags(envelope, body, [sender, *rcpts])
        asks, behind = mail_asks(envelope), rcpt_parameters(envelope)
        tx = Transaction(sender, rcpts, body, flags, done, asks=asks, rcpt_parameters=behind, size=declared)
        size = await self._through(session, tx, data, content, timeout)
        result = receipt(tx, envelope.addresses)
        if result.error is not None:
            raise result.error
        result.bytes = size
        result.message_id = message_id(content) if content is not None else None
        return result

    async def _through(
        self, session: Session, tx: Transaction, data: Any, content: bytes | None, timeout: float | None
    ) -> int:
        """Push `tx` and wait for its end; the size of the content that was sent."""
        size = 0 if content is None else len(content)
        deadline = asyncio.timeout(timeout)
        late = TimedOut(f"the message was not sent within {timeout or 0:g} s", phase="data", command="DATA")
        try:
            async with deadline:
                try:
                    session.push([tx])
                    if content is None:
                        size = await _stream(session, tx, data)
                    await tx.tag
                except BaseException as error:
                    # a transaction that nobody waits for would leave the dialogue in a state that nobody knows
                    if tx.state == WAITING and deadline.expired():
                        session.abort(late)
                    elif tx.state == WAITING:
                        ours = isinstance(error, BulkmailError)
                        session.abort(error if ours else ConnectionLost("the call was cancelled"))
                    raise
        except TimeoutError:
            if not deadline.expired():
                raise
            if tx.state == NOT_TAKEN:
                raise late from tx.error
        return size

    # -- the end

    async def quit(self) -> None:
        """QUIT, wait for the reply, close. Never raises."""
        if self._connecting is not None:
            self.close()
        elif self._session is not None:
            await opening.close_politely(self._session)

    def close(self) -> None:
        """End at once, without QUIT."""
        if self._connecting is not None and not self._unwanted:
            self._unwanted = True
            self._connecting.cancel()
        if self._session is not None:
            self._session.abort(ConnectionLost(CLOSED_BY_US))

    async def wait_closed(self) -> None:
        """Return when the connection has ended; raise why, if it was not by our doing."""
        if self._session is None:
            return
        error = await asyncio.shield(self._session.closed)
        if str(error) != CLOSED_BY_US:
            raise error

    async def __aenter__(self) -> Self:
        if not self._is_open():
            await self.connect()
        return self

    async def __aexit__(self, kind: Any, *rest: Any) -> None:
        if kind is None:
            await self.quit()
        else:
            self.close()


def _command_line(line: str) -> tuple[str, bytes]:
    """(verb, bytes to send)"""
    verb = line.split(" ", 1)[0].upper()
    if not verb.isascii() or not verb.isalnum() or not line.isprintable():
        raise ConfigError(f"{line!a} is not one command: a verb and printable characters are expected")
    if verb in KEPT:
        raise ConfigError(
            f"{verb} belongs to the dialogue that a Connection keeps: use send(), login(), reset(), quit()"
        )
    data = line.encode() + b"\r\n"
    if len(data) > MAX_COMMAND:
        raise ConfigError(
            f"a command of {len(data)} bytes, expected at most {MAX_COMMAND} (RFC 5321 section 4.5.3.1.4)"
        )
    return verb, data


def _content(data: Any) -> bytes | None:
    """The whole content where there is one; None: it is to be streamed. Raises MessageError, ConfigError."""
    if isinstance(data, str):
        try:
            return data.encode()
        except UnicodeEncodeError as error:
            raise MessageError(f"the message is not valid Unicode: {error.reason} at character {error.start}") from None
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    if not (hasattr(data, "read") or hasattr(data, "__aiter__") or isinstance(data, Iterable)):
        raise ConfigError(f"data is {type(data).__name__}, expected bytes, str, a binary file or an iterator of bytes")
    return None


async def _stream(session: Session, tx: Transaction, data: Any) -> int:
    """Send the content of `tx` as the server asks for it; its size."""
    size = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal size
        async for piece in _gathered(_chunks(data)):
            size += len(piece)
            yield piece

    await session.stream(tx, pieces())
    return size


async def _gathered(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces of at least SMALLEST_PIECE, but for the last: a source may yield line by line."""
    held: list[bytes] = []
    size = 0
    async for piece in pieces:
        held.append(bytes(piece))
        size += len(piece)
        if size >= SMALLEST_PIECE:
            yield held[0] if len(held) == 1 else b"".join(held)
            held, size = [], 0
    if size:
        yield b"".join(held)


async def _chunks(data: Any) -> AsyncIterator[bytes]:
    if hasattr(data, "read"):
        while piece := data.read(READ_SIZE):
            if isinstance(piece, str):
                raise ConfigError("the file is open for text; open it in binary mode")
            yield piece
    elif hasattr(data, "__aiter__"):
        async for piece in data:
            yield piece
    else:
        for piece in data:
            yield piece
