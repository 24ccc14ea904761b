"""An SMTP server that does what a test says, byte by byte: for all that well-behaved servers never do.

A script is a list of steps for one connection; the n-th connection plays the n-th script, later ones the last again.

    async with scripted([*hello("PIPELINING"), expect(rb"MAIL .*"), reset()]) as server:
        ... Connection(server.url) ...

A step that meets something else than it expects closes the connection; the end of the block raises it. `serve()` is a
step too: an obliging server, with faults where a test wants them, which keeps what it took in `server.messages`.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

GREETING = b"220 mx.example.test ESMTP\r\n"
BIG_LINE = 1 << 20  # a test may say as much as it likes on a line
TCP_ESTABLISHED = 1  # include/net/tcp_states.h


class ClientGone(Exception):
    """The client ended the connection; what is left of the script is not played."""


class Unexpected(AssertionError):
    """The client said something else than the script expects."""


@dataclass
class Taken:
    """A message that the server answered for with a 2xx reply. `content`: dots undone, CRLF."""

    sender: bytes
    rcpts: list[bytes]
    content: bytes
    connection: int
    at: float


@dataclass
class Peer:
    """One connection, seen from the server. `said`: all that the client sent, TLS undone."""

    server: Scripted
    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    said: bytearray = field(default_factory=bytearray)
    times: dict[str, int] = field(default_factory=dict)  # how often each phase of serve() was reached
    ended: bool = False

    async def line(self) -> bytes:
        """The next line, without its CRLF."""
        return (await self.until(b"\n")).removesuffix(b"\n").removesuffix(b"\r")

    async def until(self, end: bytes) -> bytes:
        try:
            data = await self.reader.readuntil(end)
        except asyncio.IncompleteReadError as error:
            self.said += error.partial
            raise ClientGone from None
        except OSError:
            raise ClientGone from None
        self.said += data
        return data

    async def exactly(self, size: int) -> bytes:
        try:
            data = await self.reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError):
            raise ClientGone from None
        self.said += data
        return data

    async def content(self) -> bytes:
        """A message up to its final dot, undone."""
        lines = []
        while (line := await self.until(b"\r\n")) != b".\r\n":
            lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)

    async def send(self, data: bytes) -> None:
        if self.writer.is_closing():  # a test may abort it at any time; uvloop raises no OSError then
            raise ClientGone
        try:
            self.writer.write(data)
            await self.writer.drain()
        except OSError:
            raise ClientGone from None

    async def play(self, action: bytes | Step | Sequence[Step]) -> None:
        if isinstance(action, bytes):
            await self.send(action)
        elif callable(action):
            await action(self)
        else:
            for step in action:
                await step(self)

    def alive(self) -> bool:
        """Whether the client has not ended it yet: asked of the kernel, since its FIN may still wait to be read."""
        sock = None if self.ended else self.writer.get_extra_info("socket")
        if sock is None or self.writer.is_closing() or sock.fileno() < 0:
            return False
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_ESTABLISHED


Step = Callable[[Peer], Awaitable[None]]
Script = Sequence[Step]


class Scripted:
    """A running server. `problems`: what went against a script; `most`: connections at the same time, at their most."""

    def __init__(self, scripts: Sequence[Script], port: int, scheme: str) -> None:
        self.scripts, self.port = scripts, port
        self.url = f"{scheme}://127.0.0.1:{port}"
        self.peers: list[Peer] = []
        self.messages: list[Taken] = []
        self.problems: list[BaseException] = []
        self.most = 0
        self.changed = asyncio.Condition()

    async def on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(self, len(self.peers), reader, writer)
        self.peers.append(peer)
        self.most = max(self.most, sum(other.alive() for other in self.peers))
        await self.notify()
        try:
            await peer.play(self.scripts[min(peer.number, len(self.scripts) - 1)])
        except ClientGone:
            pass
        except Exception as error:
            self.problems.append(error)
        finally:
            peer.ended = True
            writer.close()
            await self.notify()

    async def notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, true: Callable[[Scripted], object], seconds: float = 10.0) -> None:
        """Return once `true(server)`; it is asked whenever a connection begins or ends or a message was taken."""
        async with asyncio.timeout(seconds), self.changed:
            await self.changed.wait_for(lambda: true(self))

    async def took(self, message: Taken) -> None:
        self.messages.append(message)
        await self.notify()

    def contents(self) -> list[bytes]:
        return [message.content for message in self.messages]

    def addressees(self) -> list[str]:
        """Every recipient of every message taken, in order of arrival."""
        return [rcpt.decode() for message in self.messages for rcpt in message.rcpts]


@asynccontextmanager
async def scripted(*scripts: Script, implicit_tls: ssl.SSLContext | None = None) -> AsyncIterator[Scripted]:
    """Listen on a free port of 127.0.0.1 and play `scripts`. implicit_tls: TLS from the first byte."""
    listener = socket.socket(proto=socket.IPPROTO_TCP)  # named, or asyncio would not switch off Nagle's algorithm
    listener.bind(("127.0.0.1", 0))
    listener.listen(512)
    server = Scripted(scripts, listener.getsockname()[1], "smtps" if implicit_tls else "smtp")
    running = await asyncio.start_server(server.on_connection, sock=listener, limit=BIG_LINE, ssl=implicit_tls)
    try:
        yield server
    finally:
        running.close()
        for peer in server.peers:
            peer.writer.transport.abort()
    if server.problems:
        raise server.problems[0]


@asynccontextmanager
async def silence() -> AsyncIterator[int]:
    """A port that takes connections and never says a word: the kernel accepts, nobody else."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield listener.getsockname()[1]


