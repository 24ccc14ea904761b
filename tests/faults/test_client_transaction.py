"""One message over one connection, and a server that fails at each step of it."""

from __future__ import annotations

import asyncio

import pytest

from bulkmail.errors import (
    BulkmailError,
    ConfigError,
    ConnectionLost,
    EnvelopeRefused,
    InDoubt,
    MessageError,
    MessageRefused,
    ProtocolError,
    TimedOut,
)
from bulkmail.smtp.connection import Connection
from bulkmail.smtp.envelope import Envelope
from faults.scripted import always, at, close, content, expect, hang, hello, reset, scripted, send, serve, take, wait

pytestmark = pytest.mark.usefixtures("both_ways")

SOON = 0.1
ANN = Envelope("news@example.test", ["ann@example.test"])
THREE = Envelope("news@example.test", ["ann@example.test", "bob@example.test", "cy@example.test"])
TEXT = b"Subject: x\r\n\r\nhello\r\n"
PIPELINING = [["PIPELINING"], []]
HUGE = b"0123456789abcdef" * 64 * 1024 * 16  # 16 MiB: more than all the buffers on the way hold
LATER = b"421 4.3.2 going down\r\n"


async def outcome(server, envelope=ANN, data=TEXT, **options):
    """(receipt or error of one send, whether the connection was usable afterwards)."""
    options = {"command_timeout": 5, "data_timeout": 5, **options}
    async with Connection(server.url, **options) as connection:
        try:
            result = await connection.send(envelope, data)
        except BulkmailError as error:
            result = error
        try:
            await connection.noop()
            return result, True
        except BulkmailError:
            return result, False


def sent(run, script, **kwargs):
    async def main():
        async with scripted(script) as server:
            return await outcome(server, **kwargs)

    return run(main())


def told(error):
    return type(error), error.code, error.scope, error.permanent, error.command, error.reply and error.reply.code


