"""From a finished transaction to an error and a receipt; what an envelope asks for; Message-IDs found."""

from __future__ import annotations

import pytest

from bulkmail.errors import ConnectionLost, EnvelopeRefused, InDoubt, MessageRefused
from bulkmail.smtp.envelope import EIGHT_BIT, EIGHT_BIT_ONLY, UTF8, Envelope, transaction_flags, wire_address
from bulkmail.smtp.outcome import message_id, receipt, refusal
from bulkmail.wire.client import Client
from bulkmail.wire.transaction import Transaction

PEOPLE = ["ann@example.test", "bob@example.test"]
BODY = b"x\r\n.\r\n"
LOST = ConnectionLost("gone")


def ended(*replies, flags=0, lose=False):
    """A transaction to PEOPLE that was answered so, a second between the replies."""
    client = Client(True)
    tx = Transaction(b"news@example.test", [person.encode() for person in PEOPLE], BODY, flags)
    client.push(tx, 10.0)
    for number, reply in enumerate(replies):
        client.take_output()
        client.feed(reply, 11.0 + number)
    client.take_output()
    if lose:
        client.lost(LOST, 0, 20.0)
    assert client.done == [tx]
    return tx


GO = b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"


def test_delivered_to_all():
    tx = ended(GO, b"250 2.0.0 queued\r\n")
    result = receipt(tx, PEOPLE)
    assert refusal(tx) is None and result.error is None
    assert (result.accepted, result.rejected, result.reply.code) == (PEOPLE, [], 250)
    assert (result.envelope_seconds, result.data_seconds) == (1.0, 1.0)
    assert (result.relay, result.tls, result.egress) == (None, None, None)  # it went by no session


def test_delivered_to_some():
    tx = ended(b"250 ok\r\n550 5.1.1 no ann\r\n250 ok\r\n354 go\r\n", b"250 queued\r\n")
    result = receipt(tx, PEOPLE)
    assert result.error is None and result.accepted == PEOPLE[1:]
    ((rejected,),) = [result.rejected]
    assert rejected.address == PEOPLE[0] and rejected.reply.enhanced == "5.1.1"
    assert (type(rejected.error), rejected.error.scope, rejected.error.permanent) == (
        EnvelopeRefused,
        "recipient",
        True,
    )


@pytest.mark.parametrize(
    ("replies", "kind", "scope", "command", "code"),
    [
        ([b"450 later\r\n503 x\r\n503 x\r\n503 x\r\n"], EnvelopeRefused, "message", "MAIL", 450),
        ([b"250 ok\r\n550 a\r\n551 b\r\n554 none\r\n"], EnvelopeRefused, "recipient", "RCPT", 550),
        ([b"250 ok\r\n250 ok\r\n250 ok\r\n451 no\r\n"], MessageRefused, "message", "DATA", 451),
        ([GO, b"552 big\r\n"], MessageRefused, "message", "end of data", 552),
        ([b"250 ok\r\n550 a\r\n250 ok\r\n354 go\r\n", b"552 big\r\n"], MessageRefused, "message", "end of data", 552),
    ],
    ids=["MAIL", "RCPT", "DATA", "dot", "RCPT and dot"],
)
def test_delivered_to_nobody(replies, kind, scope, command, code):
    result = receipt(ended(*replies), PEOPLE)
    error = result.error
    assert (type(error), error.scope, error.command, error.reply.code) == (kind, scope, command, code)
    assert error.permanent is (code >= 500) and result.accepted == [] and result.reply.code == code
    assert [rejected.address for rejected in result.rejected] == PEOPLE


def test_each_of_those_refused_has_its_own_reply():
    result = receipt(ended(b"250 ok\r\n550 a\r\n451 b\r\n554 none\r\n"), PEOPLE)
    assert [(r.reply.code, r.error.permanent) for r in result.rejected] == [(550, True), (451, False)]


