"""How much a session asks for and how it is written: long lines are kept full, pieces under TLS are one record."""

from __future__ import annotations

import asyncio

import pytest

from bulkmail.smtp.session import Session, Turn
from bulkmail.wire.transaction import Transaction

BODY = b"Subject: x\r\n\r\n" + b"x" * 1000 + b"\r\n.\r\n"
OK = b"250 2.0.0 Ok\r\n"


class FakeTransport:
    """Keeps what is written; says that TLS is under it, so that nothing goes past it."""

    def __init__(self):
        self.writes = []

    def get_extra_info(self, name):
        return object()

    def set_write_buffer_limits(self, high):
        pass

    def get_write_buffer_size(self):
        return 0

    def write(self, data):
        self.writes.append(bytes(data))

    def writelines(self, pieces):
        self.writes.extend(bytes(piece) for piece in pieces)

    def abort(self):
        pass


class FakeLoop:
    """Its time is set by the test; what is called later is not called."""

    def __init__(self, loop):
        self.now, self._loop = 1.0, loop

    def time(self):
        return self.now

    def create_future(self):
        return self._loop.create_future()

    def call_soon(self, callback):
        pass

    def call_later(self, delay, callback):
        pass

    def call_at(self, when, callback):
        return asyncio.TimerHandle(when, callback, (), self._loop)


@pytest.fixture
def session():
    loop = asyncio.new_event_loop()
    clock = FakeLoop(loop)
    session = Session(clock, Turn(clock, lambda: None, 0.005), 60, 60)
    session.label = clock
    session.connection_made(FakeTransport())
    session.data_received(b"220 mx.example.test\r\n")
    session.wire.pipelining = session.wire.chunking = True
    session.left = 10_000
    yield session
    loop.close()


def round_trip(session, seconds):
    """Give it all that it wants, and let the answers come after so long; how many it took."""
    count = session.room()
    session.push([Transaction(b"a@example.test", [b"b@example.test"], BODY) for _ in range(count)])
    session.label.now += seconds
    resets = b"".join(session.transport.writes).count(b"RSET\r\n")
    session.transport.writes.clear()
    session.data_received(OK * (3 * count + resets))  # MAIL, RCPT, BDAT, and what stands before a MAIL sent ahead
    assert session.wire.load() == 0
    session.turn.take_hungry()
    return count


def test_the_window_of_a_long_line_opens_fast(session):
    assert [round_trip(session, 0.1) for _ in range(6)] == [1, 4, 16, 64, 128, 128]


def test_a_near_server_is_given_a_little_at_a_time(session):
    assert [round_trip(session, 0.001) for _ in range(7)] == [1, 2, 4, 8, 16, 16, 16]


def test_no_more_is_under_way_than_the_window(session):
    for _ in range(4):
        round_trip(session, 0.1)
    session.push([Transaction(b"a@example.test", [b"b@example.test"], BODY) for _ in range(100)])
    assert session.wire.load() == 100 and session.room() == session.window - 100


def test_a_long_line_asks_for_more_before_an_answer_comes(session):
    for _ in range(4):
        round_trip(session, 0.1)
    session.push([Transaction(b"a@example.test", [b"b@example.test"], BODY) for _ in range(100)])
    assert session.turn.take_hungry() == [session]


def test_a_message_under_tls_is_written_at_once(session):
    session.transport.writes.clear()
    session.push([Transaction(b"a@example.test", [b"b@example.test"], BODY)])
    (written,) = session.transport.writes  # each write would be a TLS record of its own
    assert written.startswith(b"MAIL FROM:<a@example.test>") and written.endswith(BODY.removesuffix(b".\r\n"))


def test_a_server_that_takes_its_time_for_each_message_is_not_given_many(session):
    """Its own time is not shared by those that wait, and other connections could send them."""
    for _ in range(50):
        session.push([Transaction(b"a@example.test", [b"b@example.test"], BODY) for _ in range(session.room())])
        resets = b"".join(session.transport.writes).count(b"RSET\r\n")
        session.transport.writes.clear()
        for _ in range(session.wire.load()):
            session.label.now += 0.4
            reset, resets = min(resets, 1), max(resets - 1, 0)
            session.data_received(OK * (3 + reset))
        session.turn.take_hungry()
        assert session.window <= 4


def test_without_chunking_a_slow_server_has_one_message_and_one_that_follows(session):
    session.wire.chunking = False
    for _ in range(10):
        session.push([Transaction(b"a@example.test", [b"b@example.test"], BODY) for _ in range(session.room())])
        while session.wire.load():
            session.label.now += 0.1
            session.data_received(OK * 2 + b"354 go\r\n")
            session.data_received(OK)
        session.turn.take_hungry()
        assert session.window <= 2
    assert session.window == 2