@pytest.mark.parametrize("extensions", PIPELINING, ids=["pipelining", "one by one"])
@pytest.mark.parametrize("phase", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("end", [close(), reset()], ids=["close", "reset"])
def test_hung_up_on_in_the_envelope(run, extensions, phase, end):
    # A RST takes replies along that were not read yet, hence the pause.
    error, usable = sent(run, [*hello(*extensions), serve(at(phase, [wait(0.02), end]))])
    assert told(error) == (ConnectionLost, "ELOST", "connection", False, phase, None)
    assert phase in str(error) and not usable


@pytest.mark.parametrize("extensions", PIPELINING, ids=["pipelining", "one by one"])
@pytest.mark.parametrize("phase", ["MAIL", "RCPT", "DATA"])
def test_421_in_the_envelope(run, extensions, phase):
    error, usable = sent(run, [*hello(*extensions), serve(at(phase, [send(LATER), close()]))])
    assert told(error) == (ConnectionLost, "ELOST", "connection", False, phase, 421)
    assert "going down" in str(error) and not usable


@pytest.mark.parametrize("extensions", PIPELINING, ids=["pipelining", "one by one"])
@pytest.mark.parametrize("phase", ["MAIL", "RCPT", "DATA"])
def test_silence_in_the_envelope(run, extensions, phase):
    error, usable = sent(run, [*hello(*extensions), serve(at(phase, hang()))], command_timeout=SOON)
    assert told(error) == (TimedOut, "ETIMEDOUT", "connection", False, phase, None)
    assert error.phase == "command" and phase in str(error) and not usable


@pytest.mark.parametrize("end", [close(), reset()], ids=["close", "reset"])
def test_hung_up_on_in_the_middle_of_the_message(run, end):
    script = [*hello("PIPELINING"), expect(rb"MAIL .*"), expect(rb"RCPT .*"), expect(rb"DATA")]
    script += [send(b"250 ok\r\n250 ok\r\n354 go\r\n"), take(100_000), end]
    error, _ = sent(run, script, data=HUGE)
    assert told(error) == (ConnectionLost, "ELOST", "connection", False, "end of data", None)


@pytest.mark.parametrize("end", [close(), reset()], ids=["close", "reset"])
def test_hung_up_on_after_the_dot(run, end):
    error, usable = sent(run, [*hello("PIPELINING"), serve(at("dot", end))])
    assert told(error) == (InDoubt, "EINDOUBT", "message", False, "end of data", None)
    assert type(error.__cause__) is ConnectionLost and isinstance(error, ConnectionLost) and not usable


def test_silence_after_the_dot(run):
    error, usable = sent(run, [*hello("PIPELINING"), serve(at("dot", hang()))], data_timeout=SOON)
    assert told(error) == (InDoubt, "EINDOUBT", "message", False, "end of data", None)
    assert isinstance(error.__cause__, TimedOut) and error.__cause__.phase == "data" and not usable


def test_a_dripped_verdict_runs_out_of_time(run):
    async def dripping(peer):
        for byte in b"250-" * 1000:
            await peer.send(bytes([byte]))
            await asyncio.sleep(0.01)

    error, _ = sent(run, [*hello("PIPELINING"), serve(at("dot", dripping))], data_timeout=SOON)
    assert type(error) is InDoubt and error.__cause__.phase == "data"


def test_silence_in_the_middle_of_the_message_is_not_in_doubt(run):
    script = [*hello("PIPELINING"), expect(rb"MAIL .*"), expect(rb"RCPT .*"), expect(rb"DATA")]
    script += [send(b"250 ok\r\n250 ok\r\n354 go\r\n"), take(1000), wait(10 * SOON)]
    error, _ = sent(run, script, data=HUGE, data_timeout=SOON)
    assert (type(error), error.phase) == (TimedOut, "data")


@pytest.mark.parametrize("extensions", PIPELINING, ids=["pipelining", "one by one"])
@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        ("MAIL", (EnvelopeRefused, "EENVELOPE", "message")),
        ("RCPT", (EnvelopeRefused, "EENVELOPE", "recipient")),
        ("DATA", (MessageRefused, "EMESSAGE", "message")),
        ("dot", (MessageRefused, "EMESSAGE", "message")),
    ],
)
@pytest.mark.parametrize(("line", "permanent"), [(b"451 4.3.0 later\r\n", False), (b"554 5.7.1 spam\r\n", True)])
def test_a_refusal_leaves_the_connection_usable(run, extensions, phase, expected, line, permanent):
    error, usable = sent(run, [*hello(*extensions), serve(at(phase, line))])
    command = "end of data" if phase == "dot" else phase
    assert told(error) == (*expected, permanent, command, int(line[:3]))
    assert error.reply.enhanced == line[4:9].decode() and usable


def test_421_at_the_dot_refuses_this_message_for_now(run):
    error, usable = sent(run, [*hello("PIPELINING"), serve(at("dot", [send(LATER), close()]))])
    assert told(error) == (MessageRefused, "EMESSAGE", "message", False, "end of data", 421)
    assert not usable


@pytest.mark.parametrize("extensions", PIPELINING, ids=["pipelining", "one by one"])
def test_some_recipients_refused(run, extensions):
    async def main():
        async with scripted([*hello(*extensions), serve(at("RCPT", b"550 5.1.1 no bob\r\n", nth=2))]) as server:
            receipt, usable = await outcome(server, THREE)
            return receipt, usable, server.addressees(), server.port

    receipt, usable, arrived, _ = run(main())
    assert receipt.accepted == arrived == ["ann@example.test", "cy@example.test"]
    ((address, reply, error),) = [(r.address, r.reply, r.error) for r in receipt.rejected]
    assert (address, str(reply)) == ("bob@example.test", "550 5.1.1 no bob")
    assert told(error) == (EnvelopeRefused, "EENVELOPE", "recipient", True, "RCPT", 550)
    assert receipt.reply.code == 250 and receipt.error is None and usable
    assert "ann" not in str(error)  # an error never names another recipient


@pytest.mark.parametrize("extensions", PIPELINING, ids=["pipelining", "one by one"])
def test_all_recipients_refused(run, extensions):
    error, usable = sent(run, [*hello(*extensions), serve(always("RCPT", b"550 5.1.1 nobody\r\n"))], envelope=THREE)
    assert told(error) == (EnvelopeRefused, "EENVELOPE", "recipient", True, "RCPT", 550)
    assert usable


