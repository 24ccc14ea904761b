"""The session on a clock of the test's own: deadlines, the turn, and what is known of a message at the end."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from bulkmail.errors import ConnectionLost, EnvelopeRefused, InDoubt, ProtocolError, TimedOut
from bulkmail.smtp.session import CLOSED_BY_US, Session, Turn
from bulkmail.wire.transaction import DONE, IN_DOUBT, NOT_TAKEN, Transaction
from unit.smtp.fake_loop import COMMAND_TIMEOUT, DATA_TIMEOUT, TURN_DELAY, FakeLoop, FakeTransport, Rig

BODY = b"hello\r\n.\r\n"
ENVELOPE = b"250 ok\r\n250 ok\r\n354 go\r\n"
TAKEN = b"250 taken\r\n"
MOMENT = 0.01


def tx(number=0, body=BODY, flags=0):
    return Transaction(b"a@example.test", [b"u%d@example.test" % number], body, flags, None, number)


def states(transactions):
    return [(one.at, one.state) for one in transactions]


# ---- deadlines


def test_the_greeting_has_a_deadline_of_its_own():
    rig = Rig(greeted=False)
    greeting = rig.session.greeting(7.0)
    rig.loop.pass_seconds(7.0 - MOMENT)
    assert rig.session.error is None
    rig.loop.pass_seconds(2 * MOMENT)
    error = rig.session.error
    assert (type(error), error.phase, error.command) == (TimedOut, "greeting", "greeting")
    assert greeting.exception() is error and rig.transport.aborted and rig.session.closed.result() is error


def test_a_reply_that_is_dripped_does_not_move_the_deadline_of_a_command():
    rig = Rig()
    reply = rig.session.call(b"NOOP\r\n", "NOOP")
    for _ in range(int(COMMAND_TIMEOUT) - 1):
        rig.loop.pass_seconds(1.0)
        rig.say(b"2" if _ == 0 else b"5" if _ == 1 else b"0" if _ == 2 else b"-" if _ == 3 else b"x")
    assert rig.session.error is None
    rig.loop.pass_seconds(1.0 + MOMENT)
    assert isinstance(reply.exception(), TimedOut) and reply.exception().phase == "command"


def test_a_command_may_be_given_less_time():
    rig = Rig()
    rig.session.call(b"QUIT\r\n", "QUIT", 5.0)
    rig.loop.pass_seconds(5.0 + MOMENT)
    assert str(rig.session.error) == CLOSED_BY_US


@pytest.mark.parametrize(
    ("answered", "command"), [(b"", "MAIL"), (b"250 ok\r\n", "RCPT"), (b"250 ok\r\n250 ok\r\n", "DATA")]
)
def test_each_reply_of_the_envelope_has_its_own_time(answered, command):
    rig = Rig()
    rig.session.push([tx()])
    for line in answered.splitlines(keepends=True):
        rig.loop.pass_seconds(COMMAND_TIMEOUT - MOMENT)
        rig.say(line)
    rig.loop.pass_seconds(COMMAND_TIMEOUT - MOMENT)
    assert rig.session.error is None
    rig.loop.pass_seconds(2 * MOMENT)
    error = rig.session.error
    assert (type(error), error.phase, error.command) == (TimedOut, "command", command)
    assert states(rig.done()) == [(0, NOT_TAKEN)]


def test_the_verdict_has_the_time_for_data_from_when_the_message_was_written():
    rig = Rig()
    rig.session.push([tx()])
    rig.loop.pass_seconds(COMMAND_TIMEOUT - MOMENT)
    rig.say(ENVELOPE)
    rig.loop.pass_seconds(DATA_TIMEOUT - MOMENT)
    assert rig.session.error is None
    rig.loop.pass_seconds(2 * MOMENT)
    assert rig.session.error.phase == "data"
    (one,) = rig.done()
    assert one.state == IN_DOUBT and isinstance(one.error, InDoubt) and one.error.__cause__ is rig.session.error


def test_behind_a_verdict_the_envelope_has_the_time_of_a_command():
    rig = Rig()
    rig.session.push([tx(0), tx(1)])
    rig.say(ENVELOPE)
    rig.loop.pass_seconds(DATA_TIMEOUT - MOMENT)
    rig.say(TAKEN)
    rig.loop.pass_seconds(COMMAND_TIMEOUT + MOMENT)
    assert rig.session.error.phase == "command"
    assert states(rig.done()) == [(0, DONE), (1, NOT_TAKEN)]


def test_idle_there_is_no_deadline_and_an_old_one_does_not_strike():
    rig = Rig()
    rig.session.push([tx(0)])
    rig.say(ENVELOPE + TAKEN)  # a verdict that comes with the envelope's replies is before its message
    assert type(rig.session.error) is ProtocolError
    rig = Rig()
    rig.session.push([tx(0)])
    rig.say(ENVELOPE)
    rig.say(TAKEN)
    assert rig.session.idle_since == rig.loop.now
    rig.loop.pass_seconds(100_000.0)
    assert rig.session.error is None
    rig.session.push([tx(1)])
    rig.loop.pass_seconds(COMMAND_TIMEOUT - MOMENT)
    assert rig.session.error is None
    rig.loop.pass_seconds(2 * MOMENT)
    assert isinstance(rig.session.error, TimedOut)


def test_thousands_of_messages_cost_a_handful_of_timers():
    rig = Rig(left=10_000)
    for number in range(5000):
        rig.session.push([tx(number)])
        rig.say(ENVELOPE)
        rig.say(TAKEN)
        rig.done()
        rig.loop.now += 0.001
    assert rig.loop.timers() <= 3  # the deadline's and the turn's


# ---- what is unsent decides


@pytest.mark.parametrize(
    ("unsent", "state"), [(0, IN_DOUBT), (1, NOT_TAKEN), (len(BODY), NOT_TAKEN)], ids=["all left", "a byte", "all here"]
)
@pytest.mark.parametrize("ending", ["eof", "timeout", "abort"])
def test_a_dot_that_never_left_is_no_doubt(unsent, state, ending):
    rig = Rig()
    rig.session.push([tx()])
    rig.say(ENVELOPE)
    rig.transport.unsent = unsent
    if ending == "eof":
        rig.session.eof_received()
    elif ending == "timeout":
        rig.loop.pass_seconds(DATA_TIMEOUT + MOMENT)
    else:
        rig.session.abort(ConnectionLost("enough"))
    assert states(rig.done()) == [(0, state)] and rig.transport.aborted


@pytest.mark.parametrize(("paused", "state"), [(True, NOT_TAKEN), (False, IN_DOUBT)])
def test_a_lost_connection_no_longer_tells_what_is_unsent_but_whether_anything_was(paused, state):
    rig = Rig()
    rig.session.push([tx()])
    rig.say(ENVELOPE)
    rig.session.pause_writing()
    if not paused:
        rig.session.resume_writing()
    rig.session.connection_lost(ConnectionResetError(104, "Connection reset by peer"))
    assert states(rig.done()) == [(0, state)]
    assert isinstance(rig.session.error.__cause__, ConnectionResetError)


def test_what_is_unsent_may_be_the_next_envelope():
    rig = Rig()
    rig.session.push([tx(0), tx(1)])
    rig.say(ENVELOPE)
    rig.transport.unsent = len(rig.transport.written[-1]) - len(BODY)
    rig.session.eof_received()
    assert states(rig.done()) == [(0, IN_DOUBT), (1, NOT_TAKEN)]


def test_the_end_comes_once():
    rig = Rig()
    rig.session.eof_received()
    first = rig.session.error
    rig.session.connection_lost(None)
    rig.session.abort(ConnectionLost("again"))
    rig.say(b"250 too late\r\n")
    assert rig.session.error is first and rig.turn.take_ended() == [rig.session] and rig.turn.take_ended() == []


def test_work_for_a_session_that_has_ended_comes_back_at_once():
    rig = Rig()
    rig.session.eof_received()
    rig.session.push([tx(0), tx(1)])
    finished = rig.done()
    assert states(finished) == [(0, NOT_TAKEN), (1, NOT_TAKEN)] and all(not one.mail_at for one in finished)
    with pytest.raises(ConnectionLost):
        rig.session.call(b"NOOP\r\n", "NOOP")


# ---- the turn


def exchange(rig, count):
    """The server answers `count` messages one by one, as fast as it can."""
    rig.say(ENVELOPE)
    for _ in range(count - 1):
        rig.say(TAKEN + ENVELOPE)
    rig.say(TAKEN)


def test_a_session_that_runs_dry_asks_at_once_and_for_twice_as_much():
    rig = Rig()
    sizes = []
    for _ in range(8):
        sizes.append(rig.session.room())
        rig.session.push([tx(n) for n in range(sizes[-1])])
        exchange(rig, sizes[-1])
        rig.loop.run()
        assert rig.turns.pop() == rig.loop.now and rig.turn.take_hungry() == [rig.session]
        rig.turns.clear()
    assert sizes == [1, 2, 4, 8, 16, 16, 16, 16]  # MAX_WINDOW


def test_a_session_that_asked_in_good_time_and_ran_dry_meanwhile_asks_more_urgently():
    rig = Rig()
    rig.session.window = 4
    rig.session.push([tx(n) for n in range(4)])
    rig.say(ENVELOPE)  # two are still waiting: it has room, but no hurry
    rig.say(TAKEN + ENVELOPE)
    rig.loop.run()
    assert rig.turns == []
    rig.say(TAKEN + ENVELOPE)
    rig.say(TAKEN + ENVELOPE)  # the last one is under way and nothing waits behind it
    rig.loop.run()
    assert rig.turns == [rig.loop.now] and rig.session.window == 8
    assert rig.turn.take_hungry() == [rig.session]


def test_finished_transactions_wait_a_little_for_others():
    rig = Rig(left=1)  # it may have one only, so it asks for no more
    rig.session.push([tx()])
    rig.say(ENVELOPE)
    rig.say(TAKEN)
    rig.loop.run()
    assert rig.turns == []
    rig.loop.pass_seconds(TURN_DELAY)
    assert len(rig.turns) == 1 and states(rig.done()) == [(0, DONE)]


def test_a_session_takes_no_more_than_it_may_carry():
    rig = Rig(left=3)
    rig.session.window = 16
    assert rig.session.room() == 3
    rig.session.push([tx(n) for n in range(3)])
    assert rig.session.room() == 0 and not rig.session.ready()
    exchange(rig, 3)
    rig.loop.run()
    assert rig.turn.take_hungry() == []


def test_what_is_refused_here_leaves_the_session_asking_for_work():
    rig = Rig()
    rig.session.push([tx(0, flags=2)])  # needs SMTPUTF8
    rig.loop.run()
    (one,) = rig.done()
    assert isinstance(one.error, EnvelopeRefused) and rig.turn.take_hungry() == [rig.session]


def test_ready_means_that_mail_would_be_written_now():
    rig = Rig()
    assert rig.session.ready()
    rig.session.push([tx(0)])
    assert not rig.session.ready()
    rig.say(ENVELOPE)
    assert rig.session.ready()  # behind the message, in the same breath
    rig = Rig(pipelining=False)
    rig.session.push([tx(0)])
    for line in ENVELOPE.splitlines(keepends=True):
        rig.say(line)
    assert not rig.session.ready()  # not before the verdict


def test_421_ends_the_session_with_the_server_s_words():
    rig = Rig()
    rig.session.push([tx(0), tx(1)])
    rig.say(b"250 ok\r\n421 4.3.2 going down\r\n")
    error = rig.session.error
    assert (type(error), error.reply.code, error.command, error.permanent) == (ConnectionLost, 421, "RCPT", False)
    assert states(rig.done()) == [(0, NOT_TAKEN), (1, NOT_TAKEN)]


# ---- calls


def test_a_reply_that_nobody_waits_for_any_more_cannot_be_taken_for_another():
    rig = Rig()
    rig.session.call(b"NOOP\r\n", "NOOP").cancel()
    rig.loop.run()
    assert isinstance(rig.session.error, ConnectionLost) and rig.transport.aborted


def test_two_calls_at_once_are_a_mistake_that_writes_nothing():
    rig = Rig()
    rig.session.call(b"NOOP\r\n", "NOOP")
    with pytest.raises(RuntimeError):
        rig.session.call(b"RSET\r\n", "RSET")
    assert rig.transport.written == [b"NOOP\r\n"]


@pytest.mark.parametrize("answer", [b"221 bye\r\n", b"421 bye\r\n", b"nonsense\r\n", b""])
def test_after_quit_every_end_is_ours(answer):
    rig = Rig()
    rig.session.call(b"QUIT\r\n", "QUIT")
    rig.say(answer)
    rig.session.eof_received()
    assert str(rig.session.error) == CLOSED_BY_US


# ---- writing past the transport


class Piped(FakeTransport):
    """In clear, over a real socket: the session writes to it itself while the transport holds nothing."""

    def __init__(self, sock):
        super().__init__()
        self.sock = sock

    def get_extra_info(self, name):
        return self.sock if name == "socket" else None


def test_what_the_kernel_does_not_take_goes_to_the_transport_in_order():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        rig = Rig()
        transport = Piped(ours)
        session = Session(rig.loop, Turn(rig.loop, lambda: None, 1.0), 30.0, 60.0)
        session.connection_made(transport)
        session.data_received(b"220 hi\r\n")
        session.wire.pipelining, session.left = True, 10
        big = b"0123456789abcdef" * 65536 + b"\r\n.\r\n"
        session.push([tx(0, body=big), tx(1)])
        session.data_received(ENVELOPE)
        taken = b""
        while piece := _read(theirs):
            taken += piece
        first = b"MAIL FROM:<a@example.test>\r\nRCPT TO:<u0@example.test>\r\nDATA\r\n"
        assert taken.startswith(first + big[:1000])
        assert transport.written, "a megabyte fits into no socket buffer"
        assert taken + b"".join(transport.written) == first + big + first.replace(b"u0", b"u1")


def _read(sock):
    try:
        return sock.recv(65536)
    except BlockingIOError:
        return b""


def test_while_the_transport_holds_bytes_all_goes_through_it():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        transport = Piped(ours)
        rig = Rig()
        session = Session(rig.loop, Turn(rig.loop, lambda: None, 1.0), 30.0, 60.0)
        session.connection_made(transport)
        session.data_received(b"220 hi\r\n")
        session.pause_writing()
        session.call(b"NOOP\r\n", "NOOP")
        assert transport.written == [b"NOOP\r\n"]
        session.data_received(b"250 ok\r\n")
        session.resume_writing()
        session.call(b"RSET\r\n", "RSET")
        assert transport.written == [b"NOOP\r\n"] and theirs.recv(100) == b"RSET\r\n"


def test_a_session_that_ended_writes_to_no_descriptor_any_more():
    """The number may belong to another connection by then."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport = Piped(ours)
        rig = Rig()
        session = Session(rig.loop, Turn(rig.loop, lambda: None, 1.0), 30.0, 60.0)
        session.connection_made(transport)
        session.abort(ConnectionLost("enough"))
        session.push([tx()])
        theirs.setblocking(False)
        assert _read(theirs) == b"" and transport.written == []


# ---- on real loops


def test_the_future_of_the_end_is_resolved_under_both_loops(run):
    async def main():
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        session = Session(loop, Turn(loop, lambda: None, 0.0), 5.0, 5.0)
        await loop.create_connection(lambda: session, *server.sockets[0].getsockname())
        error = await asyncio.wait_for(session.closed, 5)
        server.close()
        return error

    assert isinstance(run(main()), ConnectionLost)


class CoarseLoop(FakeLoop):
    """Taken for uvloop, whose time() is whole milliseconds."""

    __module__ = "uvloop"


def test_a_quick_reply_takes_more_than_no_time_where_the_loops_clock_is_coarse():
    loop = CoarseLoop()
    turn = Turn(loop, lambda: None, 1.0)
    session = Session(loop, turn, 30.0, 60.0)
    session.connection_made(FakeTransport())
    session.data_received(b"220 hi\r\n")
    session.wire.pipelining, session.left = True, 1
    began = time.monotonic()
    session.push([tx()])
    session.data_received(ENVELOPE)
    session.data_received(TAKEN)
    (one,) = turn.take_done()
    assert began <= one.mail_at < one.done_at <= time.monotonic()
