"""What an envelope asks for, byte for byte on the wire, of servers that offer each extension, or lack it."""

from __future__ import annotations

import re

import pytest

from bulkmail.errors import EnvelopeRefused
from bulkmail.pool.mailer import Mailer
from bulkmail.smtp.connection import Connection
from bulkmail.smtp.envelope import DeliverBy, Dsn, Envelope, Recipient
from faults.scripted import always, at, content, expect, hello, offer, scripted, send, serve, start_tls, take

TEXT = b"Subject: x\r\n\r\nhello\r\n"
BOB = Recipient("bob@example.test", ("success", "delay"), "rfc822;robert+x@example.test")
CY = Recipient("cy@example.test", "never")
TO = ["ann@example.test", BOB, CY]
ADDRESSES = ["ann@example.test", "bob@example.test", "cy@example.test"]
PLAIN_RCPTS = [f"RCPT TO:<{address}>".encode() for address in ADDRESSES]
DSN_RCPTS = [
    PLAIN_RCPTS[0],
    PLAIN_RCPTS[1] + b" NOTIFY=SUCCESS,DELAY ORCPT=rfc822;robert+2Bx@example.test",
    PLAIN_RCPTS[2] + b" NOTIFY=NEVER",
]
REQUIRETLS = {"require_tls": True}


def lines(peer, verb):
    return [line for line in bytes(peer.said).split(b"\r\n") if line.startswith(verb)]


async def by_connection(url, envelope, data, **options):
    async with Connection(url, **options) as connection:
        return await connection.send(envelope, data)


async def by_mailer(url, envelope, data, **options):
    async with Mailer(url, **options) as mailer:
        return await mailer.send(data, envelope=envelope)


BOTH = pytest.mark.parametrize("deliver", [by_connection, by_mailer])


async def said(deliver, extensions, envelope, data=TEXT, **options):
    """(MAIL's line, those of RCPT, the receipt)"""
    async with scripted([*hello(*extensions), serve()]) as server:
        receipt = await deliver(server.url, envelope, data, **options)
        peer = server.peers[0]
        (mail,) = lines(peer, b"MAIL")
        return mail, lines(peer, b"RCPT"), receipt


@BOTH
@pytest.mark.parametrize("pipelining", ["PIPELINING", "X-ONE-BY-ONE"])
@pytest.mark.parametrize(
    ("options", "offered", "behind_mail"),
    [
        ({"dsn": Dsn("hdrs", "job 7+8")}, "DSN", b" RET=HDRS ENVID=job+207+2B8"),
        ({"dsn": Dsn("full")}, "dsn", b" RET=FULL"),
        ({"dsn": Dsn()}, "DSN", b""),
        ({"dsn": Dsn("hdrs", "job")}, "X-NOTHING", b""),
        ({"deliver_by": DeliverBy(300)}, "DELIVERBY", b" BY=300;R"),
        ({"deliver_by": DeliverBy(300, trace=True)}, "DELIVERBY 300", b" BY=300;RT"),
        ({"deliver_by": DeliverBy(-1, "notify")}, "DELIVERBY 300", b" BY=-1;N"),
        ({"deliver_by": DeliverBy(300, "notify")}, "X-NOTHING", b""),
        ({"hold_for": 60}, "FUTURERELEASE 86400 2030-01-01T00:00:00Z", b" HOLDFOR=60"),
        (
            {"hold_until": "2030-01-01T01:00:00+01:00"},
            "FUTURERELEASE 86400 2030-01-01T00:00:00Z",
            b" HOLDUNTIL=2030-01-01T00:00:00Z",
        ),
        ({"mt_priority": -4}, "MT-PRIORITY MIXER", b" MT-PRIORITY=-4"),
        ({"mt_priority": 4}, "X-NOTHING", b""),
    ],
)
def test_what_is_asked_stands_behind_mail_where_it_is_offered(run, deliver, pipelining, options, offered, behind_mail):
    mail, rcpts, receipt = run(said(deliver, [pipelining, offered], Envelope("news@example.test", TO, **options)))
    assert mail == b"MAIL FROM:<news@example.test>" + behind_mail
    assert rcpts == (DSN_RCPTS if offered.upper() == "DSN" else PLAIN_RCPTS)
    assert receipt.accepted == ADDRESSES


