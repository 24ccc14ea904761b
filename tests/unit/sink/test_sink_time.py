"""Time: who makes no headway is hung up on, however it drips; who waits for us is not."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from bulkmail.sink import Server, Session
from bulkmail.sink import connection as connection_module
from bulkmail.sink.connection import LEAST_BYTES, PATIENCE_SECONDS, SWEEP_SECONDS
from bulkmail.sink.hooked import HookedConnection
from unit.sink.sink_client import ENVELOPE, HELLO, MAIL, RCPT, Client, until

Run = Callable[[Any], Any]
SWEEPS = int(PATIENCE_SECONDS / SWEEP_SECONDS)


class Hooks:
    """Every message goes through an on_data that reads it as it comes."""

    async def on_data(self, session: Session, stream: Any) -> None:
        await stream.read()


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """[bytes] that connections were given by the loop."""
    total = [0]
    for kind in (connection_module.Connection, HookedConnection):

        def data_received(self: Any, data: bytes, original: Any = kind.data_received) -> None:
            total[0] += len(data)
            original(self, data)

        monkeypatch.setattr(kind, "data_received", data_received)
    return total


async def sweep(server: Server, client: Client, heard: list[int], drip: bytes, times: int) -> None:
    for _ in range(times):
        expected = heard[0] + len(drip)
        client.writer.write(drip)
        while heard[0] < expected:
            await asyncio.sleep(0)
        await asyncio.sleep(0)  # a connection with hooks reads in a task
        server.sweep()


KINDS = pytest.mark.parametrize("hooks", [None, Hooks], ids=["plain", "hooked"])


@KINDS
@pytest.mark.parametrize("before, replies, drip", [
    (b"", 0, b""), (HELLO, 1, b"N"), (HELLO + ENVELOPE, 4, b"x\r\n"), (HELLO + MAIL + RCPT + b"BDAT 9999\r\n", 3, b"x"),
], ids=["silence", "a command", "a message", "a chunk"])  # fmt: skip
def test_who_drips_runs_out_of_time(
    run: Run, heard: list[int], hooks: Any, before: bytes, replies: int, drip: bytes
) -> None:
    async def main() -> None:
        async with Server(hooks and hooks()) as server, Client(server) as client:
            await client.say(before, replies)
            await sweep(server, client, heard, drip, SWEEPS)
            assert len(server.connections) == 1
            await sweep(server, client, heard, drip, 1)
            assert await client.reply() == "421 4.4.2 You take too long"
            assert await client.closed()
            assert server.counts["messages"] == 0
            await until(lambda: not server.connections)

    run(main())


@KINDS
def test_who_goes_on_slowly_may_stay(run: Run, heard: list[int], hooks: Any) -> None:
    async def main() -> None:
        async with Server(hooks and hooks(), discard=True) as server, Client(server) as client:
            await client.say(HELLO)
            for _ in range(3):
                await sweep(server, client, heard, b"", SWEEPS - 1)
                await client.say(b"NOOP\r\n")
            await client.say(ENVELOPE, 3)
            for _ in range(4):
                await sweep(server, client, heard, b"x" * (LEAST_BYTES // (SWEEPS - 1) + 1), SWEEPS)
            assert await client.codes(b"\r\n.\r\n") == [250]

    run(main())


@KINDS
def test_dripping_through_tls(run: Run, heard: list[int], hooks: Any, certificates: Any) -> None:
    context: ssl.SSLContext = certificates.client_context()

    async def main() -> None:
        options = {"tls_cert": certificates.chain_file, "discard": True}
        async with Server(hooks and hooks(), **options) as server, Client(server) as client:
            await client.say(HELLO)
            assert await client.codes(b"STARTTLS\r\n") == [220]
            server.sweep()  # in the handshake nobody counts: it has a time of its own
            await client.writer.start_tls(context, server_hostname="localhost")
            await client.say(HELLO)
            await sweep(server, client, heard, b"N", SWEEPS + 1)
            assert await client.reply() == "421 4.4.2 You take too long"

    run(main())


@pytest.mark.parametrize("name", ["on_connect", "on_mail", "on_data"])
def test_a_hook_takes_its_own_time(run: Run, name: str) -> None:
    async def main() -> None:
        went_in, go = asyncio.Event(), asyncio.Event()

        async def hook(*arguments: Any) -> None:
            went_in.set()
            await go.wait()

        hooks = type("Slow", (), {name: staticmethod(hook)})()
        async with Server(hooks, discard=True) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(HELLO + ENVELOPE + b"x\r\n.\r\n")
            await went_in.wait()
            await until(lambda: next(iter(server.connections)).thinking)
            for _ in range(3 * SWEEPS):
                server.sweep()
            go.set()
            async with asyncio.timeout(10):
                said = b""
                while said.count(b"250 ") < 4:
                    said += await reader.read(1000)
            assert b"421" not in said
            writer.close()

    run(main())


def test_back_pressure_of_a_hook_is_not_the_clients_fault(run: Run) -> None:
    class Slow:
        async def on_data(self, session: Session, stream: Any) -> None:
            await go.wait()
            await stream.read()

    async def main() -> None:
        async with Server(Slow(), discard=True) as server, Client(server) as client:
            await client.say(HELLO + ENVELOPE, 4)
            client.writer.write(b"x" * 5_000_000)
            connection = next(iter(server.connections))
            await until(lambda: connection._stream is not None and len(connection._stream._pieces) > 1)  # type: ignore[attr-defined]
            await until(lambda: connection.thinking)
            for _ in range(3 * SWEEPS):
                server.sweep()
            go.set()
            assert await client.codes(b"\r\n.\r\n") == [250]

    go = asyncio.Event()
    run(main())


async def small(port: int) -> socket.socket:
    """A connection whose receive buffer is soon full."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return sock


@KINDS
def test_a_client_that_does_not_read_its_end_is_cut_off(run: Run, hooks: Any) -> None:
    async def main() -> None:
        async with Server(hooks and hooks(), max_recipients=1_000_000, discard=True) as server:
            _, writer = await asyncio.open_connection(sock=await small(server.port), limit=1024)
            writer.transport.pause_reading()
            await until(lambda: server.connections)
            (connection,) = server.connections
            connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            writer.write(HELLO + MAIL + RCPT * 50_000)
            await until(lambda: connection.transport.get_write_buffer_size() > 0)
            for _ in range(SWEEPS + 1):
                server.sweep()
            assert connection.codec.closed
            await asyncio.sleep(0)
            assert server.connections  # its replies wait to be read
            server.sweep()
            server.sweep()
            await until(lambda: not server.connections)
            writer.close()

    run(main())
