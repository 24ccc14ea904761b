"""What stands before a connection, at moments that no client can choose."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from bulkmail.sink import Server
from bulkmail.sink.gate import LATE, Gate

Run = Callable[[Any], Any]


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 4000), "sockname": ("127.0.0.1", 25)})
        self.said = b""
        self.closing = False

    def write(self, data: Any) -> None:
        self.said += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


def test_a_header_that_is_late_when_its_client_goes_is_counted_once(run: Run) -> None:
    async def main() -> None:
        async with Server(proxy_from="*") as server:
            gate, wire = Gate(server), Wire()
            gate.connection_made(wire)
            gate.data_received(b"PROXY")
            wire.close()  # the loop has not told yet
            gate.close(LATE)
            gate.connection_lost(None)
            assert (server.counts["connections"], server.counts["refused"]) == (1, 1)
            assert not server.connections

    run(main())


def test_who_was_accepted_when_the_server_stopped_is_not_waited_for(run: Run) -> None:
    async def main() -> None:
        async with Server(proxy_from="*") as server:
            pass
        gate, wire = Gate(server), Wire()
        gate.connection_made(wire)
        assert (wire.said, wire.closing) == (b"421 4.3.2 Server shutting down\r\n", True)
        assert not server.connections

    run(main())
