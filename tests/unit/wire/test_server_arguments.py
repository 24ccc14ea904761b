"""Addresses, parameters, logins and STARTTLS, as the server's codec reads them."""

from __future__ import annotations

import pytest

from bulkmail.wire.server_buffers import MAX_LINE
from bulkmail.wire.server_settings import ASK_AUTH
from bulkmail.wire.server_state import MAX_ERRORS
from unit.wire.server_talk import HELLO, LOGIN, MAIL, RCPT, Talk, b64, codes

# --- addresses


@pytest.mark.parametrize("path, code", [
    ("<>", 250), ("<a@b>", 250), ("<a.b+c=d@sub.example.com>", 250), ("<@x.test,@y.test:a@b>", 250),
    ('<"a b\\"@"@b>', 250),
    ("<a@[127.0.0.1]>", 250), ("<a@[IPv6:::1]>", 250), ("<a@under_score>", 250), ("<" + "a" * 64 + "@b>", 250),
    ("a@b", 501), ("<a@b", 501), ("<a@b>x", 501), (" <a@b>", 501), ("", 501), ("<a>", 501),
    ("<a@>", 501), ("<@b>", 501),
    ("<a b@c>", 501), ("<a@b c>", 501), ("<.a@b>", 501), ("<a.@b>", 501), ("<a..b@c>", 501), ("<a@b..c>", 501),
    ("<a@b.>", 501), ("<a@.b>", 501), ("<a@b@c>", 501), ('<"a@b>', 501), ('<"a\\"@b>', 501),
    ("<a@[]>", 501), ("<a@[x>", 501),
    ("<a,b@c>", 501), ("<@x,a@b>", 501), ("<@x:>", 501), ("<" + "a" * 65 + "@b>", 501), ("<a@" + "b" * 256 + ">", 501),
    ("<jürgen@b>", 553),
])  # fmt: skip
def test_sender_syntax(path: str, code: int) -> None:
    assert codes(Talk().say(HELLO + f"MAIL FROM:{path}\r\n".encode())) == [250, code]


@pytest.mark.parametrize("path, code", [
    ("<a@b>", 250), ("<Postmaster>", 250), ("<@x.test:a@b>", 250), ("<>", 501), ("<root>", 501), ("a@b", 501),
    (" <a@b>", 501), ("<a@b> SIZE=1", 555), ("<j\u00fc@b>", 553),
])  # fmt: skip
def test_recipient_syntax(path: str, code: int) -> None:
    assert codes(Talk().say(HELLO + MAIL + f"RCPT TO:{path}\r\n".encode())) == [250, 250, code]


def test_addresses_as_events_have_no_brackets_and_no_route() -> None:
    talk = Talk()
    talk.say(
        HELLO + b'MAIL FROM:<@r.test:"a>b"@x.test> BODY=7BIT SIZE=7 SMTPUTF8\r\n' + "RCPT TO:<ü@ü.test>\r\n".encode()
    )
    assert talk.events == [
        ("mail", '"a>b"@x.test', {"BODY": "7BIT", "SIZE": "7", "SMTPUTF8": None}),
        ("rcpt", "ü@ü.test", {}),
    ]


@pytest.mark.parametrize("words, code", [
    ("SIZE=10", 250), ("size=10 body=8bitmime", 250), ("SMTPUTF8", 250), (" ", 250), ("SIZE=", 501), ("SIZE", 501),
    ("SIZE=-1", 501), ("SIZE=1x", 501), ("SIZE=" + "9" * 30, 501), ("BODY=BINARY", 501), ("BODY", 501),
    ("BODY=BINARYMIME", 250), ("SIZE=1 size=1", 501), ("BODY=7BIT SMTPUTF8 BODY=7BIT", 501), ("REQUIRETLS", 555),
    ("SMTPUTF8=yes", 555), ("NOTIFY=NEVER", 555), ("FOO=1", 555), ("=", 555), ("AUTH=<>", 555),
])  # fmt: skip
def test_parameters_of_mail(words: str, code: int) -> None:
    assert codes(Talk().say(HELLO + f"MAIL FROM:<a@b> {words}\r\n".encode())) == [250, code]


def test_an_address_that_is_not_utf8() -> None:
    assert codes(Talk().say(HELLO + b"MAIL FROM:<\xff@b> SMTPUTF8\r\nMAIL FROM:<a@\xc3(> SMTPUTF8\r\n")) == [
        250,
        553,
        501,
    ]


# --- logins


