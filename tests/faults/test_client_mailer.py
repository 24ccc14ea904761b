"""Mailer and bulkmail.send: many messages, their receipts, inputs that fail, rates."""

from __future__ import annotations

import asyncio
from email.message import EmailMessage

import pytest

import bulkmail
from bulkmail.errors import (
    AuthError,
    EnvelopeRefused,
    InDoubt,
    MessageRefused,
)
from bulkmail.pool.mailer import AHEAD, Mailer
from bulkmail.smtp.envelope import Envelope
from faults.mails import WELL, by_index, collect, message, serving
from faults.scripted import always, at, close, expect, hang, hello, late, reset, scripted, send, serve


async def asynchronous(items):
    for item in items:
        await asyncio.sleep(0)
        yield item


# ---- send_many


@pytest.mark.parametrize("form", [list, iter, asynchronous], ids=["list", "iterator", "async iterator"])
def test_a_receipt_for_every_message_of_any_input(run, form):
    async def main():
        async with scripted(WELL) as server, Mailer(server.url, connections=3) as mailer:
            receipts = await collect(mailer, form([message(n) for n in range(100)]))
            return receipts, sorted(server.contents()), server.most

    receipts, contents, most = run(main())
    for number, receipt in enumerate(by_index(receipts)):
        assert receipt.accepted == ["ann@example.test"] and receipt.error is None and receipt.rejected == []
        assert receipt.message_id == f"<{number}@example.test>" and receipt.bytes == len(message(number))
        assert receipt.relay == "127.0.0.1" and receipt.tls is None and receipt.reply.code == 250
    assert contents == sorted(message(n) for n in range(100)) and most <= 3


def test_receipts_come_in_order_of_completion(run):
    async def main():
        async with (
            scripted(serving(always("dot", late(0.05, b"250 slow\r\n")))) as server,
            Mailer(server.url) as mailer,
        ):
            return [receipt.index for receipt in await collect(mailer, [message(0), b"no message"])]

    assert run(main()) == [1, 0]  # what cannot be sent is known first


def test_an_empty_input(run):
    async def main():
        async with scripted(WELL) as server, Mailer(server.url) as mailer:
            return await collect(mailer, []), await collect(mailer, asynchronous([])), len(server.peers)

    assert run(main()) == ([], [], 0)


def test_every_kind_of_message(run):
    plain = EmailMessage()
    plain["From"], plain["To"], plain["Bcc"], plain["Subject"] = (
        "a@example.test",
        "b@example.test",
        "c@example.test",
        "x",
    )
    plain.set_content("grüße")
    own = bulkmail.Message(to="d@example.test", subject="y", text="hello")
    envelope = Envelope("e@example.test", ["f@example.test"])

    async def main():
        async with scripted(WELL) as server:
            async with Mailer(server.url, connections=1, defaults={"from_": "News <n@example.test>"}) as mailer:
                items = [plain, own, message(2), message(3).decode(), (envelope, message(4))]
                receipts = await collect(mailer, items)
            return receipts, [(m.sender, m.rcpts) for m in server.messages], server.contents()

    receipts, envelopes, contents = run(main())
    assert all(receipt.error is None for receipt in receipts)
    assert envelopes == [
        (b"a@example.test", [b"b@example.test", b"c@example.test"]),
        (b"n@example.test", [b"d@example.test"]),
        (b"news@example.test", [b"ann@example.test"]),
        (b"news@example.test", [b"ann@example.test"]),
        (b"e@example.test", [b"f@example.test"]),
    ]
    assert b"Bcc" not in contents[0] and contents[2:] == [message(2), message(3), message(4)]


def test_a_bad_message_costs_itself_alone(run):
    items = [
        message(0),
        b"From: news@example.test\r\n\r\nnobody\r\n",
        42,
        (Envelope("news@example.test", ["not an address"]), message(3)),
        b"To: ann@example.test\r\n\r\nfrom nobody\r\n",
        bulkmail.Message(from_="a@example.test", to="b@example.test", subject="x\r\nBcc: everybody@example.test"),
        message(6),
    ]

    async def main():
        async with scripted(WELL) as server, Mailer(server.url) as mailer:
            return by_index(await collect(mailer, items)), server.contents()

    receipts, contents = run(main())
    kinds = [type(receipt.error).__name__ for receipt in receipts]
    refused, bad = "EnvelopeRefused", "MessageError"
    assert kinds == ["NoneType", refused, bad, refused, refused, bad, "NoneType"]
    assert sorted(contents) == [message(0), message(6)]


