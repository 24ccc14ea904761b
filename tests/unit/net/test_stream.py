"""Streams of a hub: what asyncio's own transports promise, on both loops, and that nothing waits for ever."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

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
