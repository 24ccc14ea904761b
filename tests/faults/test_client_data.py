"""Content in every form a caller may have it, sources that fail, and callers that change their mind."""

from __future__ import annotations

import asyncio
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkmail.errors import (
    BulkmailError,
    ConfigError,
    ConnectionLost,
    EnvelopeRefused,
    MessageRefused,
    ProtocolError,
    TimedOut,
)
from bulkmail.smtp.connection import Connection
from bulkmail.smtp.envelope import Envelope
from faults.scripted import always, at, close, expect, hang, hello, reset, scripted, send, serve, skip, take, wait

pytestmark = pytest.mark.usefixtures("both_ways")

SOON = 0.1
ANN = Envelope("news@example.test", ["ann@example.test"])
GO = [
    *hello("PIPELINING"),
    expect(rb"MAIL .*"),
    expect(rb"RCPT .*"),
    expect(rb"DATA"),
    send(b"250 ok\r\n250 ok\r\n354 go\r\n"),
]


def as_list(data):
    return [data[:1], b"", data[1:2], data[2:]]


async def as_async(data):
    for piece in as_list(data):
        await asyncio.sleep(0)
        yield piece


FORMS = {
    "bytes": lambda data: data,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "str": lambda data: data.decode(),
    "file": io.BytesIO,
    "list": as_list,
    "generator": lambda data: (piece for piece in as_list(data)),
    "async generator": as_async,
    "byte by byte": lambda data: (data[n : n + 1] for n in range(len(data))),
}

# What is given, and what must arrive: newlines CRLF, dots as they were, a last line that ends.
TEXTS = [
    (b"", b""),
    (b"one\r\ntwo\r\n", b"one\r\ntwo\r\n"),
    (b"one\ntwo\rthree", b"one\r\ntwo\r\nthree\r\n"),
    (b".\r\n..\r\n.x\r\nx.\r\n", b".\r\n..\r\n.x\r\nx.\r\n"),
    (b"\n.\n", b"\r\n.\r\n"),
    (b"\r\n.\r\nMAIL FROM:<x@y>\r\n", b"\r\n.\r\nMAIL FROM:<x@y>\r\n"),
    (b"\r.\r", b"\r\n.\r\n"),
    (b"\r", b"\r\n"),
    (b"x\r\r\ny", b"x\r\n\r\ny\r\n"),
    ("grüße\n".encode(), "grüße\r\n".encode()),
]


async def arrived(data, *rest, extensions=("PIPELINING",)):
    """What the server took of each of these, sent one after the other."""
    async with scripted([*hello(*extensions), serve()]) as server, Connection(server.url) as connection:
        receipts = [await connection.send(ANN, one) for one in (data, *rest)]
        return receipts, server.contents()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_arrives_the_same(run, form):
    receipts, contents = run(arrived(*(FORMS[form](text) for text, _ in TEXTS)))
    assert contents == [expected for _, expected in TEXTS]
    assert [receipt.bytes for receipt in receipts] == [len(text) for text, _ in TEXTS]


def test_a_file_on_disk(run, tmp_path):
    path = tmp_path / "message.eml"
    path.write_bytes(b"Subject: x\n\n" + b".dots and lines\n" * 20_000)  # several pieces, none of whose ends is special
    with path.open("rb") as file:
        ((receipt,), contents) = run(arrived(file))
    assert contents == [path.read_bytes().replace(b"\n", b"\r\n")] and receipt.bytes == path.stat().st_size


@settings(max_examples=50, deadline=None)
@given(pieces=st.lists(st.text(alphabet="\r\n.ax", max_size=6).map(str.encode), max_size=8))
def test_no_way_of_cutting_a_stream_changes_what_arrives(pieces):
    whole, cut = asyncio.run(arrived(b"".join(pieces), iter(pieces)))[1]
    assert whole == cut


def test_streams_without_pipelining_and_at_the_same_time(run):
    async def main(*extensions):
        async with scripted([*hello(*extensions), serve()]) as server, Connection(server.url) as connection:
            sending = [connection.send(ANN, as_async(b"%d\r\n" % n)) for n in range(4)]
            sending += [connection.send(ANN, b"%d\r\n" % n) for n in range(4, 8)]
            await asyncio.wait_for(asyncio.gather(*sending), 5)
            return sorted(server.contents())

    for extensions in ((), ("PIPELINING",)):
        assert run(main(*extensions)) == [b"%d\r\n" % n for n in range(8)]


# ---- refused before the content was asked for


@pytest.mark.parametrize("extensions", [(), ("PIPELINING",)], ids=["one by one", "pipelining"])
@pytest.mark.parametrize("phase", ["MAIL", "RCPT", "DATA"])
def test_a_refused_envelope_takes_nothing_from_the_source(run, extensions, phase):
    async def main():
        source = iter([b"one\r\n", b"two\r\n"])
        async with scripted([*hello(*extensions), serve(at(phase, b"550 5.7.1 no\r\n"))]) as server:
            async with Connection(server.url) as connection:
                with pytest.raises(MessageRefused if phase == "DATA" else EnvelopeRefused):
                    await asyncio.wait_for(connection.send(ANN, source), 5)
                assert next(source) == b"one\r\n"
                await connection.send(ANN, source)
            return server.contents()

    assert run(main()) == [b"two\r\n"]