def test_refusals_and_doubt_are_in_the_receipts(run):
    async def main():
        faults = [
            at("RCPT", b"550 5.1.1 no\r\n", nth=2),
            at("dot", b"554 5.7.1 spam\r\n", nth=2),
            at("dot", reset(), nth=4),
        ]
        async with scripted(serving(*faults), WELL) as server, Mailer(server.url, connections=1) as mailer:
            return by_index(await collect(mailer, (message(n) for n in range(8)))), server.contents()

    receipts, contents = run(main())
    kinds = [type(receipt.error) for receipt in receipts]
    assert [kinds[1], kinds[2], kinds[4]] == [EnvelopeRefused, MessageRefused, InDoubt]
    assert kinds.count(type(None)) == 5
    assert receipts[1].rejected[0].reply.code == 550 and receipts[2].reply.code == 554
    assert sorted(contents) == [message(n) for n in (0, 3, 5, 6, 7)]


def test_an_input_that_fails_is_raised_after_the_receipts_of_what_was_sent(run):
    def source():
        yield from (message(n) for n in range(5))
        raise KeyError("broken input")

    async def main(source):
        async with scripted(serving(always("dot", late(0.01, b"250 ok\r\n")))) as server, Mailer(server.url) as mailer:
            receipts = []
            with pytest.raises(KeyError, match="broken input"):
                async for receipt in mailer.send_many(source):
                    receipts.append(receipt)
            assert (await mailer.send(message(9))).accepted  # the Mailer goes on
            return len(by_index(receipts))

    assert run(main(source())) == 5
    assert run(main(asynchronous(source()))) == 5


def test_a_refused_login_ends_the_run(run):
    async def main():
        script = [*hello("AUTH PLAIN"), expect(rb"AUTH .*"), send(b"535 5.7.8 wrong\r\n"), hang()]
        async with scripted(script) as server:
            receipts = []
            async with Mailer(server.url.replace("//", "//ann:secret@"), connections=2) as mailer:
                with pytest.raises(AuthError):
                    async for receipt in mailer.send_many(message(n) for n in range(1000)):
                        receipts.append(receipt)
            return receipts, len(server.peers)

    receipts, attempts = run(main())
    assert attempts == 1 and 0 < len(receipts) <= 2 * AHEAD
    assert all(type(receipt.error) is AuthError for receipt in receipts)


def test_a_few_messages_are_held_however_long_the_input(run):
    taken = 0

    def source():
        nonlocal taken
        while True:
            taken += 1
            yield message(taken)

    async def main():
        async with scripted(serving(always("dot", hang()))) as server, Mailer(server.url, connections=2) as mailer:
            receiving = asyncio.ensure_future(anext(mailer.send_many(source())))
            await server.until(lambda s: len(s.peers) == 2)
            await asyncio.sleep(0.1)
            held = taken
            receiving.cancel()
            server.peers[0].writer.transport.abort()
            server.peers[1].writer.transport.abort()
            return held

    assert 2 < run(main()) <= 2 * AHEAD + 1


def test_a_caller_that_leaves_early_stops_the_input(run):
    taken = 0

    def source():
        nonlocal taken
        for taken in range(1, 10_000):
            yield message(taken)

    async def main():
        async with scripted(WELL) as server:
            async with Mailer(server.url, connections=1) as mailer:
                receipts = mailer.send_many(source())
                async for _ in receipts:
                    break
                await receipts.aclose()
                early = taken
                await asyncio.sleep(0.05)
            return taken - early, taken

    later, read = run(main())
    assert later == 0 and read <= AHEAD + 2


