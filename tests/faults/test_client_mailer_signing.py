"""A Mailer that signs on the way: nothing is lost, sent twice or sent unsigned, whatever happens while it signs."""

from __future__ import annotations

import asyncio
import threading

import pytest

from bulkmail import Dkim, Mailer, Message
from bulkmail.errors import ConnectionLost, MessageError, TimedOut
from bulkmail.sink import Server
from unit.message.dkim_corpus import both, verdicts

RSA, ED = both()


def message(number: int, **more) -> Message:
    return Message("news@example.com", f"ann{number}@example.net", "Hello", f"text {number}\n.\n", **more)


class Device:
    """A key that is somewhere else: it signs when it may, or fails."""

    def __init__(self) -> None:
        self.may, self.asked, self.broken = threading.Event(), threading.Event(), False

    def sign(self, digest: bytes) -> bytes:
        self.asked.set()
        self.may.wait(20)
        if self.broken:
            raise OSError("the device is gone")
        return b"s" * 64

    @property
    def spec(self) -> Dkim:
        return Dkim("example.com", "hsm", sign=self.sign, algorithm="ed25519-sha256")


@pytest.fixture
def device():
    made = Device()
    yield made
    made.may.set()


def test_many_messages_are_signed_and_each_arrives_once(run):
    count = 300

    async def go():
        async with Server() as server:
            async with Mailer(server.url, connections=4, dkim=[RSA, ED]) as mailer:
                receipts = [one async for one in mailer.send_many(message(n) for n in range(count))]
            return receipts, server.messages

    receipts, messages = run(go())
    assert sorted(one.index for one in receipts) == list(range(count)) and all(one.error is None for one in receipts)
    assert len({one.recipients[0] for one in messages}) == len(messages) == count
    assert {one.bytes for one in receipts} == {len(one.content) for one in messages}
    assert all(verdicts(one.content, (RSA, ED)) == [True, True] for one in messages[::50])


def test_a_message_that_cannot_be_signed_is_told_and_the_others_go(run, device):
    device.broken = True
    device.may.set()

    async def go():
        async with Server() as server:
            async with Mailer(server.url, dkim=ED) as mailer:
                given = [message(0), message(1, dkim=device.spec), message(2)]
                receipts = {one.index: one async for one in mailer.send_many(given)}
            return receipts, len(server.messages)

    receipts, arrived = run(go())
    assert isinstance(receipts[1].error, MessageError) and "the device is gone" in str(receipts[1].error)
    assert receipts[0].error is receipts[2].error is None and arrived == 2


def test_what_is_being_signed_when_the_mailer_closes_is_not_sent(run, device):
    async def go():
        async with Server() as server:
            mailer = Mailer(server.url, dkim=device.spec)
            sending = asyncio.ensure_future(mailer.send(message(1)))
            await asyncio.to_thread(device.asked.wait, 20)
            await mailer.close()
            device.may.set()
            with pytest.raises(ConnectionLost, match="closed"):
                await sending
            return server.counts

    assert run(go())["messages"] == 0


def test_who_waits_no_longer_for_the_signature_gets_a_certain_answer(run, device):
    async def go():
        async with Server() as server, Mailer(server.url, dkim=device.spec) as mailer:
            with pytest.raises(TimedOut) as caught:
                await mailer.send(message(1), timeout=0.2)
            device.may.set()
            receipt = await mailer.send(message(2))
            return type(caught.value), receipt.error, [list(one.recipients) for one in server.messages]

    kind, error, arrived = run(go())
    assert kind is TimedOut and error is None
    assert arrived == [["ann2@example.net"]]


def test_a_send_that_is_cancelled_while_it_is_signed_is_not_sent(run, device):
    async def go():
        async with Server() as server, Mailer(server.url, dkim=device.spec) as mailer:
            sending = asyncio.ensure_future(mailer.send(message(1)))
            await asyncio.to_thread(device.asked.wait, 20)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            device.may.set()
            await mailer.send(message(2))
            return [list(one.recipients) for one in server.messages]

    assert run(go()) == [["ann2@example.net"]]


def test_a_binary_message_is_signed_before_it_is_sent(run):
    from bulkmail import Envelope

    async def go():
        async with Server() as server, Mailer(server.url, dkim=[RSA, ED]) as mailer:
            envelope = Envelope("news@example.com", ["ann@example.net"], body="binarymime")
            await mailer.send(message(1), envelope=envelope)
            return server.messages[0].content

    assert verdicts(run(go()), (RSA, ED)) == [True, True]


def test_one_message_of_a_batch_that_cannot_be_signed_leaves_the_others_alone(run):
    """More than 1 MiB in a batch is looked at in a thread: what is wrong with one of it comes later."""
    large = b"x" * 70 + b"\r\n"
    header = b"From: news@example.com\r\nTo: ann@example.net\r\n"
    many = b"Subject: one of too many to be signed\r\n" * 70_000
    given = [header + b"\r\n" + large * 16_000, many + header + b"\r\nhello\r\n"] * 2

    async def go():
        async with Server() as server, Mailer(server.url, dkim=ED) as mailer:
            return [one async for one in mailer.send_many(given)], len(server.messages)

    receipts, arrived = run(go())
    refused = {one.index: one.error for one in receipts if one.error is not None}
    assert (
        arrived == 2 and set(refused) == {1, 3} and all("fields to be signed" in str(one) for one in refused.values())
    )
