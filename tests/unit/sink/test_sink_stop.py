"""How a server ends: messages under way are finished, the others hear 421, and nobody keeps it from ending."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bulkmail.sink import Message, Server, Session
from bulkmail.sink import server as server_module
from unit.sink.sink_client import ENVELOPE, HELLO, MAIL, RCPT, Client, until

Run = Callable[[Any], Any]
GOODBYE = "421 4.3.2 Server shutting down"


class Hooks:
    """on_data waits for `go`."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.reading = asyncio.Event()
        self.closed = 0

    async def on_data(self, session: Session, stream: Any) -> str:
        self.reading.set()
        await stream.read()
        await self.go.wait()
        return "Ok: read"

    def on_close(self, session: Session) -> None:
        self.closed += 1


class Quick:
    async def on_data(self, session: Session, stream: Any) -> None:
        await stream.read()


BODIES = {
    "DATA": (ENVELOPE + b"half", 3, b" a message\r\n.\r\n"),
    "BDAT": (MAIL + RCPT + b"BDAT 4\r\nhalfBDAT 12 LAST\r\n a m", 3, b"essage\r\n"),
    "MAIL": (MAIL, 1, RCPT + b"BDAT 16 LAST\r\nhalf a message\r\n"),
}


async def hand_over(client: Client, taken: asyncio.Event) -> None:
    """A whole message, and `taken`: a hook or a store has it in hand."""
    await client.say(HELLO)
    await client.say(ENVELOPE, 3)
    client.writer.write(b"x\r\n.\r\n")
    await taken.wait()


@pytest.mark.parametrize("hooks", [None, Quick()], ids=["plain", "hooked"])
@pytest.mark.parametrize("body", BODIES)
def test_a_message_under_way_is_finished(run: Run, body: str, hooks: Any) -> None:
    begin, replies, rest = BODIES[body]

    async def main() -> None:
        server = Server(hooks)
        await server.start()
        async with Client(server) as idle, Client(server) as busy:
            await busy.say(HELLO)
            await busy.say(begin, replies)
            stopping = asyncio.create_task(server.stop(grace=60))
            assert await idle.reply() == GOODBYE
            assert await idle.closed()
            said = await busy.say(rest + MAIL + RCPT + b"BDAT 1 LAST\r\nx", 2 + (body == "MAIL"))
            assert said[-2].startswith("250 2.0.0 Ok: queued") and said[-1] == GOODBYE
            assert await busy.reply() == ""
            busy.writer.close()
            await stopping
        assert [message.content for message in server.messages] == [b"half a message\r\n"]
        assert server.counts == {"connections": 2, "messages": 1, "recipients": 1, "bytes": 16, "refused": 0}
        assert not server.connections

    run(main())


def test_a_verdict_survives_what_is_pipelined_behind_it(run: Run) -> None:
    # Closing a socket that has unread bytes resets it, and the client might never read its 250.
    async def main() -> None:
        server = Server()
        await server.start()
        async with Client(server) as client:
            await client.say(HELLO)
            await client.say(ENVELOPE, 3)
            stopping = asyncio.create_task(server.stop(grace=60))
            await asyncio.sleep(0)
            client.writer.write(b"x\r\n.\r\n")
            assert (await client.reply()).startswith("250")
            for _ in range(20):
                client.writer.write(ENVELOPE + b"more" * 10_000 + b"\r\n.\r\n")
                await client.writer.drain()
            assert await client.reply() == GOODBYE
            assert await client.reply() == ""
            client.writer.close()
            await stopping
        assert server.counts["messages"] == 1

    run(main())


@pytest.mark.parametrize("hooks", [None, Quick()], ids=["plain", "hooked"])
def test_a_client_that_drips_does_not_keep_it(run: Run, hooks: Any) -> None:
    async def main() -> None:
        server = Server(hooks, grace=0.05)
        await server.start()
        async with Client(server) as client:
            await client.say(HELLO)
            await client.say(ENVELOPE, 3)

            async def drip() -> None:
                while True:
                    client.writer.write(b"x")
                    await asyncio.sleep(0.001)

            dripping = asyncio.create_task(drip())
            await server.stop()
            dripping.cancel()
            assert await client.closed()
        assert not server.connections
        assert (server.messages, server.counts["messages"]) == ([], 0)

    run(main())


