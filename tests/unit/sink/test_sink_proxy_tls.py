"""A sink behind a proxy that hands TLS on: the header comes first, and TLS must not lose a byte to it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bulkmail.sink import Server, gate
from unit.sink.proxied_client import HEADERS, REAL, Behind, Sessions, headers, records
from unit.sink.sink_client import HELLO, Client, until

Run = Callable[[Any], Any]
LOGIN = b"AUTH PLAIN AGFubgBzZWNyZXQ=\r\n"


class Pair:
    """A TLS client without a socket, so that its bytes can be cut anywhere."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def hello(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.outgoing.read()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """Finishes the handshake; the first bytes that the server says in it."""
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
                writer.write(self.outgoing.read())
                return self.tls.read(1000)
            writer.write(self.outgoing.read())
            data = await asyncio.wait_for(reader.read(65536), 10)
            if not data:
                return b""
            self.incoming.write(data)


def cuts(header: bytes, hello: bytes) -> Iterator[int]:
    """Every place in the header, and those around TLS's own edges."""
    yield from range(1, len(header) + 1)
    yield from (len(header) + at for at in (1, 4, 5, 6, 100, len(hello) - 1))


@headers
@pytest.mark.parametrize("hooks", [None, Sessions], ids=["plain", "hooks"])
def test_tls_begins_behind_the_header_however_the_two_are_cut(
    run: Run, certificates: Any, header: bytes, hooks: type[Sessions] | None
) -> None:
    context = certificates.client_context()

    async def greeted(server: Server, stream: bytes, cut: int, pair: Pair) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        writer.write(stream[:cut])
        await asyncio.sleep(0.001 if cut % 7 == 0 else 0)
        writer.write(stream[cut:])
        said = await pair.talk(reader, writer)
        writer.close()
        return said

    async def main() -> None:
        made = hooks() if hooks else None
        options = {"tls_cert": certificates.chain_file, "tls_implicit": True, "proxy_from": "*"}
        async with Server(made, **options) as server:
            for cut in [0, *cuts(header, Pair(context).hello())]:
                pair = Pair(context)
                assert (await greeted(server, header + pair.hello(), cut, pair)).startswith(b"220 "), cut
            await until(lambda: not server.connections)
        if made:
            assert {session.remote_address for session in made.seen} == {REAL[0]}
            assert all(session.secure and session.tls for session in made.seen)

    run(main())


def test_implicit_tls_without_a_header_for_those_who_are_no_proxies(run: Run, certificates: Any) -> None:
    async def main() -> None:
        options = {"tls_cert": certificates.chain_file, "tls_implicit": True, "proxy_from": "192.0.2.1"}
        async with (
            Server(**options) as server,
            Client(server, certificates.client_context(), "localhost") as client,
        ):
            await client.say(HELLO)
            await client.deliver()
            assert server.messages[0].proxy_address is None
            assert server.messages[0].tls

    run(main())


@pytest.mark.parametrize("hooks", [None, Sessions], ids=["plain", "hooks"])
def test_a_handshake_that_fails_behind_a_header_leaves_nothing(
    run: Run, certificates: Any, caplog: pytest.LogCaptureFixture, hooks: type[Sessions] | None
) -> None:
    async def main() -> None:
        made = hooks() if hooks else None
        options = {"tls_cert": certificates.chain_file, "tls_implicit": True, "proxy_from": "*"}
        async with Server(made, connections_per_address=1, **options) as server:
            for stream in (HEADERS["v1"] + HELLO, HELLO, HEADERS["v2"]):
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(stream)
                if stream == HEADERS["v2"]:
                    await until(lambda: server.connections)
                    await writer.drain()
                    writer.transport.abort()
                await until(lambda: not server.connections)
                writer.close()
            assert made is None or made.seen == []

    run(main())
    assert any("TLS handshake failed" in record.getMessage() for record in records(caplog))


def test_starttls_behind_a_header(run: Run, certificates: Any) -> None:
    async def main() -> None:
        options = {"tls_cert": certificates.chain_file, "proxy_from": "*", "auth": "ann:secret"}
        async with Server(**options) as server, Behind(server, HEADERS["v2"]) as client:
            assert "AUTH" not in (await client.say(HELLO))[0]
            assert await client.codes(b"STARTTLS\r\n") == [220]
            await client.writer.start_tls(certificates.client_context(), server_hostname="localhost")
            assert "AUTH" in (await client.say(HELLO))[0]
            assert await client.codes(LOGIN) == [235]
            await client.deliver()
            assert server.messages[0].remote_address == REAL[0]

    run(main())


def test_stopping_before_the_handshake(run: Run, certificates: Any) -> None:
    async def main() -> None:
        server = Server(tls_cert=certificates.chain_file, tls_implicit=True, proxy_from="*")
        await server.start()
        ends = []
        for stream in (b"", b"PROXY ", HEADERS["v1"]):
            ends.append(await asyncio.open_connection("127.0.0.1", server.port))
            ends[-1][1].write(stream)
        await until(lambda: len(server.connections) == 3)
        await asyncio.wait_for(server.stop(), 3)
        assert not server.connections and not server._tasks
        for reader, writer in ends:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()

    run(main())


def test_the_port_is_free_again_once_the_server_has_stopped(run: Run, certificates: Any) -> None:
    async def main() -> None:
        tls = {"tls_cert": certificates.chain_file, "tls_implicit": True}
        async with Server(proxy_from="192.0.2.1", **tls) as server:
            port = server.port
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        async with (
            Server(listen=f"127.0.0.1:{port}", proxy_from="192.0.2.1", **tls) as server,
            Client(server, certificates.client_context(), "localhost") as client,
        ):
            assert client.greeting.startswith("220")

    run(main())


@pytest.mark.parametrize("drip", [b"", b"PROXY UNKNOWN " + b"x" * 60], ids=["nothing", "bytes"])
def test_a_late_header_before_tls(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, certificates: Any, drip: bytes
) -> None:
    monkeypatch.setattr(gate, "HEADER_SECONDS", 0.2)

    async def main() -> None:
        async with Server(tls_cert=certificates.chain_file, tls_implicit=True, proxy_from="*") as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(drip)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            await until(lambda: not server.connections)
            writer.close()

    run(main())
    (record,) = records(caplog)
    assert record.getMessage().endswith("it was not there within 5 seconds")
