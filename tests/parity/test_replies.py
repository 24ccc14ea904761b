"""What servers say: words beyond ASCII, replies that nobody asked for, lines that are none; EHLO lists as they come."""

from __future__ import annotations

import asyncio

import pytest

from bulkmail.errors import ConnectionLost, EnvelopeRefused, ProtocolError
from bulkmail.smtp.connection import Connection
from bulkmail.smtp.envelope import Envelope
from bulkmail.wire.extensions import parse_extensions
from bulkmail.wire.reply import Reply
from faults.scripted import GREETING, at, close, drip, expect, hang, hello, scripted, send, serve, wait

ANN = Envelope("news@example.test", ["ann@example.test"])


async def refusal(line):
    """The error of a message whose MAIL gets `line`: bytes, or a step."""
    async with scripted([*hello("PIPELINING"), serve(at("MAIL", line))]) as server:
        connection = Connection(server.url)
        await connection.connect()
        with pytest.raises(EnvelopeRefused) as caught:
            await connection.send(ANN, b"x")
        await connection.quit()
        return caught.value


# ---- words


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "a byte at a time"])
def test_words_in_utf_8_reach_the_error(run, cut):
    words = "451 4.7.1 Временно: öõüä"
    line = f"{words}\r\n".encode()
    error = run(refusal(drip(line, 0.001) if cut else line))
    assert (error.reply.code, str(error.reply)) == (451, words) and words in str(error)


def test_words_in_utf_8_and_in_ascii_reach_the_receipt(run):
    async def main():
        faults = [at("dot", "250 2.0.0 queued Привет\r\n".encode(), nth=1), at("dot", b"250 2.0.0 ABC123\r\n", nth=2)]
        async with scripted([*hello(), serve(*faults)]) as server, Connection(server.url) as connection:
            return [str((await connection.send(ANN, b"x")).reply) for _ in range(2)]

    assert run(main()) == ["250 2.0.0 queued Привет", "250 2.0.0 ABC123"]


def test_bytes_that_are_no_utf_8_are_replaced_and_do_no_harm(run):
    error = run(refusal(b"451 4.7.1 binary: \xff\xfe\r\n"))
    assert error.reply.lines == ("4.7.1 binary: \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}",)


def test_a_greeting_and_an_ehlo_list_in_utf_8(run):
    async def main():
        ehlo = "250-mx.example.test Привет\r\n250-PIPELINING\r\n250 SIZE 10485760\r\n".encode()
        script = [send("220 Здравствуйте\r\n".encode()), expect(rb"EHLO .*"), send(ehlo), serve()]
        async with scripted(script) as server, Connection(server.url) as connection:
            return connection.info.greeting, connection.extensions

    assert run(main()) == ("Здравствуйте", {"PIPELINING": "", "SIZE": "10485760"})


# ---- what is no reply, or none to anything


@pytest.mark.parametrize("before", [b"\r\n", b"\n"])
def test_an_empty_line_is_no_reply(run, before):
    async def main():
        async with scripted([send(before + GREETING), hang()]) as server:
            with pytest.raises(ProtocolError, match="not an SMTP reply"):
                await Connection(server.url).connect()

    run(main())


def test_half_a_reply_at_the_end_is_none(run):
    async def main():
        async with scripted([send(GREETING), expect(rb"EHLO .*"), send("421 Проща".encode()), close()]) as server:
            with pytest.raises(ConnectionLost, match="waiting for the reply to EHLO") as caught:
                await Connection(server.url).connect()
            return caught.value.reply

    assert run(main()) is None


@pytest.mark.parametrize(
    "unasked",
    [[b"250 unasked\r\n"], [b"250-a\r\n250-b\r\n250 c\r\n"], [b"250-a\r\n", b"250 b", b"c\r\n"]],
    ids=["a reply", "one of several lines", "in pieces"],
)
def test_a_reply_to_nothing_is_never_taken_for_that_of_the_next_command(run, unasked):
    """Which reply belongs to what is then not certain any more: the connection ends, a message would be in doubt."""

    async def main():
        idle = asyncio.Event()
        pieces = [step for piece in unasked for step in (send(piece), wait(0.002))]
        async with scripted([*hello("PIPELINING"), wait(idle), *pieces, hang()]) as server:
            connection = Connection(server.url)
            await connection.connect()
            idle.set()
            with pytest.raises(ProtocolError):
                await asyncio.wait_for(connection.wait_closed(), 5)
            with pytest.raises(ProtocolError):
                await connection.send(ANN, b"x")
            return b"MAIL" in server.peers[0].said

    assert run(main()) is False


@pytest.mark.parametrize("garbage", [b"sdfjlfwqejflqw\r\n", b"\xff\xff\xff\xff\r\n"])
def test_garbage_for_a_reply_ends_the_connection(run, garbage):
    async def main():
        async with scripted([*hello(), serve(at("NOOP", garbage))]) as server:
            connection = Connection(server.url)
            await connection.connect()
            for _ in range(2):
                with pytest.raises(ProtocolError):
                    await connection.noop()

    run(main())


# ---- what EHLO offers


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["mx"], {}),
        (["SIZE.example.test offers"], {}),
        (["mx", "8BITMIME", "size 51200000", "XADR"], {"8BITMIME": "", "SIZE": "51200000", "XADR": ""}),
        (["mx", "AUTH FOO BAR"], {"AUTH": "FOO BAR"}),
        (["mx", "AUTH=PLAIN"], {"AUTH": "PLAIN"}),
        (["mx", "AUTH=PLAIN LOGIN"], {"AUTH": "PLAIN LOGIN"}),
        (["mx", "AUTH=PLAIN", "AUTH CRAM-MD5 PLAIN"], {"AUTH": "PLAIN CRAM-MD5"}),
        (["mx", "   SIZE 1000  "], {"SIZE": "1000"}),
        (["mx", "", "8BITMIME"], {"8BITMIME": ""}),
    ],
)
def test_what_an_ehlo_list_offers(lines, found):
    assert parse_extensions(Reply(250, lines)) == found


def test_a_refused_ehlo_offers_nothing(run):
    async def main():
        script = [send(GREETING), expect(rb"EHLO .*"), send(b"502-no\r\n502 STARTTLS\r\n"), expect(rb"HELO .*")]
        async with (
            scripted([*script, send(b"250-mx\r\n250 SIZE 5\r\n"), serve()]) as server,
            Connection(server.url) as connection,
        ):
            assert (await connection.send(ANN, b"more than five")).accepted
            return connection.extensions, connection.secure

    assert run(main()) == ({}, False)


# ---- a reply is a value


def test_a_reply_shows_all_of_itself():
    reply = Reply(550, ["5.1.1 no such user", "really"])
    assert (str(reply), reply.text, reply.enhanced) == (
        "550 5.1.1 no such user really",
        "5.1.1 no such user really",
        "5.1.1",
    )
    assert eval(repr(reply)) == reply
