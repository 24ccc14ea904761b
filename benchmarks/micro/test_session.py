"""A session without a socket: messages pushed, replies received, with the wire log off and on.

"off" is what everybody pays for there being a log. Between "off" and "off again" lies the noise of this run; a build in
which an unused log costs something shows it against an older one (pytest-benchmark compare).
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bulkmail.smtp.session import Session, Turn
from bulkmail.smtp.wirelog import make_trace
from bulkmail.wire.transaction import DONE, Transaction

ROUND = 1000
ENVELOPE = b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n"
VERDICT = b"250 2.0.0 Ok: queued as 4cXyZ1234567890\r\n"
BODY = b"Subject: x\r\n\r\n" + b"a line of text that is as long as most of them are\r\n" * 40 + b".\r\n"


class Nowhere:
    """A transport that forgets; it passes for one with TLS, so that the session writes through it."""

    def get_extra_info(self, name: str) -> object:
        return object()

    def set_write_buffer_limits(self, high: int) -> None: ...

    def write(self, data: bytes) -> None: ...

    def writelines(self, pieces: list[Any]) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None: ...


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Never run: a Turn's callback is not wanted here."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.mark.parametrize("wire_log", ["off", "off again", "file"])
def test_messages(benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop, tmp_path: Any, wire_log: str) -> None:
    benchmark.group = f"{ROUND} messages through a session, by wire_log"
    _, trace = make_trace(None if wire_log.startswith("off") else tmp_path / "wire.log")

    def opened() -> tuple[tuple[Session, list[Transaction]], dict[str, Any]]:
        session = Session(loop, Turn(loop, lambda: None, 1.0), 60, 60, trace)
        session.connection_made(Nowhere())
        session.data_received(b"220 mx.example.test\r\n")
        session.wire.replies.clear()
        session.wire.pipelining = True
        session.left = ROUND
        people = [b"subscriber-%d@example.test" % number for number in range(ROUND)]
        return (session, [Transaction(b"news@example.test", [one], BODY) for one in people]), {}

    def dialogue(session: Session, batch: list[Transaction]) -> list[Transaction]:
        for tx in batch:
            session.push([tx])
            session.data_received(ENVELOPE)
            session.data_received(VERDICT)
        return session.turn.take_done()

    done = benchmark.pedantic(dialogue, setup=opened, rounds=30)
    assert len(done) == ROUND and all(tx.state == DONE and tx.judged for tx in done)
