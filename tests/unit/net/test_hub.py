"""The hub: batches, resting, lingering, what is called behind them, and its descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import socket
import threading
import time

import pytest

from bulkmail.net import hub as hub_module
from bulkmail.net.hub import hub_of
from bulkmail.net.stream import Stream
from unit.net.test_stream import SECONDS, Ear, connected, pair, read_all

pytestmark = pytest.mark.skipif(not hub_module.AVAILABLE, reason="this system has no epoll")


def test_many_streams_that_talk_at_once_lose_nothing(run):
    """Enough of them, and fast enough, that the hub rests between its batches."""
    count, rounds = 40, 200

    async def main():
        talks = [connected() for _ in range(count)]
        for ear, _ in talks:
            ear.on_data = lambda data, ear=ear: ear.transport.write(data)
        async with asyncio.timeout(SECONDS * 3):
            for number in range(rounds):
                word = b"%d;" % number
                for _, theirs in talks:
                    theirs.sendall(word)
                for _, theirs in talks:
                    assert await read_all(theirs, len(word)) == word
        for ear, theirs in talks:
            theirs.close()
            await ear.lost()
        return [ear.heard for ear, _ in talks]

    assert set(run(main())) == {b"".join(b"%d;" % number for number in range(rounds))}


@pytest.mark.parametrize(("pause", "most"), [(0, 200), (0.002, 40)], ids=["at once", "later"])
def test_a_single_stream_s_answers_are_lingered_for_where_they_come_at_once(run, pause, most):
    count, word = 200, b"word"

    def answer(theirs):
        theirs.setblocking(True)
        with theirs:
            while data := theirs.recv(len(word)):
                time.sleep(pause)
                theirs.sendall(data)

    async def main():
        ear, theirs = connected()
        hub, done = hub_of(asyncio.get_running_loop()), asyncio.Event()
        ear.on_data = lambda data: done.set() if len(ear.heard) == count * len(word) else ear.transport.write(word)
        server = threading.Thread(target=answer, args=(theirs,))
        server.start()
        ear.transport.write(word)
        async with asyncio.timeout(SECONDS * 3):
            await done.wait()
        lingered = hub.lingered
        ear.transport.close()
        await ear.lost()
        server.join()
        return ear.heard, lingered

    heard, lingered = run(main())
    assert heard == word * count and 0 < lingered <= most  # 200 batches and more


def test_what_is_to_run_soon_runs_behind_the_batch(run):
    async def main():
        loop = asyncio.get_running_loop()
        ears = [connected() for _ in range(3)]
        order = []
        for number, (ear, theirs) in enumerate(ears):

            def heard(data, number=number):
                order.append(number)
                hub_of(loop).soon(lambda: order.append("behind"))

            ear.on_data = heard
            theirs.sendall(b"x")
        for ear, theirs in ears:
            await ear.until(lambda ear: ear.heard)
            theirs.close()
            await ear.lost()
        hub_of(loop).soon(lambda: order.append("soon"))
        await asyncio.sleep(0.01)
        return order

    order = run(main())
    assert sorted(order[:3]) == [0, 1, 2] and order[3:] == ["behind"] * 3 + ["soon"]


def _open_files():
    return len(os.listdir("/proc/self/fd"))


def test_the_last_stream_takes_the_hub_s_descriptors_with_it(run):
    async def main():
        before = _open_files()
        for _ in range(3):
            ear, theirs = connected()
            theirs.close()
            await ear.lost()
            await asyncio.sleep(0)
        return before, _open_files()

    before, after = run(main())
    assert before == after


def test_a_loop_that_is_closed_over_open_streams_leaves_no_descriptor():
    before = _open_files()
    loop = asyncio.new_event_loop()
    ours, theirs = pair()

    async def main():
        Stream(hub_of(asyncio.get_running_loop()), ours, Ear())

    loop.run_until_complete(main())
    loop.close()
    del loop
    gc.collect()
    theirs.close()
    ours.close()
    assert _open_files() == before


def test_turned_off_there_is_no_hub(run, monkeypatch):
    monkeypatch.setattr(hub_module, "enabled", False)

    async def main():
        return hub_of(asyncio.get_running_loop())

    assert run(main()) is None


def test_what_is_to_run_behind_a_batch_runs_though_the_batch_is_interrupted():
    loop = asyncio.new_event_loop()
    made = []

    async def begin():
        ear, theirs = connected()
        ran, hub = asyncio.Event(), hub_of(loop)

        def interrupted(data):
            hub.soon(ran.set)
            raise KeyboardInterrupt

        ear.on_data = interrupted
        theirs.sendall(b"x")
        made.extend([ear, theirs, ran])
        await asyncio.sleep(SECONDS)

    task = loop.create_task(begin())
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        ear, theirs, ran = made
        loop.run_until_complete(asyncio.wait_for(ran.wait(), SECONDS))
        ear.transport.abort()
        loop.run_until_complete(ear.lost())
        theirs.close()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
    finally:
        loop.close()


@contextlib.contextmanager
def descriptors_left(count):
    """This process may have so many more than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as held:
        free = [held.enter_context(open(os.devnull)) for _ in range(count)]
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        while True:  # no gaps below the limit
            filler = held.enter_context(open(os.devnull))
            if filler.fileno() > highest:
                break
        resource.setrlimit(resource.RLIMIT_NOFILE, (filler.fileno() + 1, hard))
        try:
            for one in free:
                one.close()
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("left", [0, 1, 2])
def test_without_descriptors_for_the_hub_a_stream_says_so_and_the_next_one_works(run, left):
    async def main():
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            before = _open_files()
            with descriptors_left(left), pytest.raises(OSError, match="Too many open files"):
                Stream(hub_of(asyncio.get_running_loop()), ours, Ear())
            assert _open_files() == before
            ear = Ear()
            stream = Stream(hub_of(asyncio.get_running_loop()), ours, ear)
            theirs.send(b"heard")
            await ear.until(lambda ear: ear.heard == b"heard")
            stream.abort()
            await ear.lost()

    run(main())
