"""leave(): the message under way gets its verdict, then 421; what comes behind is neither read nor taken."""

from __future__ import annotations

import pytest

from unit.wire.server_talk import HELLO, MAIL, RCPT, Talk, codes

MESSAGE = MAIL + RCPT + b"DATA\r\nSubject: x\r\n\r\nHello\r\n.\r\n"
CHUNKED = MAIL + RCPT + b"BDAT 5\r\nabcdeBDAT 2 LAST\r\n\r\n"
FORMS = {"DATA": MESSAGE, "BDAT": CHUNKED}


def left_at(place: int, stream: bytes, **settings: object) -> tuple[Talk, int]:
    """A talk of `stream`, whose server leaves after `place` bytes; and how many messages it had taken before."""
    talk = Talk(**settings)
    talk.say(stream[:place])
    before = talk.counts.messages
    talk.codec.leave(b"4.3.2", b"Going")
    talk.replies += talk.codec.output()
    talk.say(stream[place:])
    return talk, before


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ask", [0, 15])
def test_wherever_it_leaves_only_the_message_under_way_is_taken(form: str, ask: int) -> None:
    stream = HELLO + FORMS[form] * 3
    starts = [len(HELLO) + len(FORMS[form]) * n for n in range(3)]
    for place in range(len(stream)):
        talk, before = left_at(place, stream, ask=ask)
        under_way = any(start + len(MAIL) <= place < start + len(FORMS[form]) for start in starts)
        assert talk.counts.messages == before + under_way, stream[:place]
        assert codes(talk.replies)[-1] == 421
        assert talk.replies.count(b"421 ") == 1
        assert talk.codec.closed
        assert len(talk.of("end")) == talk.counts.messages


@pytest.mark.parametrize("rest, replies", [
    (b"RSET\r\nNOOP\r\n", [250, 421]),
    (HELLO + MAIL, [250, 421]),
    (b"QUIT\r\n", [221]),
    (b"NOOP\r\nDATA\r\na\nb\r\n.\r\n" + MAIL, [250, 354, 554, 421]),
    (b"BDAT 99999\r\n" + b"x" * 99999 + b"RSET\r\n", [552, 250, 421]),
])  # fmt: skip
def test_whatever_ends_the_transaction(rest: bytes, replies: list[int]) -> None:
    talk = Talk(max_size=1000)
    talk.say(HELLO + MAIL + RCPT)
    assert talk.codec.in_transaction
    talk.codec.leave(b"4.3.2", b"Going")
    assert talk.codec.output() == b""
    assert codes(talk.say(rest)) == replies
    assert talk.codec.closed and not talk.codec.in_transaction


@pytest.mark.parametrize("said", [b"", HELLO, HELLO + MAIL + b"RSET\r\n", HELLO + b"BDAT 50\r\nxxx", HELLO + MESSAGE])
def test_who_has_nothing_under_way_hears_it_at_once(said: bytes) -> None:
    talk = Talk()
    talk.say(said)
    assert not talk.codec.in_transaction
    talk.codec.leave(b"4.3.2", b"Going")
    assert talk.codec.output() == b"421 4.3.2 Going\r\n"
    assert talk.codec.closed


def test_the_verdict_and_the_farewell_are_one_write() -> None:
    talk = Talk(ask=15)
    codec = talk.codec
    talk.say(HELLO + MAIL + RCPT + b"DATA\r\n")
    codec.feed(b"x\r\n.\r\n" + MAIL)
    codec.leave(b"4.3.2", b"Going")
    assert (codec.output(), codec.closed) == (b"", False)
    assert codec.accept(b"Ok") == ()
    assert codec.output() == b"250 2.0.0 Ok\r\n421 4.3.2 Going\r\n"


def test_a_greeting_is_not_said_behind_the_farewell() -> None:
    talk = Talk()
    talk.codec.hang_up(b"4.3.2", b"Going")
    talk.codec.output()
    talk.codec.start("id")
    assert talk.codec.output() == b""


def test_lmtp_has_all_its_verdicts_first() -> None:
    talk = Talk(lmtp=True)
    talk.say(b"LHLO me\r\n" + MAIL + RCPT * 3 + b"DATA\r\n")
    talk.codec.leave(b"4.3.2", b"Going")
    assert codes(talk.say(b".\r\n")) == [250, 250, 250, 421]
