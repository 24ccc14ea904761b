"""What an envelope puts behind MAIL and RCPT, byte for byte, and what of it a server's announcement rules out."""

from __future__ import annotations

import pytest

from bulkmail.smtp.envelope import DeliverBy, Dsn, Envelope, Recipient
from bulkmail.smtp.parameters import mail_asks, rcpt_parameters
from bulkmail.smtp.xtext import original_recipient, xtext


def asks(**options):
    return mail_asks(Envelope("a@b", ["c@d"], **options))


def only(**options):
    (ask,) = asks(**options)
    return ask


@pytest.mark.parametrize(
    ("options", "keyword", "parameter", "refused"),
    [
        ({"dsn": Dsn("hdrs")}, "DSN", b" RET=HDRS", False),
        ({"dsn": Dsn("full", "job 7+8=x")}, "DSN", b" RET=FULL ENVID=job+207+2B8+3Dx", False),
        ({"dsn": Dsn(envid="~!")}, "DSN", b" ENVID=~!", False),
        ({"require_tls": True}, "REQUIRETLS", b" REQUIRETLS", True),
        ({"deliver_by": DeliverBy(120)}, "DELIVERBY", b" BY=120;R", True),
        ({"deliver_by": DeliverBy(120, "return", trace=True)}, "DELIVERBY", b" BY=120;RT", True),
        ({"deliver_by": DeliverBy(-125, "notify")}, "DELIVERBY", b" BY=-125;N", False),
        ({"deliver_by": DeliverBy(0, "notify", trace=True)}, "DELIVERBY", b" BY=0;NT", False),
        ({"hold_for": 3600}, "FUTURERELEASE", b" HOLDFOR=3600", True),
        ({"hold_until": "2030-01-31T08:00:00+01:00"}, "FUTURERELEASE", b" HOLDUNTIL=2030-01-31T07:00:00Z", True),
        ({"hold_until": "0999-01-31T08:00:00Z"}, "FUTURERELEASE", b" HOLDUNTIL=0999-01-31T08:00:00Z", True),
        ({"mt_priority": 3}, "MT-PRIORITY", b" MT-PRIORITY=3", False),
        ({"mt_priority": -9}, "MT-PRIORITY", b" MT-PRIORITY=-9", False),
        ({"mt_priority": 0}, "MT-PRIORITY", b" MT-PRIORITY=0", False),
    ],
)
def test_what_mail_asks(options, keyword, parameter, refused):
    ask = only(**options)
    assert (ask.keyword, ask.parameter) == (keyword, parameter)
    assert (ask.lacking is not None) is refused
    if refused:
        assert ask.lacking.startswith(next(iter(options))) and keyword in ask.lacking


@pytest.mark.parametrize(
    "options", [{}, {"dsn": Dsn()}, {"size": 5}, {"body": "8bitmime"}, {"body": "binarymime"}, {"smtputf8": True}]
)
def test_an_envelope_that_asks_nothing_costs_nothing(options):
    assert asks(**options) is None


def test_without_an_envelope_nothing_is_asked():
    assert mail_asks(None) is None
    assert rcpt_parameters(None) is None


def test_everything_at_once_and_the_null_sender():
    everything = Envelope(
        "",
        [Recipient("c@d", "never")],
        size=9,
        dsn=Dsn("hdrs"),
        require_tls=True,
        deliver_by=DeliverBy(60),
        mt_priority=1,
        hold_for=5,
    )
    assert [ask.keyword for ask in mail_asks(everything)] == [
        "DSN",
        "REQUIRETLS",
        "DELIVERBY",
        "FUTURERELEASE",
        "MT-PRIORITY",
    ]


