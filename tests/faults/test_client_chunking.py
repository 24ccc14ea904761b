"""BDAT (RFC 3030): what is written without waiting, whom each refusal belongs to, sources that break off."""

from __future__ import annotations

import asyncio
import hashlib
import re

import pytest

from bulkmail.errors import ConnectionLost, EnvelopeRefused, InDoubt, MessageRefused, ProtocolError
from bulkmail.pool.mailer import Mailer
from bulkmail.smtp.connection import Connection
from bulkmail.smtp.envelope import Envelope
from faults.mails import by_index, collect, mail, subject
from faults.scripted import always, at, expect, hang, hello, reset, scripted, send, serve, take

OFFER = ("PIPELINING", "CHUNKING", "BINARYMIME", "8BITMIME")
ANN = Envelope("news@example.test", ["ann@example.test"])


def chunking(*faults):
    return [*hello(*OFFER), serve(*faults)]


def verbs(peer):
    return re.findall(rb"^(MAIL|RCPT|DATA|BDAT|RSET|QUIT)\b", bytes(peer.said), re.MULTILINE)


def test_the_whole_transaction_is_written_before_any_reply(run):
    group = b"MAIL FROM:<news@example.test>\r\nRCPT TO:<ann@example.test>\r\nBDAT 14 LAST\r\nSubject: 1\r\n\r\n"

    async def main():
        script = [*hello(*OFFER), take(len(group)), send(b"250 ok\r\n250 ok\r\n250 2.0.0 taken\r\n"), hang()]
        async with scripted(script) as server, Connection(server.url) as connection:
            receipt = await connection.send(ANN, b"Subject: 1\n\n")
            assert bytes(server.peers[0].said).endswith(group)
            return receipt

    assert run(main()).reply.lines == ("2.0.0 taken",)


def test_many_messages_are_under_way_at_once_and_each_gets_its_own_end(run):
    refused = {3: "MAIL", 5: "RCPT", 8: "dot"}

    async def main():
        faults = [
            at("MAIL", b"550 5.7.1 not you\r\n", 3 + 1),
            at("RCPT", b"550 5.1.1 nobody\r\n", 5),  # one RCPT less: that of the message without MAIL got a 503
            at("dot", b"554 5.7.1 spam\r\n", 8 - 1),
        ]
        async with scripted(chunking(*faults)) as server:
            async with Mailer(server.url, connections=1) as mailer:
                receipts = by_index(await collect(mailer, map(mail, range(40))))
            return receipts, server.contents(), verbs(server.peers[0])

    receipts, contents, said = run(main())
    assert {receipt.index: receipt.error.command for receipt in receipts if receipt.error} == {
        number: "end of data" if phase == "dot" else phase for number, phase in refused.items()
    }
    assert sorted(contents) == sorted(subject(number) for number in range(40) if number not in refused)
    assert b"DATA" not in said and said.count(b"BDAT") == 40


@pytest.mark.parametrize("option", [{"chunking": False}, {"pipelining": False}])
def test_it_can_be_turned_off(run, option):
    async def main():
        async with scripted(chunking()) as server:
            async with Mailer(server.url, connections=1, **option) as mailer:
                receipts = await collect(mailer, map(mail, range(5)))
            return [receipt.error for receipt in receipts], server.contents(), verbs(server.peers[0])

    errors, contents, said = run(main())
    assert errors == [None] * 5 and sorted(contents) == [subject(number) for number in range(5)]
    assert (b"DATA" in said) == ("chunking" in option) and (b"BDAT" in said) == ("pipelining" in option)


def test_dots_and_newlines_arrive_as_they_are(run):
    text = b".\n..\n.x\r\nbare\rcr\n\n.last"

    async def main():
        async with scripted(chunking()) as server, Connection(server.url) as connection:
            await connection.send(ANN, text)
            await connection.send(ANN, (text[n : n + 1] for n in range(len(text))))
            return server.contents()

    assert run(main()) == [b".\r\n..\r\n.x\r\nbare\r\ncr\r\n\r\n.last\r\n"] * 2


def test_binary_content_is_not_touched(run):
    blob = bytes(range(256)) * 400

    async def main():
        async with scripted(chunking()) as server, Connection(server.url) as connection:
            binary = Envelope("news@example.test", ["ann@example.test"], body="binarymime")
            await connection.send(binary, blob)
            await connection.send(binary, iter([blob[:70_001], b"\n", blob[70_001:]]))
            assert bytes(server.peers[0].said).count(b"BODY=BINARYMIME") == 2
            return server.contents()

    assert run(main()) == [blob, blob[:70_001] + b"\n" + blob[70_001:]]


