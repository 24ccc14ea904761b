"""RET, ENVID, NOTIFY and ORCPT (RFC 3461), and REQUIRETLS (RFC 8689), as the server's codec reads them."""

from __future__ import annotations

import pytest

from unit.wire.server_talk import HELLO, MAIL, Talk, codes


@pytest.mark.parametrize("words, code", [
    ("RET=FULL", 250), ("ret=hdrs", 250), ("RET=FULL ENVID=QQ314159", 250), ("ENVID=a+20b+2Bc+3D", 250),
    ("ENVID=" + "x" * 100, 250),
    ("RET", 501), ("RET=", 501), ("RET=BODY", 501), ("RET=FULL RET=HDRS", 501), ("ENVID", 501), ("ENVID=", 501),
    ("ENVID=a=b", 501), ("ENVID=a+b", 501), ("ENVID=a+2b", 501), ("ENVID=a+2", 501), ("ENVID=a+", 501),
    ("ENVID=a+0Ab", 501), ("ENVID=a+FFb", 501), ("ENVID=" + "x" * 101, 501), ("ENVID=a ENVID=b", 501),
    ("ENVID=\u00fc SMTPUTF8", 501), ("NOTIFY=NEVER", 555), ("ORCPT=rfc822;a@b", 555),
])  # fmt: skip
def test_parameters_of_mail(words: str, code: int) -> None:
    assert codes(Talk().say(HELLO + f"MAIL FROM:<a@b> {words}\r\n".encode())) == [250, code]


@pytest.mark.parametrize("words, code", [
    ("NOTIFY=NEVER", 250), ("NOTIFY=SUCCESS", 250), ("notify=success,FAILURE,Delay", 250), ("NOTIFY=DELAY", 250),
    ("ORCPT=rfc822;x@y", 250), ("ORCPT=RFC822;a+2Bb+40@y NOTIFY=FAILURE", 250), ("ORCPT=x400;C+3Dus", 250),
    ("ORCPT=utf-8;a\\x{FC}b@y", 250), ("ORCPT=UTF-8;a\\x{10FFFF}@y", 250), ("ORCPT=rfc822;" + "x" * 493, 250),
    ("NOTIFY", 501), ("NOTIFY=", 501), ("NOTIFY=NEVER,SUCCESS", 501), ("NOTIFY=SUCCESS,NEVER", 501),
    ("NOTIFY=SUCCESS,", 501), ("NOTIFY=,SUCCESS", 501), ("NOTIFY=SUCCESS,,DELAY", 501), ("NOTIFY=ALWAYS", 501),
    ("NOTIFY=NEVER NOTIFY=NEVER", 501), ("ORCPT", 501), ("ORCPT=", 501), ("ORCPT=;x", 501), ("ORCPT=rfc822", 501),
    ("ORCPT=rfc822;", 501), ("ORCPT=rfc 822;x", 501), ("ORCPT=rfc@822;x", 501), ("ORCPT=rfc822;a+b", 501),
    ("ORCPT=rfc822;a=b", 501), ("ORCPT=rfc822;\u00fc@y", 501), ("ORCPT=rfc822;" + "x" * 494, 501),
    ("ORCPT=utf-8;", 501), ("ORCPT=utf-8;a+2Bb", 501), ("ORCPT=utf-8;a=b", 501), ("ORCPT=utf-8;\\", 501),
    ("ORCPT=utf-8;\\x", 501), ("ORCPT=utf-8;\\x{", 501), ("ORCPT=utf-8;\\x{}", 501), ("ORCPT=utf-8;\\x{FC", 501),
    ("ORCPT=utf-8;\\x{fc}", 501), ("ORCPT=utf-8;\\x{1234567}", 501), ("ORCPT=utf-8;\u00fc@y", 501),
    ("ORCPT=rfc822;a ORCPT=rfc822;a", 501), ("RET=FULL", 555), ("SIZE=1", 555),
])  # fmt: skip
def test_parameters_of_rcpt(words: str, code: int) -> None:
    assert codes(Talk().say(HELLO + MAIL + f"RCPT TO:<a@b> {words}\r\n".encode())) == [250, 250, code]


def test_an_original_recipient_beyond_ascii_needs_smtputf8_and_utf8() -> None:
    mail = b"MAIL FROM:<a@b> SMTPUTF8\r\n"
    orcpt = "RCPT TO:<a@b> ORCPT=utf-8;\u00fc@y\r\n".encode()
    assert codes(Talk().say(HELLO + mail + orcpt + orcpt.replace(b"\xc3", b""))) == [250, 250, 250, 501]
    assert codes(Talk().say(HELLO + mail + b"RSET\r\n" + MAIL + orcpt)) == [250, 250, 250, 250, 501]


def test_postfix_writes_an_address_beyond_ascii_in_xtext():
    orcpt = b"RCPT TO:<a@b> ORCPT=rfc822;j+C3+BCrgen@y\r\n"
    mail = b"MAIL FROM:<a@b> SMTPUTF8%s\r\n"
    assert codes(Talk().say(HELLO + mail % b"" + orcpt + orcpt.replace(b"C3", b"7F"))) == [250, 250, 250, 501]
    assert codes(Talk().say(HELLO + MAIL + orcpt)) == [250, 250, 501]
    assert codes(Talk().say(HELLO + mail % b" ENVID=+C3+BC")) == [250, 501]


def test_hooks_get_them_as_they_were_sent() -> None:
    talk = Talk()
    talk.say(
        HELLO + b"MAIL FROM:<a@b> ret=HDRS ENVID=a+2Bb\r\n"
        b"RCPT TO:<c@d> NOTIFY=SUCCESS,delay Orcpt=rfc822;x+3Dy@z\r\nRCPT TO:<e@f>\r\n"
    )
    assert talk.events == [
        ("mail", "a@b", {"RET": "HDRS", "ENVID": "a+2Bb"}),
        ("rcpt", "c@d", {"NOTIFY": "SUCCESS,delay", "ORCPT": "rfc822;x+3Dy@z"}),
        ("rcpt", "e@f", {}),
    ]


def test_a_recipient_refused_for_its_parameters_is_none() -> None:
    talk = Talk()
    assert codes(talk.say(HELLO + MAIL + b"RCPT TO:<a@b> NOTIFY=x\r\nDATA\r\n")) == [250, 250, 501, 503]
    assert talk.of("rcpt") == []


def test_dsn_left_out_and_said_after_helo() -> None:
    rcpt = b"RCPT TO:<a@b> NOTIFY=NEVER\r\n"
    assert codes(Talk(without=["DSN"]).say(HELLO + MAIL + rcpt)) == [250, 250, 555]
    assert codes(Talk().say(b"HELO me\r\n" + MAIL + rcpt)) == [250, 250, 555]


def test_requiretls_is_for_tls_only() -> None:
    mail = b"MAIL FROM:<a@b> REQUIRETLS\r\n"
    talk = Talk(starttls=True)
    assert b"REQUIRETLS" not in talk.say(HELLO)
    assert codes(talk.say(mail + b"STARTTLS\r\n")) == [555, 220]
    talk.codec.secured()
    assert b"250-REQUIRETLS\r\n" in talk.say(HELLO)
    assert codes(talk.say(mail.replace(b"TLS", b"TLS=yes") + mail)) == [555, 250]
    assert talk.of("mail") == [("mail", "a@b", {"REQUIRETLS": None})]