@BOTH
@pytest.mark.parametrize(
    ("options", "offered", "sentence"),
    [
        ({"deliver_by": DeliverBy(60)}, "DSN", "does not offer DELIVERBY"),
        ({"deliver_by": DeliverBy(60)}, "DELIVERBY 61", "deliver_by is 60 s, the server expects at least 61 s"),
        ({"hold_for": 60}, "DSN", "hold_for was asked for and the server does not offer FUTURERELEASE"),
        ({"hold_for": 61}, "FUTURERELEASE 60 2030-01-01T00:00:00Z", "holds messages for at most 60 s"),
        ({"hold_until": "2030-01-01T00:00:00Z"}, "DSN", "hold_until was asked for and the server does not offer"),
        ({"hold_until": "2031-01-01T00:00:00Z"}, "FUTURERELEASE 60 2030-01-01T00:00:00Z", "until 2030-01-01T00:00:00Z"),
        (REQUIRETLS, "DSN", "require_tls needs REQUIRETLS"),
        (REQUIRETLS, "REQUIRETLS", "which the server does not offer over TLS with a verified certificate"),
        ({"smtputf8": True}, "DSN", "SMTPUTF8"),
        ({"body": "binarymime"}, "BINARYMIME", "binarymime"),
    ],
)
def test_what_cannot_be_had_is_refused_here_and_the_connection_goes_on(run, deliver, options, offered, sentence):
    async def main():
        async with scripted([*hello("PIPELINING", offered), serve()]) as server:
            with pytest.raises(EnvelopeRefused, match=re.escape(sentence)) as caught:
                await deliver(server.url, Envelope("news@example.test", TO, **options), TEXT)
            assert caught.value.permanent and caught.value.reply is None
            return lines(server.peers[0], b"MAIL")

    assert run(main()) == []


@pytest.fixture(scope="module")
def tls(certificates):
    return certificates.server_context(), {"ca_file": str(certificates.ca_file)}


def upgraded(context, *extensions):
    begin = [*hello("STARTTLS", "REQUIRETLS"), expect(rb"STARTTLS"), send(b"220 go\r\n"), start_tls(context)]
    return [*begin, expect(rb"EHLO \S+"), send(offer(*extensions)), serve()]


@BOTH
def test_requiretls_over_tls(run, deliver, tls):
    async def main():
        context, trust = tls
        async with scripted(upgraded(context, "PIPELINING", "REQUIRETLS")) as server:
            await deliver(server.url, Envelope("news@example.test", TO, **REQUIRETLS), TEXT, **trust)
            return lines(server.peers[0], b"MAIL")

    assert run(main()) == [b"MAIL FROM:<news@example.test> REQUIRETLS"]


@BOTH
@pytest.mark.parametrize(
    ("extensions", "options"),
    [
        (["PIPELINING"], {}),  # offered in clear only
        (["PIPELINING", "REQUIRETLS"], {"verify": False}),
        (["PIPELINING", "REQUIRETLS"], {"tls": "opportunistic"}),
    ],
)
def test_requiretls_of_a_server_that_proved_nothing_counts_for_nothing(run, deliver, tls, extensions, options):
    async def main():
        context, trust = tls
        async with scripted(upgraded(context, *extensions)) as server:
            with pytest.raises(EnvelopeRefused, match="REQUIRETLS"):
                await deliver(server.url, Envelope("news@example.test", TO, **REQUIRETLS), TEXT, **trust, **options)
            return lines(server.peers[0], b"MAIL")

    assert run(main()) == []


