"""A raw SMTP client for tests of the sink: what is written is what is sent."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from types import TracebackType

from bulkmail.sink import Server

SECONDS = 20.0
HELLO = b"EHLO client.test\r\n"
MAIL = b"MAIL FROM:<a@example.com>\r\n"
RCPT = b"RCPT TO:<b@example.com>\r\n"
ENVELOPE = MAIL + RCPT + b"DATA\r\n"


class Client:
    """`async with Client(server) as client`; the greeting is read on entry."""

    def __init__(self, server: Server | int, tls: ssl.SSLContext | None = None, name: str | None = None) -> None:
        self.port = server if isinstance(server, int) else server.port
        self.tls, self.name = tls, name

    async def __aenter__(self) -> Client:
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.tls, server_hostname=self.name
        )
        self.greeting = await self.reply()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *rest: BaseException | TracebackType | None) -> None:
        self.writer.close()

    async def reply(self) -> str:
        """One reply, lines joined by "|"; "" when the server has closed."""
        lines = []
        async with asyncio.timeout(SECONDS):
            while line := (await self.reader.readline()).decode():
                lines.append(line.rstrip("\r\n"))
                if line[3:4] != "-":
                    break
        return "|".join(lines)

    async def say(self, data: bytes, replies: int = 1) -> list[str]:
        self.writer.write(data)
        return [await self.reply() for _ in range(replies)]

    async def codes(self, data: bytes, replies: int = 1) -> list[int]:
        return [int(reply[:3] or 0) for reply in await self.say(data, replies)]

    async def deliver(self, content: bytes = b"x\r\n") -> str:
        """One message after EHLO; the reply to it."""
        assert await self.codes(ENVELOPE, 3) == [250, 250, 354]
        return (await self.say(content + b".\r\n"))[0]

    async def closed(self) -> bool:
        """Waits for the server to close; what came until then is dropped."""
        async with asyncio.timeout(SECONDS):
            with contextlib.suppress(ConnectionError):
                await self.reader.read()
        return True


async def until(condition: Callable[[], object]) -> None:
    """Returns once `condition()` holds."""
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.001)
