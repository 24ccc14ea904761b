"""Lines that are nobody's yet: nothing is lost at the change of owners, and no peer can fill the memory meanwhile."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager

from bulkmail.net.bridge import plain_socket
from bulkmail.net.line import MAX_HELD, SocketLine, encrypted

CHUNK = b"x" * 65536
FAR_TOO_MUCH = 64 * 1024 * 1024  # what a peer would send that nobody holds back
SOCKETS_HOLD = 16 * 1024 * 1024  # no more than this fits into the kernel's buffers and ours, on any machine


class Collect(asyncio.Protocol):
    def __init__(self):
        self.events, self.data = [], b""
        self.gone = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.events.append("made")

    def data_received(self, data):
        self.data += data

    def eof_received(self):
        self.events.append("eof")

    def connection_lost(self, error):
        self.events.append("lost")
        self.gone.set_result(None)


@asynccontextmanager
async def tls_line(certificates, serve):
    """A line of TLS to a server that plays `serve`."""
    tasks = []

    async def on_connection(reader, writer):
        tasks.append(asyncio.current_task())
        try:
            await serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(on_connection, "127.0.0.1", 0, ssl=certificates.server_context())
    sock = socket.create_connection(server.sockets[0].getsockname())
    sock.setblocking(False)
    line = await encrypted(SocketLine(sock, loop), certificates.client_context(), "127.0.0.1", 20, loop)
    try:
        yield line
    finally:
        line.close()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until_it_stands_still(count):
    """count() once it has not changed for a while."""
    seen, still = -1, 0
    while still < 20:
        await asyncio.sleep(0.01)
        now = count()
        still = still + 1 if now == seen else 0
        seen = now
    return seen


def flood(sent):
    async def serve(reader, writer):
        while sent[0] < FAR_TOO_MUCH:
            writer.write(CHUNK)
            sent[0] += len(CHUNK)
            await writer.drain()

    return serve


def test_a_peer_that_never_stops_is_not_read_without_end(run, certificates):
    async def main():
        sent = [0]
        async with tls_line(certificates, flood(sent)) as line:
            stuck = await until_it_stands_still(lambda: sent[0])
            assert stuck < SOCKETS_HOLD
            assert len(line.peek(FAR_TOO_MUCH)) < MAX_HELD + 1024 * 1024
            taken = 0
            while taken < stuck + 4 * MAX_HELD:  # it is read again as soon as there is room
                taken += len(await line.receive(MAX_HELD))

    run(main())


def test_a_bridge_reads_no_faster_than_it_is_read_from(run, certificates):
    async def main():
        sent = [0]
        async with tls_line(certificates, flood(sent)) as line:
            with await plain_socket(line) as sock:
                stuck = await until_it_stands_still(lambda: sent[0])
                assert stuck < SOCKETS_HOLD
                left = stuck + 4 * MAX_HELD
                while left > 0:  # it is read again as soon as there is room
                    left -= len(await asyncio.get_running_loop().sock_recv(sock, MAX_HELD))

    run(main())


def test_a_bridge_writes_no_faster_than_the_other_side_reads(run, certificates):
    async def main():
        async def deaf(reader, writer):
            writer.transport.pause_reading()
            await asyncio.Event().wait()

        loop, sent = asyncio.get_running_loop(), [0]
        async with tls_line(certificates, deaf) as line:
            with await plain_socket(line) as sock:

                async def write():
                    while sent[0] < FAR_TOO_MUCH:
                        await loop.sock_sendall(sock, CHUNK)
                        sent[0] += len(CHUNK)

                writing = asyncio.create_task(write())
                assert await until_it_stands_still(lambda: sent[0]) < SOCKETS_HOLD
                writing.cancel()
                await asyncio.wait([writing])

    run(main())


def test_the_next_owner_is_told_all_that_happened_before_it_came(run, certificates):
    async def main():
        async def serve(reader, writer):
            writer.write(b"554 go away\r\n")
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        async with tls_line(certificates, serve) as line:
            assert await line.receive(4) == b"554 "
            await until_it_stands_still(lambda: 0)  # its end has come as well
            protocol = Collect()
            line.hand_over(protocol)
            await asyncio.wait_for(protocol.gone, 20)
            return protocol.data, protocol.events[0], protocol.events[-1]

    assert run(main()) == (b"go away\r\n", "made", "lost")


def test_a_plain_socket_is_its_own(run):
    async def main():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            assert await plain_socket(SocketLine(ours, asyncio.get_running_loop())) is ours

    run(main())