@BOTH
def test_the_null_sender_with_all_there_is(run, deliver):
    envelope = Envelope(
        "",
        BOB,
        dsn=Dsn("hdrs", "x"),
        deliver_by=DeliverBy(300, "notify"),
        hold_for=60,
        mt_priority=9,
        smtputf8=True,
        body="8bitmime",
    )
    extensions = ["SIZE", "DSN", "DELIVERBY", "FUTURERELEASE", "MT-PRIORITY", "SMTPUTF8", "8BITMIME"]
    mail, rcpts, _ = run(said(deliver, extensions, envelope))
    path, *words = mail.split()[1:]
    assert path == b"FROM:<>" and rcpts == DSN_RCPTS[1:2]
    size = b"SIZE=%d" % len(TEXT)
    asked = b"RET=HDRS ENVID=x BY=300;N HOLDFOR=60 MT-PRIORITY=9"
    assert sorted(words) == sorted([size, b"BODY=8BITMIME", b"SMTPUTF8", *asked.split()])


@BOTH
@pytest.mark.parametrize(
    ("sender", "recipient", "mail", "rcpt"),
    [
        ("ü@bücher.example", "a@b", "<ü@xn--bcher-kva.example> SMTPUTF8", "<a@b>"),
        ("a@b", "ü@b", "<a@b> SMTPUTF8", "<ü@b>"),
        ("a@bücher.example", "c@例え.jp", "<a@xn--bcher-kva.example>", "<c@xn--r8jz45g.jp>"),
        ('"john doe"@b', '"a\\"b"@[IPv6:2001:db8::1]', '<"john doe"@b>', '<"a\\"b"@[IPv6:2001:db8::1]>'),
        ("a%b@c", "Postmaster", "<a%b@c>", "<Postmaster>"),
    ],
)
def test_addresses_of_every_kind(run, deliver, sender, recipient, mail, rcpt):
    sent = run(said(deliver, ["PIPELINING", "SMTPUTF8"], Envelope(sender, recipient)))
    assert sent[:2] == (f"MAIL FROM:{mail}".encode(), [f"RCPT TO:{rcpt}".encode()])
    assert sent[2].accepted == [recipient]


@BOTH
def test_a_refused_recipient_is_named_as_it_was_given(run, deliver):
    async def main():
        script = [
            *hello("DSN"),
            *(expect(rb"MAIL .*"), send(b"250 ok\r\n"), expect(rb"RCPT .*"), send(b"250 ok\r\n")),
            *(expect(rb"RCPT .*"), send(b"550 5.1.1 no\r\n"), expect(rb"DATA"), send(b"354 go\r\n")),
        ]
        async with scripted([*script, content(), send(b"250 taken\r\n"), serve()]) as server:
            people = ["Ann@Bücher.example", Recipient("Bob@Bücher.example", "never")]
            return await deliver(server.url, Envelope("a@b", people), TEXT)

    receipt = run(main())
    assert receipt.accepted == ["Ann@Bücher.example"]
    assert [refused.address for refused in receipt.rejected] == ["Bob@Bücher.example"]


def test_the_declared_size_of_a_stream(run):
    def pieces():
        yield TEXT[:5]
        yield TEXT[5:]

    extensions = ["PIPELINING", "SIZE 1000"]
    for size, expected in ((len(TEXT), b" SIZE=%d" % len(TEXT)), (0, b" SIZE=0"), (None, b"")):
        mail, _, _ = run(said(by_connection, extensions, Envelope("a@b", "c@d", body="7bit", size=size), pieces()))
        assert mail == b"MAIL FROM:<a@b>" + expected


@BOTH
def test_the_size_of_what_is_at_hand_is_measured(run, deliver):
    mail, _, _ = run(said(deliver, ["SIZE 1000"], Envelope("a@b", "c@d", size=5), TEXT))
    assert mail == b"MAIL FROM:<a@b> SIZE=%d" % len(TEXT)