def test_nobody_accepted_and_yet_a_354(run):
    async def main():
        script = [*hello("PIPELINING"), expect(rb"MAIL .*"), expect(rb"RCPT .*"), expect(rb"DATA")]
        script += [send(b"250 ok\r\n550 no\r\n354 go\r\n"), content(), send(b"250 whatever\r\n"), serve()]
        async with scripted(script) as server:
            result = await outcome(server)
            return *result, b"DATA\r\n.\r\nNOOP" in server.peers[0].said

    error, usable, lone_dot = run(main())
    assert isinstance(error, EnvelopeRefused) and usable and lone_dot


def test_the_rejected_keep_their_own_reply_when_the_message_is_refused_too(run):
    script = [*hello("PIPELINING"), serve(at("RCPT", b"550 5.1.1 no\r\n", nth=1), at("dot", b"552 5.3.4 too big\r\n"))]
    error, _ = sent(run, script, envelope=THREE)
    assert told(error) == (MessageRefused, "EMESSAGE", "message", True, "end of data", 552)


@pytest.mark.parametrize(
    "script",
    [
        [expect(rb"MAIL .*"), send(b"hello there\r\n")],
        [expect(rb"MAIL .*"), send(b"250 ok\r\n250 ok\r\n250 data?\r\n")],
        [expect(rb"MAIL .*"), send(b"250 ok\r\n250 ok\r\n354 go\r\n250 taken before it came\r\n")],
    ],
    ids=["no reply", "250 to DATA", "verdict before the message"],
)
def test_a_server_that_breaks_smtp(run, script):
    error, usable = sent(run, [*hello("PIPELINING"), *script, hang()])
    assert (type(error), error.code, error.scope) == (ProtocolError, "EPROTOCOL", "connection")
    assert not usable


def test_354_after_the_message_leaves_it_in_doubt(run):
    error, _ = sent(run, [*hello("PIPELINING"), serve(at("dot", b"354 more?\r\n")), hang()])
    assert type(error) is InDoubt and type(error.__cause__) is ProtocolError


# ---- several on one connection


@pytest.mark.parametrize("extensions", PIPELINING, ids=["pipelining", "one by one"])
def test_sends_in_turn_and_at_the_same_time(run, extensions):
    async def main():
        async with scripted([*hello(*extensions), serve()]) as server, Connection(server.url) as connection:
            first = await connection.send(ANN, b"0\r\n")
            await connection.reset()
            rest = await asyncio.gather(*(connection.send(ANN, b"%d\r\n" % n) for n in range(1, 10)))
            return [first, *rest], server.contents(), len(server.peers)

    receipts, contents, connections = run(main())
    assert all(receipt.accepted == ["ann@example.test"] for receipt in receipts)
    assert contents == [b"%d\r\n" % n for n in range(10)] and connections == 1


def test_a_refused_one_amid_others_does_not_touch_them(run):
    async def main():
        faults = [
            at("RCPT", b"550 no\r\n", nth=2),
            at("dot", b"554 spam\r\n", nth=3),
            at("MAIL", b"550 not you\r\n", nth=5),
        ]
        async with scripted([*hello("PIPELINING"), serve(*faults)]) as server, Connection(server.url) as connection:
            sending = (connection.send(ANN, b"%d\r\n" % n) for n in range(6))
            results = await asyncio.gather(*sending, return_exceptions=True)
            return [type(result).__name__ for result in results], server.contents()

    results, contents = run(main())
    assert results == ["Receipt", "EnvelopeRefused", "Receipt", "MessageRefused", "EnvelopeRefused", "Receipt"]
    assert contents == [b"0\r\n", b"2\r\n", b"5\r\n"]