def test_a_hook_in_hand_finishes(run: Run) -> None:
    async def main() -> None:
        hooks = Hooks()
        server = Server(hooks)
        await server.start()
        async with Client(server) as client:
            await hand_over(client, hooks.reading)
            stopping = asyncio.create_task(server.stop(grace=60))
            await until(lambda: server.stopping)
            hooks.go.set()
            assert [await client.reply(), await client.reply()] == ["250 2.0.0 Ok: read", GOODBYE]
            client.writer.close()
            await stopping
        assert (len(server.messages), hooks.closed) == (1, 1)

    run(main())


def test_what_a_hook_takes_after_the_farewell_is_not_kept(run: Run) -> None:
    async def main() -> None:
        hooks = Hooks()
        server = Server(hooks)
        await server.start()
        async with Client(server) as client:
            await hand_over(client, hooks.reading)
            stopping = asyncio.create_task(server.stop(grace=0))
            assert await client.reply() == GOODBYE
            hooks.go.set()
            await stopping
        assert (server.messages, server.counts["messages"], hooks.closed) == ([], 0, 1)

    run(main())


def test_a_hook_that_never_ends_is_cancelled(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "STOP_SECONDS", 0.05)

    async def main() -> None:
        hooks = Hooks()
        server = Server(hooks, grace=0.05)
        await server.start()
        async with Client(server) as client:
            await hand_over(client, hooks.reading)
            await server.stop()
            assert await client.closed()
        assert (server.messages, hooks.closed) == ([], 1)
        assert not server.connections and not server._tasks

    run(main())


def test_a_second_signal_waits_for_nobody(run: Run) -> None:
    async def main() -> None:
        hooks = Hooks()
        server = Server(hooks, grace=3600)
        await server.start()
        async with Client(server) as client:
            await hand_over(client, hooks.reading)
            stopping = asyncio.create_task(server.stop())
            again = asyncio.create_task(server.stop())
            await until(lambda: server.stopping)
            assert not stopping.done()
            server.hurry()
            await stopping
            await again
            assert await client.closed()
        assert server.counts["messages"] == 0

    run(main())


def test_a_second_signal_does_not_wait_for_who_has_heard_all(run: Run) -> None:
    async def main() -> None:
        server = Server(Quick(), grace=3600)
        await server.start()
        async with Client(server) as client:
            await client.say(HELLO)
            await client.say(ENVELOPE, 3)
            (connection,) = server.connections
            stopping = asyncio.create_task(server.stop())
            await until(lambda: server.stopping)
            assert await client.codes(b"x\r\n.\r\n", 2) == [250, 421]
            await until(lambda: connection._lingering is not None)  # the client does not close
            server.hurry()
            await stopping
        assert not server.connections and not server._tasks

    run(main())


@pytest.mark.parametrize("hooks", [None, Quick()], ids=["plain", "hooked"])
def test_a_client_that_does_not_answer_the_end_of_tls_is_cut_off(
    run: Run, hooks: Any, certificates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "STOP_SECONDS", 0.05)

    async def main() -> None:
        server = Server(hooks, tls_cert=certificates.chain_file, tls_implicit=True)
        await server.start()
        async with Client(server, certificates.client_context(), "localhost") as client:
            client.writer.transport.pause_reading()
            await until(lambda: server.connections)
            (connection,) = server.connections
            connection.hang_up(b"4.4.2", b"You take too long")
            await server.stop()
            assert not server.connections

    run(main())


def test_an_idle_server_ends_without_waiting(run: Run) -> None:
    async def main() -> None:
        server = Server()
        await server.start()
        async with Client(server) as client:
            await client.say(HELLO)
            await client.deliver()
        await until(lambda: not server.connections)
        with pytest.raises(StopIteration):
            server.stop().send(None)
        await server.stop()

    run(main())


def test_a_test_that_fails_does_not_wait_for_its_own_clients(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with Server(grace=3600) as server, Client(server) as client:
                await client.say(HELLO)
                await client.say(ENVELOPE, 3)
                client.writer.transport.pause_reading()
                raise ZeroDivisionError

    run(main())


def test_who_waits_to_be_accepted_is_told(run: Run) -> None:
    async def main() -> None:
        server = Server()
        await server.start()
        waiting = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]  # nobody accepts meanwhile
        await server.stop()
        for client in waiting:
            client.settimeout(20)
            with client:
                assert client.recv(100) == GOODBYE.encode() + b"\r\n"
                assert client.recv(100) == b""
        assert server.counts["connections"] == 0

    run(main())


