"""Too many recipients, too large messages, servers that announce what they cannot do: nobody is lost, nobody twice."""

from __future__ import annotations

import asyncio

import pytest

from bulkmail.errors import EnvelopeRefused, MessageRefused
from bulkmail.pool.mailer import Mailer
from bulkmail.smtp.connection import Connection
from bulkmail.smtp.envelope import Envelope
from faults.mails import collect, mail, subject
from faults.scripted import always, expect, hang, hello, scripted, send, serve

EVERYBODY = [f"u{number}@d{number % 3}.example.test" for number in range(25)]
TO_ALL = Envelope("news@example.test", EVERYBODY)
MANY = b"452 4.5.3 too many recipients\r\n"


def takes(most, reply=MANY, *extensions):
    """A server that takes `most` recipients a transaction."""

    async def rcpt(peer):
        began = peer.times.get("MAIL", 0)
        seen = peer.times["in this one"] = peer.times.get("in this one", 0) + 1 if began == peer.times.get("of") else 1
        peer.times["of"] = began
        rcpt.reply = b"250 2.1.5 ok\r\n" if seen <= most else reply
        await peer.send(rcpt.reply)

    return [*hello("PIPELINING", *extensions), serve(always("RCPT", rcpt))]


@pytest.mark.parametrize("extensions", [(), ("CHUNKING",)], ids=["data", "bdat"])
@pytest.mark.parametrize("reply", [MANY, b"552 too many recipients\r\n", b"452\r\n"])
def test_who_does_not_fit_goes_into_the_next_transaction_and_the_batch_is_remembered(run, reply, extensions):
    async def main():
        async with scripted(takes(10, reply, *extensions)) as server:
            async with Mailer(server.url, connections=1) as mailer:
                first = await mailer.send(b"Subject: 1\r\n\r\n", envelope=TO_ALL)
                said = len(server.peers[0].said)
                second = await mailer.send(b"Subject: 2\r\n\r\n", envelope=TO_ALL)
                batches = [
                    piece.count(b"RCPT TO") for piece in bytes(server.peers[0].said[said:]).split(b"MAIL FROM")[1:]
                ]
            return first, second, server.addressees(), batches

    first, second, addressees, batches = run(main())
    assert sorted(first.accepted) == sorted(second.accepted) == sorted(EVERYBODY)
    assert not first.rejected and not second.rejected
    assert sorted(addressees) == sorted(EVERYBODY * 2), "each has each message once"
    assert batches == [10, 10, 5]


def test_a_full_mailbox_is_not_taken_for_too_many(run):
    async def main():
        script = takes(10, b"452 4.2.2 mailbox full\r\n")
        async with scripted(script) as server, Mailer(server.url, connections=1) as mailer:
            return await mailer.send(b"Subject: 1\r\n\r\n", envelope=TO_ALL), server.addressees()

    receipt, addressees = run(main())
    assert receipt.accepted == addressees == EVERYBODY[:10] and len(receipt.rejected) == 15


def test_too_many_for_the_first_recipient_already_is_a_refusal_and_no_loop(run):
    async def main():
        async with scripted(takes(0)) as server:
            async with Mailer(server.url, connections=1) as mailer:
                with pytest.raises(EnvelopeRefused) as caught:
                    await mailer.send(b"Subject: 1\r\n\r\n", envelope=TO_ALL)
            return caught.value

    assert run(main()).reply.code == 452


def test_a_mailer_splits_by_the_servers_limits_before_it_asks(run):
    async def main():
        script = [*hello("PIPELINING", "LIMITS RCPTMAX=10 RCPTDOMAINMAX=2"), serve()]
        async with scripted(script) as server:
            async with Mailer(server.url, connections=1) as mailer:
                receipt = await mailer.send(b"Subject: 1\r\n\r\n", envelope=TO_ALL)
            return receipt, [message.rcpts for message in server.messages]

    receipt, batches = run(main())
    assert sorted(receipt.accepted) == sorted(EVERYBODY) and not receipt.rejected
    assert sorted(rcpt.decode() for batch in batches for rcpt in batch) == sorted(EVERYBODY)
    assert all(len({rcpt.rpartition(b"@")[2] for rcpt in batch}) <= 2 for batch in batches)


