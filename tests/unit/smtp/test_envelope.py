"""What an envelope takes and refuses when it is made, and what it becomes for the wire."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

import bulkmail
from bulkmail import ConfigError, DeliverBy, Dsn, Envelope, EnvelopeRefused, Recipient
from bulkmail.smtp.envelope import BINARY, EIGHT_BIT, EIGHT_BIT_ONLY, UTF8, transaction_flags, wire_envelope

NINE = 999_999_999


def envelope(**options):
    return Envelope("news@example.com", ["ann@example.com"], **options)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Envelope(None, ["a@b"]), "sender is None, expected an address, or '' for the null sender"),
        (lambda: Envelope(b"a@b", []), "sender is b'a@b', expected"),
        (lambda: Envelope("a@b", None), "recipients is None, expected addresses or Recipients"),
        (lambda: Envelope("a@b", ["c@d", 5]), "recipients[1] is 5, expected an address or a Recipient"),
        (lambda: Envelope("a@b", b"c@d"), "recipients[0] is 99, expected an address or a Recipient"),
        (lambda: envelope(size=-1), "size is -1, expected a number of bytes, 0 or more"),
        (lambda: envelope(size=1.5), "size is 1.5"),
        (lambda: envelope(size=True), "size is True"),
        (lambda: envelope(size="9"), "size is '9'"),
        (lambda: envelope(body="8BITMIME"), "body is '8BITMIME', expected '7bit', '8bitmime' or 'binarymime'"),
        (lambda: envelope(body=["7bit"]), "body is ['7bit']"),
        (lambda: envelope(smtputf8=1), "smtputf8 is 1, expected True or False"),
        (lambda: envelope(require_tls="no"), "require_tls is 'no', expected True or False"),
        (lambda: envelope(dsn={"ret": "full"}), "dsn is {'ret': 'full'}, expected a Dsn"),
        (lambda: envelope(deliver_by=60), "deliver_by is 60, expected a DeliverBy"),
        (lambda: envelope(mt_priority=10), "mt_priority is 10, expected an integer from -9 to 9"),
        (lambda: envelope(mt_priority=-10), "mt_priority is -10"),
        (lambda: envelope(mt_priority=1.0), "mt_priority is 1.0"),
        (lambda: envelope(mt_priority=False), "mt_priority is False"),
        (lambda: envelope(hold_for=0), f"hold_for is 0, expected seconds from 1 to {NINE}"),
        (lambda: envelope(hold_for=NINE + 1), f"hold_for is {NINE + 1}"),
        (lambda: envelope(hold_for="60"), "hold_for is '60'"),
        (lambda: envelope(hold_for=True), "hold_for is True"),
        (lambda: envelope(hold_for=float("inf")), "hold_for is inf"),
        (lambda: envelope(hold_for=float("nan")), "hold_for is nan"),
        (lambda: envelope(hold_for=timedelta(days=1)), "hold_for is datetime.timedelta"),
        (
            lambda: envelope(hold_until=datetime(2030, 1, 31)),
            "hold_until is datetime.datetime(2030, 1, 31, 0, 0), expec",
        ),
        (lambda: envelope(hold_until="2030-01-31T08:00:00"), "expected a datetime with a time zone, such as"),
        (lambda: envelope(hold_until="tomorrow\r\n"), "hold_until is 'tomorrow\\r\\n'"),
        (lambda: envelope(hold_until=1893456000), "hold_until is 1893456000"),
        (lambda: envelope(hold_until=datetime.max.replace(tzinfo=UTC)), "hold_until is datetime.datetime(9999"),
        (lambda: envelope(hold_for=1, hold_until="2030-01-31T08:00:00Z"), "hold_for and hold_until are both given"),
        (lambda: Recipient(None), "address is None, expected text"),
        (
            lambda: Recipient("a@b", notify="sometimes"),
            "notify is 'sometimes', expected ('never',) or some of 'success'",
        ),
        (lambda: Recipient("a@b", notify=("never", "delay")), "notify is ('never', 'delay'), expected ('never',) or"),
        (lambda: Recipient("a@b", notify=("SUCCESS",)), "notify is ('SUCCESS',)"),
        (lambda: Recipient("a@b", notify="success,failure"), "notify is 'success,failure'"),
        (lambda: Recipient("a@b", notify=5), "notify is 5"),
        (lambda: Recipient("a@b", notify=[["never"]]), "notify is [['never']]"),
        (lambda: Recipient("a@b", orcpt=5), "orcpt is 5, expected an address of at most 500 bytes"),
        (lambda: Recipient("a@b", orcpt=""), "orcpt is '': the address is empty"),
        (lambda: Recipient("a@b", orcpt="ann"), "orcpt is 'ann': 'ann' is not an email address: it has no @"),
        (lambda: Recipient("a@b", orcpt="rfc822;"), "orcpt is 'rfc822;': it is empty"),
        (lambda: Recipient("a@b", orcpt="utf-8;"), "orcpt is 'utf-8;': it is empty"),
        (lambda: Recipient("a@b", orcpt="rfc822;ü@b"), "it has other characters than printable ASCII"),
        (lambda: Recipient("a@b", orcpt="rfc822;a@b\r\nDATA"), "it has other characters than printable ASCII"),
        (lambda: Recipient("a@b", orcpt="utf-8;a@b\r\nDATA"), "it has a control character or lone surrogate"),
        (lambda: Recipient("a@b", orcpt="utf-8;\ud800"), "orcpt is 'utf-8;\\ud800': it has a control character"),
        (lambda: Recipient("a@b", orcpt="x 400;a"), "is not an email address"),
        (lambda: Recipient("a@b", orcpt="rfc822;" + "x" * 494), "it has 501 bytes when it is encoded"),
        (lambda: Recipient("a@b", orcpt="rfc822;" + "+" * 165), "it has 502 bytes when it is encoded"),
        (lambda: Dsn(ret="headers"), "ret is 'headers', expected 'full' or 'hdrs'"),
        (lambda: Dsn(envid=""), "envid is '': it is empty; expected 1 to 100 printable ASCII characters"),
        (lambda: Dsn(envid="x" * 101), "it has 101 characters; expected 1 to 100"),
        (lambda: Dsn(envid="a\r\nRCPT TO:<x@y>"), "envid is 'a\\r\\nRCPT TO:<x@y>': it has other characters than"),
        (lambda: Dsn(envid="grüß"), "envid is 'gr\\xfc\\xdf': it has other characters than printable ASCII"),
        (lambda: Dsn(envid=7), "envid is 7, expected 1 to 100"),
        (lambda: DeliverBy(60, mode="R"), "mode is 'R', expected 'return' or 'notify'"),
        (lambda: DeliverBy(0), f"seconds is 0, expected seconds from 1 to {NINE}"),
        (lambda: DeliverBy(-NINE - 1, "notify"), f"seconds is -1000000000, expected seconds from -{NINE} to {NINE}"),
        (lambda: DeliverBy(None), "seconds is None"),
        (lambda: DeliverBy(60, trace="T"), "trace is 'T', expected True or False"),
    ],
)
def test_what_cannot_be_meant_is_refused_when_it_is_made(make, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)) as caught:
        make()
    text = str(caught.value)
    assert text.isascii() and text.isprintable() and len(text) < 350 and caught.value.permanent


def test_an_endless_value_is_cut_in_the_sentence():
    with pytest.raises(ConfigError) as caught:
        Dsn(envid="x" * 10_000_000)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("recipients", ["ann@example.com", ["ann@example.com"], iter(["ann@example.com"])])
def test_recipients_may_be_one_or_several(recipients):
    assert Envelope("", recipients).recipients == ("ann@example.com",)


def test_addresses_and_recipients_mix_and_the_addresses_stay_as_given():
    bob = Recipient("Bob@bücher.example", notify="never")
    mixed = Envelope("", ["ann@example.com", bob])
    assert mixed.recipients == ("ann@example.com", bob)
    assert mixed.addresses == ["ann@example.com", "Bob@bücher.example"]
    assert Envelope("", bob).recipients == (bob,)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ((), ()),
        ("never", ("never",)),
        (["success", "failure", "success"], ("success", "failure")),
        (iter(["delay"]), ("delay",)),
    ],
)
def test_notify_is_a_tuple_without_repetitions(given, kept):
    assert Recipient("a@b", given).notify == kept


def test_times_become_whole_seconds_and_utc():
    assert envelope(hold_for=0.2).hold_for == 1
    assert envelope(hold_for=Decimal("59.5")).hold_for == 60
    assert DeliverBy(-0.5, "notify").seconds == 0
    assert DeliverBy(NINE).seconds == NINE
    east = timezone(timedelta(hours=1))
    for moment in (datetime(2030, 1, 31, 8, 59, 59, 1, tzinfo=east), "2030-01-31T08:59:59.5+01:00"):
        assert envelope(hold_until=moment).hold_until == datetime(2030, 1, 31, 8, tzinfo=UTC)
    assert envelope(hold_until="2030-01-31T08:00:00Z").hold_until == datetime(2030, 1, 31, 8, tzinfo=UTC)


def test_the_outermost_values_are_taken():
    assert envelope(size=0, mt_priority=-9, hold_for=NINE, dsn=Dsn("hdrs", "~" * 100)).size == 0
    assert Recipient("a@b", orcpt="rfc822;" + "x" * 493).orcpt


def test_the_names_are_public_and_load_when_they_are_used():
    assert {"Dsn", "Recipient", "DeliverBy", "Envelope"} <= set(bulkmail.__all__)


@pytest.mark.parametrize(
    ("options", "content", "flags"),
    [
        ({}, b"plain", 0),
        ({}, b"\xff", EIGHT_BIT),
        ({}, None, EIGHT_BIT),
        ({"body": "7bit"}, b"\xff", 0),
        ({"body": "8bitmime"}, b"plain", EIGHT_BIT | EIGHT_BIT_ONLY),
        ({"body": "binarymime"}, b"\xff", BINARY),
        ({"body": "binarymime", "smtputf8": True}, None, BINARY | UTF8),
        ({"smtputf8": True}, b"plain", UTF8),
    ],
)
def test_the_flags_of_a_transaction(options, content, flags):
    assert transaction_flags(envelope(**options), content, [b"a@b"]) == flags


@pytest.mark.parametrize(
    ("address", "needed"),
    [("ü@example.com", True), ("a@bücher.example", False), ('"ü b"@bücher.example', True), ("a+b@example.com", False)],
)
def test_only_a_local_part_beyond_ascii_needs_smtputf8(address, needed):
    for sender, recipients in ((address, ["a@b"]), ("", ["a@b", address])):
        wire_sender, rcpts = wire_envelope(sender, recipients)
        assert bool(transaction_flags(None, b"", [wire_sender, *rcpts]) & UTF8) is needed


@pytest.mark.parametrize(
    ("address", "wire"),
    [
        ("ann@example.com", b"ann@example.com"),
        (" ann@example.com\n", b"ann@example.com"),
        ('"john doe"@example.com', b'"john doe"@example.com'),
        ('"a\\"b\\\\"@example.com', b'"a\\"b\\\\"@example.com'),
        ('"<>@,"@example.com', b'"<>@,"@example.com'),
        ("ann%example.org@example.com", b"ann%example.org@example.com"),
        ("a@[192.0.2.1]", b"a@[192.0.2.1]"),
        ("a@[IPv6:2001:db8::1]", b"a@[IPv6:2001:db8::1]"),
        ("a@bücher.example", b"a@xn--bcher-kva.example"),
        ("ü@bücher.example", "ü@xn--bcher-kva.example".encode()),
        ("Postmaster", b"Postmaster"),
    ],
)
def test_a_recipient_on_the_wire(address, wire):
    assert wire_envelope("", [address]) == (b"", [wire])


@pytest.mark.parametrize(
    "address",
    ["@a,@b:c@d", "<@a,@b:c@d>", "@a:b@c", "<a@b>", "a b@c", "a@b.", "(c)a@b", "a\r\nDATA", "a@b\0", "", "root", "<>"],
)
def test_what_is_no_address_is_refused_before_anything_is_sent(address):
    with pytest.raises(EnvelopeRefused) as caught:
        wire_envelope("", [address])
    assert caught.value.permanent and caught.value.reply is None
    if address:
        with pytest.raises(EnvelopeRefused):
            wire_envelope(address, [])


@pytest.mark.parametrize("address", [None, 5, b"a@b", Recipient("a@b")])
def test_what_is_no_text_is_refused_too(address):
    with pytest.raises(EnvelopeRefused, match="must be text"):
        wire_envelope("a@b", [address])


def test_postmaster_alone_is_a_recipient_and_no_sender():
    """RFC 5321 section 4.1.1.3: every server takes it; section 4.1.1.2 has no such thing for MAIL."""
    assert wire_envelope("", ["POSTMASTER"])[1] == [b"POSTMASTER"]
    with pytest.raises(EnvelopeRefused, match="no @"):
        wire_envelope("postmaster", ["a@b"])
