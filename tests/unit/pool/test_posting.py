"""Plain messages of a Mailer: the same transactions and receipts as by the general way, and what a stream holds."""

from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace

import pytest

from bulkmail.message.spec import Access
from bulkmail.pool.parcel import Parcel
from bulkmail.pool.posting import Clerk, Said, Stream, Ticket
from bulkmail.pool.posting import give_receipts as receipts_of
from bulkmail.smtp.envelope import Envelope, Receipt, Recipient
from bulkmail.smtp.outcome import receipt
from bulkmail.wire.client import Client
from bulkmail.wire.transaction import Transaction

MESSAGE = b"From: news@example.test\r\nMessage-ID: <1@example.test>\r\n\r\n.dot\r\n"
TO = ["ann@example.test", "bob@example.test"]
GO = b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"


RELAY = SimpleNamespace(tls="TLSv1.3", endpoint=SimpleNamespace(host="mx.example.test"), egress="a")


def give_receipts(finished):
    return receipts_of(finished, {None: Said(RELAY)})  # these go by no session


def envelope(*recipients, sender="news@example.test", **options):
    return Envelope(sender, list(recipients or TO), **options)


def parts(tx):
    return tx.sender, tx.rcpts, tx.body, tx.flags, tx.asks, tx.rcpt_parameters, tx.size, tx.at, tx.positions


@pytest.mark.parametrize("data", [MESSAGE, MESSAGE.replace(b"\r", b""), MESSAGE + b"\xe4", b"Subject: x\r\n\r\n"])
@pytest.mark.parametrize("sender", ["news@example.test", ""])
def test_a_plain_message_is_the_transaction_that_it_always_was(data, sender):
    ends = []
    tx = Clerk(100).one(7, (envelope(sender=sender), data), ends.append)
    parcel = Parcel(data, envelope(sender=sender), None, Access(), ())
    ticket = parcel.ticket(7, [], ends.append)
    (other,) = parcel.transactions(ticket, [])
    assert parts(tx) == parts(other)
    assert (tx.tag.index, tx.tag.parts, tx.tag.size, tx.tag.message_id) == (
        ticket.index,
        ticket.parts,
        ticket.size,
        ticket.message_id,
    )


class Named(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "item",
    [
        MESSAGE,
        (envelope(), MESSAGE.decode()),
        (envelope(), bytearray(MESSAGE)),
        (None, MESSAGE),
        (envelope(), MESSAGE, "more"),
        (envelope(), b"no field"),
        (envelope(), b"Bcc: eve@example.test\r\n" + MESSAGE),
        (Envelope("news@example.test", []), MESSAGE),
        (envelope(Recipient("ann@example.test")), MESSAGE),
        (envelope(Named("ann@example.test")), MESSAGE),
        (envelope("änn@example.test"), MESSAGE),
        (envelope("ann"), MESSAGE),
        (envelope(" ann@example.test"), MESSAGE),
        (envelope("ann@example.test\r\nDATA"), MESSAGE),
        (envelope(sender="news"), MESSAGE),
        (envelope(sender="nëws@example.test"), MESSAGE),
        (envelope("c@example.test", *TO), MESSAGE),
        (envelope(size=5), MESSAGE),
        (envelope(body="8bitmime"), MESSAGE),
        (envelope(smtputf8=True), MESSAGE),
        (envelope(require_tls=True), MESSAGE),
        (envelope(mt_priority=0), MESSAGE),
    ],
)
def test_what_is_not_plain_is_left_to_the_general_way(item):
    assert Clerk(2).one(0, item, print) is None


def test_a_message_that_is_sent_to_many_is_encoded_once():
    clerk = Clerk(100)
    one, two = (clerk.one(number, (envelope(), MESSAGE), print) for number in range(2))
    other = clerk.one(2, (envelope(), bytes(bytearray(MESSAGE))), print)
    assert one.body is two.body and other.body == one.body and other.body is not one.body


def ended(tx, *replies):
    client = Client(True)
    client.push(tx, 10.0)
    for number, reply in enumerate(replies):
        client.take_output()
        client.feed(reply, 11.0 + number)
    assert client.done == [tx]
    return tx


def test_a_receipt_is_what_it_always_was():
    ends: list[Receipt] = []
    tx = ended(Clerk(100).one(7, (envelope(), MESSAGE), ends.append), GO, b"250 2.0.0 queued\r\n")
    expected = dataclasses.replace(receipt(tx, TO), index=7, bytes=len(MESSAGE), message_id="<1@example.test>")
    expected = dataclasses.replace(expected, tls="TLSv1.3", relay="mx.example.test", egress="a")
    assert receipts_of([tx], {}) == [tx]  # of a session that nobody knows
    assert give_receipts([tx]) == [] and ends == [expected]
    assert (ends[0].envelope_seconds, ends[0].data_seconds) == (1.0, 1.0)


