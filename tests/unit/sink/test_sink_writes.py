"""Replies to what came in one read are one write, unless a hook makes the client wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from bulkmail.sink import Server, Session
from unit.sink.sink_client import HELLO, MAIL, RCPT, Client

Run = Callable[[Any], Any]
BURST = (MAIL + RCPT * 3 + b"BDAT 3 LAST\r\nx\r\n") * 50
REPLIES = [250] * (5 * 50)


class Counting:
    """A transport that notes what is written."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.writes: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self.transport.write(data)


class Sync:
    def on_mail(self, *arguments: Any) -> None: ...

    def on_rcpt(self, *arguments: Any) -> None: ...

    def on_data(self, session: Session, stream: Any) -> None:
        assert b"".join(stream) == b"x\r\n"


class Prompt:
    """Async hooks that never give way."""

    async def on_mail(self, *arguments: Any) -> None: ...

    async def on_rcpt(self, *arguments: Any) -> None: ...


async def count(server: Server, client: Client) -> list[bytes]:
    """The writes that BURST in one read makes."""
    await client.say(HELLO)
    (connection,) = server.connections
    counting = connection.transport = Counting(connection.transport)
    connection.data_received(BURST)
    assert [int((await client.reply())[:3]) for _ in REPLIES] == REPLIES
    return counting.writes


@pytest.mark.parametrize("hooks", [None, object(), Sync(), Prompt()], ids=["plain", "hooked", "sync", "async"])
@pytest.mark.parametrize("discard", [True, False])
def test_one_read_is_answered_by_one_write(run: Run, hooks: object, discard: bool) -> None:
    async def main() -> None:
        async with Server(hooks, discard=discard) as server, Client(server) as client:
            assert len(await count(server, client)) == 1
            assert server.counts["messages"] == 50

    run(main())


def test_what_is_decided_is_said_while_a_hook_waits(run: Run) -> None:
    async def main() -> None:
        go = asyncio.Event()

        class Waits:
            async def on_mail(self, session: Session, address: str, parameters: Any) -> None: ...

            async def on_rcpt(self, session: Session, address: str, parameters: Any) -> None:
                if address == "slow@x":
                    await go.wait()

        async with Server(Waits()) as server, Client(server) as client:
            await client.say(HELLO)
            (connection,) = server.connections
            counting = connection.transport = Counting(connection.transport)
            connection.data_received(MAIL + RCPT * 3 + b"RCPT TO:<slow@x>\r\n" * 2 + RCPT + b"NOOP\r\n")
            assert [await client.reply() for _ in range(4)] == ["250 2.1.0 Ok"] + ["250 2.1.5 Ok"] * 3
            go.set()
            assert [(await client.reply())[:3] for _ in range(4)] == ["250"] * 4
            assert len(counting.writes) == 2

    run(main())


def test_an_async_on_data_keeps_nobody_from_hearing_of_the_envelope(run: Run) -> None:
    async def main() -> None:
        go = asyncio.Event()

        class Waits:
            async def on_data(self, session: Session, stream: Any) -> None:
                await stream.read()
                await go.wait()

        async with Server(Waits()) as server, Client(server) as client:
            await client.say(HELLO)
            assert await client.codes(MAIL + RCPT + b"BDAT 3 LAST\r\nx\r\n", 2) == [250, 250]
            go.set()
            assert (await client.reply()).startswith("250 2.0.0 Ok: queued as ")

    run(main())
