"""The published smuggling sequences, sent to the sink: one message or a refusal, never two, whatever the cuts."""

from __future__ import annotations

from typing import Any

import pytest

from smuggling import END, NEIGHBOURS, PUBLISHED, Row, messages_seen, smuggling
from unit.wire.server_talk import HELLO, MAIL, OPEN, RCPT, Talk, codes


def heard(stream: bytes, cut: int | None = None, **settings: Any) -> Talk:
    """A talk of `stream`, cut in two at a place, or after each byte (None)."""
    talk = Talk(**settings)
    pieces = [stream[n : n + 1] for n in range(len(stream))] if cut is None else [stream[:cut], stream[cut:]]
    for piece in pieces:
        talk.say(piece)
    return talk


def assert_one_or_none(talk: Talk, text: bytes) -> None:
    assert len(talk.of("mail")) == 1
    assert len(talk.of("end")) + len(talk.of("abort")) == 1
    lone = text.replace(b"\r\n", b"")
    if talk.codec.settings.lenient or not (b"\r" in lone or b"\n" in lone):
        assert talk.counts.messages == 1
    else:
        assert (talk.counts.messages, talk.counts.refused) == (0, 1)
        assert codes(talk.replies)[-2] == 554
    assert codes(talk.replies)[-1] == 250  # to NOOP: the sink and its client agree where the message ended


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: repr(row.end))
@pytest.mark.parametrize("lenient", [False, True], ids=["strict", "lenient"])
def test_no_published_sequence_ends_a_message(row: Row, lenient: bool) -> None:
    text = smuggling(row)
    stream = OPEN + text + b".\r\nNOOP\r\n"
    place = stream.index(row.end)
    for cut in (None, 0, *range(place, place + len(row.end) + 1)):
        assert_one_or_none(heard(stream, cut, lenient=lenient), text)


@pytest.mark.parametrize("lenient", [False, True], ids=["strict", "lenient"])
def test_nor_any_of_its_neighbours(lenient: bool) -> None:
    for row in NEIGHBOURS:
        text = smuggling(row)
        stream = OPEN + text + b".\r\nNOOP\r\n"
        assert_one_or_none(heard(stream, 0, lenient=lenient), text)
        assert_one_or_none(heard(stream, lenient=lenient), text)


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: repr(row.end))
def test_nothing_in_a_chunk_is_a_command(row: Row) -> None:
    text = smuggling(row) + b".\r\n"
    stream = HELLO + MAIL + RCPT + b"BDAT %d LAST\r\n" % len(text) + text + b"NOOP\r\n"
    for cut in (None, 0, stream.index(row.end) + 1):
        assert_one_or_none(heard(stream, cut), text)
    binary = stream.replace(MAIL, b"MAIL FROM:<a@example.com> BODY=BINARYMIME\r\n")
    talk = heard(binary, 0)
    assert (talk.counts.messages, len(talk.of("mail"))) == (1, 1)
    assert talk.of("content") == [("content", text)]


@pytest.mark.parametrize("before", [b"\r", b"\n", b"\r\r", b"x\r"])
def test_the_real_end_is_one_for_everybody(before: bytes) -> None:
    # <CR><CR><LF>.<CR><LF> ends with the real thing. What comes before it is refused; what follows is no part of it.
    talk = heard(OPEN + b"first" + before + END + b"NOOP\r\n", 0)
    assert codes(talk.replies)[-2:] == [554, 250]
    assert talk.counts.messages == 0


# CVE-2011-0411 (Postfix) and "NO STARTTLS" (Poddebniak et al., USENIX Security 2021, https://nostarttls.secvuln.info):
# commands, logins and whole messages sent ahead of the handshake were obeyed behind it.
INJECTED = [
    b"NOOP\r\n",
    b"RSET\r\n",
    b"EHLO evil\r\n",
    MAIL + RCPT,
    HELLO + MAIL + RCPT + b"DATA\r\nx\r\n.\r\n",
    b"MAIL FR",
]


@pytest.mark.parametrize("injected", INJECTED)
def test_nothing_said_ahead_of_tls_is_obeyed_in_it(injected: bytes) -> None:
    stream = HELLO + b"STARTTLS\r\n" + injected
    for cut in range(len(HELLO), len(stream) + 1):
        talk = heard(stream, cut, starttls=True)
        assert codes(talk.replies)[-1] == 220
        talk.codec.secured()
        assert codes(talk.say(MAIL + b"NOOP\r\n")) == [503, 250]
        assert (talk.counts.messages, talk.of("mail"), talk.codec.dropped) == (0, [], len(injected))


def test_the_readers_of_this_table_see_what_it_says() -> None:
    assert messages_seen(b"x\r\n.\r\n", "strict") == 1
    assert messages_seen(b"x\n.\n.\r\n", "strict") == 0
    assert messages_seen(b"x\n.\r\nMAIL\r\n.\r\n", "takes a lone LF") == 2
    assert messages_seen(b"x\r.\rMAIL\r\n.\r\n", "takes a lone CR") == 2
    assert messages_seen(b"x\r\n.\r\r\nMAIL\r\n.\r\n", "takes several CRs") == 2
    assert messages_seen(b"x\r\n..\r\n.\r\n", "takes a lone CR") == 1
