"""LMTP (RFC 2033): LHLO, and a verdict for each recipient after the content, over TCP and Unix sockets."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from pathlib import Path

import pytest

from bulkmail.errors import RECIPIENT, ConfigError, ConnectError, EnvelopeRefused, MessageRefused
from bulkmail.pool.mailer import Mailer
from bulkmail.sink import Server
from bulkmail.smtp.connection import Connection
from bulkmail.smtp.envelope import Envelope
from faults.mails import collect, mail
from faults.scripted import GREETING, always, at, close, expect, offer, scripted, send, serve_lmtp

FULL = b"552 5.2.2 mailbox full\r\n"
THREE = ["ann@example.test", "bob@example.test", "cy@example.test"]
ways = pytest.mark.parametrize(
    "extensions", [("PIPELINING",), (), ("PIPELINING", "CHUNKING")], ids=["data", "slow", "bdat"]
)


def greets(*extensions):
    return [send(GREETING), expect(rb"LHLO \S+"), send(offer(*extensions))]


def lmtp(server):
    return server.url.replace("smtp://", "lmtp://")


@ways
def test_each_recipient_has_its_own_verdict(run, extensions):
    async def main():
        async with (
            scripted([*greets(*extensions), serve_lmtp(at("dot", FULL, 2))]) as server,
            Connection(lmtp(server)) as connection,
        ):
            return await connection.send(Envelope("news@example.test", THREE), b"hi\n"), server.addressees()

    receipt, addressees = run(main())
    assert receipt.accepted == [THREE[0], THREE[2]] == addressees
    (rejected,) = receipt.rejected
    assert (rejected.address, rejected.reply.code) == (THREE[1], 552)
    assert isinstance(rejected.error, MessageRefused) and rejected.error.scope == RECIPIENT


@ways
def test_some_refused_before_the_content_and_some_after_it(run, extensions):
    async def main():
        faults = [at("RCPT", b"550 5.1.1 nobody\r\n", 1), at("dot", FULL, 2)]
        async with (
            scripted([*greets(*extensions), serve_lmtp(*faults)]) as server,
            Connection(lmtp(server)) as connection,
        ):
            return await connection.send(Envelope("news@example.test", THREE), b"hi\n"), server.addressees()

    receipt, addressees = run(main())
    assert receipt.accepted == [THREE[1]] == addressees
    assert [(r.address, type(r.error)) for r in receipt.rejected] == [
        (THREE[0], EnvelopeRefused),
        (THREE[2], MessageRefused),
    ]


@ways
def test_all_refused_after_the_content_is_an_error_and_the_connection_goes_on(run, extensions):
    async def main():
        async with scripted([*greets(*extensions), serve_lmtp(at("dot", FULL, 1), at("dot", FULL, 2))]) as server:
            async with Connection(lmtp(server)) as connection:
                with pytest.raises(MessageRefused) as caught:
                    await connection.send(Envelope("news@example.test", THREE[:2]), b"hi\n")
                receipt = await connection.send(Envelope("news@example.test", THREE), b"hi\n")
            return caught.value.reply.code, receipt.accepted

    assert run(main()) == (552, THREE)


def test_verdicts_that_came_before_a_loss_count_and_the_rest_is_in_doubt(run):
    async def main():
        async with (
            scripted([*greets("PIPELINING"), serve_lmtp(at("dot", close(), 2))]) as server,
            Connection(lmtp(server)) as connection,
        ):
            return await connection.send(Envelope("news@example.test", THREE), b"hi\n")

    receipt = run(main())
    assert receipt.accepted == [THREE[0]]
    assert [(r.address, r.error.code) for r in receipt.rejected] == [(THREE[1], "EINDOUBT"), (THREE[2], "EINDOUBT")]


@ways
def test_a_mailer_sends_many_by_lmtp(run, extensions):
    async def main():
        async with scripted([*greets(*extensions), serve_lmtp()]) as server:
            async with Mailer(lmtp(server), connections=2) as mailer:
                receipts = await collect(mailer, map(mail, range(50)))
            return [receipt.error for receipt in receipts], len(server.messages)

    assert run(main()) == ([None] * 50, 50)


def test_a_server_of_smtp_is_not_taken_for_one_of_lmtp(run):
    async def main():
        script = [send(GREETING), expect(rb"LHLO \S+"), send(b"500 5.5.1 this is SMTP\r\n")]
        async with scripted(script) as server:
            with pytest.raises(ConnectError, match=r"refused LHLO: 500 5\.5\.1 this is SMTP"):
                async with Connection(lmtp(server)):
                    pass

    run(main())


def test_our_own_sink_by_lmtp(run):
    async def main():
        async with Server(lmtp=True, discard=False) as server:
            async with Mailer(server.url.replace("smtp://", "lmtp://")) as mailer:
                await collect(mailer, map(mail, range(20)))
            return server.counts["recipients"]

    assert run(main()) == 20


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_over_a_unix_socket(run):
    async def main(path):
        server = await asyncio.start_unix_server(talk, path)
        try:
            async with Connection(f"lmtp+unix://{path}") as connection:
                assert not connection.secure and connection.info.extensions == {"PIPELINING": ""}
                return await connection.send(Envelope("news@example.test", THREE[:2]), b"hi\n")
        finally:
            server.close()

    async def talk(reader, writer):
        for said, reply in [
            (None, b"220 here\r\n"),
            (b"LHLO", b"250-here\r\n250 PIPELINING\r\n"),
            (b"DATA", b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"),
            (b".\r\n", b"250 2.0.0 first\r\n450 4.2.2 second\r\n"),
            (b"QUIT", b"221 bye\r\n"),
        ]:
            while said is not None and not (line := await reader.readline()).startswith(said):
                assert line
            writer.write(reply)
        writer.close()

    with tempfile.TemporaryDirectory() as folder:  # pytest's own would be too long for a socket's path
        receipt = run(main(Path(folder) / "lmtp"))
    assert receipt.accepted == THREE[:1] and receipt.rejected[0].reply.code == 450


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_a_unix_socket_that_is_not_there(run, tmp_path):
    async def main():
        with pytest.raises(ConnectError, match=r"nothing-here: cannot connect: No such file or directory"):
            async with Connection(f"lmtp+unix://{tmp_path}/nothing-here"):
                pass

    run(main())


def test_a_unix_socket_has_no_proxy():
    with pytest.raises(ConfigError, match="cannot be reached through a proxy"):
        Connection("lmtp+unix:///run/lmtp", proxy="http://proxy.test:3128")


@ways
def test_a_421_to_one_recipient_is_for_all_who_are_left(run, extensions):
    async def main():
        faults = serve_lmtp(at("dot", b"421 4.3.2 going down\r\n", 2), always("QUIT", b"221 bye\r\n"))
        async with scripted([*greets(*extensions), faults]) as server, Connection(lmtp(server)) as connection:
            return await connection.send(Envelope("news@example.test", THREE), b"hi\n")

    receipt = run(main())
    assert receipt.accepted == THREE[:1] and [r.reply.code for r in receipt.rejected] == [421, 421]
