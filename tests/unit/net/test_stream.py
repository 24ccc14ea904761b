"""Streams of a hub: what asyncio's own transports promise, on both loops, and that nothing waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import socket
import struct
import threading
import time

import pytest

from bulkmail.net import hub as hub_module
from bulkmail.net.hub import hub_of
from bulkmail.net.stream import Receiver, Stream

pytestmark = pytest.mark.skipif(not hub_module.AVAILABLE, reason="this system has no epoll")

BIG = os.urandom(1024) * 4096  # no socket buffer takes it at once
SECONDS = 10


class Ear(Receiver):
    """Notes what it is told; `calls` without the data, which is joined in `heard`."""

    def __init__(self):
        self.calls, self.heard, self.unsent = [], b"", None
        self.changed = asyncio.Event()
        self.on_data = None

    def note(self, what):
        self.calls.append(what)
        self.changed.set()

    async def until(self, met):
        async with asyncio.timeout(SECONDS):
            while not met(self):
                self.changed.clear()
                await self.changed.wait()

    async def lost(self):
        await self.until(lambda ear: "lost" in [call if isinstance(call, str) else call[0] for call in ear.calls])

    def connection_made(self, transport):
        self.transport = transport
        self.note("made")

    def data_received(self, data):
        self.heard += data
        self.changed.set()
        if self.on_data is not None:
            self.on_data(data)

    def eof_received(self):
        self.note("eof")

    def pause_writing(self):
        self.note("pause")

    def resume_writing(self):
        self.note("resume")

    def connection_lost(self, exc):
        self.unsent = self.transport.get_write_buffer_size()
        self.note(("lost", exc))


def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def connected():
    """A stream with an Ear, and the socket at its other end."""
    ours, theirs = pair()
    ear = Ear()
    Stream(hub_of(asyncio.get_running_loop()), ours, ear)
    return ear, theirs


async def read_all(sock, size):
    loop, data = asyncio.get_running_loop(), b""
    async with asyncio.timeout(SECONDS):
        while len(data) < size:
            data += await loop.sock_recv(sock, 1 << 20)
    return data


def test_what_comes_is_heard_and_then_the_end(run):
    async def main():
        ear, theirs = connected()
        theirs.sendall(b"one ")
        await ear.until(lambda ear: ear.heard == b"one ")
        theirs.sendall(b"two")
        theirs.close()
        await ear.lost()
        return ear

    ear = run(main())
    assert ear.heard == b"one two" and ear.calls == ["made", "eof", ("lost", None)]
    assert ear.transport.is_closing()


def test_a_reset_is_told_as_such(run):
    async def main():
        listening = socket.create_server(("127.0.0.1", 0))
        ours = socket.create_connection(listening.getsockname())
        theirs, _ = listening.accept()
        listening.close()
        ours.setblocking(False)
        ear = Ear()
        Stream(hub_of(asyncio.get_running_loop()), ours, ear)
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert ear.transport.get_extra_info("peername") == theirs.getsockname()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        await ear.lost()
        return ear.calls

    (_, (_, error)) = run(main())
    assert isinstance(error, ConnectionResetError) and str(error) == "[Errno 104] Connection reset by peer"


def test_writing_to_who_has_gone_is_told_by_the_loop_not_in_the_call(run):
    async def main():
        ear, theirs = connected()
        ear.transport.pause_reading()
        theirs.close()
        ear.transport.write(b"x")
        before = list(ear.calls)
        await ear.lost()
        ear.transport.write(b"more")  # of no effect
        return before, ear.calls[-1][1]

    before, error = run(main())
    assert before == ["made"] and isinstance(error, BrokenPipeError)


def test_what_the_kernel_does_not_take_is_written_when_there_is_room(run):
    async def main():
        ear, theirs = connected()
        ear.transport.set_write_buffer_limits(high=0)
        ear.transport.writelines([BIG[:5], memoryview(BIG)[5:]])
        held = ear.transport.get_write_buffer_size()
        ear.transport.write(b"behind")
        assert ear.transport.get_write_buffer_size() == held + 6
        data = await read_all(theirs, len(BIG) + 6)
        await ear.until(lambda ear: ear.calls[-1] == "resume")
        theirs.close()
        return held, data, ear

    held, data, ear = run(main())
    assert held > 0 and data == BIG + b"behind" and ear.transport.get_write_buffer_size() == 0
    assert ear.calls[:3] == ["made", "pause", "resume"]


def test_thousands_of_pieces_arrive_in_their_order_wherever_the_kernel_stops(run):
    """More than go into one call, with sizes that let it stop inside of one, between two, and at empty ones."""

    async def main():
        ear, theirs = connected()
        pieces = [BIG[at : at + at * 37 % 4000] for at in range(2000)]
        ear.transport.writelines(pieces)
        held = ear.transport.get_write_buffer_size()
        data = await read_all(theirs, sum(map(len, pieces)))
        theirs.close()
        return held, data == b"".join(pieces), ear.transport.get_write_buffer_size()

    held, same, left = run(main())
    assert held > 0 and same and left == 0


def test_limits_are_those_that_were_set_and_the_default_ones_are_asyncio_s(run):
    async def main():
        ear, theirs = connected()
        theirs.close()
        before = ear.transport.get_write_buffer_limits()
        ear.transport.set_write_buffer_limits(high=100, low=10)
        with pytest.raises(ValueError, match="must be >="):
            ear.transport.set_write_buffer_limits(high=1, low=2)
        await ear.lost()
        return before, ear.transport.get_write_buffer_limits()

    assert run(main()) == ((16384, 65536), (10, 100))


def test_close_writes_what_is_held_and_abort_says_exactly_what_is_not(run):
    async def main():
        ear, theirs = connected()
        ear.transport.write(BIG)
        ear.transport.close()
        whole = await read_all(theirs, len(BIG))
        await ear.lost()
        theirs.close()
        other, theirs = connected()
        other.transport.write(BIG)
        other.transport.abort()
        await other.lost()
        part = await read_all(theirs, len(BIG) - other.unsent)
        theirs.close()
        return whole, ear.unsent, part, other.unsent

    whole, unsent, part, left = run(main())
    assert whole == BIG and unsent == 0
    assert 0 < left < len(BIG) and part == BIG[: len(BIG) - left]


def test_an_end_that_is_made_while_something_is_read_comes_once_and_later(run):
    async def main():
        ear, theirs = connected()

        def end(data):
            ear.transport.abort()
            ear.transport.abort()
            ear.note("still here")

        ear.on_data = end
        theirs.sendall(b"x")
        await ear.lost()
        await asyncio.sleep(0)
        theirs.close()
        return ear.calls

    assert run(main()) == ["made", "still here", ("lost", None)]


def test_while_reading_is_paused_nothing_is_heard_and_a_hang_up_costs_nothing(run):
    async def main():
        ear, theirs = connected()
        ear.transport.pause_reading()
        theirs.sendall(b"x")
        theirs.close()
        turns = await _turns(0.05)
        before = (ear.heard, list(ear.calls), ear.transport.is_reading())
        ear.transport.resume_reading()
        await ear.lost()
        return turns, before, ear

    turns, before, ear = run(main())
    assert before == (b"", ["made"], False) and ear.heard == b"x" and ear.calls[1] == "eof"
    assert turns < 20


async def _turns(seconds):
    """How often the loop looks for events in that time: one that is ready and not read makes that thousands."""
    loop = asyncio.get_running_loop()
    hub = hub_of(loop)
    before, end = hub.batches, loop.time() + seconds
    await asyncio.sleep(end - loop.time())
    return hub.batches - before


def test_a_fault_of_the_receiver_ends_its_own_stream_and_is_reported(run):
    async def main():
        told = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["exception"]))
        ear, theirs = connected()
        other, others = connected()
        ear.on_data = lambda data: 1 / 0
        theirs.sendall(b"x")
        others.sendall(b"y")
        await ear.lost()
        await other.until(lambda other: other.heard == b"y")
        theirs.close()
        others.close()
        await other.lost()
        return told, ear.calls[-1][1]

    (told,), error = run(main())
    assert isinstance(told, ZeroDivisionError) and error is told


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


def test_a_stream_that_is_taken_out_leaves_its_socket_as_it_is(run):
    async def main():
        ear, theirs = connected()
        sock = ear.transport.detach()
        theirs.sendall(b"x")
        data = await read_all(sock, 1)
        ear.transport.abort()
        sock.sendall(b"y")
        theirs.close()
        sock.close()
        return data, ear.calls

    assert run(main()) == (b"x", ["made"])


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


def test_what_is_written_behind_the_end_is_told_as_unsent(run):
    async def main():
        ear, theirs = connected()
        ear.transport.pause_reading()
        theirs.close()
        ear.transport.write(b"x")  # fails, which is told by the loop
        ear.transport.write(b"behind")
        ear.transport.writelines([b"the ", memoryview(b"end")])
        await ear.lost()
        return ear.unsent

    assert run(main()) == 1 + 6 + 7


def test_a_socket_that_somebody_else_has_closed_still_has_its_end(run):
    async def main():
        ear, theirs = connected()
        os.close(ear.transport.get_extra_info("socket").detach())
        ear.transport.abort()
        await ear.lost()
        theirs.close()
        return len(hub_of(asyncio.get_running_loop()))

    assert run(main()) == 0


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