# ---- sources that fail


class Broken(Exception):
    pass


def failing():
    yield b"Subject: half\r\n\r\n"
    yield b"the first half\r\n"
    raise Broken


async def failing_async():
    for piece in failing():
        yield piece


class FailingFile:
    def __init__(self):
        self.pieces = failing()

    def read(self, size):
        return next(self.pieces)


@pytest.mark.parametrize("source", [failing, failing_async, FailingFile])
def test_a_source_that_fails_never_leaves_half_a_message(run, source):
    async def main():
        async with scripted([*hello("PIPELINING"), serve()]) as server:
            connection = Connection(server.url)
            await connection.connect()
            with pytest.raises(Broken):
                await connection.send(ANN, source())
            with pytest.raises(ConnectionLost, match="abandoned"):
                await connection.send(ANN, b"another\r\n")
            await server.until(lambda s: not s.peers[0].alive())
            await asyncio.sleep(0.01)
            return server.messages, bytes(server.peers[0].said)

    messages, said = run(main())
    assert messages == [] and not said.endswith(b".\r\n")


def test_a_source_that_fails_before_its_first_piece(run):
    def none():
        raise Broken
        yield b""

    async def main():
        async with scripted([*hello("PIPELINING"), serve()]) as server:
            connection = Connection(server.url)
            await connection.connect()
            with pytest.raises(Broken):
                await connection.send(ANN, none())
            await server.until(lambda s: not s.peers[0].alive())
            return server.messages

    assert run(main()) == []


@pytest.mark.parametrize("source", [lambda: io.StringIO("text"), lambda: iter(["text"]), lambda: iter([b"x", 7])])
def test_a_source_of_something_else_than_bytes(run, source):
    async def main():
        async with scripted([*hello("PIPELINING"), serve()]) as server:
            connection = Connection(server.url)
            await connection.connect()
            with pytest.raises((ConfigError, TypeError)):
                await connection.send(ANN, source())
            await server.until(lambda s: not s.peers[0].alive())
            return server.messages

    assert run(main()) == []


# ---- servers that fail in the middle of a stream


async def cut_short(script, data, **options):
    async with scripted(script) as server:
        connection = Connection(server.url, **options)
        await connection.connect()
        with pytest.raises(BulkmailError) as caught:
            await asyncio.wait_for(connection.send(ANN, data), 5)
        with pytest.raises(BulkmailError):
            await connection.noop()
        return caught.value


def endless():
    while True:
        yield b"0123456789abcdef" * 4096


@pytest.mark.parametrize("end", [close(), reset()], ids=["close", "reset"])
def test_hung_up_on_in_a_stream(run, end):
    error = run(cut_short([*GO, take(100_000), end], endless()))
    assert type(error) is ConnectionLost


def test_a_server_that_stops_reading(run):
    error = run(cut_short([*GO, take(1000), wait(10 * SOON)], endless(), data_timeout=SOON))
    assert (type(error), error.phase, error.command) == (TimedOut, "data", "DATA")


@pytest.mark.parametrize(
    ("line", "kind"), [(b"552 5.3.4 too big\r\n", MessageRefused), (b"421 4.3.2 bye\r\n", ConnectionLost)]
)
def test_a_refusal_in_the_middle_of_a_stream(run, line, kind):
    error = run(cut_short([*GO, take(1000), send(line), hang()], endless()))
    assert type(error) is kind and error.reply.code == int(line[:3])


def test_a_reply_in_the_middle_of_a_stream_that_means_nothing(run):
    error = run(cut_short([*GO, take(1000), send(b"250 what a nice message\r\n"), hang()], endless()))
    assert type(error) is ProtocolError


def test_a_slow_source_is_not_the_server_s_fault(run):
    first, second = (
        b"0123456789abcd\r\n" * 500_000,
        b"two\r\n",
    )  # more than the buffers hold: we had to wait for the server

    async def slow():
        yield first
        await asyncio.sleep(0.6)
        yield second

    async def main():
        size = len(first + second + b".\r\n")
        async with (
            scripted([*GO, skip(size), send(b"250 ok\r\n"), serve()]) as server,
            Connection(server.url, data_timeout=0.4, command_timeout=0.4) as connection,
        ):
            return (await connection.send(ANN, slow())).bytes

    assert run(main()) == len(first + second)