def test_a_loss_amid_several_says_of_each_what_is_known(run):
    async def main():
        async with (
            scripted([*hello("PIPELINING"), serve(at("dot", reset(), nth=2))]) as server,
            Connection(server.url) as connection,
        ):
            sending = (connection.send(ANN, b"%d\r\n" % n) for n in range(4))
            results = await asyncio.gather(*sending, return_exceptions=True)
            return [type(result).__name__ for result in results], server.contents()

    results, contents = run(main())
    assert results == ["Receipt", "InDoubt", "ConnectionLost", "ConnectionLost"]
    assert contents == [b"0\r\n"]


# ---- refused before anything is sent


@pytest.mark.parametrize(
    ("envelope", "data", "error"),
    [
        (Envelope("news@example.test", []), TEXT, ConfigError),
        (Envelope("news@example.test", ["not an address"]), TEXT, EnvelopeRefused),
        (Envelope("news@example.test", ["ann@example.test\r\nDATA"]), TEXT, EnvelopeRefused),
        (Envelope("<news@example.test>", ["ann@example.test"]), TEXT, EnvelopeRefused),
        (Envelope("news@example.test", ["ü@example.test"]), TEXT, EnvelopeRefused),
        (Envelope("news@example.test", ["ann@example.test"], smtputf8=True), TEXT, EnvelopeRefused),
        (Envelope("news@example.test", ["ann@example.test"], body="8bitmime"), TEXT, EnvelopeRefused),
        (ANN, 42, ConfigError),
        (ANN, "lone \ud800 surrogate", MessageError),
    ],
    ids=["nobody", "no address", "line break", "brackets", "umlaut", "smtputf8", "8bitmime", "a number", "surrogate"],
)
def test_what_cannot_be_sent_is_refused_here(run, envelope, data, error):
    async def main():
        async with scripted([*hello("PIPELINING"), serve()]) as server, Connection(server.url) as connection:
            with pytest.raises(error) as caught:
                await connection.send(envelope, data)
            assert caught.value.permanent
            assert (await connection.send(ANN, TEXT)).accepted == ["ann@example.test"]
            return bytes(server.peers[0].said).count(b"MAIL")

    assert run(main()) == 1


@pytest.mark.parametrize(
    ("envelope", "data", "mail"),
    [
        (ANN, b"plain\r\n", b"MAIL FROM:<news@example.test>"),
        (ANN, "grüß\r\n".encode(), b"MAIL FROM:<news@example.test> BODY=8BITMIME"),
        (ANN, "grüß", b"MAIL FROM:<news@example.test> BODY=8BITMIME"),
        (Envelope("", ["ann@example.test"]), b"", b"MAIL FROM:<>"),
        (
            Envelope("a@example.test", ["b@example.test"], body="8bitmime"),
            b"",
            b"MAIL FROM:<a@example.test> BODY=8BITMIME",
        ),
        (Envelope("a@example.test", ["b@example.test"], body="7bit"), "ü".encode(), b"MAIL FROM:<a@example.test>"),
        (Envelope("ü@example.test", ["b@example.test"]), b"", "MAIL FROM:<ü@example.test> SMTPUTF8".encode()),
        (Envelope("a@bücher.example", ["b@example.test"]), b"", b"MAIL FROM:<a@xn--bcher-kva.example>"),
    ],
)
def test_what_mail_asks_for(run, envelope, data, mail):
    async def main():
        async with scripted([*hello("PIPELINING", "8BITMIME", "SMTPUTF8"), serve()]) as server:
            async with Connection(server.url) as connection:
                await connection.send(envelope, data)
            return [line for line in bytes(server.peers[0].said).split(b"\r\n") if line.startswith(b"MAIL")]

    assert run(main()) == [mail]


def test_the_receipt(run):
    async def main():
        async with scripted([*hello("PIPELINING"), serve()]) as server, Connection(server.url) as connection:
            text = b"Message-ID: <1@example.test>\r\nSubject: x\r\n\r\nMessage-ID: <2@example.test>\r\n"
            return await connection.send(ANN, text), len(text)

    receipt, size = run(main())
    assert (receipt.bytes, receipt.message_id, receipt.relay) == (size, "<1@example.test>", "127.0.0.1")
    assert (receipt.tls, receipt.egress, receipt.error, receipt.rejected) == (None, None, None, [])
    assert str(receipt.reply) == "250 2.0.0 taken"
    assert 0 <= receipt.envelope_seconds < 5 and 0 <= receipt.data_seconds < 5


