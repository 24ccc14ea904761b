"""A server without hooks: what it keeps, counts, refuses, and how it ends."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bulkmail.errors import ConfigError
from bulkmail.sink import Server
from bulkmail.sink import server as server_module
from bulkmail.sink import store as store_module
from unit.sink.sink_client import ENVELOPE, HELLO, MAIL, RCPT, Client, until

Run = Callable[[Any], Any]


def test_messages_are_kept_with_all_there_is_to_know(run: Run) -> None:
    async def main() -> None:
        async with Server(name="mx.test") as server, Client(server) as client:
            assert client.greeting.startswith("220 mx.test ESMTP bulkmail sink ")
            ident = client.greeting.split()[-1]
            await client.say(HELLO)
            assert await client.deliver(b"Subject: x\r\n\r\n..dot\r\n") == f"250 2.0.0 Ok: queued as {ident}.1"
            await client.codes(b"MAIL FROM:<> SIZE=3 BODY=8BITMIME\r\n" + RCPT * 2 + b"DATA\r\n\xff\r\n.\r\n", 5)
            first, second = server.messages
            assert (first.id, first.sender, first.recipients) == (f"{ident}.1", "a@example.com", ["b@example.com"])
            assert (first.content, second.content) == (b"Subject: x\r\n\r\n.dot\r\n", b"\xff\r\n")
            assert second.parameters == {"SIZE": "3", "BODY": "8BITMIME"}
            assert (first.helo, first.tls, first.auth, first.proxy_address) == ("client.test", None, None, None)
            assert first.remote_address == "127.0.0.1"
            assert first.remote_port == client.writer.get_extra_info("sockname")[1]
            assert server.counts == {"connections": 1, "messages": 2, "recipients": 3, "bytes": 23, "refused": 0}
            assert server.url == f"smtp://127.0.0.1:{server.port}"

    run(main())


def test_a_discarding_server_counts(run: Run) -> None:
    async def main() -> None:
        async with Server(discard=True) as server, Client(server) as client:
            assert await client.codes(HELLO + (ENVELOPE + b"x" * 70000 + b"\r\n.\r\n") * 20, 81) == (
                [250] + [250, 250, 354, 250] * 20
            )
            assert server.messages == []
            assert server.counts["messages"] == 20
            assert server.counts["bytes"] == 20 * 70002

    run(main())


def test_what_was_not_ended_or_was_refused_is_not_kept(run: Run) -> None:
    async def main() -> None:
        async with Server(max_size=1000) as server:
            async with Client(server) as client:
                await client.say(HELLO)
                assert (await client.deliver(b"a\nb\r\n")).startswith("554 5.6.0")
                assert (await client.deliver(b"a" * 999 + b"\r\n")).startswith("552 5.3.4")
            async with Client(server) as client:
                await client.codes(HELLO + ENVELOPE + b"half a mess", 4)
            await until(lambda: not server.connections)
            assert server.messages == []
            assert isinstance(server.store, store_module.Kept)
            assert server.store.bytes == 0

    run(main())


def test_the_list_is_bounded_and_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_KEPT_MESSAGES", 2)
    monkeypatch.setattr(store_module, "MAX_KEPT_BYTES", 100)

    async def main() -> None:
        async with Server() as server, Client(server) as client:
            await client.say(HELLO)
            assert (await client.deliver(b"x" * 200 + b"\r\n")).startswith("452 4.3.1")
            assert [(await client.deliver())[:3] for _ in range(3)] == ["250", "250", "452"]
            assert len(server.messages) == 2
            assert (server.counts["messages"], server.counts["refused"]) == (2, 2)
            server.messages.clear()
            assert (await client.deliver()).startswith("250")

    run(main())


def test_several_listeners_and_protocols(run: Run) -> None:
    async def main() -> None:
        async with Server(listen=["127.0.0.1:0", "[::1]:0"]) as server:
            assert [host for host, _ in server.addresses] == ["127.0.0.1", "::1"]
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection(*server.addresses[1])
                assert (await reader.readline()).startswith(b"220 ")
                writer.close()
        async with Server(listen="0", lmtp=True) as server, Client(server) as client:
            assert server.url.startswith("lmtp://127.0.0.1:")
            await client.say(b"LHLO me\r\n")
            assert await client.codes(MAIL + RCPT * 2 + b"DATA\r\n.\r\n", 6) == [250, 250, 250, 354, 250, 250]
            assert server.messages[0].content == b""

    run(main())


def test_a_port_in_use_is_one_sentence_and_leaves_nothing_open(run: Run) -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{port}: Address already in use"):
                await Server(listen=["127.0.0.1:0", f"127.0.0.1:{port}"]).start()

    run(main())


def test_stopping_says_421_and_keeps_what_was_accepted(run: Run) -> None:
    async def main() -> None:
        server = Server(grace=0)
        await server.start()
        async with Client(server) as idle, Client(server) as busy:
            await busy.say(HELLO)
            await busy.deliver()
            await busy.codes(ENVELOPE + b"unfinished", 3)
            await server.stop()
            assert (await idle.reply()).startswith("421 4.3.2")
            assert (await busy.reply()).startswith("421 4.3.2")
            assert await busy.reply() == ""
        assert len(server.messages) == 1
        assert not server.connections
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", server.port)

    run(main())


def test_too_many_connections(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 1)

    async def main() -> None:
        async with Server() as server:
            async with Client(server), Client(server) as second:
                assert second.greeting == "421 4.3.2 Too many connections"
                assert await second.closed()
            await until(lambda: not server.connections)
            async with Client(server) as third:
                assert third.greeting.startswith("220")

    run(main())


def test_a_client_that_does_not_read_gets_no_more_replies_made(run: Run) -> None:
    async def main() -> None:
        async with Server(discard=True, max_recipients=1_000_000) as server:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
            writer.transport.pause_reading()
            writer.write(HELLO + MAIL)
            writer.write(RCPT * 500_000)  # 13 MB of commands, 9 MB of replies
            await until(lambda: server.connections)
            connection = next(iter(server.connections))
            await until(lambda: not connection.transport.is_reading())
            # One read makes at most so many replies (its bytes / a RCPT's), whatever the client has in store.
            assert connection.transport.get_write_buffer_size() < 2 * 1024 * 1024
            writer.transport.abort()
            await until(lambda: not server.connections)

    run(main())


# --- TLS and logins


def client_tls(certificates: Any) -> ssl.SSLContext:
    context: ssl.SSLContext = certificates.client_context()
    return context


def test_starttls(run: Run, certificates: Any) -> None:
    async def main() -> None:
        async with Server(tls_cert=certificates.chain_file, auth="ann:secret") as server, Client(server) as client:
            hello = (await client.say(HELLO))[0]
            assert "STARTTLS" in hello
            assert "AUTH PLAIN LOGIN" in hello  # loopback
            assert await client.codes(b"STARTTLS\r\n") == [220]
            await client.writer.start_tls(client_tls(certificates), server_hostname="localhost")
            assert await client.codes(MAIL) == [503]
            assert "STARTTLS" not in (await client.say(HELLO))[0]
            assert await client.codes(MAIL + b"AUTH PLAIN AGFubgBzZWNyZXQ=\r\n", 2) == [530, 235]
            await client.deliver()
            message = server.messages[0]
            assert message.tls is not None and message.tls.startswith("TLSv1")
            assert message.auth == "ann"

    run(main())


def test_commands_sent_ahead_of_tls_are_not_obeyed(
    run: Run, certificates: Any, caplog: pytest.LogCaptureFixture
) -> None:
    injected = b"EHLO evil\r\n" + ENVELOPE + b"evil\r\n.\r\n"

    async def main() -> None:
        async with Server(tls_cert=certificates.chain_file) as server, Client(server) as client:
            await client.say(HELLO)
            assert await client.codes(b"STARTTLS\r\n" + injected) == [220]
            await client.writer.start_tls(client_tls(certificates), server_hostname="localhost")
            assert await client.codes(b"NOOP\r\n" + MAIL, 2) == [250, 503]
            assert server.messages == []

    run(main())
    assert f"dropped {len(injected)} bytes sent ahead of TLS" in caplog.text


def test_a_handshake_that_fails_ends_the_connection_and_nothing_else(
    run: Run, certificates: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with Server(tls_cert=certificates.chain_file) as server:
            async with Client(server) as client:
                await client.say(HELLO + b"STARTTLS\r\n", 2)
                client.writer.write(b"this is no ClientHello\r\n" * 100)
                assert await client.closed()
            async with Client(server) as gone:
                await gone.say(HELLO + b"STARTTLS\r\n", 2)
            await until(lambda: not server.connections)
            async with Client(server) as client:
                await client.say(HELLO)
                assert (await client.deliver()).startswith("250")

    run(main())
    wrong, hung_up = (record.getMessage() for record in caplog.records if record.name == "bulkmail.sink")
    assert wrong.startswith("TLS handshake failed: [SSL")
    assert hung_up == "TLS handshake failed: the client closed the connection"


def test_a_handshake_that_fails_is_told_where_tls_comes_first(
    run: Run, certificates: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with Server(tls_cert=certificates.chain_file, tls_implicit=True) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(HELLO)
            assert await reader.read() == b""
            writer.close()
            await until(lambda: not server.connections)

    run(main())
    (told,) = (record.getMessage() for record in caplog.records if record.name == "bulkmail.sink")
    assert told.startswith("TLS handshake failed: ")


def test_stopping_in_the_middle_of_a_handshake(run: Run, certificates: Any) -> None:
    async def main() -> None:
        server = Server(tls_cert=certificates.chain_file)
        await server.start()
        async with Client(server) as client:
            await client.say(HELLO + b"STARTTLS\r\n", 2)
            await server.stop()
            assert await client.closed()
        assert not server.connections

    run(main())


def test_implicit_tls(run: Run, certificates: Any) -> None:
    async def main() -> None:
        async with Server(tls_cert=certificates.chain_file, tls_implicit=True) as server:
            assert server.url.startswith("smtps://")
            async with Client(server, client_tls(certificates), "localhost") as client:
                assert "STARTTLS" not in (await client.say(HELLO))[0]
                await client.deliver()
            assert server.messages[0].tls is not None

    run(main())


def test_login_in_clear_is_for_loopback(run: Run) -> None:
    async def main() -> None:
        async with Server(auth="ann:pass:word") as server, Client(server) as client:
            await client.say(HELLO)
            assert await client.codes(MAIL + b"AUTH LOGIN\r\nYW5u\r\ncGFzczp3b3Jk\r\n", 4) == [530, 334, 334, 235]
            assert await client.codes(b"AUTH LOGIN YW5u\r\n") == [503]
            await client.deliver()
            assert server.messages[0].auth == "ann"

    run(main())


# --- options


@pytest.mark.parametrize("options, words", [
    ({"discards": True}, "no option 'discards' of a sink; did you mean 'discard'?"),
    ({"store": "x", "discard": True}, "exclude each other"),
    ({"tls_implicit": True}, "'tls_cert' is missing"),
    ({"tls_key": "x"}, "'tls_cert' is missing"),
    ({"tls_cert": "/nonexistent/x.pem"}, "the TLS file '/nonexistent/x.pem' cannot be read: No such file"),
    ({"auth": "nocolon"}, "'auth' is USER:PASSWORD"),
    ({"without": ["PIPELINE"]}, "no extension 'PIPELINE'; did you mean 'PIPELINING'?"),
    ({"max_recipients": 0}, "'max_recipients'"),
    ({"max_size": -1}, "'max_size'"),
    ({"name": "two words"}, "'name'"),
    ({"listen": "localhost"}, "cannot listen on 'localhost': expected HOST:PORT"),
    ({"listen": "127.0.0.1:99999"}, "expected HOST:PORT"),
    ({"listen": "::1:25"}, r"written \[ADDRESS\]:PORT"),
    ({"listen": []}, "needs an address"),
])  # fmt: skip
def test_options_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Server(**options)


def test_a_certificate_without_its_key(tmp_path: Path, certificates: Any) -> None:
    with pytest.raises(ConfigError, match="no certificate with its private key"):
        Server(tls_cert=certificates.ca_file)


def test_a_host_that_does_not_resolve(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match=r"cannot listen on no-such-host\.invalid:0"):
            await Server(listen="no-such-host.invalid:0").start()

    run(main())


def test_extensions_are_left_out_in_any_case(run: Run) -> None:
    async def main() -> None:
        async with Server(without=["pipelining", "Limits"]) as server, Client(server) as client:
            offers = (await client.say(HELLO))[0]
            assert "CHUNKING" in offers and "PIPELINING" not in offers and "LIMITS" not in offers

    run(main())
