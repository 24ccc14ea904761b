"""A function as the store: its word is the verdict, sync or async, and what it does wrong harms nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bulkmail.errors import ConfigError
from bulkmail.sink import Message, Refuse, Server
from bulkmail.sink import store as store_module
from bulkmail.sink.callback import Callback
from unit.sink.sink_client import ENVELOPE, HELLO, MAIL, RCPT, Client, until

Run = Callable[[Any], Any]


class Judge:
    """Takes, refuses or fails by what is in the message."""

    def __init__(self) -> None:
        self.seen: list[Message] = []

    def __call__(self, message: Message) -> str:
        if b"refuse" in message.content:
            raise Refuse(554, "Not this one", "5.7.1")
        if b"fail" in message.content:
            raise ZeroDivisionError("the judge's own")
        self.seen.append(message)
        return "ignored"


class Hooks:
    def __init__(self) -> None:
        self.mails = 0

    def on_mail(self, session: object, address: str, parameters: object) -> None:
        self.mails += 1


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("hooked", [False, True], ids=["plain", "hooked"])
def test_its_word_is_the_verdict(run: Run, asynchronous: bool, hooked: bool, caplog: pytest.LogCaptureFixture) -> None:
    judge = Judge()

    async def slowly(message: Message) -> None:
        await asyncio.sleep(0.001)
        judge(message)

    async def main() -> None:
        store = slowly if asynchronous else judge
        async with Server(Hooks() if hooked else None, store=store) as server, Client(server) as client:
            ident = client.greeting.split()[-1]
            await client.say(HELLO)
            assert await client.deliver(b"one\r\n") == f"250 2.0.0 Ok: queued as {ident}.1"
            assert await client.deliver(b"refuse\r\n") == "554 5.7.1 Not this one"
            assert not caplog.records  # that is no failure
            assert await client.deliver(b"fail\r\n") == "451 4.3.0 Local error in processing"
            # Pipelined: each waits for the one before.
            group = b"".join(
                MAIL + RCPT + b"BDAT %d LAST\r\n" % len(text) + text
                for text in (b"two\r\n", b"refuse\r\n", b"three\r\n")
            )
            assert await client.codes(group, 9) == [250, 250, 250, 250, 250, 554, 250, 250, 250]
            assert [message.content for message in judge.seen] == [b"one\r\n", b"two\r\n", b"three\r\n"]
            assert judge.seen[0].recipients == ["b@example.com"]
            assert server.messages == []
            assert (server.counts["messages"], server.counts["refused"]) == (3, 3)
            assert isinstance(server.store, Callback) and server.store.bytes == 0
            (record,) = caplog.records
            assert record.cid == ident  # type: ignore[attr-defined]
            assert record.exc_info is not None and record.exc_info[0] is ZeroDivisionError

    run(main())


def test_while_it_thinks_its_client_waits_and_nobody_else(run: Run) -> None:
    async def main() -> None:
        go = asyncio.Event()
        began: list[Message] = []

        async def slow(message: Message) -> None:
            began.append(message)
            await go.wait()

        async with Server(store=slow) as server, Client(server) as client, Client(server) as other:
            await client.say(HELLO)
            assert await client.codes(ENVELOPE, 3) == [250, 250, 354]
            client.writer.write(b"x\r\n.\r\n" + MAIL + b"NOOP\r\n" * 3)
            await until(lambda: began)
            assert await other.codes(HELLO + MAIL, 2) == [250, 250]
            connection = next(c for c in server.connections if c.codec.asking)
            client.writer.write(b"NOOP\r\n" * 100_000)  # is not read
            await asyncio.sleep(0.01)
            assert len(connection.codec.output()) == 0
            go.set()
            assert [int((await client.reply())[:3]) for _ in range(5)] == [250] * 5
            client.writer.transport.abort()

    run(main())


def test_a_client_that_goes_away_meanwhile(run: Run) -> None:
    async def main() -> None:
        go, began = asyncio.Event(), asyncio.Event()
        done: list[bytes] = []

        async def slow(message: Message) -> None:
            began.set()
            await go.wait()
            done.append(message.content)

        async with Server(store=slow) as server:
            async with Client(server) as client:
                await client.say(HELLO)
                await client.say(ENVELOPE, 3)
                client.writer.write(b"x\r\n.\r\n" + ENVELOPE + b"the beginning of another")
                await began.wait()
                client.writer.transport.abort()
            go.set()  # that it has gone is seen when its connection is read again
            await until(lambda: not server.connections and not server._tasks)
            assert (done, server.counts["messages"]) == ([b"x\r\n"], 1)
            assert isinstance(server.store, Callback) and server.store.bytes == 0

    run(main())


@pytest.mark.parametrize("hooked", [False, True], ids=["plain", "hooked"])
def test_one_whose_work_is_cancelled_leaves_no_client_waiting(run: Run, hooked: bool) -> None:
    async def cancelled(message: Message) -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        async with Server(Hooks() if hooked else None, store=cancelled) as server, Client(server) as client:
            await client.say(HELLO)
            await client.say(ENVELOPE, 3)
            client.writer.write(b"x\r\n.\r\n")
            assert await client.closed()
            await until(lambda: not server.connections)
            assert server.counts["messages"] == 0

    run(main())


def test_messages_in_memory_are_bounded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_KEPT_BYTES", 5000)

    async def main() -> None:
        async with Server(store=lambda message: None) as server, Client(server) as client, Client(server) as other:
            assert isinstance(server.store, Callback)
            await client.say(HELLO)
            await other.say(HELLO)
            await other.say(ENVELOPE, 3)
            other.writer.write(b"x" * 3000)
            await until(lambda: server.store.bytes == 3000)  # type: ignore[union-attr]
            assert (await client.deliver(b"x" * 2001 + b"\r\n")).startswith("452 4.3.1")
            other.writer.close()
            await until(lambda: server.store.bytes == 0)  # type: ignore[union-attr]
            assert (await client.deliver(b"x" * 2001 + b"\r\n")).startswith("250")
            assert server.store.bytes == 0

    run(main())


@pytest.mark.parametrize("options, words", [
    ({"store": print, "fsync": True}, "'fsync' is for messages stored in files"),
    ({"fsync": True}, "'fsync' is for messages stored in files"),
    ({"discard": True, "fsync": True}, "'fsync' is for messages stored in files"),
    ({"store": "x", "mbox": "y"}, "'store' and 'mbox' exclude each other"),
    ({"mbox": "y", "discard": True}, "'mbox' and 'discard' exclude each other"),
])  # fmt: skip
def test_places_that_exclude_each_other(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        Server(**options)
