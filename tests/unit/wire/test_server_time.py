"""Whether a client uses its time, asked at even intervals; and how much it may ask without sending a message."""

from __future__ import annotations

import pytest

from bulkmail.wire.server import MAX_COMMANDS, MAX_OVERSHOOT
from bulkmail.wire.server_state import MAX_ERRORS
from unit.wire.server_talk import HELLO, LOGIN, MAIL, OPEN, RCPT, Talk, b64, codes

TIMES, LEAST = 3, 100


def late(talk: Talk, said: list[bytes]) -> bool:
    """Whether the talk was late, one of `said` going by before each question."""
    for piece in said:
        talk.say(piece)
        if talk.codec.late(TIMES, LEAST):
            return True
    return False


@pytest.mark.parametrize("begin, drip", [
    (b"", b""), (b"", b"N"), (HELLO, b"x"), (HELLO + b"NOOP ", b"x"), (OPEN, b""), (OPEN, b"x" * 20),
    (OPEN, b"\r\n.\r"), (HELLO + MAIL + RCPT + b"BDAT 9999999\r\n", b"x" * 20),
    (HELLO + MAIL + RCPT + b"BDAT 1\r\nx", b"BDAT 20\r\n" + b"x" * 20),
    (HELLO + MAIL + RCPT + b"BDAT 1\r\nx", b"BDAT 0\r\n"),
])  # fmt: skip
def test_who_drips_is_late(begin: bytes, drip: bytes) -> None:
    talk = Talk()
    talk.say(begin)
    assert not late(talk, [drip] * TIMES)
    assert late(talk, [drip])


@pytest.mark.parametrize("begin, steady", [
    (b"", b"NOOP\r\n"), (HELLO, b"NONSENSE\r\n"), (HELLO + MAIL, RCPT), (HELLO, MAIL + RCPT + b"DATA\r\n.\r\n"),
    (OPEN, b"x" * 110), (HELLO + MAIL + RCPT + b"BDAT 9999999\r\n", b"x" * 110),
    (HELLO + MAIL + RCPT + b"BDAT 1\r\nx", b"BDAT 110\r\n" + b"x" * 110), (HELLO, MAIL + RCPT + b"BDAT 1 LAST\r\nx"),
])  # fmt: skip
def test_who_goes_on_is_not(begin: bytes, steady: bytes) -> None:
    talk = Talk()
    talk.say(begin)
    assert not late(talk, [b"", steady, b"", b"", steady, b""] * 2)


def test_a_login_in_lines_takes_a_line_at_a_time() -> None:
    talk = Talk(auth=LOGIN, secure=True)
    talk.say(HELLO + b"AUTH LOGIN\r\n")
    assert not late(talk, [b"", b"", b64(b"user") + b"\r\n", b"", b"", b64(b"pass word") + b"\r\n", b"", b""])


def test_time_that_was_not_the_clients_does_not_count() -> None:
    talk = Talk()
    for _ in range(3):
        assert not late(talk, [b""] * TIMES)
        talk.codec.in_time()


# --- limits without a clock


def test_recipients_far_past_the_limit_are_errors() -> None:
    talk = Talk(max_recipients=2, envelopes=False)
    talk.say(HELLO + MAIL + RCPT * (2 + MAX_OVERSHOOT + MAX_ERRORS - 1))
    assert not talk.codec.closed
    assert codes(talk.say(RCPT)) == [421]
    assert talk.counts.refused == MAX_OVERSHOOT


def test_each_transaction_may_overshoot() -> None:
    talk = Talk(max_recipients=2, envelopes=False)
    talk.say(HELLO + (MAIL + RCPT * (2 + MAX_OVERSHOOT) + b"DATA\r\n.\r\n") * 30)
    assert (talk.codec.closed, talk.counts.messages) == (False, 30)


@pytest.mark.parametrize("command", [b"DATA\r\n", b"BDAT 0\r\n"])
def test_what_carries_no_message_counts_as_a_command(command: bytes) -> None:
    talk = Talk()
    talk.say(HELLO + MAIL + (RCPT if command[:1] == b"B" else b""))
    assert 421 in codes(talk.say(command * (MAX_COMMANDS + 1)))
    assert talk.codec.closed