def test_a_connection_refuses_more_than_the_limits_allow_and_sends_nothing(run):
    async def main():
        async with scripted([*hello("PIPELINING", "LIMITS RCPTMAX=10"), hang()]) as server:
            connection = Connection(server.url)
            await connection.connect()
            before = len(server.peers[0].said)
            with pytest.raises(EnvelopeRefused, match=r"25 recipients .* LIMITS .* allow 10"):
                await connection.send(TO_ALL, b"hi\n")
            said = server.peers[0].said[before:]
            connection.close()
            return bytes(said)

    assert run(main()) == b""


def test_mailmax_ends_a_connection_in_time(run):
    async def main():
        async with scripted([*hello("PIPELINING", "CHUNKING", "LIMITS MAILMAX=4"), serve()]) as server:
            async with Mailer(server.url, connections=1) as mailer:
                receipts = await collect(mailer, map(mail, range(10)))
            return [r.error for r in receipts], [peer.times["MAIL"] for peer in server.peers], server.contents()

    errors, times, contents = run(main())
    assert errors == [None] * 10 and times == [4, 4, 2]
    assert sorted(contents) == [subject(number) for number in range(10)]


def test_what_is_larger_than_the_servers_size_is_refused_here(run):
    async def main():
        async with (
            scripted([*hello("PIPELINING", "SIZE 100"), serve()]) as server,
            Connection(server.url) as connection,
        ):
            one = Envelope("news@example.test", ["ann@example.test"])
            with pytest.raises(MessageRefused, match="has 101 bytes and the server takes 100 at most") as caught:
                await connection.send(one, b"x" * 99 + b"\r\n")
            assert caught.value.kind == "too_large" and caught.value.permanent
            with pytest.raises(MessageRefused):
                await connection.send(Envelope(one.sender, one.recipients, size=101), iter([b"x"]))
            await connection.send(one, b"x" * 98 + b"\n")
            return bytes(server.peers[0].said).count(b"MAIL FROM:<news@example.test> SIZE=100\r\n")

    assert run(main()) == 1


def test_a_mailer_goes_on_without_pipelining_where_the_server_only_announces_it(run):
    async def main():
        broken = [*hello("PIPELINING"), expect(rb"MAIL .*"), send(b"250 ok\r\nwhat was that\r\n"), hang()]
        async with scripted(broken, [*hello("PIPELINING"), serve()]) as server:
            async with Mailer(server.url, connections=1) as mailer:
                async with asyncio.timeout(10):
                    receipts = await collect(mailer, map(mail, range(5)))
            return [r.error for r in receipts], sorted(server.contents()), len(server.peers)

    errors, contents, connections = run(main())
    assert errors == [None] * 5 and contents == [subject(number) for number in range(5)] and connections == 2


def test_a_server_that_takes_no_mail_behind_a_dot_is_asked_again_and_waited_for(run):
    # RFC 2920 section 3.1 allows it; Haraka refuses it, for fear of smuggling.
    def careful(peer):
        sent = {"early": False}

        async def dot(peer):
            await asyncio.sleep(0.01)
            sent["early"] = len(peer.reader._buffer) > 0  # what came behind the dot, unasked
            refusals.append(sent["early"])
            await peer.send(b"250 2.0.0 taken\r\n")

        async def mail(peer):
            mail.reply = b"503 5.5.1 pipelined after end of DATA\r\n" if sent.pop("early", False) else b"250 ok\r\n"
            await peer.send(mail.reply)

        dot.reply = b"250"
        return serve(always("dot", dot), always("MAIL", mail))(peer)

    refusals: list[bool] = []

    async def main():
        async with scripted([*hello("PIPELINING"), careful]) as server:
            async with Mailer(server.url, connections=1) as mailer:
                receipts = await collect(mailer, map(mail, range(12)))
            return [receipt.error for receipt in receipts], server.contents()

    errors, contents = run(main())
    assert errors == [None] * 12
    assert sorted(contents) == sorted(subject(number) for number in range(12)), "each once"
    assert sum(refusals) == 1, "it is learned at the first one"