def test_recipients_of_a_split_message_keep_their_parameters(run):
    async def main():
        async with scripted([*hello("PIPELINING", "DSN"), serve()]) as server:
            async with Mailer(server.url, batch=2, connections=1) as mailer:
                receipt = await mailer.send(TEXT, envelope=Envelope("a@b", TO, dsn=Dsn("hdrs")))
            return receipt.accepted, lines(server.peers[0], b"MAIL"), lines(server.peers[0], b"RCPT")

    accepted, mails, rcpts = run(main())
    assert accepted == ADDRESSES
    assert mails == [b"MAIL FROM:<a@b> RET=HDRS"] * 2 and rcpts == DSN_RCPTS


def test_a_transaction_that_is_tried_again_asks_the_same(run):
    async def main():
        parting = [*hello("DSN"), expect(rb"MAIL .*"), send(b"421 4.3.2 later\r\n")]
        async with scripted(parting, [*hello("DSN"), serve()]) as server:
            async with Mailer(server.url, connections=1) as mailer:
                await mailer.send(TEXT, envelope=Envelope("a@b", BOB, dsn=Dsn("hdrs")))
            return [lines(peer, b"MAIL") for peer in server.peers], lines(server.peers[1], b"RCPT")

    mails, rcpts = run(main())
    assert mails == [[b"MAIL FROM:<a@b> RET=HDRS"]] * 2 and rcpts == DSN_RCPTS[1:2]


@pytest.mark.parametrize(
    ("deliver", "data", "sent"),
    [
        (by_connection, b"Subject: x\r\n\r\n.\n\0\xff\r.\r\nno end", b"Subject: x\r\n\r\n.\n\0\xff\r.\r\nno end"),
        (
            by_mailer,
            b"Subject: x\n\n.\xff\n",
            b"Subject: x\r\n\r\n.\xff\r\n",
        ),  # a message is lines, a Mailer keeps to that
    ],
)
def test_binary_content_goes_out_without_escapes_or_end(run, deliver, data, sent):
    """RFC 3030: BINARYMIME needs BDAT, and a lone LF or a dot is a byte like another."""

    async def main():
        chunk = [expect(b"BDAT %d LAST" % len(sent)), take(len(sent)), send(b"250 2.0.0 taken\r\n")]
        script = [expect(rb"MAIL .*"), send(b"250 ok\r\n"), expect(rb"RCPT .*"), send(b"250 ok\r\n"), *chunk, serve()]
        async with scripted([*hello("PIPELINING", "CHUNKING", "BINARYMIME"), *script]) as server:
            receipt = await deliver(server.url, Envelope("a@b", "c@d", body="binarymime"), data)
            (mail,) = lines(server.peers[0], b"MAIL")
            return mail, receipt.accepted, sent in server.peers[0].said

    assert run(main()) == (b"MAIL FROM:<a@b> BODY=BINARYMIME", ["c@d"], True)


def test_recipients_that_go_into_another_transaction_keep_their_parameters(run):
    async def main():
        full = always("RCPT", b"250 ok\r\n"), at("RCPT", b"452 4.5.3 too many recipients\r\n", 2)
        async with scripted([*hello("DSN"), serve(*full)]) as server:
            async with Mailer(server.url, connections=1) as mailer:
                receipt = await mailer.send(TEXT, envelope=Envelope("a@b", TO, dsn=Dsn("hdrs")))
            return receipt.accepted, lines(server.peers[0], b"MAIL"), lines(server.peers[0], b"RCPT")

    accepted, mails, rcpts = run(main())
    assert sorted(accepted) == sorted(ADDRESSES)
    assert set(mails) == {b"MAIL FROM:<a@b> RET=HDRS"} and len(mails) > 1
    assert rcpts == [*DSN_RCPTS, DSN_RCPTS[1]]