@pytest.mark.parametrize(
    ("replies", "kind", "scope", "permanent"),
    [
        ([b"530 5.7.0 log in first\r\n503 x\r\n503 x\r\n503 x\r\n"], "auth", "relay", True),
        (
            [b"250 ok\r\n554 5.7.1 blocked using zen.spamhaus.org\r\n550 5.1.1 b\r\n554 no\r\n"],
            "blocked",
            "relay",
            True,
        ),
        ([b"250 ok\r\n550 5.5.3 too many recipients\r\n550 x\r\n554 x\r\n"], "too_many_recipients", "recipient", False),
        ([GO, b"550 5.7.26 DMARC policy\r\n"], "unauthenticated", "job", True),
        ([GO, b"454 Throttling failure: Maximum sending rate exceeded.\r\n"], "throttled", "relay", False),
        ([GO, b"554 5.7.1 virus found\r\n"], "content", "message", True),
    ],
)
def test_an_error_says_what_its_reply_blames(replies, kind, scope, permanent):
    error = receipt(ended(*replies), PEOPLE).error
    assert (error.kind, error.scope, error.permanent) == (kind, scope, permanent)


def test_what_is_delivered_is_never_classified(monkeypatch):
    monkeypatch.delattr("bulkmail.smtp.outcome.refused")
    assert receipt(ended(GO, b"250 2.0.0 550 5.7.1 spam blocked\r\n"), PEOPLE).accepted == PEOPLE


def test_lost_before_the_end_of_data():
    tx = ended(b"250 ok\r\n", lose=True)
    result = receipt(tx, PEOPLE)
    assert result.error is refusal(tx) is LOST and result.reply is None
    assert (result.envelope_seconds, result.data_seconds) == (10.0, 0.0)


def test_lost_after_the_end_of_data():
    result = receipt(ended(GO, lose=True), PEOPLE)
    assert type(result.error) is InDoubt and all(r.error is result.error for r in result.rejected)
    assert (result.envelope_seconds, result.data_seconds) == (1.0, 9.0)


def test_refused_without_asking():
    result = receipt(ended(flags=UTF8), PEOPLE)
    assert type(result.error) is EnvelopeRefused and (result.envelope_seconds, result.data_seconds) == (0.0, 0.0)


# ---- envelopes


@pytest.mark.parametrize(
    ("options", "content", "addresses", "flags"),
    [
        (None, b"x", [b"a@b"], 0),
        (None, b"\xc3\xa4", [b"a@b"], EIGHT_BIT),
        (None, None, [b"a@b"], EIGHT_BIT),
        (None, b"x", ["ä@b".encode()], UTF8),
        ({}, b"\xc3\xa4", [b"a@b"], EIGHT_BIT),
        ({"body": "7bit"}, b"\xc3\xa4", [b"a@b"], 0),
        ({"body": "8bitmime"}, b"x", [b"a@b"], EIGHT_BIT | EIGHT_BIT_ONLY),
        ({"smtputf8": True}, b"x", [b"a@b"], UTF8),
    ],
)
def test_what_a_transaction_asks_of_the_server(options, content, addresses, flags):
    envelope = None if options is None else Envelope("a@b", ["c@d"], **options)
    assert transaction_flags(envelope, content, addresses) == flags


def test_recipients_are_a_tuple_however_given():
    assert Envelope("a@b", "c@d").recipients == ("c@d",)
    assert Envelope("a@b", iter(["c@d", "e@f"])).recipients == ("c@d", "e@f")


@pytest.mark.parametrize(
    "address", ["", "a", "a@b\r\nDATA", "a b@c", "<a@b>", "a@b>\r\nRCPT TO:<c@d", "a@b\0", "@x:a@b"]
)
def test_no_address_breaks_out_of_its_command(address):
    with pytest.raises(EnvelopeRefused) as caught:
        wire_address(address)
    assert caught.value.permanent and caught.value.scope == "recipient"


# ---- Message-ID


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"Message-ID: <1@x>\r\n\r\n", "<1@x>"),
        (b"Subject: x\nmessage-id:<1@x>\n\nbody", "<1@x>"),
        (b"Subject: x\r\nMESSAGE-ID:\r\n <1@x>\r\n\r\n", "<1@x>"),
        (b"Subject: x\r\n\r\nMessage-ID: <1@x>\r\n", None),
        (b"X-Message-ID: <1@x>\r\n\r\n", None),
        (b"Message-ID: broken\r\n\r\n", None),
        (b"Message-ID: <1@x>", "<1@x>"),
        (b"", None),
        (b"\r\nMessage-ID: <1@x>\r\n", None),
    ],
)
def test_the_message_id_of_a_message(content, found):
    assert message_id(content) == found
