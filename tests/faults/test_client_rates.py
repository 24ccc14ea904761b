"""A Mailer's rate, as the server sees it."""

from __future__ import annotations

import asyncio

import pytest

from bulkmail.pool.mailer import Mailer
from bulkmail.smtp.envelope import Envelope
from faults.mails import WELL, collect, message, serving
from faults.scripted import always, at, reset, scripted


def timed(times):
    """A reply to MAIL that notes when it came and for how many recipients it could be."""

    async def step(peer):
        times.append(asyncio.get_running_loop().time())
        await peer.send(b"250 ok\r\n")

    step.reply = b"250 ok\r\n"
    return step


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize(("rate", "burst", "count"), [("20/s", 2, 10), ("100/s", 10, 50)])
def test_the_rate_is_kept_as_the_server_sees_it(run, connections, rate, burst, count):
    times = []

    async def main():
        async with (
            scripted(serving(always("RCPT", timed(times)))) as server,
            Mailer(server.url, connections=connections, rate=rate) as mailer,
        ):
            return await collect(mailer, [message(n) for n in range(count)])

    receipts = run(main())
    assert all(receipt.error is None for receipt in receipts) and len(times) == count
    per_second = float(rate.partition("/")[0])
    jitter = 0.02  # seconds that one message may be held up on the way, and the next not
    for first in range(count):
        for last in range(first, count):
            assert last - first + 1 <= per_second * (times[last] - times[first] + jitter) + burst + 1e-6
    ideal = (count - burst) / per_second
    assert ideal - jitter <= times[-1] - times[0] < ideal * 1.5 + 0.2


def test_the_rate_counts_recipients_and_splits_what_is_above_its_burst(run):
    people = [f"u{n}@example.test" for n in range(12)]
    times = []

    async def main():
        async with scripted(serving(always("RCPT", timed(times)))) as server:
            async with Mailer(server.url, rate="40/s", connections=2) as mailer:
                await mailer.send(message(1), envelope=Envelope("news@example.test", people))
            return [len(m.rcpts) for m in server.messages]

    sizes = run(main())
    assert sizes == [4, 4, 4]  # the burst of 40/s is 4
    assert times[-1] - times[0] >= 8 / 40 - 0.02


def test_a_slow_rate_does_not_open_connections_that_have_nothing_to_do(run):
    async def main():
        async with scripted(WELL) as server, Mailer(server.url, rate="50/s", connections=10) as mailer:
            await collect(mailer, [message(n) for n in range(20)])
            return len(server.peers)

    assert run(main()) <= 5  # the burst may have one each


@pytest.mark.parametrize(("rate", "count"), [("200/s", 10), ("4/s", 2)])
def test_a_rate_and_a_connection_that_is_lost(run, rate, count):
    """At a slow rate nothing may leave when the lost one comes back, and no connection is there to ask for it."""

    async def main():
        async with scripted(serving(at("MAIL", reset(), nth=2)), WELL) as server:
            async with Mailer(server.url, rate=rate, connections=1) as mailer:
                receipts = await asyncio.wait_for(collect(mailer, [message(n) for n in range(count)]), 10)
            return receipts, sorted(server.contents())

    receipts, contents = run(main())
    assert all(receipt.error is None for receipt in receipts)
    assert contents == sorted(message(n) for n in range(count))
