"""What a server answers to bytes, however they are cut."""

from __future__ import annotations

from typing import Any

import pytest

from bulkmail.wire.server import MAX_COMMAND_LINE, MAX_COMMANDS, ServerCodec
from bulkmail.wire.server_buffers import MAX_LINE
from bulkmail.wire.server_settings import (
    ASK_AUTH,
    ASK_END,
    ASK_MAIL,
    ASK_RCPT,
    EXTENSIONS,
    REPLIES,
    ServerCounts,
    ServerSettings,
)
from bulkmail.wire.server_state import MAX_ERRORS
from unit.wire.server_talk import HELLO, LOGIN, MAIL, OPEN, RCPT, Talk, b64, codes

ALL = ASK_MAIL | ASK_RCPT | ASK_END | ASK_AUTH

SCRIPTS: dict[str, tuple[bytes, dict[str, Any]]] = {
    "two messages pipelined": (OPEN + b"Hi\r\n..dot\r\n.x\r\n.\r\n" + MAIL + RCPT + b"DATA\r\n.\r\nQUIT\r\n", {}),
    "nobody wants envelopes": (OPEN + b"Hi\r\n..\r\n.\r\n" + MAIL + RCPT + b"DATA\r\nx\r\n.\r\n", {"envelopes": False}),
    "every question asked": (
        OPEN + b"Hi\r\n.\r\n" + MAIL + b"RSET\r\n" + MAIL + RCPT + HELLO,
        {"ask": ALL, "secure": True},
    ),
    "a message with lone CR and LF": (OPEN + b"a\rb\nc\r\n.\n.\r.\r\r\n.\r\n" + MAIL + b"QUIT\r\n", {}),
    "dots and CRs at every border": (OPEN + b".\r.\r\n..\r\n.\r\r\n.\r\n.\r\n" + HELLO, {}),
    "too big": (OPEN + b"x" * 50 + b"\r\n.\r\n" + OPEN + b"x\r\n.\r\n", {"max_size": 40}),
    "commands out of order": (
        b"MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nDATA\r\nSTARTTLS\r\n" + HELLO + RCPT + MAIL * 2,
        {},
    ),
    "parameters": (
        HELLO
        + b"MAIL FROM:<a@b> SIZE=99 BODY=8BITMIME  smtputf8\r\n"
        + "RCPT TO:<jürgen@bücher.test>\r\n".encode()
        + b"RCPT TO:<a@b> NOTIFY=NEVER\r\nRSET\r\nMAIL FROM:<a@b> FOO\r\nMAIL FROM:<> SIZE=x\r\n",
        {},
    ),
    "login in one line": (
        HELLO + b"AUTH PLAIN " + b64(b"\0user\0pass word") + b"\r\n" + MAIL,
        {"auth": LOGIN, "secure": True},
    ),
    "login in three": (
        HELLO
        + b"auth login\r\n"
        + b64(b"user")
        + b"\r\n"
        + b64(b"nope")
        + b"\r\nAUTH LOGIN "
        + b64(b"user")
        + b"\r\n*\r\nAUTH LOGIN\r\n!\r\n"
        + MAIL,
        {"auth": LOGIN, "secure": True},
    ),
    "a line too long": (HELLO + b"NOOP " + b"x" * MAX_COMMAND_LINE + b"\r\nNOOP\r\n", {}),
    "an AUTH line too long": (
        HELLO + b"AUTH PLAIN " + b"A" * MAX_LINE + b"\r\nNOOP\r\n",
        {"ask": ASK_AUTH, "secure": True},
    ),
    "STARTTLS with commands behind it": (HELLO + b"STARTTLS\r\n" + MAIL + RCPT, {"starttls": True}),
    "LMTP": (b"LHLO me\r\n" + MAIL + RCPT * 3 + b"DATA\r\nx\r\n.\r\nEHLO me\r\n", {"lmtp": True}),
    "lines that end in LF": (b"EHLO me\nEHLO me\r\r\n\n\r\n" + HELLO, {}),
    "commands from a browser": (b"GET / HTTP/1.1\r\nHost: me\r\nEHLO me\r\n", {}),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_cuts_do_not_matter(name: str) -> None:
    script, settings = SCRIPTS[name]
    whole = Talk(**settings)
    whole.say(script)
    expected = whole.settled()
    singly = Talk(**settings)
    for i in range(len(script)):
        singly.say(script[i : i + 1])
    assert singly.settled() == expected
    for cut in range(1, len(script), 1 if len(script) < 1000 else 61):
        halves = Talk(**settings)
        halves.say(script[:cut])
        halves.say(script[cut:])
        assert halves.settled() == expected, f"cut at {cut}"


def test_a_session_in_full() -> None:
    talk = Talk()
    assert talk.greeting == b"220 mx.test ESMTP bulkmail sink id\r\n"
    assert talk.say(HELLO) == (
        b"250-mx.test\r\n250-PIPELINING\r\n250-SIZE 67108864\r\n250-ENHANCEDSTATUSCODES\r\n"
        b"250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250-CHUNKING\r\n250-BINARYMIME\r\n250 LIMITS RCPTMAX=1000\r\n"
    )
    assert talk.say(MAIL) == b"250 2.1.0 Ok\r\n"
    assert talk.say(RCPT) == b"250 2.1.5 Ok\r\n"
    assert talk.say(b"DATA\r\n") == b"354 End data with <CR><LF>.<CR><LF>\r\n"
    assert talk.say(b"Subject: x\r\n\r\n..\r\n.\r\n") == b"250 2.0.0 Ok\r\n"
    assert talk.say(b"QUIT\r\n") == b"221 2.0.0 Bye\r\n"
    assert talk.codec.closed
    assert talk.say(b"NOOP\r\n") == b""
    assert talk.events == [
        ("mail", "a@example.com", {}),
        ("rcpt", "b@example.com", {}),
        ("data",),
        ("content", b"Subject: x\r\n\r\n.\r\n"),
        ("end", 17),
    ]
    assert talk.counts.as_dict() == {"connections": 1, "messages": 1, "recipients": 1, "bytes": 17, "refused": 0}


def test_one_read_gives_one_batch_of_replies() -> None:
    talk = Talk(envelopes=False)
    talk.say(OPEN)
    assert codes(talk.say(b"body\r\n.\r\n" + MAIL + RCPT * 2 + b"DATA\r\n")) == [250, 250, 250, 250, 354]
    assert talk.events == []


def test_without_envelopes_only_counts_are_left() -> None:
    talk = Talk(envelopes=False)
    talk.say(OPEN + b"abc\r\n..\r\n.\r\n" + MAIL + RCPT * 5 + b"DATA\r\nx\r\n.\r\n")
    assert talk.counts.as_dict() == {"connections": 1, "messages": 2, "recipients": 6, "bytes": 11, "refused": 0}


# --- greetings, order, limits


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("secure", [False, True])
def test_an_extension_can_be_left_out(extension: str, secure: bool) -> None:
    def offers(**settings: Any) -> list[str]:
        talk = Talk(secure=secure, local=True, starttls=True, auth=LOGIN, **settings)
        return [line[4:].split()[0].decode() for line in talk.say(HELLO).splitlines()[1:]]

    all_offers = [word for word in EXTENSIONS if word != ("STARTTLS" if secure else "REQUIRETLS")]
    gone = {extension, "BINARYMIME"} if extension == "CHUNKING" else {extension}
    assert offers() == all_offers
    assert offers(without=[extension]) == [word for word in all_offers if word not in gone]


def test_limits_say_how_many_recipients_are_taken() -> None:
    assert b"LIMITS RCPTMAX=7\r\n" in Talk(max_recipients=7).say(HELLO)
    assert b"LIMITS RCPTMAX=999999\r\n" in Talk(max_recipients=999_999).say(HELLO)
    assert b"LIMITS" not in Talk(max_recipients=1_000_000).say(HELLO)  # more digits than RFC 9422 has


def test_replies_without_enhanced_codes() -> None:
    talk = Talk(without=["ENHANCEDSTATUSCODES"])
    talk.say(HELLO)
    assert talk.say(MAIL + b"NONSENSE\r\nQUIT\r\n") == b"250 Ok\r\n500 Command not recognized\r\n221 Bye\r\n"


@pytest.mark.parametrize("without, word, code", [
    ("SIZE", "SIZE=1", 555), ("SMTPUTF8", "SMTPUTF8", 555), ("8BITMIME BINARYMIME", "BODY=7BIT", 555),
    ("8BITMIME CHUNKING", "BODY=7BIT", 555), ("8BITMIME", "BODY=8BITMIME", 501), ("BINARYMIME", "BODY=BINARYMIME", 501),
    ("CHUNKING", "BODY=BINARYMIME", 501), ("DSN", "RET=FULL", 555), ("DSN", "ENVID=x", 555),
    ("REQUIRETLS", "REQUIRETLS", 555),
])  # fmt: skip
def test_a_parameter_of_an_extension_left_out_is_refused(without: str, word: str, code: int) -> None:
    mail = f"MAIL FROM:<a@b> {word}\r\n".encode()
    assert codes(Talk(secure=True).say(HELLO + mail)) == [250, 250]
    assert codes(Talk(secure=True, without=without.split()).say(HELLO + mail)) == [250, code]


@pytest.mark.parametrize("lmtp, greeting, code", [
    (False, b"EHLO me", 250), (False, b"HELO me", 250), (False, b"LHLO me", 500),
    (True, b"LHLO me", 250), (True, b"EHLO me", 500), (True, b"HELO me", 500),
    (False, b"EHLO", 501), (False, b"EHLO a b", 501), (False, b"EHLO " + b"x" * 300, 501), (False, b"EHLO [::1]", 250),
])  # fmt: skip
def test_greetings(lmtp: bool, greeting: bytes, code: int) -> None:
    assert codes(Talk(lmtp=lmtp).say(greeting + b"\r\n")) == [code]


def test_helo_gives_no_extensions() -> None:
    talk = Talk()
    assert talk.say(b"HELO me\r\n") == b"250 mx.test\r\n"
    assert codes(talk.say(b"MAIL FROM:<a@b> SIZE=3\r\n")) == [555]


@pytest.mark.parametrize("script, expected", [
    (MAIL, [503]),
    (HELLO + RCPT, [250, 503]),
    (HELLO + b"DATA\r\n", [250, 503]),
    (HELLO + MAIL + b"DATA\r\n", [250, 250, 503]),
    (HELLO + MAIL + MAIL, [250, 250, 503]),
    (HELLO + MAIL + RCPT + b"RSET\r\nDATA\r\n", [250, 250, 250, 250, 503]),
    (HELLO + MAIL + RCPT + HELLO + b"DATA\r\n", [250, 250, 250, 250, 503]),
    (HELLO + MAIL + b"STARTTLS\r\n", [250, 250, 502]),
    (HELLO + b"RSET x\r\nQUIT x\r\nDATA x\r\nSTARTTLS x\r\n", [250, 501, 501, 501, 501]),
    (b"NOOP x\r\nHELP\r\nVRFY a@b\r\nRSET\r\n", [250, 214, 252, 250]),
    (b"EXPN x\r\nETRN x\r\nWHAT\r\n\r\n", [502, 502, 500, 500]),
    (b"mail from:<a@b>\r\nehlo me\r\nMaIl FrOm:<a@b>\r\nNoOp\r\n", [503, 250, 250, 250]),
])  # fmt: skip
def test_order(script: bytes, expected: list[int]) -> None:
    assert codes(Talk().say(script)) == expected


def test_bdat_that_was_not_offered_ends_the_connection() -> None:
    # Its chunk would be read as commands.
    talk = Talk(without=["CHUNKING"])
    assert codes(talk.say(HELLO + MAIL + RCPT + b"BDAT 50 LAST\r\n" + OPEN + b"smuggled\r\n.\r\n")) == [
        250,
        250,
        250,
        502,
    ]
    assert talk.codec.closed
    assert talk.counts.messages == 0


def test_too_many_errors_end_the_connection_and_a_message_forgives() -> None:
    talk = Talk()
    talk.say(
        OPEN + b".\r\n" + b"X\r\n" * (MAX_ERRORS - 1) + MAIL + RCPT + b"DATA\r\n.\r\n" + b"X\r\n" * (MAX_ERRORS - 1)
    )
    assert not talk.codec.closed
    assert codes(talk.say(b"X\r\nNOOP\r\n")) == [421]
    assert talk.codec.closed


def test_too_many_commands_without_a_message_end_the_connection() -> None:
    talk = Talk()
    talk.say(HELLO + b"NOOP\r\n" * (MAX_COMMANDS - 1))
    assert not talk.codec.closed
    assert codes(talk.say(b"NOOP\r\n" * 3)) == [421]


def test_messages_keep_a_long_connection_alive() -> None:
    talk = Talk(envelopes=False)
    talk.say(HELLO + (MAIL + RCPT + b"DATA\r\n.\r\nRSET\r\n") * (2 * MAX_COMMANDS))
    assert talk.counts.messages == 2 * MAX_COMMANDS
    assert not talk.codec.closed


def test_recipients_past_the_limit_are_refused_and_the_message_goes_on() -> None:
    talk = Talk(max_recipients=2)
    assert codes(talk.say(HELLO + MAIL + RCPT * 4 + b"DATA\r\n.\r\n")) == [250, 250, 250, 250, 452, 452, 354, 250]
    assert (talk.counts.recipients, talk.counts.refused) == (2, 2)


def test_the_longest_line_and_one_byte_more() -> None:
    line = b"NOOP " + b"x" * (MAX_COMMAND_LINE - 7) + b"\r\n"
    assert codes(Talk().say(line)) == [250]
    assert codes(Talk().say(line.replace(b"x\r", b"xx\r"))) == [500]


def test_control_characters_in_commands() -> None:
    assert codes(Talk().say(b"EHLO me\x00\r\nEHLO\tme\r\nEHLO a\rMAIL\r\nNOOP\x7f\r\n")) == [500] * 4


def test_size_is_counted_without_stuffed_dots() -> None:
    talk = Talk(max_size=8)
    assert codes(talk.say(OPEN + b"..2345\r\n.\r\n"))[-1] == 250
    assert codes(talk.say(MAIL + RCPT + b"DATA\r\n..23456\r\n.\r\n")) == [250, 250, 354, 250]
    assert codes(talk.say(MAIL + RCPT + b"DATA\r\n..234567\r\n.\r\n")) == [250, 250, 354, 552]
    assert talk.events[-1] == ("abort", "552 5.3.4 Message too big")
    assert codes(talk.say(b"MAIL FROM:<a@b> SIZE=8\r\nRSET\r\nMAIL FROM:<a@b> SIZE=9\r\n")) == [250, 250, 552]


def test_no_limit_of_size() -> None:
    talk = Talk(max_size=0)
    assert b"250-SIZE 0\r\n" in talk.say(HELLO)
    assert codes(talk.say(b"MAIL FROM:<a@b> SIZE=999999999999\r\n")) == [250]


# --- questions


def test_input_waits_for_an_answer() -> None:
    talk = Talk(ask=ASK_RCPT | ASK_END)
    talk.say(HELLO)
    codec = talk.codec
    assert codec.feed(MAIL + RCPT + b"RCPT TO:<c@d>\r\nDA") == [
        ("mail", "a@example.com", {}),
        ("rcpt", "b@example.com", {}),
    ]
    assert codec.feed(b"TA\r\nx\r\n.\r\nNOOP") == ()
    assert codec.refuse(550, b"5.1.1", b"Unknown") == [("rcpt", "c@d", {})]
    assert codec.accept() == [("data",), ("content", b"x\r\n"), ("end", 3)]
    assert codec.accept(b"Ok: queued as 1") == ()
    assert codec.feed(b"\r\n") == ()
    assert codec.output() == (
        b"250 2.1.0 Ok\r\n550 5.1.1 Unknown\r\n250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n"
        b"250 2.0.0 Ok: queued as 1\r\n250 2.0.0 Ok\r\n"
    )
    assert (talk.counts.recipients, talk.counts.refused) == (1, 1)


def test_a_refused_message_is_not_counted_and_421_closes() -> None:
    talk = Talk(ask=ASK_END)
    talk.codec.feed(OPEN + b".\r\n" + MAIL)
    talk.codec.output()
    talk.codec.refuse(421, b"4.3.2", b"Going")
    assert talk.codec.output() == b"421 4.3.2 Going\r\n"
    assert talk.codec.closed
    assert (talk.counts.messages, talk.counts.refused) == (0, 1)


def test_lmtp_answers_for_each_recipient() -> None:
    talk = Talk(lmtp=True, ask=ASK_END)
    assert talk.greeting == b"220 mx.test LMTP bulkmail sink id\r\n"
    talk.say(b"LHLO me\r\n")
    assert codes(talk.say(MAIL + RCPT * 2 + b"RCPT TO:<>\r\nDATA\r\nx\r\n.\r\n")) == [250, 250, 250, 501, 354, 250, 250]
    talk.codec.feed(MAIL + RCPT * 2 + b"DATA\r\n.\r\n")
    talk.codec.output()
    talk.codec.refuse(452, b"4.3.1", b"Full")
    assert talk.codec.output() == b"452 4.3.1 Full\r\n" * 2
    assert codes(talk.say(MAIL + RCPT * 2 + b"DATA\r\na\nb\r\n.\r\n")) == [250, 250, 250, 354, 554, 554]


def test_a_refused_connection_and_a_hang_up() -> None:
    counts = ServerCounts()
    codec = ServerCodec(ServerSettings("mx.test"), counts)
    codec.refuse(554, b"5.7.1", b"Access denied")
    assert codec.output() == b"554 5.7.1 Access denied\r\n"
    assert codec.closed
    talk = Talk(ask=ASK_END)
    talk.codec.feed(OPEN + b"x\r\n.\r\n")
    talk.codec.output()
    talk.codec.hang_up(b"4.3.2", b"Bye")
    assert talk.codec.output() == b"421 4.3.2 Bye\r\n"
    assert talk.codec.accept() == ()  # too late: the client was told that it is over
    assert (talk.codec.output(), talk.counts.messages, counts.refused) == (b"", 0, 1)


def test_every_reply_is_one_line_with_a_code_of_its_class() -> None:
    for reply in REPLIES.values():
        assert len(reply) < 500 and reply.isascii() and b"\r" not in reply and b"\n" not in reply
        assert reply.startswith(b"354 ") or reply[4:5] == reply[:1], reply
