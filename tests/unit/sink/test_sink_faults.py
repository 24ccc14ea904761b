"""Faults on command: every phase with every action, pipelined, in TLS, LMTP and chunks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from bulkmail.sink import Server
from unit.sink.sink_client import ENVELOPE, HELLO, MAIL, RCPT, Client, until

Run = Callable[[Any], Any]
REPLY = "451 4.7.1 Try later"


def test_fail_next_on_an_open_connection_of_a_default_server(run: Run) -> None:
    async def main() -> None:
        async with Server() as server, Client(server) as client:
            assert await client.codes(HELLO + MAIL, 2) == [250, 250]
            server.fail_next("rcpt", REPLY, times=2)
            assert await client.say(RCPT * 3, 3) == [REPLY, REPLY, "250 2.1.5 Ok"]
            assert await client.codes(b"DATA\r\n") == [354]
            server.fail_next("body", "552 5.2.2 Full")
            assert await client.say(b"x\r\n.\r\n") == ["552 5.2.2 Full"]
            assert (await client.deliver()).startswith("250 ")
            assert len(server.messages) == 1
            assert server.counts["refused"] == 3

    run(main())


STEPS = {
    "ehlo": (HELLO, b"", 250),
    "mail": (HELLO, MAIL, 250),
    "rcpt": (HELLO + MAIL, RCPT, 250),
    "data": (HELLO + MAIL + RCPT, b"DATA\r\n", 354),
    "body": (HELLO + ENVELOPE, b"x\r\n.\r\n", 250),
    "quit": (HELLO, b"QUIT\r\n", 221),
}


@pytest.mark.parametrize("action", ["drop", "reset", "hang"])
@pytest.mark.parametrize("phase", STEPS)
def test_x(run: Run, phase: str, action: str) -> None:
    async def main() -> None:
        async with Server(fault=[f"{phase}:{action}"]) as server, Client(server) as client:
            before, then, code = STEPS[phase]
            n = before.count(b"\r\n")
            if phase == "ehlo":
                before, then, n = b"", HELLO, 0
            assert len(await client.codes(before, n)) == n
            client.writer.write(then)
            if action == "drop":
                assert await client.reply() == ""
            elif action == "reset":
                with pytest.raises(ConnectionResetError):
                    await client.reader.readexactly(1)
            else:
                await until(lambda: next(iter(server.connections))._deaf)
                client.writer.close()
                await until(lambda: not server.connections)

    run(main())