def test_a_stream_goes_out_in_chunks_and_arrives_whole(run):
    pieces = [b"line %d of many\r\n" % n * 100 for n in range(500)]

    async def main():
        async with scripted(chunking()) as server, Connection(server.url) as connection:
            receipt = await connection.send(ANN, iter(pieces))
            return receipt, server.contents(), verbs(server.peers[0])

    receipt, contents, said = run(main())
    whole = b"".join(pieces)
    assert [hashlib.sha256(c).digest() for c in contents] == [hashlib.sha256(whole).digest()]
    assert receipt.bytes == len(whole) and 2 < said.count(b"BDAT") <= len(whole) // 16384 + 1


@pytest.mark.parametrize("phase", ["before", "between"])
def test_a_source_that_breaks_off_delivers_nothing_and_the_connection_goes_on(run, phase):
    def source():
        if phase == "between":
            yield b"x\r\n" * 20_000
        raise OSError("the disk is gone")

    async def main():
        async with scripted(chunking()) as server, Connection(server.url) as connection:
            with pytest.raises(OSError, match="the disk is gone"):
                await connection.send(ANN, source())
            await connection.send(ANN, b"Subject: next\r\n\r\n")
            return server.contents(), verbs(server.peers[0])

    contents, said = run(main())
    assert contents == [b"Subject: next\r\n\r\n"]
    assert said.count(b"RSET") == 1


def test_a_call_that_is_cancelled_amid_its_source_delivers_nothing_and_the_connection_goes_on(run):
    async def main():
        async with scripted(chunking()) as server, Connection(server.url) as connection:
            asked = asyncio.Event()

            async def source():
                yield b"x" * 40_000
                asked.set()
                await asyncio.Event().wait()

            sending = asyncio.ensure_future(connection.send(ANN, source()))
            await asked.wait()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            await connection.send(ANN, b"Subject: next\r\n\r\n")
            return server.contents()

    assert run(main()) == [b"Subject: next\r\n\r\n"]


def test_a_chunk_that_is_refused_ends_the_stream_and_the_connection_goes_on(run):
    given = 0

    def source():
        nonlocal given
        while given < 10_000:
            given += 1
            yield b"x" * 16384

    async def main():
        async with scripted(chunking(at("BDAT", b"552 5.3.4 too big\r\n", 3))) as server:
            async with Connection(server.url) as connection:
                with pytest.raises(MessageRefused) as caught:
                    await connection.send(ANN, source())
                await connection.send(ANN, b"Subject: next\r\n\r\n")
            return caught.value, server.contents()

    error, contents = run(main())
    assert error.reply.code == 552 and given < 10_000
    assert contents == [b"Subject: next\r\n\r\n"]


def test_a_refused_envelope_never_asks_the_source(run):
    def source():
        raise AssertionError("asked")
        yield b""

    async def main():
        async with scripted(chunking(always("RCPT", b"550 5.1.1 nobody\r\n"))) as server:
            async with Connection(server.url) as connection:
                with pytest.raises(EnvelopeRefused):
                    await connection.send(ANN, source())
            return verbs(server.peers[0])

    assert b"BDAT" not in run(main())


def test_lost_before_any_reply_is_in_doubt(run):
    group = len(b"MAIL FROM:<news@example.test>\r\nRCPT TO:<ann@example.test>\r\nBDAT 4 LAST\r\nhi\r\n")

    async def main():
        async with scripted([*hello(*OFFER), take(group), reset()]) as server, Connection(server.url) as connection:
            with pytest.raises(InDoubt):
                await connection.send(ANN, b"hi\n")

    run(main())


def test_a_mailer_goes_on_without_bdat_where_the_server_does_not_know_it(run):
    # What follows the BDAT would be read as commands, so that connection ends; the next one does without.
    async def main():
        broken = [*hello(*OFFER), expect(rb"MAIL .*"), expect(rb"RCPT .*"), expect(rb"BDAT .*")]
        broken += [send(b"250 ok\r\n250 ok\r\n500 5.5.2 what\r\n"), hang()]
        async with scripted(broken, chunking()) as server:
            async with Mailer(server.url, connections=1) as mailer:
                receipts = await collect(mailer, map(mail, range(10)))
            return [receipt.error for receipt in receipts], server.contents(), verbs(server.peers[1])

    errors, contents, said = run(main())
    assert errors == [None] * 10 and sorted(contents) == [subject(number) for number in range(10)]
    assert b"BDAT" not in said


def test_a_connection_says_that_bdat_is_unknown(run):
    async def main():
        broken = [*hello(*OFFER), expect(rb"MAIL .*"), expect(rb"RCPT .*"), expect(rb"BDAT .*")]
        broken += [send(b"250 ok\r\n250 ok\r\n502 5.5.1 not here\r\n"), hang()]
        async with scripted(broken) as server, Connection(server.url) as connection:
            with pytest.raises(ProtocolError, match="offers CHUNKING, and does not know BDAT"):
                await connection.send(ANN, b"hi\n")
            with pytest.raises((ProtocolError, ConnectionLost)):
                await connection.noop()

    run(main())
