"""A Mailer that is closed, left or given up while messages are on their way."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from bulkmail.errors import ConnectionLost, InDoubt
from bulkmail.pool.mailer import Mailer
from faults.mails import by_index, mail, message, send_all, serving, subject
from faults.scripted import always, at, hang, late, scripted

pytestmark = pytest.mark.usefixtures("both_ways")

SOON = 0.1


def test_closing_waits_for_what_is_being_sent_and_fails_what_was_not_begun(run):
    async def main():
        slow = always("dot", late(0.05, b"250 ok\r\n"))
        async with scripted(serving(slow)) as server:
            mailer = Mailer(server.url, connections=1)
            sending = asyncio.ensure_future(send_all(mailer, 40))
            await server.until(lambda s: s.messages)
            await mailer.close()
            results = await asyncio.wait_for(sending, 5)
            with pytest.raises(ConnectionLost, match="closed"):
                await mailer.send(b"late", envelope=mail(1)[0])
            await server.until(lambda s: s.peers[0].ended)
            kinds = Counter(type(result).__name__ for result in results)
            return kinds, len(server.messages), bytes(server.peers[0].said).endswith(b"QUIT\r\n"), len(server.peers)

    kinds, arrived, goodbye, opened = run(main())
    assert set(kinds) == {"Receipt", "ConnectionLost"} and kinds.total() == 40
    assert kinds["Receipt"] == arrived and goodbye and opened == 1


async def all_content_came(server):
    """The first message's final dot was read."""
    async with asyncio.timeout(10):
        while not (server.peers and server.peers[0].times.get("dot")):
            await asyncio.sleep(0.005)


def test_leaving_the_block_by_an_exception_does_not_wait(run):
    async def main():
        async with scripted(serving(always("dot", hang()))) as server:
            with pytest.raises(KeyError):
                async with Mailer(server.url, connections=1) as mailer:
                    sending = asyncio.ensure_future(send_all(mailer, 3))
                    await all_content_came(server)
                    raise KeyError
            return [type(result) for result in await asyncio.wait_for(sending, 5)]

    assert run(main()) == [InDoubt, ConnectionLost, ConnectionLost]


def test_closing_may_be_given_up_and_then_ends_at_once(run):
    async def main():
        async with scripted(serving(always("dot", hang()))) as server:
            mailer = Mailer(server.url, connections=1)
            sending = asyncio.ensure_future(send_all(mailer, 2))
            await all_content_came(server)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(mailer.close(), SOON)
            results = await asyncio.wait_for(sending, 5)
            await server.until(lambda s: not s.peers[0].alive())
            return [type(result) for result in results]

    assert run(main()) == [InDoubt, ConnectionLost]


def test_closing_while_connections_are_being_opened(run):
    async def main():
        async with scripted([hang()]) as server:
            mailer = Mailer(server.url, connections=4)
            sending = asyncio.ensure_future(send_all(mailer, 4))
            await asyncio.sleep(0.05)
            await asyncio.wait_for(mailer.close(), 5)
            await server.until(lambda s: not any(peer.alive() for peer in s.peers))
            return [str(result) for result in await asyncio.wait_for(sending, 5)]

    assert run(main()) == ["the Mailer is closed"] * 4


def test_a_cancelled_send_is_not_sent_if_it_was_not_begun(run):
    async def main():
        async with scripted(serving(at("dot", late(0.1, b"250 ok\r\n"), nth=1))) as server:
            async with Mailer(server.url, connections=1) as mailer:
                tasks = [asyncio.ensure_future(mailer.send(m, envelope=e)) for e, m in map(mail, range(20))]
                await asyncio.sleep(0.05)
                tasks[15].cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
            return [n for n, r in enumerate(results) if isinstance(r, asyncio.CancelledError)], server.contents()

    cancelled, contents = run(main())
    assert cancelled == [15] and sorted(contents) == sorted(subject(n) for n in range(20) if n != 15)


def test_closing_in_the_middle_of_send_many_ends_it_and_opens_nothing_new(run):
    async def main():
        async with scripted(serving(always("dot", late(0.01, b"250 ok\r\n")))) as server:
            mailer, receipts = Mailer(server.url, connections=1), []
            with pytest.raises(ConnectionLost, match="closed"):
                async for receipt in mailer.send_many(message(n) for n in range(10_000)):
                    receipts.append(receipt)
                    if len(receipts) == 5:
                        await mailer.close()
            await asyncio.sleep(0.05)
            return receipts, len(server.messages), len(server.peers)

    receipts, arrived, opened = run(main())
    assert opened == 1
    by_index(receipts)
    assert arrived == sum(receipt.error is None for receipt in receipts) >= 5
