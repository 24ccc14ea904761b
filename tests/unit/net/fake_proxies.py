"""Proxies that a test plays itself: the far end of a socket pair or of a listener, byte by byte as the test says."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

from bulkmail.net import proxies
from bulkmail.net.line import SocketLine
from bulkmail.net.resolve import Address
from bulkmail.proxyurl import ProxyUrl, parse_proxy
from bulkmail.url import Options, parse_options

GREETING = b"220 mx.example ESMTP\r\n"
TARGET, PORT = "mx.example", 25

SOCKS_NO_LOGIN, SOCKS_WITH_LOGIN, SOCKS_NONE_ACCEPTED = b"\5\0", b"\5\2", b"\5\xff"
SOCKS_CONNECTED = b"\5\0\0\1\x7f\0\0\1\x1f\x90"
HTTP_CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Peer:
    """The proxy's end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self.closed = False

    async def expect(self, data: bytes) -> None:
        got = b""
        while len(got) < len(data):
            piece = await self._loop.sock_recv(self._sock, len(data) - len(got))
            assert piece, f"the client closed after {got!r}"
            got += piece
        assert got == data

    async def until(self, end: bytes) -> bytes:
        got = b""
        while not got.endswith(end):
            piece = await self._loop.sock_recv(self._sock, 1)
            if not piece:
                raise EOFError(got)
            got += piece
        return got

    async def exactly(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            piece = await self._loop.sock_recv(self._sock, size - len(got))
            if not piece:
                raise EOFError(got)
            got += piece
        return got

    async def hang(self) -> None:
        """Listen and say nothing until the client has gone."""
        while await self._loop.sock_recv(self._sock, 65536):
            pass

    async def hear_nothing(self) -> None:
        """Wait until the client has gone; it must have said nothing more."""
        piece = await self._loop.sock_recv(self._sock, 65536)
        assert not piece, f"the client sent {piece!r}"

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    async def send_pieces(self, pieces: Iterable[bytes]) -> None:
        """One after the other; the client has run between two of them."""
        for piece in pieces:
            await self.send(piece)
            for _ in range(3):
                await asyncio.sleep(0)

    def reset(self) -> None:
        """Close with RST (of a TCP connection)."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self.closed = True
        self._sock.close()


Script = Callable[[Peer], Awaitable[None]]


async def shake(url: str | ProxyUrl, script: Script, *, host: str = TARGET, seconds: float = 20) -> bytes:
    """Run the handshake of proxy `url` against `script`; everything the client can read afterwards, up to the end."""
    (proxy,) = parse_proxy(url, "proxy")
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        peer = Peer(theirs)

        async def play() -> None:
            await script(peer)
            if not peer.closed:
                theirs.shutdown(socket.SHUT_WR)

        playing = asyncio.create_task(play())
        try:
            line = SocketLine(ours, loop)
            await proxies.handshake(proxy, host, PORT, line, deadline=loop.time() + seconds, loop=loop)
            await playing
            return await read_to_end(ours)
        finally:
            playing.cancel()
            await asyncio.wait([playing])
            if not playing.cancelled() and isinstance(playing.exception(), AssertionError):
                playing.result()


async def read_to_end(sock: socket.socket) -> bytes:
    loop, got = asyncio.get_running_loop(), b""
    while piece := await loop.sock_recv(sock, 65536):
        got += piece
    return got


async def greet(peer: Peer) -> None:
    await peer.send(GREETING)


async def socks_by_name(peer: Peer) -> None:
    await peer.expect(b"\5\1\0")
    await peer.send(SOCKS_NO_LOGIN)
    await peer.expect(b"\5\1\0\3\x0amx.example\0\x19")
    await peer.send(SOCKS_CONNECTED + GREETING)


async def http_connect(peer: Peer) -> None:
    await peer.until(b"\r\n\r\n")
    await peer.send(HTTP_CONNECTED + GREETING)


def socks_by_address(*answers: bytes, asked: list[str] | None = None) -> Script:
    """A SOCKS5 proxy; each connection takes the next answer. `asked` collects the IPv4 addresses asked for."""
    waiting = iter(answers)

    async def script(peer: Peer) -> None:
        answer = next(waiting)
        await peer.expect(b"\5\1\0")
        await peer.send(SOCKS_NO_LOGIN)
        await peer.expect(b"\5\1\0\1")
        address = (await peer.until(b"\0\x19"))[:4]
        if asked is not None:
            asked.append(socket.inet_ntoa(address))
        await peer.send(answer)

    return script


def options(**values: object) -> Options:
    return Options(**parse_options(values))


async def settle() -> None:
    """Attempts that were given up close their sockets in the loop's next turns."""
    for _ in range(5):
        await asyncio.sleep(0)


def still_open(sockets: Iterable[socket.socket]) -> list[socket.socket]:
    return [sock for sock in sockets if sock.fileno() != -1]


def at(host: str, port: int) -> Address:
    return Address(socket.AF_INET6, (host, port, 0, 0)) if ":" in host else Address(socket.AF_INET, (host, port))


@contextmanager
def unanswering() -> Iterator[int]:
    """A port whose connections neither succeed nor fail, since its listener's queue is full (Linux)."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port


@asynccontextmanager
async def listening(script: Script, *, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """A listener on a free port that plays `script` with everyone who connects; yields the port."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(sock: socket.socket) -> None:
        with sock:
            await script(Peer(sock))

    async def accept() -> None:
        while True:
            sock, _ = await loop.sock_accept(listener)
            sock.setblocking(False)
            stack.enter_context(sock)
            tasks.add(asyncio.create_task(serve(sock)))

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((host, 0), family=family))
        listener.setblocking(False)
        tasks.add(asyncio.create_task(accept()))
        try:
            yield listener.getsockname()[1]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
