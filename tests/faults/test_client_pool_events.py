"""A pool and its Source: every connection is announced once and gone once, and none that ended is given work."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from bulkmail.pool.pool import Pool
from bulkmail.url import parse_endpoint
from bulkmail.wire.transaction import DONE, NOT_TAKEN, Transaction
from faults.mails import WELL, serving
from faults.scripted import at, close, expect, hang, hello, reset, scripted, send, serve, wait

SOON = 0.1


class Work:
    """A Source of `count` messages that tries each one until it is DONE; keeps all that it is told."""

    def __init__(self, count):
        self.queue = [
            Transaction(b"news@example.test", [b"u%d@example.test" % n], b"x\r\n.\r\n", 0, None, n)
            for n in range(count)
        ]
        self.left = count
        self.done, self.events, self.failures = asyncio.Event(), [], []

    def backlog(self, lane):
        return len(self.queue)

    def take(self, lane, room):
        taken, self.queue = self.queue[:room], self.queue[room:]
        return taken

    def settle(self, lane, finished):
        for tx in finished:
            if tx.state == NOT_TAKEN:
                self.queue.append(tx.again())
                lane.wake()
            else:
                assert tx.state == DONE
                self.left -= 1
        if self.left == 0:
            self.done.set()

    def failed(self, lane, error, failures):
        self.failures.append(failures)
        return 0.01

    def event(self, lane, name, session, error):
        self.events.append((name, session))

    def add(self, pool, count):
        self.queue += Work(count).queue
        self.left += count
        self.done.clear()
        pool.wake()


async def all_through(url, count, more=0, pause=0.0, **options):
    """The source and the pool after all is sent, and after the end."""
    work = Work(count)
    pool = Pool(parse_endpoint(url, **options), work)
    pool.wake()
    await asyncio.wait_for(work.done.wait(), 10)
    if more:
        await asyncio.sleep(pause)
        work.add(pool, more)
        await asyncio.wait_for(work.done.wait(), 10)
    while any(lane.opening for lane in pool.lanes):  # one that the end of it all cuts off neither comes nor goes
        await asyncio.sleep(0.001)
    await pool.close()
    await asyncio.sleep(0.01)
    return work, pool


def check(work, pool):
    came = Counter(session for name, session in work.events if name == "connected")
    went = Counter(session for name, session in work.events if name == "disconnected")
    assert came == went and set(came.values()) == {1}
    assert not pool.sessions
    assert not any(lane.idle or lane.spent or lane._newer for lane in pool.lanes)
    return len(came)


@pytest.mark.parametrize(
    "faults",
    [[], [at("MAIL", reset(), nth=3)], [at("RCPT", [send(b"421 bye\r\n"), close()], nth=3)], [at("QUIT", hang())]],
    ids=["well", "reset", "421", "no goodbye"],
)
@pytest.mark.parametrize("messages", [0, 2])
def test_each_connection_comes_and_goes_once(run, faults, messages, monkeypatch):
    async def main():
        async with scripted(serving(*faults)) as server:
            options = {"connections": 3, "messages_per_connection": messages}
            opened = check(*await all_through(server.url, 20, **options))
            return opened, len(server.peers)

    monkeypatch.setattr("bulkmail.smtp.open.QUIT_SECONDS", SOON)
    opened, accepted = run(main())
    assert opened == accepted


def test_one_that_said_goodbye_for_idleness_is_not_used_again(run):
    async def main():
        async with scripted(WELL) as server:
            work, pool = await all_through(server.url, 3, more=3, pause=4 * SOON, idle_timeout=SOON, connections=1)
            return check(work, pool), len(server.peers), work.failures

    assert run(main()) == (2, 2, [])


@pytest.mark.parametrize("end", [close(), reset(), send(b"421 4.4.2 idle\r\n")], ids=["close", "reset", "421"])
def test_one_that_the_server_ended_while_idle_is_no_failure(run, end):
    async def main():
        ends = [*hello("PIPELINING"), serve(at("dot", [send(b"250 ok\r\n"), wait(0.02), end], nth=1))]
        async with scripted(ends, WELL) as server:
            work, pool = await all_through(server.url, 1, more=2, pause=SOON, connections=1)
            return check(work, pool), work.failures

    assert run(main()) == (2, [])


def test_failures_in_a_row_are_counted_and_forgotten_once_something_was_carried(run):
    async def main():
        refusing, dropping = [send(b"421 busy\r\n"), close()], serving(at("MAIL", reset()))
        scripts = [refusing, refusing, dropping, serving(at("MAIL", reset(), nth=2)), dropping, WELL]
        async with scripted(*scripts) as server:
            work, _ = await all_through(server.url, 3, connections=1)
            return work.failures

    assert run(main()) == [1, 2, 3, 1]


def test_several_that_fail_together_are_one_failure(run):
    async def main():
        gate = asyncio.Event()
        refusing = [wait(gate), send(b"421 busy\r\n"), close()]
        async with scripted(*[refusing] * 5, WELL) as server:
            opening = asyncio.ensure_future(all_through(server.url, 10, connections=5))
            await server.until(lambda s: len(s.peers) == 5)
            gate.set()
            work, _ = await opening
            return work.failures, len(server.peers)

    failures, opened = run(main())
    assert set(failures) == {1} and 6 <= opened <= 10  # told of the first, and of the last when none was left


def test_only_one_at_a_time_tries_a_password(run):
    async def main():
        script = [*hello("PIPELINING", "AUTH PLAIN"), expect(rb"AUTH .*"), wait(gate), send(b"235 ok\r\n"), serve()]
        async with scripted(script) as server:
            url = server.url.replace("//", "//ann:secret@")
            sending = asyncio.ensure_future(all_through(url, 50, connections=4, messages_per_connection=5))
            await asyncio.sleep(SOON)
            first = len(server.peers)
            gate.set()
            await sending
            return first, server.most

    gate = asyncio.Event()
    first, most = run(main())
    assert first == 1 and 1 < most <= 4
