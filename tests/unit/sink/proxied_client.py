"""A raw SMTP client whose bytes come through a proxy, and what the tests of that share."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest

from bulkmail.sink import Server, Session
from bulkmail.wire.proxy_header import v1, v2
from unit.sink.sink_client import Client
from unit.wire.proxy_blocks import IPV4

REAL, TARGET = IPV4[:2], IPV4[2:]
HEADERS = {"v1": v1(REAL, TARGET), "v2": v2(REAL, TARGET)}
headers = pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)


class Sessions:
    """A hook that keeps the sessions it sees."""

    def __init__(self) -> None:
        self.seen: list[Session] = []

    def on_connect(self, session: Session) -> None:
        self.seen.append(session)


class Behind(Client):
    """A client whose bytes come through a proxy: the header's pieces first, each in a segment of its own."""

    def __init__(self, server: Server, *pieces: bytes) -> None:
        super().__init__(server)
        self.pieces = pieces

    async def __aenter__(self) -> Behind:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in self.pieces:
            self.writer.write(piece)
            if piece is not self.pieces[-1]:
                await asyncio.sleep(0)
        try:
            self.greeting = await self.reply()
        except ConnectionError:  # what was not read any more makes the end a reset
            self.greeting = ""
        return self


def records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "bulkmail.sink"]