# ---- single commands


@pytest.mark.parametrize("verb", ["reset", "noop"])
def test_single_commands_and_their_refusal(run, verb):
    async def main():
        name = "RSET" if verb == "reset" else "NOOP"
        faults = [at(name, b"500 5.5.1 no\r\n", nth=2), at(name, [send(LATER), close()], nth=3)]
        async with scripted([*hello(), serve(*faults)]) as server, Connection(server.url) as connection:
            reply = await getattr(connection, verb)()
            with pytest.raises(EnvelopeRefused) as refused:
                await getattr(connection, verb)()
            with pytest.raises(ConnectionLost) as lost:
                await getattr(connection, verb)()
            return reply.code, refused.value, lost.value, name

    code, refused, lost, name = run(main())
    assert code == 250
    assert told(refused) == (EnvelopeRefused, "EENVELOPE", "connection", True, name, 500)
    assert told(lost) == (ConnectionLost, "ELOST", "connection", False, name, 421)


def test_asking_whether_a_sender_is_allowed(run):
    async def main():
        async with (
            scripted([*hello(), serve(at("MAIL", b"550 5.7.1 not you\r\n", nth=2))]) as server,
            Connection(server.url) as connection,
        ):
            assert (await connection.mail("a@example.test")).code == 250
            with pytest.raises(EnvelopeRefused, match="not you"):
                await connection.mail("b@example.test")
            return (await connection.send(ANN, TEXT)).accepted

    assert run(main()) == ["ann@example.test"]


# ---- the end


def test_quit_says_goodbye_and_wait_closed_is_content(run):
    async def main():
        async with scripted([*hello(), serve()]) as server:
            connection = Connection(server.url)
            await connection.connect()
            waiting = asyncio.ensure_future(connection.wait_closed())
            await connection.quit()
            await waiting
            await connection.wait_closed()
            return bytes(server.peers[0].said).endswith(b"QUIT\r\n")

    assert run(main())


def test_close_is_immediate_and_wait_closed_is_content(run):
    async def main():
        async with scripted([*hello(), hang()]) as server:
            connection = Connection(server.url)
            await connection.connect()
            connection.close()
            await connection.wait_closed()
            await server.until(lambda s: not s.peers[0].alive())

    run(main())


def test_quit_answered_by_silence_or_a_reset_ends_all_the_same(run, monkeypatch):
    async def main(end):
        async with scripted([*hello(), expect(rb"QUIT"), end]) as server:
            connection = Connection(server.url)
            await connection.connect()
            await connection.quit()
            await connection.wait_closed()

    monkeypatch.setattr("bulkmail.smtp.open.QUIT_SECONDS", SOON)
    for end in (hang(), reset(), close(), send(b"garbage\r\n"), send(LATER)):
        run(main(end))


@pytest.mark.parametrize(
    "end", [close(), reset(), send(LATER), send(b"nonsense\r\n")], ids=["close", "reset", "421", "garbage"]
)
def test_wait_closed_raises_what_the_server_did(run, end):
    async def main():
        async with scripted([*hello(), wait(0.01), end]) as server:
            connection = Connection(server.url)
            await connection.connect()
            with pytest.raises(BulkmailError) as caught:
                await asyncio.wait_for(connection.wait_closed(), 5)
            return caught.value

    error = run(main())
    assert isinstance(error, ConnectionLost | ProtocolError)


def test_connected_again_after_it_was_lost(run):
    async def main():
        async with scripted([*hello(), serve(at("MAIL", reset()))], [*hello(), serve()]) as server:
            connection = Connection(server.url)
            await connection.connect()
            with pytest.raises(ConfigError, match="already connected"):
                await connection.connect()
            with pytest.raises(ConnectionLost):
                await connection.send(ANN, TEXT)
            async with connection:
                return (await connection.send(ANN, TEXT)).accepted

    assert run(main()) == ["ann@example.test"]
