"""A client of the page's API, in the loop of the server that a test runs."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from bulkmail.sink import Server
from unit.sink.sink_client import HELLO, RCPT, Client

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Web:
    def __init__(self, server: Server, client: aiohttp.ClientSession) -> None:
        self.server, self.client = server, client

    async def ask(self, path: str, method: str = "GET", **headers: str) -> aiohttp.ClientResponse:
        """The response, read to its end. `headers`: such as Sec_Fetch_Site="none"."""
        assert self.server.web_url is not None
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        response = await self.client.request(method, self.server.web_url.rstrip("/") + path, headers=named)
        await response.read()
        return response

    async def json(self, path: str) -> Any:
        response = await self.ask(path)
        assert response.status == 200, await response.text()
        return await response.json()

    async def bytes(self, path: str) -> bytes:
        response = await self.ask(path)
        assert response.status == 200, await response.text()
        return await response.read()

    async def subjects(self, query: str = "") -> list[str]:
        return [message["subject"] for message in (await self.json(f"/api/messages?{query}"))["messages"]]

    async def send(self, content: bytes, sender: str = "a@example.com") -> str:
        """One message; its id."""
        async with Client(self.server) as client:
            await client.say(HELLO + f"MAIL FROM:<{sender}>\r\n".encode() + RCPT + b"DATA\r\n", 4)
            reply = (await client.say(content.replace(b"\r\n.", b"\r\n..") + b".\r\n"))[0]
            assert reply.startswith("250"), reply
            return reply.rpartition(" ")[2]


@asynccontextmanager
async def web(**options: Any) -> AsyncIterator[Web]:
    async with Server(**{"web": "127.0.0.1:0"} | options) as server, aiohttp.ClientSession() as client:
        yield Web(server, client)


def mail(subject: str = "Hello", *parts: tuple[str, bytes], text: str = "the text", sub: str = "mixed") -> bytes:
    """A message with a text part and these (header lines, body) behind it."""
    head = f"From: Ann <ann@example.com>\r\nTo: bob@example.com\r\nSubject: {subject}\r\n".encode()
    if not parts:
        return head + f"\r\n{text}\r\n".encode()
    body = b"".join(b"--=b\r\n%s\r\n\r\n%s\r\n" % (lines.encode(), data) for lines, data in parts)
    first = f"--=b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}\r\n".encode()
    return head + f'Content-Type: multipart/{sub}; boundary="=b"\r\n\r\n'.encode() + first + body + b"--=b--\r\n"


def lines_of(data: bytes) -> bytes:
    return base64.encodebytes(data).replace(b"\n", b"\r\n")


def file(name: str, data: bytes, kind: str = "application/pdf", extra: str = "") -> tuple[str, bytes]:
    """An attachment, for mail()."""
    lines = f"Content-Type: {kind}\r\nContent-Transfer-Encoding: base64\r\n{extra}"
    return f'{lines}Content-Disposition: attachment; filename="{name}"', lines_of(data)


def image(cid: str, data: bytes = PNG, kind: str = "image/png") -> tuple[str, bytes]:
    lines = f"Content-Type: {kind}\r\nContent-Transfer-Encoding: base64\r\nContent-ID: <{cid}>\r\n"
    return lines + "Content-Disposition: inline", lines_of(data)


def page(source: str) -> tuple[str, bytes]:
    """An html part, for mail()."""
    return "Content-Type: text/html; charset=utf-8", source.replace("\n", "\r\n").encode()