# ---- steps


def expect(pattern: bytes) -> Step:
    """One line that matches the regular expression as a whole, case ignored."""

    async def step(peer: Peer) -> None:
        line = await peer.line()
        if not re.fullmatch(pattern, line, re.IGNORECASE | re.DOTALL):
            raise Unexpected(f"connection {peer.number}: expected {pattern!r}, the client sent {line!r}")

    return step


def take(size: int) -> Step:
    """Exactly so many bytes, whatever they are."""

    async def step(peer: Peer) -> None:
        await peer.exactly(size)

    return step


def skip(size: int) -> Step:
    """So many bytes, read and forgotten."""

    async def step(peer: Peer) -> None:
        left = size
        while left:
            piece = await peer.reader.read(min(left, 65536))
            if not piece:
                raise ClientGone
            left -= len(piece)

    return step


def content() -> Step:
    """A whole message, up to its final dot."""

    async def step(peer: Peer) -> None:
        await peer.content()

    return step


def send(data: bytes) -> Step:
    async def step(peer: Peer) -> None:
        await peer.send(data)

    return step


def drip(data: bytes, seconds: float) -> Step:
    """A byte every `seconds`."""

    async def step(peer: Peer) -> None:
        for byte in data:
            await peer.send(bytes([byte]))
            await asyncio.sleep(seconds)

    return step


def wait(for_what: float | asyncio.Event) -> Step:
    """Seconds, or an event that the test sets."""

    async def step(peer: Peer) -> None:
        await (for_what.wait() if isinstance(for_what, asyncio.Event) else asyncio.sleep(for_what))

    return step


def close() -> Step:
    """End the connection in order (FIN)."""

    async def step(peer: Peer) -> None:
        peer.writer.close()
        raise ClientGone

    return step


def reset() -> Step:
    """End the connection with a RST."""

    async def step(peer: Peer) -> None:
        sock = peer.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.writer.transport.abort()
        raise ClientGone

    return step


def hang() -> Step:
    """Listen and say nothing until the client has gone."""

    async def step(peer: Peer) -> None:
        while piece := await _read(peer):
            peer.said += piece
        raise ClientGone

    return step


async def _read(peer: Peer) -> bytes:
    try:
        return await peer.reader.read(65536)
    except OSError:
        return b""


def start_tls(context: ssl.SSLContext) -> Step:
    async def step(peer: Peer) -> None:
        plain = peer.writer.transport
        try:
            await peer.writer.start_tls(context)
        except (OSError, ssl.SSLError):
            raise ClientGone from None
        finally:
            if peer.writer.transport is None:  # asyncio, when the client ends in the moment that the handshake is done
                peer.writer._transport = plain  # type: ignore[attr-defined]  # its __del__ asks it

    return step


def hello(*extensions: str) -> list[Step]:
    """Greeting and EHLO."""
    return [send(GREETING), expect(rb"EHLO \S+"), send(offer(*extensions))]


def offer(*extensions: str) -> bytes:
    """The reply to EHLO."""
    lines = ["mx.example.test", *extensions]
    return "".join(f"250{' ' if n == len(lines) - 1 else '-'}{line}\r\n" for n, line in enumerate(lines)).encode()


# ---- an obliging server, with faults


@dataclass
class Fault:
    """Instead of the usual reply to `phase`, the n-th time that it is reached on a connection: `action`."""

    phase: str  # a verb in upper case, or "dot"
    action: bytes | Step | Sequence[Step]
    nth: int = 0  # 0: every time


def at(phase: str, action: bytes | Step | Sequence[Step], nth: int = 1) -> Fault:
    return Fault(phase, action, nth)


