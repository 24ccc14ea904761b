"""Server.fail_next(): whatever is said after it meets the fault, on any connection and from any thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from bulkmail.errors import ConfigError
from bulkmail.sink import Server
from unit.sink.fault_talk import AUTH, CHUNK, NO, PHASES, Raw
from unit.sink.sink_client import ENVELOPE, HELLO, MAIL, RCPT, Client, until

Run = Callable[[Any], Any]


def test_fail_next_from_another_thread_holds_for_the_next_command(run: Run) -> None:
    """A sync test beside a server in a thread: whatever it sends after fail_next() meets it."""

    async def main() -> None:
        async with Server() as server, Client(server) as client:
            await client.say(HELLO)
            for _ in range(50):
                await asyncio.to_thread(server.fail_next, "mail", NO)
                assert await client.say(MAIL + b"RSET\r\n", 2) == [NO, "250 2.0.0 Ok"]

    run(main())


def test_fail_next_tells_another_thread_what_is_wrong_with_it(run: Run) -> None:
    async def main() -> None:
        async with Server() as server:
            with pytest.raises(ConfigError, match="did you mean 'rcpt'"):
                await asyncio.to_thread(server.fail_next, "rctp", NO)

    run(main())


def test_fail_next_before_the_start_and_for_connections_to_come(run: Run) -> None:
    async def main() -> None:
        server = Server()
        server.fail_next("connect", "drop")
        server.fail_next("greeting", "554 No")
        async with server:
            async with Raw(server) as client:
                assert await client.all() == b""
            async with Client(server) as client:
                assert client.greeting == "554 No"
            async with Client(server) as client:
                assert client.greeting.startswith("220 ")

    run(main())


@pytest.mark.parametrize("options", [{}, {"discard": True}], ids=["kept", "discarded"])
@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase not in ("connect", "greeting")])
def test_fail_next_wherever_an_open_connection_stands(run: Run, phase: str, options: Any, certificates: Any) -> None:

    options = {"auth": "ann:right", "tls_cert": certificates.chain_file, **options}

    async def main() -> None:
        async with Server(**options) as server, Raw(server) as client:
            before, then, answer = PHASES[phase]
            await client.reply()
            for line in before.splitlines(keepends=True):
                await client.say(line)
            if phase == "body":
                client.writer.write(b"begun\r\n")
            server.fail_next(phase, NO)
            assert await client.say(then) == [NO]
            again = before.replace(HELLO, b"").replace(AUTH, b"") if phase in ("mail", "rcpt", "data", "body") else b""
            await client.say(b"RSET\r\n")
            for line in again.splitlines(keepends=True):
                await client.say(line)
            assert (await client.say(then))[0].startswith(answer)
            assert server.counts["refused"] == 1

    run(main())


def test_fail_next_while_a_store_is_still_at_it(run: Run) -> None:
    """A plain connection waits for its store when it is taken over; what is pipelined behind meets the fault."""
    begun, go_on = threading.Event(), asyncio.Event()
    stored: list[Any] = []

    async def store(message: Any) -> None:
        begun.set()
        await go_on.wait()
        stored.append(message.recipients)

    async def main() -> None:
        async with Server(store=store) as server, Client(server) as client:
            await client.say(HELLO)
            client.writer.write(MAIL + RCPT + CHUNK + MAIL + RCPT * 2 + b"QUIT\r\n")
            await until(begun.is_set)
            server.fail_next("rcpt", NO)
            go_on.set()
            replies = [(await client.reply())[:3] for _ in range(7)]
            assert replies == ["250", "250", "250", "250", "451", "250", "221"]
            assert stored == [["b@example.com"]]

    run(main())


def test_fail_next_while_a_handshake_is_under_way(run: Run, certificates: Any) -> None:
    async def main() -> None:
        async with Server(tls_cert=certificates.chain_file) as server, Client(server) as client:
            await client.say(HELLO + b"STARTTLS\r\n", 2)
            server.fail_next("ehlo", NO)
            await client.writer.start_tls(certificates.client_context(), server_hostname="localhost")
            assert await client.say(HELLO) == [NO]
            assert (await client.say(HELLO))[0].startswith("250")

    run(main())


def test_fail_next_on_a_client_that_does_not_read(run: Run) -> None:
    """It is not read from either, also once it was taken over."""

    async def main() -> None:
        async with Server() as server, Client(server) as client:
            await client.say(HELLO)
            noise = b"EHLO x\r\n" * 400
            connection = next(iter(server.connections))
            while not connection._choked:
                client.writer.write(b"HELP\r\n" * 400 + ENVELOPE + b".\r\n")
                await asyncio.sleep(0)
            server.fail_next("ehlo", NO)
            before = connection.codec.dropped
            client.writer.write(noise)
            for _ in range(100):
                await asyncio.sleep(0)
            assert connection._choked
            assert connection.codec.dropped == before

    run(main())


@pytest.mark.parametrize("options", [{}, {"proxy_from": "*"}], ids=["tls", "behind a proxy"])
def test_fail_next_while_implicit_tls_begins(run: Run, options: Any, certificates: Any) -> None:
    """There is a connection, which knows of no faults yet, and has not been greeted."""

    class Watched(Server):
        begun = False

        def connection_of(self, *arguments: Any) -> Any:
            self.begun = True
            return super().connection_of(*arguments)

        def _first_protocol(self) -> Any:
            self.begun = True
            return super()._first_protocol()

    async def main() -> None:
        tls = {"tls_cert": certificates.chain_file, "tls_implicit": True}
        async with Watched(**tls, **options) as server, Raw(server) as client:
            if options:
                client.writer.write(b"PROXY UNKNOWN\r\n")
            await until(lambda: server.begun)
            server.fail_next("mail", NO)
            await client.writer.start_tls(certificates.client_context(), server_hostname="localhost")
            await client.reply()
            assert (await client.say(HELLO + MAIL * 2, 3))[1:] == [NO, "250 2.1.0 Ok"]
            server.fail_next("rcpt", NO)
            assert await client.say(RCPT * 2, 2) == [NO, "250 2.1.5 Ok"]

    run(main())
