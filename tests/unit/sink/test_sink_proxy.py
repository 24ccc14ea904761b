"""A sink behind a proxy: whose address is seen, and what a missing, wrong or late header does."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bulkmail.sink import Server, gate
from bulkmail.wire.proxy_header import v1, v2
from unit.sink.proxied_client import HEADERS, REAL, TARGET, Behind, Sessions, headers, records
from unit.sink.sink_client import ENVELOPE, HELLO, Client, until
from unit.wire.proxy_blocks import IPV4, IPV6, addresses, block, checked, tlv

Run = Callable[[Any], Any]
SILENT = {"UNKNOWN": b"PROXY UNKNOWN\r\n", "LOCAL": v2(None, None), "UDP": block(addresses(*IPV4), family=0x12)}
LOGIN = b"AUTH PLAIN AGFubgBzZWNyZXQ=\r\n"

# --- who is seen


@headers
def test_hooks_see_the_real_client(run: Run, header: bytes) -> None:
    async def main() -> None:
        hooks = Sessions()
        async with Server(hooks, proxy_from="127.0.0.1") as server, Behind(server, header) as client:
            assert client.greeting.startswith("220")
            session = hooks.seen[0]
            assert (session.remote_address, session.remote_port) == REAL
            assert (session.local_address, session.local_port) == TARGET
            assert (session.proxy_address, session.proxy_port) == client.writer.get_extra_info("sockname")
            assert session.proxy is not None and session.proxy.source == REAL
            assert session.id in client.greeting

    run(main())


@headers
def test_what_is_stored_names_client_and_proxy(run: Run, tmp_path: Path, header: bytes) -> None:
    async def main() -> None:
        async with Server(store=tmp_path, proxy_from=["127.0.0.0/8"]) as server, Behind(server, header) as client:
            await client.say(HELLO)
            await client.deliver()

    run(main())
    line = json.loads((tmp_path / "envelopes.jsonl").read_text())
    assert (line["remote_address"], line["remote_port"], line["proxy_address"]) == (*REAL, "127.0.0.1")


def test_without_hooks_a_kept_message_names_both(run: Run) -> None:
    async def main() -> None:
        six = block(addresses(*IPV6), family=0x21)
        async with Server(proxy_from="*") as server, Behind(server, six) as client:
            await client.say(HELLO)
            await client.deliver()
            message = server.messages[0]
            assert (message.remote_address, message.remote_port) == IPV6[:2]
            assert message.proxy_address == "127.0.0.1"

    run(main())


@pytest.mark.parametrize("header", SILENT.values(), ids=SILENT)
def test_a_header_without_addresses_leaves_the_sockets_own(run: Run, header: bytes) -> None:
    async def main() -> None:
        hooks = Sessions()
        async with Server(hooks, proxy_from="*") as server, Behind(server, header) as client:
            own = client.writer.get_extra_info("sockname")
            session = hooks.seen[0]
            assert (session.remote_address, session.remote_port) == own
            assert (session.local_address, session.local_port) == ("127.0.0.1", server.port)
            assert (session.proxy_address, session.proxy_port) == own
            assert (await client.say(HELLO))[0].startswith("250")

    run(main())


def test_without_a_proxy_there_is_no_proxy_address(run: Run) -> None:
    async def main() -> None:
        hooks = Sessions()
        async with Server(hooks, proxy_from="192.0.2.1") as server, Client(server):
            session = hooks.seen[0]
            assert (session.remote_address, session.proxy_address, session.proxy_port) == ("127.0.0.1", None, None)
            assert session.proxy is None

    run(main())


def test_a_hook_may_read_what_the_proxy_knows_of_tls(run: Run) -> None:
    async def main() -> None:
        hooks = Sessions()
        ssl_info = b"\x03" + bytes(4) + tlv(0x21, b"TLSv1.3") + tlv(0x22, b"ann")
        header = checked(addresses(*IPV4) + tlv(2, b"mx.test") + tlv(5, b"id-1") + tlv(0x20, ssl_info))
        async with Server(hooks, proxy_from="*") as server, Behind(server, header):
            told = hooks.seen[0].proxy
            assert told is not None and told.tls is not None
            assert (told.authority, told.unique_id, told.tls.version, told.tls.cn) == (
                "mx.test",
                b"id-1",
                "TLSv1.3",
                "ann",
            )
            assert told.tls.verified
            assert not hooks.seen[0].secure  # between the proxy and us nothing is encrypted

    run(main())


@headers
def test_what_comes_with_the_header_is_the_clients(run: Run, header: bytes) -> None:
    """All of it in one segment: the header, and a whole pipelined message."""

    async def main() -> None:
        stream = header + HELLO + ENVELOPE + b"PROXY UNKNOWN\r\n.\r\nQUIT\r\n"
        async with Server(proxy_from="*") as server, Behind(server, stream) as client:
            assert [int((await client.reply())[:3]) for _ in range(6)] == [250, 250, 250, 354, 250, 221]
            assert server.messages[0].content == b"PROXY UNKNOWN\r\n"

    run(main())


@headers
def test_a_header_in_pieces(run: Run, header: bytes) -> None:
    async def main() -> None:
        async with Server(proxy_from="*") as server:
            for cut in range(len(header) + 1):
                async with Behind(server, header[:cut], header[cut:] + HELLO) as client:
                    assert client.greeting.startswith("220")
                    assert (await client.reply()).startswith("250")
            single = [header[at : at + 1] for at in range(len(header))]
            async with Behind(server, *single, HELLO) as client:
                assert (await client.reply()).startswith("250")

    run(main())


@pytest.mark.parametrize(("header", "offered"), [
    (v1(REAL, TARGET), False),
    (v1(("127.0.0.1", 7), ("127.0.0.1", 25)), True),
    (block(addresses("::ffff:127.0.0.1", 7, "::ffff:127.0.0.1", 25), family=0x21), True),
    (SILENT["LOCAL"], True),
    (SILENT["UNKNOWN"], False),  # the proxy is on this machine; its client may be anywhere
    (SILENT["UDP"], False),
])  # fmt: skip
@pytest.mark.parametrize("hooks", [None, Sessions], ids=["plain", "hooks"])
def test_a_login_in_clear_is_for_clients_of_this_machine_only(
    run: Run, header: bytes, offered: bool, hooks: type[Sessions] | None
) -> None:
    async def main() -> None:
        made = hooks() if hooks else None
        async with Server(made, auth="ann:secret", proxy_from="*") as server, Behind(server, header) as client:
            assert ("AUTH" in (await client.say(HELLO))[0]) == offered
            assert (await client.codes(LOGIN)) == ([235] if offered else [503])

    run(main())


# --- headers that are no good

BAD = {
    "no header": (HELLO, "it does not begin with a PROXY header"),
    "a bad line": (b"PROXY TCP4 1.2.3.4 5.6.7.8 01 25\r\n" + HELLO, "a port is 0 to 65535"),
    "a wrong checksum": (block(addresses(*IPV4) + tlv(3, b"\0\0\0\0")) + HELLO, "the CRC32c is not that of the header"),
    "a line without end": (b"PROXY UNKNOWN " + b"x" * 1000, "no line end within 107 bytes"),
}


@pytest.mark.parametrize(("stream", "reason"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("hooks", [None, Sessions], ids=["plain", "hooks"])
def test_a_bad_header_is_one_log_line_and_the_end(
    run: Run, caplog: pytest.LogCaptureFixture, stream: bytes, reason: str, hooks: type[Sessions] | None
) -> None:
    async def main() -> None:
        made = hooks() if hooks else None
        async with Server(made, proxy_from="*") as server:
            async with Behind(server, stream) as client:
                assert client.greeting in ("421 4.7.0 A PROXY header was expected", "")
                assert await client.closed()
            await until(lambda: not server.connections)
            assert server.counts == {"connections": 1, "messages": 0, "recipients": 0, "bytes": 0, "refused": 1}
            assert made is None or made.seen == []

    run(main())
    (record,) = records(caplog)
    assert reason in record.getMessage() and "127.0.0.1" in record.getMessage()
    assert "-1" in record.cid  # type: ignore[attr-defined]


def test_a_client_that_ends_within_its_header_is_one_log_line(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Server(proxy_from="*") as server:
            for piece in (b"PROXY ", b""):  # who says nothing looks whether the port is open: no line
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                await until(lambda: server.connections)
                writer.write(piece)
                writer.close()
                await until(lambda: not server.connections)

    run(main())
    assert [record.getMessage() for record in records(caplog)] == [
        "no PROXY header from 127.0.0.1: the connection ended in it"
    ]


@pytest.mark.parametrize("drip", [b"", b"P", b"PROXY UNKNOWN " + b"x" * 60], ids=["nothing", "a byte", "bytes"])
def test_a_late_header_is_one_log_line_and_dripping_gains_no_time(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, drip: bytes
) -> None:
    monkeypatch.setattr(gate, "HEADER_SECONDS", 0.2)

    async def main() -> None:
        async with Server(proxy_from="*") as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            said = asyncio.ensure_future(reader.read())
            for byte in drip:
                if said.done():
                    break
                writer.write(bytes([byte]))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(said), 0.02)
            with contextlib.suppress(ConnectionError):
                assert await said == b"421 4.7.0 A PROXY header was expected\r\n"
            await until(lambda: not server.connections)
            writer.close()

    run(main())
    (record,) = records(caplog)
    assert record.getMessage().endswith("it was not there within 5 seconds")


@headers
@pytest.mark.parametrize("trusted", [(), "192.0.2.1", "::1"])
def test_from_others_a_header_is_a_syntax_error(run: Run, header: bytes, trusted: str) -> None:
    async def main() -> None:
        hooks = Sessions()
        async with Server(hooks, proxy_from=trusted) as server, Client(server) as client:
            assert client.greeting.startswith("220")
            client.writer.write(header)
            assert (await client.reply()).startswith("500")
            assert hooks.seen[0].remote_address == "127.0.0.1"

    run(main())


def test_stopping_while_a_header_is_waited_for(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        server = Server(proxy_from="*")
        await server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"PROXY ")
        await until(lambda: any(door._begun for door in server.connections))  # what is not read would make it a reset
        await server.stop()
        assert (await reader.read()).startswith(b"421 4.3.2")
        writer.close()

    run(main())
    assert records(caplog) == []


def test_too_many_connections_behind_a_proxy(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulkmail.sink.server.MAX_CONNECTIONS", 1)

    async def main() -> None:
        async with Server(proxy_from="*") as server:
            _, waiting = await asyncio.open_connection("127.0.0.1", server.port)
            await until(lambda: server.connections)
            async with Behind(server) as client:
                assert client.greeting == "421 4.3.2 Too many connections"
                assert await client.closed()
            waiting.close()
            await until(lambda: not server.connections)
            async with Behind(server, HEADERS["v1"]) as client:
                assert client.greeting.startswith("220")

    run(main())


def test_a_fault_for_the_next_connection_holds_behind_a_header_too(run: Run) -> None:
    async def main() -> None:
        async with Server(proxy_from="*") as server:
            _, waiting = await asyncio.open_connection("127.0.0.1", server.port)
            await until(lambda: server.connections)
            server.fail_next("greeting", "421 4.3.0 not now")
            async with Behind(server, HEADERS["v1"]) as client:
                assert client.greeting == "421 4.3.0 not now"
            waiting.close()

    run(main())
