"""A proxy of every scheme in the test's own loop: it speaks what it is spoken to, and really connects.

    async with proxying({"mx.example.test": server.port}) as proxy:
        ... Connection("smtp://mx.example.test", proxy=proxy.url("socks5h")) ...

Names lead where the table says, whatever their port; what is not in it is refused. `asked` has every (scheme, host,
port). The answer waits for the target's first bytes and is one write with them, unless the test says otherwise.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

FIRST_WORD_SECONDS = 0.05  # a target that has not spoken by then waits for the client, as one of TLS does


class Proxying:
    """A running proxy. `served`: the bytes that each connection carried from its client, the request left out."""

    def __init__(self, table: Mapping[str, int], context: ssl.SSLContext | None) -> None:
        self.table, self.context = table, context
        self.asked: list[tuple[str, str, int]] = []
        self.heads: list[bytes] = []  # of CONNECT
        self.users: list[bytes] = []  # of SOCKS
        self.served: list[bytearray] = []
        self.byte_by_byte = False
        self.writers: list[asyncio.StreamWriter] = []
        self.port = 0

    def url(self, scheme: str, login: str = "") -> str:
        return f"{scheme}://{login}127.0.0.1:{self.port}"

    async def on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(1)
        speak = {b"\4": self._socks4, b"\5": self._socks5, b"C": self._http}[first]
        scheme, host, port, yes, no = await speak(reader, writer)
        self.asked.append((scheme, host, port))
        if host not in self.table:
            writer.write(no)
            await writer.drain()
            return
        there, to_there = await asyncio.open_connection("127.0.0.1", self.table[host])
        self.writers.append(to_there)
        carried = bytearray()
        self.served.append(carried)
        try:
            await self._answer(yes, there, writer)
            await asyncio.gather(_pump(reader, to_there, carried), _pump(there, writer))
        finally:
            to_there.close()

    async def _answer(self, yes: bytes, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(FIRST_WORD_SECONDS):
                yes += await there.read(65536)
        except TimeoutError:
            pass
        for piece in [bytes([byte]) for byte in yes] if self.byte_by_byte else [yes]:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    async def _http(self, reader, writer):
        head = b"C" + await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        host, _, port = head.split(b" ")[1].decode().rpartition(":")
        return "http", host.strip("[]"), int(port), b"HTTP/1.1 200 ok\r\nVia: x\r\n\r\n", b"HTTP/1.1 502 no\r\n\r\n"

    async def _socks4(self, reader, writer):
        _, *port = await reader.readexactly(3)
        address = await reader.readexactly(4)
        self.users.append((await reader.readuntil(b"\0"))[:-1])
        host = socket.inet_ntoa(address)
        if address[:3] == b"\0\0\0" and address[3]:
            host = (await reader.readuntil(b"\0"))[:-1].decode()
        return "socks4", host, int.from_bytes(bytes(port)), b"\0\x5a" + bytes(6), b"\0\x5b" + bytes(6)

    async def _socks5(self, reader, writer):
        methods = await reader.readexactly((await reader.readexactly(1))[0])
        writer.write(b"\5\2" if 2 in methods else b"\5\0")
        if 2 in methods:
            _, length = await reader.readexactly(2)
            self.users.append(await reader.readexactly(length))
            await reader.readexactly((await reader.readexactly(1))[0])
            writer.write(b"\1\0")
        kind = (await reader.readexactly(4))[3]
        size = {1: 4, 4: 16}.get(kind) or (await reader.readexactly(1))[0]
        host = await reader.readexactly(size)
        port = int.from_bytes(await reader.readexactly(2))
        family = {1: socket.AF_INET, 4: socket.AF_INET6}.get(kind)
        name = socket.inet_ntop(family, host) if family else host.decode()
        return "socks5", name, port, b"\5\0\0\1" + bytes(6), b"\5\4\0\1" + bytes(6)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, carried: bytearray | None = None) -> None:
    try:
        while piece := await source.read(65536):
            if carried is not None:
                carried += piece
            sink.write(piece)
            await sink.drain()
    except OSError:
        pass
    finally:
        sink.close()


@asynccontextmanager
async def proxying(table: Mapping[str, int], context: ssl.SSLContext | None = None) -> AsyncIterator[Proxying]:
    """Listen on a free port of 127.0.0.1. context: TLS with the proxy."""
    proxy = Proxying(table, context)
    running = await asyncio.start_server(proxy.on_connection, "127.0.0.1", 0, ssl=context)
    proxy.port = running.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        running.close()
        for writer in proxy.writers:
            writer.transport.abort()