@pytest.mark.parametrize(
    ("options", "announced", "problem"),
    [
        ({"deliver_by": DeliverBy(240)}, "240", None),
        (
            {"deliver_by": DeliverBy(239)},
            "240",
            "deliver_by is 239 s, the server expects at least 240 s with mode 'return'",
        ),
        (
            {"deliver_by": DeliverBy(1)},
            "240,later",
            "deliver_by is 1 s, the server expects at least 240 s with mode 'return'",
        ),
        ({"deliver_by": DeliverBy(1)}, "", None),
        ({"deliver_by": DeliverBy(1)}, "soon", None),
        ({"deliver_by": DeliverBy(1)}, "٩٩٩", None),
        ({"deliver_by": DeliverBy(1)}, "9" * 5000, None),
        ({"hold_for": 86400}, "86400 2030-01-01T00:00:00Z", None),
        (
            {"hold_for": 86401},
            "86400 2030-01-01T00:00:00Z",
            "hold_for is 86401 s, the server holds messages for at most 86400 s",
        ),
        ({"hold_for": 86401}, "", None),
        ({"hold_for": 86401}, "x", None),
        ({"hold_until": "2030-01-01T00:00:00Z"}, "86400 2030-01-01T00:00:00Z", None),
        (
            {"hold_until": "2030-01-01T00:00:01Z"},
            "86400 2030-01-01T00:00:00Z",
            "hold_until is 2030-01-01T00:00:01Z, the server holds messages until 2030-01-01T00:00:00Z at the latest",
        ),
        (
            {"hold_until": "2030-01-01T00:00:01Z"},
            "86400 2030-01-01T00:00:00",
            "hold_until is 2030-01-01T00:00:01Z, the server holds messages until 2030-01-01T00:00:00Z at the latest",
        ),
        ({"hold_until": "2030-01-01T00:00:01Z"}, "86400", None),
        ({"hold_until": "2030-01-01T00:00:01Z"}, "86400 1234567", None),
        ({"hold_until": "2030-01-01T00:00:01Z"}, "86400 0001-01-01T00:00:00+23:59", None),
    ],
)
def test_what_a_server_announces_is_heeded_where_it_can_be_understood(options, announced, problem):
    assert only(**options).check(announced) == problem


def test_a_late_message_with_mode_notify_passes_every_minimum():
    assert only(deliver_by=DeliverBy(-5, "notify")).check is None


@pytest.mark.parametrize(
    ("recipients", "parameters"),
    [
        (["a@b", "c@d"], None),
        ([Recipient("a@b"), "c@d"], None),
        ([], None),
        ([Recipient("a@b", "never")], [b" NOTIFY=NEVER"]),
        ([Recipient("a@b", ("success", "failure", "delay"))], [b" NOTIFY=SUCCESS,FAILURE,DELAY"]),
        (
            ["a@b", Recipient("c@d", "delay", "rfc822;x+y@b"), Recipient("e@f", orcpt="e@f")],
            [b"", b" NOTIFY=DELAY ORCPT=rfc822;x+2By@b", b" ORCPT=rfc822;e@f"],
        ),
    ],
)
def test_what_stands_behind_each_rcpt(recipients, parameters):
    assert rcpt_parameters(Envelope("", recipients)) == parameters


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("ann@example.com", b"rfc822;ann@example.com"),
        ("rfc822;ann@example.com", b"rfc822;ann@example.com"),
        ("RFC822;a=b+c@d", b"RFC822;a+3Db+2Bc@d"),
        ('"a;b c"@d', b'rfc822;"a;b+20c"@d'),
        ("rfc822;<a\\b>", b"rfc822;+3Ca\\b+3E"),
        ("x400;/G=Ann/C=DE/", b"x400;/G+3DAnn/C+3DDE/"),
        ("a@bücher.example", b"rfc822;a@xn--bcher-kva.example"),
        ("ü@bücher.example", rb"utf-8;\x{FC}@xn--bcher-kva.example"),
        ("utf-8;用户+=\\ @例え.jp", rb"utf-8;\x{7528}\x{6237}\x{2B}\x{3D}\x{5C}\x{20}@\x{4F8B}\x{3048}.jp"),
        ("UTF-8;a\U0001f600b", rb"UTF-8;a\x{1F600}b"),
        ("utf-8;a\u0080b", None),
        ("utf-8;\xa0", rb"utf-8;\x{A0}"),
    ],
)
def test_an_original_recipient(text, value):
    """RFC 3461 section 4.2; RFC 6533 section 3: what is not QCHAR is \\x{HEX}, with capitals, without leading zeros."""
    if value is None:
        with pytest.raises(ValueError, match="control character"):
            original_recipient(text)
    else:
        assert original_recipient(text) == value


def test_every_ascii_character_as_xtext():
    """RFC 3461 section 4: "!" to "~" without "+" and "=" stand for themselves; "<" and ">" need not."""
    for code in range(33, 127):
        plain = chr(code) not in "+=<>"
        assert xtext(chr(code)) == (bytes([code]) if plain else b"+%02X" % code)
    assert xtext(" ") == b"+20"
    for code in (0, 9, 10, 13, 31, 127, 128, 0xD800):
        with pytest.raises(ValueError):
            xtext(f"a{chr(code)}b")