@pytest.mark.parametrize("script, expected", [
    (b"AUTH PLAIN " + b64(b"\0user\0pass word") + b"\r\n", [235]),
    (b"AUTH PLAIN " + b64(b"other\0user\0pass word") + b"\r\n", [235]),
    (b"AUTH PLAIN\r\n" + b64(b"\0user\0pass word") + b"\r\n", [334, 235]),
    (b"AUTH LOGIN\r\n" + b64(b"user") + b"\r\n" + b64(b"pass word") + b"\r\n", [334, 334, 235]),
    (b"AUTH LOGIN " + b64(b"user") + b"\r\n" + b64(b"pass word") + b"\r\n", [334, 235]),
    (b"AUTH PLAIN " + b64(b"\0user\0wrong") + b"\r\n" + MAIL, [535, 530]),
    (b"AUTH PLAIN " + b64(b"user\0pass word") + b"\r\n", [501]),
    (b"AUTH PLAIN " + b64(b"\0\xff\0x") + b"\r\n", [501]),
    (b"AUTH PLAIN =\r\n", [501]),
    (b"AUTH PLAIN a b\r\n", [501]),
    (b"AUTH PLAIN\r\n*\r\nNOOP\r\n", [334, 501, 250]),
    (b"AUTH PLAIN\r\nNOOP\nNOOP\r\n", [334, 500, 250]),
    (b"AUTH LOGIN\r\n" + b"A" * MAX_LINE + b"\r\nNOOP\r\n", [334, 500, 250]),
    (b"AUTH CRAM-MD5\r\nAUTH\r\nAUTH \xff\r\n", [504, 504, 504]),
    (b"AUTH PLAIN " + b64(b"\0user\0pass word") + b"\r\nAUTH LOGIN\r\n" + MAIL + b"AUTH x\r\n", [235, 503, 250, 503]),
])  # fmt: skip
def test_login(script: bytes, expected: list[int]) -> None:
    talk = Talk(auth=LOGIN, secure=True)
    talk.say(HELLO)
    assert codes(talk.say(script)) == expected
    assert talk.codec.user == ("user" if 235 in expected else None)


def test_auth_is_offered_in_clear_to_this_machine_only() -> None:
    plain = b"AUTH PLAIN " + b64(b"\0user\0pass word") + b"\r\n"
    near, far = Talk(auth=LOGIN, local=True), Talk(auth=LOGIN)
    assert b"250-AUTH PLAIN LOGIN\r\n" in near.say(HELLO)
    assert codes(near.say(plain)) == [235]
    assert b"AUTH" not in far.say(HELLO)
    assert codes(far.say(plain + MAIL)) == [503, 530]


def test_wrong_passwords_end_the_connection_in_time() -> None:
    talk = Talk(auth=LOGIN, secure=True)
    talk.say(HELLO + (b"AUTH PLAIN " + b64(b"\0user\0x") + b"\r\n") * (MAX_ERRORS + 5))
    assert talk.codec.closed
    assert talk.counts.refused == MAX_ERRORS


def test_the_caller_judges_a_login() -> None:
    talk = Talk(ask=ASK_AUTH, local=True)
    talk.say(HELLO)
    plain = b"AUTH PLAIN " + b64(b"\0ann\0secret") + b"\r\n"
    assert talk.codec.feed(plain) == [("auth", "PLAIN", "ann", "secret")]
    assert talk.codec.asking == ASK_AUTH
    assert talk.codec.user is None
    talk.codec.refuse(535, b"5.7.8", b"No")
    assert talk.codec.output() == b"535 5.7.8 No\r\n"
    talk.say(plain + MAIL)
    assert talk.codec.user == "ann"


# --- STARTTLS


def test_nothing_from_before_tls_survives_it() -> None:
    talk = Talk(starttls=True, auth=LOGIN, local=True)
    talk.say(HELLO + b"AUTH PLAIN " + b64(b"\0user\0pass word") + b"\r\n")
    injected = b"EHLO evil\r\n" + MAIL + RCPT + b"DATA\r\nevil\r\n.\r\nRSE"
    assert codes(talk.say(b"STARTTLS\r\n" + injected)) == [220]
    assert talk.say(b"T\r\n" + MAIL) == b""
    assert talk.codec.dropped == len(injected) + 3 + len(MAIL)
    talk.codec.secured()
    assert (talk.codec.helo, talk.codec.user, talk.codec.secure) == (None, None, True)
    assert codes(talk.say(MAIL)) == [503]
    assert b"STARTTLS" not in talk.say(HELLO)
    assert codes(talk.say(MAIL + b"RSET\r\nSTARTTLS\r\n")) == [530, 250, 503]
    assert talk.counts.messages == 0


def test_starttls_where_it_is_not_in_order() -> None:
    assert codes(Talk(starttls=True).say(b"STARTTLS\r\n" + HELLO + MAIL + b"STARTTLS\r\n")) == [503, 250, 250, 503]
    assert codes(Talk().say(HELLO + b"STARTTLS\r\n")) == [250, 502]
    assert codes(Talk(secure=True, starttls=True).say(HELLO + b"STARTTLS\r\n")) == [250, 503]
