"""BDAT: what a chunk is, what is refused, and that nothing but a chunk's bytes is ever taken for its bytes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bulkmail.wire.server import MAX_COMMAND_LINE
from bulkmail.wire.server_buffers import MAX_LINE
from bulkmail.wire.server_settings import ASK_END, ASK_RCPT
from unit.wire.server_talk import HELLO, LOGIN, MAIL, RCPT, Talk, codes

LHLO = b"LHLO client.test\r\n"
OPEN = HELLO + MAIL + RCPT
BINARY = b"MAIL FROM:<a@example.com> BODY=BINARYMIME\r\n"
NEXT = MAIL + RCPT + b"BDAT 4 LAST\r\nnext"
BARE = "554 5.6.0 The message has a CR or LF that is not part of a CR LF"
# Commands, of whatever length, that a server must not read.
EVIL = b"QUIT\r\nRSET\r\nMAIL FROM:<evil@x>\r\n.\r\nBDAT 9 LAST\r\n"


def bdat(content: bytes, last: bool = True) -> bytes:
    return b"BDAT %d%s\r\n%s" % (len(content), b" LAST" if last else b"", content)


def chunk(content: bytes) -> bytes:
    return bdat(content, last=False)


SCRIPTS: dict[str, tuple[bytes, dict[str, Any]]] = {
    "one chunk": (OPEN + bdat(b"Hi\r\n.\r\n..\r\n") + b"QUIT\r\n", {}),
    "many chunks, cut inside CRLF": (OPEN + chunk(b"a\r") + chunk(b"\nb") + chunk(b"") + bdat(b"\r\n") + NEXT, {}),
    "an empty last chunk": (OPEN + chunk(b"Hi\r\n") + b"BDAT 0 LAST\r\n" + MAIL + RCPT + b"bdat 0 last\r\n" + NEXT, {}),
    "DATA and BDAT by turns": (OPEN + bdat(b"x\r\n") + MAIL + RCPT + b"DATA\r\n..\r\n.\r\n" + NEXT, {}),
    "nobody wants envelopes": (OPEN + chunk(b"a\r\nb") + bdat(b"c\r\n") + NEXT, {"envelopes": False}),
    "questions": (OPEN + chunk(b"a\r\n") + bdat(b"b\r\n") + NEXT + b"NOOP\r\n", {"ask": ASK_RCPT | ASK_END}),
    "bare LF": (OPEN + chunk(b"a\r\n") + chunk(b"b\nc") + chunk(EVIL) + bdat(EVIL) + NEXT, {}),
    "bare CR over a border": (OPEN + chunk(b"a\r") + chunk(b"b") + bdat(b"") + NEXT, {}),
    "bare CR at the end": (OPEN + chunk(b"a\r") + b"BDAT 0 LAST\r\n" + NEXT, {}),
    "binary": (HELLO + BINARY + RCPT + chunk(b"\r") + bdat(b"\n\x00\r\xff\n") + NEXT, {}),
    "too big at once": (OPEN + bdat(EVIL * 2) + NEXT, {"max_size": 60}),
    "too big in the end": (OPEN + chunk(b"x" * 30) + chunk(EVIL) + chunk(EVIL) + bdat(b"") + NEXT, {"max_size": 60}),
    "no recipient": (HELLO + MAIL + chunk(EVIL) + RCPT + bdat(EVIL) + NEXT, {}),
    "no transaction": (bdat(EVIL) + HELLO + chunk(EVIL) + bdat(EVIL) + NEXT, {}),
    "a transaction given up": (OPEN + chunk(b"x") + b"RSET\r\n" + bdat(EVIL) + NEXT, {}),
    "a refused one given up": (
        OPEN + chunk(b"\n") + b"RSET\r\n" + NEXT + MAIL + RCPT + chunk(b"\n") + HELLO + NEXT,
        {},
    ),
    "commands between chunks": (OPEN + chunk(b"x") + b"NOOP\r\n" + bdat(b"y") + NEXT, {}),
    "LMTP": (LHLO + MAIL + RCPT * 3 + chunk(b"x") + bdat(b"y") + MAIL + RCPT * 2 + bdat(b"\n") + NEXT, {"lmtp": True}),
    "a size that cannot be read": (OPEN + b"BDAT x LAST\r\n" + EVIL, {}),
    "a line that cannot be read": (OPEN + b"BDAT 50 LAST\n" + EVIL, {}),
    "a line too long": (OPEN + b"BDAT 50" + b" " * MAX_LINE + b"LAST\r\n" + EVIL, {}),
    "not logged in": (OPEN + bdat(EVIL) + NEXT, {"auth": LOGIN}),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_cuts_do_not_matter(name: str) -> None:
    script, options = SCRIPTS[name]
    whole = Talk(**options)
    whole.say(script)
    expected = whole.settled()
    assert not any("evil" in str(event) for event in whole.of("mail"))
    singly = Talk(**options)
    for i in range(len(script)):
        singly.say(script[i : i + 1])
    assert singly.settled() == expected
    for cut in range(1, len(script), 1 if len(script) < 1000 else 61):
        halves = Talk(**options)
        halves.say(script[:cut])
        halves.say(script[cut:])
        assert halves.settled() == expected, f"cut at {cut}"


def test_a_message_in_chunks_in_full() -> None:
    talk = Talk()
    talk.say(OPEN)
    assert talk.say(chunk(b"Subject: x\r\n\r\n")) == b"250 2.0.0 Ok\r\n"
    assert talk.say(chunk(b".\r\n..\r\n.\r\n")) == b"250 2.0.0 Ok\r\n"
    assert talk.say(bdat(b"end")) == b"250 2.0.0 Ok\r\n"
    assert talk.events[2:] == [("data",), ("content", b"Subject: x\r\n\r\n.\r\n..\r\n.\r\nend"), ("end", 27)]
    assert talk.counts.as_dict() == {"connections": 1, "messages": 1, "recipients": 1, "bytes": 27, "refused": 0}


def test_sixty_messages_in_one_stream_are_all_taken() -> None:
    texts = [b"Subject: %d\r\n\r\n.\r\n" % number + b"x" * 37 * number for number in range(60)]
    stream = b"".join(MAIL + RCPT + bdat(text) for text in texts)
    talk = Talk()
    assert codes(talk.say(HELLO + stream)) == [250] * (1 + 60 * 3)
    assert [event[1] for event in talk.of("content")] == texts
    silent = Talk(envelopes=False)
    assert silent.say(HELLO + stream) == talk.replies
    assert silent.events == []
    assert silent.counts.as_dict() == talk.counts.as_dict()
    assert silent.counts.bytes == sum(map(len, texts))


def test_a_read_that_is_all_content_is_handed_on_uncopied() -> None:
    talk = Talk()
    talk.say(OPEN + b"BDAT 1000000 LAST\r\n")
    read = bytes(range(32, 127)) * 100
    (event,) = talk.codec.feed(read)
    assert event[0] == "content" and event[1] is read


# --- what is refused


@pytest.mark.parametrize("before, code, options", [
    (b"", 503, {}),
    (HELLO, 503, {}),
    (b"HELO me\r\n" + MAIL + RCPT, 503, {}),
    (HELLO + MAIL, 503, {}),
    (HELLO + MAIL + b"RCPT TO:<>\r\n", 503, {}),
    (OPEN + b"RSET\r\n", 503, {}),
    (HELLO + BINARY + RCPT + b"RSET\r\n", 503, {}),
    (OPEN + chunk(b"x") + b"DATA\r\n", 503, {}),
    (OPEN + chunk(b"\n"), 554, {}),
    (OPEN, 552, {"max_size": len(EVIL) - 1}),
    (HELLO + MAIL, 503, {"auth": LOGIN}),
])  # fmt: skip
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("envelopes", [False, True])
def test_a_refused_chunk_is_thrown_away_to_the_byte(
    before: bytes, code: int, options: dict[str, Any], last: bool, envelopes: bool
) -> None:
    talk = Talk(envelopes=envelopes, **options)
    talk.say(before)
    command, evil = bdat(EVIL, last)[: -len(EVIL)], EVIL
    assert talk.say(command + evil[:-1]) == b""  # its reply comes behind its chunk (RFC 3030 section 2)
    assert codes(talk.say(evil[-1:] + b"NOOP\r\n")) == [code, 250]
    assert talk.counts.messages == 0
    talk.say(HELLO)
    assert codes(talk.say(MAIL + RCPT + bdat(b"next"))) == ([530, 503, 503] if "auth" in options else [250] * 3)


@pytest.mark.parametrize("command", [
    b"BDAT", b"BDAT ", b"BDAT LAST", b"BDAT -1", b"BDAT +1", b"BDAT 0x10", b"BDAT 1e3", b"BDAT  5", b"BDAT 5 FIRST",
    b"BDAT 5 LAST LAST", b"BDAT 5  LAST", b"BDAT 5LAST", b"BDAT 5.0", b"BDAT \xd9\xa5", b"BDAT " + b"9" * 19,
    b"BDAT 5\x00", b"BDAT\t5", b"BDAT 5\rLAST", b"BDAT 5\n", b"BDAT 5\r", b"BDAT 5" + b" " * MAX_COMMAND_LINE,
])  # fmt: skip
@pytest.mark.parametrize("before", [b"", OPEN])
def test_where_the_chunk_ends_cannot_be_known(before: bytes, command: bytes) -> None:
    talk = Talk()
    talk.say(before)
    ended = command if command.endswith(b"\n") else command + b"\r\n"
    assert codes(talk.say(ended + EVIL)) == [501]
    assert talk.codec.closed
    assert talk.say(NEXT) == b""


def test_a_line_too_long_is_still_known_for_a_bdat() -> None:
    line = b"BDAT 5" + b" " * (MAX_LINE + 100)
    for pieces in ([line, b"\r\n"], [line[:3], line[3:], b"\r", b"\n"], [line + b"\r\n"]):
        talk = Talk()
        talk.say(OPEN)
        assert codes(b"".join(talk.say(piece) for piece in pieces)) == [501]
        assert talk.codec.closed


@pytest.mark.parametrize(
    "command", [b"BDAT 4 LAST", b"bdat 4 last", b"Bdat 0004 Last ", b"BDAT 000000000000000004 LAST"]
)
def test_sizes_that_can_be_read(command: bytes) -> None:
    talk = Talk()
    assert codes(talk.say(OPEN + command + b"\r\nQUITNOOP\r\n")) == [250, 250, 250, 250, 250]
    assert talk.of("content") == [("content", b"QUIT")]


def test_the_largest_size_is_waited_for() -> None:
    talk = Talk(max_size=0)
    assert codes(talk.say(OPEN + b"BDAT " + b"9" * 18 + b"\r\n" + EVIL)) == [250, 250, 250]
    assert talk.of("content") == [("content", EVIL)]
    limited = Talk()
    assert codes(limited.say(OPEN + b"BDAT " + b"9" * 18 + b" LAST\r\n" + EVIL)) == [250, 250, 250]
    assert not limited.codec.closed


@pytest.mark.parametrize("command", [MAIL, RCPT, b"DATA\r\n"])
def test_what_may_not_follow_a_chunk_ends_its_message(command: bytes) -> None:
    # Or the message of a client that forgot LAST would run into its next one.
    talk = Talk()
    assert codes(talk.say(OPEN + chunk(b"first") + command)) == [250] * 4 + [503]
    assert codes(talk.say(chunk(b"x") + command + bdat(b"second") + NEXT)) == [503, 503, 503, 250, 250, 250]
    assert talk.of("end") == [("end", 4)]
    assert [event[0] for event in talk.events] == [
        "mail", "rcpt", "data", "content", "abort", "mail", "rcpt", "data", "content", "end",
    ]  # fmt: skip
    assert talk.counts.as_dict() == {"connections": 1, "messages": 1, "recipients": 1, "bytes": 4, "refused": 0}


def test_starttls_and_auth_have_no_place_between_chunks() -> None:
    talk = Talk(starttls=True, auth=None, local=True)
    assert codes(talk.say(OPEN + chunk(b"x") + b"STARTTLS\r\n" + bdat(b"y"))) == [250] * 4 + [503, 250]


def test_rset_between_chunks_gives_the_message_up() -> None:
    talk = Talk()
    assert codes(talk.say(OPEN + chunk(b"half") + b"RSET\r\n" + NEXT)) == [250] * 8
    assert [event[0] for event in talk.events] == [
        "mail", "rcpt", "data", "content", "reset", "mail", "rcpt", "data", "content", "end",
    ]  # fmt: skip
    assert talk.counts.bytes == 4


@pytest.mark.parametrize("end", [b"BDAT 0 LAST\r\n", b"RSET\r\n"])
def test_a_cr_that_ends_one_message_does_not_reach_the_next(end: bytes) -> None:
    talk = Talk()
    talk.say(OPEN + chunk(b"a\r") + end)
    assert codes(talk.say(NEXT + MAIL + RCPT + bdat(b"\n"))) == [250] * 5 + [554]


def test_rset_after_a_refused_chunk_is_told_once() -> None:
    talk = Talk()
    talk.say(OPEN + chunk(b"a\nb") + chunk(b"c") + b"RSET\r\nRSET\r\n")
    assert talk.events[2:] == [("data",), ("abort", BARE)]
    assert talk.counts.refused == 1


def test_without_recipients_what_was_sent_is_not_taken_for_a_message_to_later_ones() -> None:
    talk = Talk()
    assert codes(talk.say(HELLO + MAIL + chunk(b"lost") + RCPT + bdat(b"rest") + NEXT)) == [
        250, 250, 503, 503, 503, 250, 250, 250,
    ]  # fmt: skip
    assert talk.of("abort") == [("abort", "503 5.5.1 No valid recipients")]
    assert (talk.counts.messages, talk.counts.bytes, talk.counts.refused) == (1, 4, 1)


def test_size_is_the_sum_of_the_chunks() -> None:
    talk = Talk(max_size=10)
    assert codes(talk.say(OPEN + chunk(b"12345") + bdat(b"67890"))) == [250] * 5
    assert codes(talk.say(MAIL + RCPT + chunk(b"12345") + bdat(b"678901"))) == [250, 250, 250, 552]
    assert codes(talk.say(MAIL + RCPT + chunk(b"12345678901") + chunk(b"1") + bdat(b""))) == [250, 250, 552, 552, 552]
    assert codes(talk.say(MAIL.replace(b">\r", b"> SIZE=11\r"))) == [552]
    assert (talk.counts.messages, talk.counts.refused) == (1, 3)


def test_many_refused_chunks_in_the_pipeline_are_no_errors() -> None:
    # RFC 3030 section 2: be prepared to discard those that were under way.
    talk = Talk(max_size=10)
    stream = OPEN + chunk(b"x" * 11) + chunk(b"x" * 100) * 200 + bdat(b"x") + NEXT
    assert codes(talk.say(stream)) == [250] * 3 + [552] * 202 + [250] * 3


def test_chunks_are_no_commands_to_count() -> None:
    talk = Talk(envelopes=False)
    assert codes(talk.say(OPEN + chunk(b"x") * 2000 + bdat(b"")))[-1] == 250
    assert talk.counts.bytes == 2000


def test_lmtp_answers_for_each_recipient_behind_the_last_chunk_only() -> None:
    talk = Talk(lmtp=True)
    talk.say(LHLO)
    people = MAIL + RCPT * 2 + b"RCPT TO:<>\r\n" + RCPT
    assert codes(talk.say(people + chunk(b"x") + bdat(b"y"))) == [250, 250, 250, 501, 250] + [250] + [250] * 3
    assert codes(talk.say(people + chunk(b"\n") + bdat(b"y"))) == [250, 250, 250, 501, 250] + [554] + [554] * 3
    assert codes(talk.say(MAIL + chunk(b"x") + bdat(b"y"))) == [250, 503, 503]
    assert codes(talk.say(bdat(b"y"))) == [503]
    assert (talk.counts.messages, talk.counts.recipients) == (1, 3)


def test_the_caller_refuses_a_message_in_chunks() -> None:
    talk = Talk(lmtp=True, ask=ASK_END)
    talk.codec.feed(LHLO + MAIL + RCPT * 2 + chunk(b"x") + b"BDAT 0 LAST\r\n" + MAIL)
    talk.codec.output()
    assert talk.codec.asking == ASK_END
    assert talk.codec.refuse(452, b"4.3.1", b"Full") == [("mail", "a@example.com", {})]
    assert talk.codec.output() == b"452 4.3.1 Full\r\n" * 2 + b"250 2.1.0 Ok\r\n"
    assert (talk.counts.messages, talk.counts.refused) == (0, 1)


# --- content


def test_binarymime_passes_byte_for_byte() -> None:
    content = bytes(range(256)) * 3 + b"\r"
    talk = Talk()
    assert codes(talk.say(HELLO + BINARY + RCPT + chunk(content) + bdat(b"\n.\r"))) == [250] * 5
    assert talk.of("content") == [("content", content + b"\n.\r")]


def test_binarymime_is_not_for_data_nor_for_the_next_message() -> None:
    talk = Talk()
    assert codes(talk.say(HELLO + BINARY + RCPT + b"DATA\r\n" + bdat(b"\n"))) == [250, 250, 250, 503, 250]
    assert codes(talk.say(MAIL + RCPT + bdat(b"\n") + MAIL + RCPT + b"DATA\r\n.\r\n")) == [
        250,
        250,
        554,
        250,
        250,
        354,
        250,
    ]


@pytest.mark.parametrize("length", [*range(0, 6), *range(14, 19), *range(30, 36), 100])
@pytest.mark.parametrize("part", [b"\r\n", b"\r", b"\n", b"\r\r\n", b"\r\n\n", b"\n\r"])
def test_a_lone_cr_or_lf_is_found_at_every_place(length: int, part: bytes) -> None:
    for text in (b"x" * length + part, b"x" * length + part + b"y" * 40):
        for pieces in ([text], [text[:length], text[length:]], [text[: length + 1], text[length + 1 :]]):
            talk = Talk()
            talk.say(OPEN + b"".join(chunk(piece) for piece in pieces) + bdat(b""))
            assert talk.of("end") == ([("end", len(text))] if part == b"\r\n" else [])
            assert len(talk.of("abort")) == (part != b"\r\n")


@example([MAIL, RCPT, b"DATA\r\n", b"BDAT 1\r\n\n"], [77], False)  # a text without an end that is refused in the end
@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [MAIL, BINARY, RCPT, RCPT * 2, b"RCPT TO:<>\r\n", b"DATA\r\n", b"RSET\r\n", b".\r\n", HELLO, NEXT]
            ),
            st.builds(
                bdat, st.sampled_from([b"", b"\r", b"\n", b"\r\n", EVIL, b"y" * 30, b"long " * 30]), st.booleans()
            ),
        ),
        max_size=20,
    ),
    st.lists(st.integers(0, 600), max_size=6),
    st.booleans(),
)
def test_any_order_of_commands_cut_anywhere(parts: list[bytes], cuts: list[int], lmtp: bool) -> None:
    script = (LHLO if lmtp else HELLO) + b"".join(parts)
    places = sorted({0, len(script), *(cut for cut in cuts if cut < len(script))})
    whole, pieces, silent = (Talk(max_size=400, lmtp=lmtp, envelopes=envelopes) for envelopes in (True, True, False))
    whole.say(script)
    for a, b in pairwise(places):
        pieces.say(script[a:b])
    silent.say(script)
    assert pieces.settled() == whole.settled()
    assert (silent.replies, silent.counts.as_dict()) == (whole.replies, whole.counts.as_dict())
    assert not whole.of("mail") or {event[1] for event in whole.of("mail")} == {"a@example.com"}
    assert len(whole.of("end")) == whole.counts.messages
    assert sum(event[1] for event in whole.of("end")) == whole.counts.bytes