def late(seconds: float, reply: bytes) -> Step:
    """An action: the reply, after a while."""

    async def step(peer: Peer) -> None:
        await asyncio.sleep(seconds)
        await peer.send(reply)

    step.reply = reply  # type: ignore[attr-defined]  # what serve() goes by
    return step


def always(phase: str, action: bytes | Step | Sequence[Step]) -> Fault:
    return Fault(phase, action)


def serve(*faults: Fault) -> Step:
    """MAIL, RCPT, DATA, BDAT, RSET, NOOP, QUIT and a further EHLO as a good server does them, save for `faults`."""
    return lambda peer: _Dialogue(peer, faults, lmtp=False).run()


def serve_lmtp(*faults: Fault) -> Step:
    """The same by LMTP: phase "dot" is reached for each accepted recipient."""
    return lambda peer: _Dialogue(peer, faults, lmtp=True).run()


class _Dialogue:
    def __init__(self, peer: Peer, faults: Sequence[Fault], *, lmtp: bool) -> None:
        self.peer, self.faults, self.lmtp = peer, faults, lmtp
        self.sender: bytes | None = None
        self.rcpts: list[bytes] = []
        self.chunks: list[bytes] = []

    async def run(self) -> None:
        while True:
            line = await self.peer.line()
            verb, _, rest = line.partition(b" ")
            await getattr(self, f"on_{verb.decode('ascii', 'replace').lower()}", self.on_unknown)(rest)

    async def answer(self, phase: str, usual: bytes) -> bool:
        """Say what the faults say, or the usual; whether it was 2xx or 3xx."""
        times = self.peer.times[phase] = self.peer.times.get(phase, 0) + 1
        action: bytes | Step | Sequence[Step] = usual
        for fault in self.faults:
            if fault.phase == phase and fault.nth in (0, times):
                action = fault.action
        await self.peer.play(action)
        reply = action if isinstance(action, bytes) else getattr(action, "reply", b"")
        return reply[:1] in (b"2", b"3")

    async def on_ehlo(self, rest: bytes) -> None:
        await self.answer("EHLO", offer("PIPELINING", "8BITMIME"))

    async def on_mail(self, rest: bytes) -> None:
        if self.sender is not None:
            await self.peer.send(b"503 5.5.1 nested MAIL\r\n")
        elif await self.answer("MAIL", b"250 2.1.0 ok\r\n"):
            self.sender, self.rcpts, self.chunks = _path(rest), [], []

    async def on_rcpt(self, rest: bytes) -> None:
        if self.sender is None:
            await self.peer.send(b"503 5.5.1 MAIL first\r\n")
        elif await self.answer("RCPT", b"250 2.1.5 ok\r\n"):
            self.rcpts.append(_path(rest))

    async def on_data(self, rest: bytes) -> None:
        if self.sender is None:
            await self.peer.send(b"503 5.5.1 MAIL first\r\n")
        elif not self.rcpts:
            await self.peer.send(b"554 5.5.1 no valid recipients\r\n")
        elif await self.answer("DATA", b"354 go on\r\n"):
            await self.verdict(await self.peer.content())

    async def on_bdat(self, rest: bytes) -> None:
        size, _, last = rest.partition(b" ")
        chunk = await self.peer.exactly(int(size))
        if self.sender is None or not self.rcpts:
            await self.peer.send(b"503 5.5.1 MAIL and RCPT first\r\n")
        elif not last:
            self.chunks.append(chunk)
            await self.answer("BDAT", b"250 2.0.0 chunk\r\n")
            return
        else:
            assert last == b"LAST"
            await self.verdict(b"".join([*self.chunks, chunk]))
        self.sender = None

    async def verdict(self, content: bytes) -> None:
        assert self.sender is not None
        sender, self.sender = self.sender, None
        now = asyncio.get_running_loop().time()
        for rcpts in [[rcpt] for rcpt in self.rcpts] if self.lmtp else [self.rcpts]:
            if await self.answer("dot", b"250 2.0.0 taken\r\n"):
                await self.peer.server.took(Taken(sender, rcpts, content, self.peer.number, now))

    async def on_rset(self, rest: bytes) -> None:
        self.sender = None
        await self.answer("RSET", b"250 2.0.0 ok\r\n")

    async def on_noop(self, rest: bytes) -> None:
        await self.answer("NOOP", b"250 2.0.0 ok\r\n")

    async def on_quit(self, rest: bytes) -> None:
        await self.answer("QUIT", b"221 2.0.0 bye\r\n")
        await close()(self.peer)

    async def on_unknown(self, rest: bytes) -> None:
        await self.peer.send(b"502 5.5.2 unknown command\r\n")


def _path(parameters: bytes) -> bytes:
    return parameters[parameters.index(b"<") + 1 : parameters.index(b">")]