@pytest.mark.parametrize(
    "replies",
    [
        [b"250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n", b"250 queued\r\n"],
        [GO, b"554 spam\r\n"],
        [b"450 later\r\n503 x\r\n503 x\r\n503 x\r\n"],
    ],
)
def test_a_refusal_needs_a_closer_look(replies):
    tx = ended(Clerk(100).one(0, (envelope(), MESSAGE), pytest.fail), *replies)
    assert give_receipts([tx]) == [tx]


def test_a_message_of_several_transactions_has_one_receipt():
    ends: list[Receipt] = []
    ticket = Ticket(3, 2, 10, None, ends.append)
    for to in TO:
        tx = Transaction(b"", [to.encode()], b"x\r\n.\r\n", 0, ticket)
        tx.positions = [to]
        for rest in give_receipts([ended(tx, b"250 ok\r\n250 ok\r\n354 go\r\n", b"250 queued\r\n")]):
            ticket.add(receipt(rest, rest.positions))
    assert [(end.accepted, end.index, end.bytes) for end in ends] == [(TO, 3, 10)]


# ---- a stream


def test_an_input_is_taken_only_while_there_is_room():
    async def main():
        stream, made = Stream(asyncio.get_running_loop(), 3, 3, 1 << 20), []
        left = Clerk(100).take(iter([(envelope(), MESSAGE)] * 10), stream, made)
        return left, len(made), stream.held, stream.full()

    assert asyncio.run(main()) == (None, 3, 3, True)


def test_more_is_taken_where_more_could_be_in_use_and_no_more_than_the_most():
    async def main():
        stream, made, steps = Stream(asyncio.get_running_loop(), 2, 5, 1 << 20), [], []
        source, clerk = iter([(envelope(), MESSAGE)] * 10), Clerk(100)
        for wanted in (1, 4, 9):
            clerk.take(source, stream, made)
            room = stream.room()
            stream.widen(wanted)
            steps.append((stream.held, stream.ahead, room.done()))
        return steps

    assert asyncio.run(main()) == [(2, 2, False), (2, 4, True), (4, 5, False)]


def test_an_input_is_taken_only_while_its_bytes_have_room():
    async def main():
        stream, made = Stream(asyncio.get_running_loop(), 100, 100, 2 * len(MESSAGE)), []
        Clerk(100).take(iter([(envelope(), MESSAGE)] * 10), stream, made)
        held = len(made), stream.full()
        give_receipts([ended(made[0], GO, b"250 ok\r\n")])  # what is sent has its bytes no longer
        return held, stream.full(), stream.held

    assert asyncio.run(main()) == ((2, True), False, 2)


def test_a_receipt_that_is_taken_makes_room_for_another_message():
    async def main():
        stream, made = Stream(asyncio.get_running_loop(), 4, 4, 1 << 20), []
        Clerk(100).take(iter([(envelope(), MESSAGE)] * 4), stream, made)
        room, news = stream.room(), stream.news()
        give_receipts([ended(tx, GO, b"250 ok\r\n") for tx in made])
        assert news.done() and not room.done()
        taken = [one.index for one in stream]
        return taken, room.done(), stream.held, list(stream)

    assert asyncio.run(main()) == ([0, 1, 2, 3], True, 0, [])


def test_what_is_not_plain_comes_back_in_its_place():
    async def main():
        stream, made = Stream(asyncio.get_running_loop(), 10, 10, 1 << 20), []
        source, clerk = iter([(envelope(), MESSAGE), b"other", (envelope(), MESSAGE)]), Clerk(100)
        first = clerk.take(source, stream, made)
        stream.take_in()
        return first, clerk.take(source, stream, made), [tx.tag.index for tx in made]

    assert asyncio.run(main()) == ((b"other",), (), [0, 2])


def test_a_stream_is_over_when_its_input_is_and_every_receipt_was_taken():
    async def main():
        stream, made = Stream(asyncio.get_running_loop(), 10, 10, 1 << 20), []

        async def feed():
            Clerk(100).take(iter([(envelope(), MESSAGE)]), stream, made)

        task = asyncio.ensure_future(feed())
        task.add_done_callback(stream.fed)
        await task
        await asyncio.sleep(0)
        waiting = stream.news()
        before = waiting.done(), stream.over
        give_receipts([ended(made[0], GO, b"250 ok\r\n")])
        await waiting
        return before, [one.index for one in stream], stream.over

    assert asyncio.run(main()) == ((False, False), [0], True)