def test_two_runs_on_one_mailer_at_the_same_time(run):
    async def main():
        async with scripted(WELL) as server, Mailer(server.url, connections=2) as mailer:
            runs = (collect(mailer, [message(n, f"{who}@example.test") for n in range(50)]) for who in ("ann", "bob"))
            ann, bob = await asyncio.gather(*runs)
            return [r.accepted for r in by_index(ann) + by_index(bob)], len(server.messages)

    accepted, arrived = run(main())
    assert accepted == [["ann@example.test"]] * 50 + [["bob@example.test"]] * 50 and arrived == 100


# ---- several recipients


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (100, [7])])
def test_recipients_are_split_by_batch(run, batch, sizes):
    people = [f"u{n}@example.test" for n in range(7)]

    async def main():
        async with scripted(WELL) as server, Mailer(server.url, connections=1, batch=batch) as mailer:
            receipt = await mailer.send(message(1), envelope=Envelope("news@example.test", people))
            return receipt, [len(m.rcpts) for m in server.messages], server.addressees()

    receipt, transactions, arrived = run(main())
    assert transactions == sizes and sorted(arrived) == people and sorted(receipt.accepted) == people
    assert receipt.bytes == len(message(1)) and receipt.error is None


def test_a_split_message_is_refused_in_part(run):
    people = [f"u{n}@example.test" for n in range(6)]

    async def main():
        faults = [at("RCPT", b"550 5.1.1 no\r\n", nth=2), at("dot", b"554 5.7.1 spam\r\n", nth=2)]
        async with scripted(serving(*faults)) as server, Mailer(server.url, connections=1, batch=2) as mailer:
            return await mailer.send(message(1), envelope=Envelope("news@example.test", people)), server.addressees()

    receipt, arrived = run(main())
    assert receipt.accepted == arrived == [people[0], people[4], people[5]]
    assert [(r.address, type(r.error)) for r in receipt.rejected] == [
        (people[1], EnvelopeRefused),
        (people[2], MessageRefused),
        (people[3], MessageRefused),
    ]
    assert receipt.error is None and receipt.reply.code == 250


def test_a_split_message_of_which_a_part_was_in_doubt_is_sent_again_to_nobody(run):
    people = [f"u{n}@example.test" for n in range(4)]

    async def main():
        async with (
            scripted(serving(at("dot", reset(), nth=2)), WELL) as server,
            Mailer(server.url, connections=1, batch=2) as mailer,
        ):
            return await mailer.send(message(1), envelope=Envelope("news@example.test", people)), server.addressees()

    receipt, arrived = run(main())
    assert receipt.accepted == arrived == people[:2]
    assert [(r.address, type(r.error)) for r in receipt.rejected] == [(p, InDoubt) for p in people[2:]]


# ---- envelope options of a Mailer are those of a Connection


@pytest.mark.parametrize(
    ("options", "offered", "expected"),
    [
        ({"body": "8bitmime"}, ["8BITMIME"], b" BODY=8BITMIME"),
        ({"body": "7bit"}, ["8BITMIME"], b""),
        ({"smtputf8": True}, ["SMTPUTF8"], b" SMTPUTF8"),
        ({"body": "8bitmime"}, [], EnvelopeRefused),
        ({"smtputf8": True}, [], EnvelopeRefused),
    ],
)
def test_what_an_envelope_insists_on(run, options, offered, expected):
    async def main():
        async with scripted([*hello("PIPELINING", *offered), serve()]) as server, Mailer(server.url) as mailer:
            sending = mailer.send(message(1), envelope=Envelope("a@example.test", ["b@example.test"], **options))
            if expected is EnvelopeRefused:
                with pytest.raises(EnvelopeRefused):
                    await sending
                return True
            await sending
            return b"MAIL FROM:<a@example.test>" + expected + b"\r\n" in server.peers[0].said

    assert run(main())


# ---- verify


def test_verify_says_what_the_server_offers_and_what_is_wrong(run):
    async def main():
        async with scripted([*hello("SIZE 100"), serve()], [send(b"554 no\r\n"), close()]) as server:
            mailer = Mailer(server.url)
            info = await mailer.verify()
            with pytest.raises(bulkmail.ConnectError):
                await mailer.verify()
            return info.extensions, bytes(server.peers[0].said).split(b"\r\n")[1:]

    assert run(main()) == ({"SIZE": "100"}, [b"QUIT", b""])