def test_a_long_stream_waits_for_the_server_instead_of_filling_the_memory(run):
    """40 MB to a server that reads them slowly: the source is asked only as the server takes."""
    size, pieces = 64 * 1024, 640
    asked = 0

    def source():
        nonlocal asked
        for _ in range(pieces):
            asked += 1
            yield b"0123456789abcd\r\n" * (size // 16)

    async def main():
        rest = size * pieces + len(b".\r\n") - 1000
        async with (
            scripted([*GO, take(1000), wait(resume), skip(rest), send(b"250 ok\r\n"), serve()]) as server,
            Connection(server.url) as connection,
        ):
            sending = asyncio.ensure_future(connection.send(ANN, source()))
            await asyncio.sleep(0.2)
            early = asked
            resume.set()
            return early, (await sending).bytes

    resume = asyncio.Event()
    early, total = run(main())
    assert early < pieces / 2 and total == size * pieces


# ---- callers that change their mind: closed or usable, never stuck


@pytest.mark.parametrize("data", [b"hello\r\n", [b"hello\r\n"]], ids=["bytes", "stream"])
@pytest.mark.parametrize("phase", ["MAIL", "RCPT", "DATA", "dot"])
def test_a_cancelled_send_closes_the_connection(run, phase, data):
    async def main():
        async with scripted([*hello("PIPELINING"), serve(at(phase, hang()))]) as server:
            connection = Connection(server.url)
            await connection.connect()
            others = [asyncio.ensure_future(connection.send(ANN, b"other\r\n")) for _ in range(2)]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(connection.send(ANN, data), SOON)
            endings = await asyncio.wait_for(asyncio.gather(*others, return_exceptions=True), 5)
            assert all(isinstance(ending, ConnectionLost) for ending in endings)
            with pytest.raises(ConnectionLost):
                await connection.noop()
            await server.until(lambda s: not s.peers[0].alive())
            return server.messages

    assert run(main()) == []


def test_a_send_cancelled_while_it_drains(run):
    async def main():
        async with scripted([*GO, take(1000), hang_without_reading]) as server:
            connection = Connection(server.url)
            await connection.connect()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(connection.send(ANN, endless()), SOON)
            with pytest.raises(ConnectionLost):
                await connection.noop()

    async def hang_without_reading(peer):
        await asyncio.sleep(2 * SOON)

    run(main())


def test_a_cancelled_command_closes_the_connection_since_its_reply_would_be_taken_for_the_next_one(run):
    async def main():
        async with scripted(
            [*hello("PIPELINING"), expect(rb"NOOP"), wait(2 * SOON), send(b"250 noop\r\n"), serve()]
        ) as server:
            connection = Connection(server.url)
            await connection.connect()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(connection.noop(), SOON)
            with pytest.raises(ConnectionLost):
                await connection.reset()

    run(main())


def test_a_second_command_at_the_same_time_is_our_own_mistake_and_changes_nothing(run):
    async def main():
        async with scripted([*hello("PIPELINING"), serve()]) as server, Connection(server.url) as connection:
            first = asyncio.ensure_future(connection.noop())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="under way"):
                await connection.reset()
            assert (await first).code == 250
            assert (await connection.reset()).code == 250
            sending = asyncio.ensure_future(connection.send(ANN, b"x\r\n"))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="while a message"):
                await connection.noop()
            await sending
            return bytes(server.peers[0].said).split(b"\r\n")[1:3], server.contents()

    assert run(main()) == ([b"NOOP", b"RSET"], [b"x\r\n"])


def test_a_message_that_is_sent_while_a_command_is_awaited_waits_for_it(run):
    async def main():
        async with (
            scripted([*hello("PIPELINING"), serve(at("NOOP", [wait(0.05), send(b"250 slow\r\n")]))]) as server,
            Connection(server.url) as connection,
        ):
            return await asyncio.gather(connection.noop(), connection.send(ANN, b"x\r\n"))

    noop, receipt = run(main())
    assert str(noop) == "250 slow" and receipt.accepted


def test_a_cancelled_quit_is_closed_too(run):
    async def main():
        async with scripted([*hello(), expect(rb"QUIT"), hang()]) as server:
            connection = Connection(server.url)
            await connection.connect()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(connection.quit(), SOON)
            await connection.wait_closed()
            await server.until(lambda s: not s.peers[0].alive())

    run(main())


def test_leaving_the_block_by_an_exception_closes_without_ceremony(run):
    async def main():
        async with scripted([*hello(), serve()]) as server:
            with pytest.raises(Broken):
                async with Connection(server.url):
                    raise Broken
            await server.until(lambda s: not s.peers[0].alive())
            return bytes(server.peers[0].said)

    assert b"QUIT" not in run(main())


def test_waiting_for_the_end_may_be_given_up(run):
    async def main():
        async with (
            scripted([*hello("PIPELINING"), serve(always("QUIT", b"221 bye\r\n"))]) as server,
            Connection(server.url) as connection,
        ):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(connection.wait_closed(), 0.05)
            assert (await connection.send(ANN, b"x\r\n")).accepted

    run(main())