def test_handshakes_under_way_are_dropped(run: Run, certificates: Any) -> None:
    async def main() -> None:
        for options in ({"tls_implicit": True}, {}):
            server = Server(tls_cert=certificates.chain_file, **options)
            await server.start()
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            if not options:
                writer.write(HELLO + b"STARTTLS\r\n")
                while not (await reader.readline()).startswith(b"220 2"):
                    pass
            await server.stop()
            writer.close()
            assert not server.connections

    run(main())


def test_a_client_in_tls_finishes_its_message(run: Run, certificates: Any) -> None:
    async def main() -> None:
        server = Server(tls_cert=certificates.chain_file, tls_implicit=True)
        await server.start()
        async with Client(server, certificates.client_context(), "localhost") as client:
            await client.say(HELLO)
            await client.say(ENVELOPE, 3)
            stopping = asyncio.create_task(server.stop(grace=60))
            await until(lambda: server.stopping)
            said = await client.say(b"x\r\n.\r\n", 2)
            assert said[0].startswith("250") and said[1] == GOODBYE
            await stopping
        assert len(server.messages) == 1

    run(main())


@pytest.mark.parametrize("hooks", [None, Quick()], ids=["plain", "hooked"])
def test_a_message_that_is_being_stored_is_answered_first(run: Run, hooks: Any) -> None:
    async def main() -> None:
        began, go = asyncio.Event(), asyncio.Event()

        async def slow(message: Message) -> None:
            began.set()
            await go.wait()

        server = Server(hooks, store=slow, grace=0)
        await server.start()
        async with Client(server) as client:
            await hand_over(client, began)
            stopping = asyncio.create_task(server.stop())
            await until(lambda: server.stopping)
            await asyncio.sleep(0.01)  # its grace is over: 421 may be due
            go.set()
            assert [(await client.reply())[:3], await client.reply()] == ["250", GOODBYE]
            client.writer.close()
            await stopping
        assert server.counts["messages"] == 1

    run(main())


@pytest.mark.parametrize("implicit", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize("said", [b"", b"PROXY TCP4 192.0.2.1"])
def test_who_owes_a_proxy_header_is_told(run: Run, implicit: bool, said: bytes, certificates: Any) -> None:
    async def main() -> None:
        tls = {"tls_cert": certificates.chain_file, "tls_implicit": True} if implicit else {}
        server = Server(proxy_from="*", **tls)
        await server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(said)
        await until(lambda: server.connections)
        await server.stop(grace=60)
        with contextlib.suppress(ConnectionError):  # where its header had not been read yet
            assert await reader.read() == (b"" if implicit else GOODBYE.encode() + b"\r\n")
        writer.close()
        assert not server.connections

    run(main())


@pytest.mark.parametrize("grace", [-1, float("inf"), float("nan")])
def test_a_grace_that_cannot_be(grace: float) -> None:
    with pytest.raises(Exception, match="'grace' is 0 or more seconds"):
        Server(grace=grace)


def test_what_was_answered_is_stored(run: Run, tmp_path: Path) -> None:
    """Clients that send all the time, and a stop in the midst of it: 250s, counts and files agree."""

    async def main() -> None:
        server = Server(store=tmp_path, fsync=True)
        await server.start()
        answered: list[str] = []

        async def send() -> None:
            # Who begins a message at the moment of the farewell may meet a closed door instead of it.
            async with Client(server) as client:
                await client.say(HELLO)
                with contextlib.suppress(ConnectionError):
                    while True:
                        client.writer.write(ENVELOPE + b"x\r\n.\r\n")
                        while "queued as" not in (reply := await client.reply()):
                            if reply[:3] in ("421", ""):
                                return
                        answered.append(reply.split()[-1])

        clients = [asyncio.create_task(send()) for _ in range(5)]
        await until(lambda: len(answered) > 20)
        await server.stop()
        await asyncio.gather(*clients)
        assert server.counts["messages"] == len(answered) == len(set(answered))
        assert len(list((tmp_path / "new").iterdir())) == len(answered)

    run(main())
