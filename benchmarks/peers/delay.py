#!/usr/bin/env python3
"""A TCP relay that makes the line longer: each direction is late by half the round trip, bandwidth is not limited.

    delay.py --to HOST:PORT --rtt-ms 50       prints "ready PORT" (of 127.0.0.1), ends on SIGTERM

The handshake is paid for too: the connection onwards is opened one and a half round trips after the client's, so that
a server's greeting is heard two round trips after connect(), as on a real line. Late by a timer's grain of 1 ms more.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections import deque

END = b""  # in a line's queue: the sender has closed its side


class Line(asyncio.Protocol):
    """One end of a relayed connection: what it reads is written, half a round trip later, to its `other` end."""

    def __init__(self, half: float) -> None:
        self.half = half
        self.other: Line
        self.transport: asyncio.Transport | None = None
        self.late: deque[tuple[float, bytes]] = deque()
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=1 << 30)  # the line holds any amount: only time is bounded
        self.other.arm()

    def data_received(self, data: bytes) -> None:
        self.late.append((asyncio.get_running_loop().time() + self.half, data))
        self.arm()

    def eof_received(self) -> bool:
        self.data_received(END)
        return True  # keep the other direction open

    def connection_lost(self, error: Exception | None) -> None:
        self.data_received(END)

    def arm(self) -> None:
        """Set the timer for the oldest bytes, once there is somewhere to write them to."""
        if self.timer is None and self.late and self.other.transport is not None:
            self.timer = asyncio.get_running_loop().call_at(self.late[0][0], self.deliver)

    def deliver(self) -> None:
        self.timer = None
        now = asyncio.get_running_loop().time()
        due = []
        while self.late and self.late[0][0] <= now:
            due.append(self.late.popleft()[1])
        out = self.other.transport
        assert out is not None
        if not out.is_closing():
            out.write(b"".join(due))
            if END in due:
                out.close()
        self.arm()


async def relay(host: str, port: int, rtt: float) -> None:
    loop = asyncio.get_running_loop()
    onward: set[asyncio.Task[None]] = set()

    async def connect(client: Line) -> None:
        await asyncio.sleep(1.5 * rtt)
        try:
            await loop.create_connection(lambda: client.other, host, port)
        except OSError:
            if client.transport:
                client.transport.abort()

    def accept() -> Line:
        client, server = Line(rtt / 2), Line(rtt / 2)
        client.other, server.other = server, client
        task = loop.create_task(connect(client))
        onward.add(task)
        task.add_done_callback(onward.discard)
        return client

    listener = await loop.create_server(accept, "127.0.0.1", 0, backlog=512)
    print("ready", listener.sockets[0].getsockname()[1], flush=True)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    parser.add_argument("--rtt-ms", type=float, default=50.0)
    arguments = parser.parse_args()
    host, _, port = arguments.to.rpartition(":")
    asyncio.run(relay(host, int(port), arguments.rtt_ms / 1000))


if __name__ == "__main__":
    main()
