"""What our client promises of every SMTP server: one suite, run against each server that others wrote.

Where a server offers CHUNKING the suite runs twice, by BDAT and by DATA.
"""

from __future__ import annotations

import itertools
import re
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import pytest

import bulkmail
from bulkmail.errors import AuthError, ConnectionLost, EnvelopeRefused, MessageRefused
from integration.servers.aiosmtpd_server import PASSWORD, USER, aiosmtpd
from integration.servers.common import wait_until
from integration.servers.dovecot import PASSWORDS, dovecot
from integration.servers.exim import exim
from integration.servers.haraka import haraka
from integration.servers.node import METHODS, TOKEN, smtp_server
from integration.servers.postfix import postfix

ANN, BOB, NEWS = "ann@example.test", "bob@example.test", "news@example.test"
SIZE_LIMIT = 200_000
SERVERS = ["postfix", "exim", "smtp-server", "aiosmtpd", "haraka"]
KINDS = ["postfix BDAT", "postfix DATA", "exim BDAT", "exim DATA", "smtp-server", "aiosmtpd", "haraka"]
TAGS = (f"tag{number}." for number in itertools.count())

POSTFIX_RULES = {
    "message_size_limit": str(SIZE_LIMIT),
    "smtpd_sender_restrictions": "check_sender_access regexp:{ {/^refused/ 550 5.7.1 no mail from this sender} }",
    "smtpd_recipient_restrictions": "check_recipient_access regexp:{ {/^unknown/ 550 5.1.1 no such user},"
    " {/^later/ 450 4.2.1 come again} }, permit_mynetworks, reject",
    "header_checks": "regexp:{ {/^Subject:.*refuse/ REJECT 5.6.0 content refused} }",
    "local_header_rewrite_clients": "",  # else it adds lines to the header of what comes from its own machine
    # It hangs up on whoever makes too many errors; another test sees to that.
    "smtpd_hard_error_limit": "100000",
    "smtpd_soft_error_limit": "100000",
}


AIOSMTPD_ANSWERS = {
    "MAIL": lambda address: "550 5.7.1 no" if address.startswith("refused") else None,
    "RCPT": lambda address: (
        "550 5.1.1 no such user"
        if address.startswith("unknown")
        else "450 4.2.1 come again"
        if address.startswith("later")
        else None
    ),
    "CONTENT": lambda content: "554 5.6.0 refused" if re.search(rb"^Subject:.*refuse", content, re.MULTILINE) else None,
}


@contextmanager
def start(kind, folder, certificates, *, tls=None, login=False):
    """A server of `kind`. It refuses senders refused…@, recipients unknown…@ and later…@, subjects with "refuse"."""
    with ExitStack() as running:
        enter, name = running.enter_context, kind.split()[0]
        if name == "postfix":
            sasl = enter(dovecot()).sasl if login else None
            yield enter(postfix(tls=tls, certificates=certificates, sasl=sasl, settings={} if login else POSTFIX_RULES))
        elif name == "exim":
            yield enter(exim(tls=tls, certificates=certificates, login=login))
        elif name == "smtp-server":
            yield enter(smtp_server(folder, tls=tls, certificates=certificates, login=login, size=SIZE_LIMIT))
        elif name == "haraka":
            yield enter(haraka(folder, tls=tls, certificates=certificates, login=login, size=SIZE_LIMIT))
        else:
            context = certificates.server_context() if tls else None
            options = {"data_size_limit": SIZE_LIMIT, "enable_SMTPUTF8": True}
            yield enter(aiosmtpd(tls=tls, context=context, auth=login, answers=AIOSMTPD_ANSWERS, **options))


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def server(kind, certificates, tmp_path_factory):
    with start(kind, tmp_path_factory.mktemp("server"), certificates) as running:
        yield running


@pytest.fixture
def options(kind):
    """Options of a client that talk to this server as its kind says."""
    return {"chunking": not kind.endswith("DATA")}


@pytest.fixture
def tag():
    """What the messages of this test are known by."""
    return next(TAGS)


def message(tag, subject="", body=b"hello\r\n", to=ANN):
    return f"X-Tag: {tag}\r\nFrom: {NEWS}\r\nTo: {to}\r\nSubject: {subject}\r\n\r\n".encode() + body


class Copy(NamedTuple):
    """What one recipient has got; the content from X-Tag on, with CRLF."""

    to: str
    content: bytes
    sender: str


def arrived(server, tag):
    """The copies of this test that were delivered, once the server has done all its work."""
    settled = getattr(server, "settled", None)
    if settled:
        wait_until(settled, "an empty queue")
    if hasattr(server, "mails"):
        copies = [Copy(to, mail.content, mail.sender) for mail in list(server.mails) for to in mail.recipients]
    else:
        copies = [_stored(content) for content in server.contents()]
    cut = [copy._replace(content=copy.content[copy.content.index(b"X-Tag: ") :]) for copy in copies]
    return [copy for copy in cut if copy.content.startswith(b"X-Tag: " + tag.encode() + b"\r\n")]


def _stored(content):
    to = re.search(rb"^(?:Delivered-To|Envelope-to): (.*)$", content, re.MULTILINE)[1]
    sender = re.search(rb"^Return-Path: <(.*)>$", content, re.MULTILINE | re.IGNORECASE)[1]
    return Copy(to.decode(), content.replace(b"\n", b"\r\n"), sender.decode())


def subjects(copies):
    return sorted(re.search(rb"^Subject: ([^\r]*)", content, re.MULTILINE)[1].decode() for _, content, _ in copies)


async def outcome(connection, sender, recipients, data, **more):
    try:
        return await connection.send(bulkmail.Envelope(sender, recipients, **more), data)
    except bulkmail.BulkmailError as error:
        return error


def code(result):
    return getattr(result.reply, "code", None)


async def deliver(url, messages, **options):
    async with bulkmail.Mailer(url, **options) as mailer:
        return sorted([receipt async for receipt in mailer.send_many(messages)], key=lambda receipt: receipt.index)


def test_the_server_is_spoken_to_as_its_kind_says(run, server, kind, options):
    async def main():
        async with bulkmail.Connection(server.url, **options) as connection:
            return connection.extensions

    assert ("CHUNKING" in run(main())) == (" " in kind)


def test_many_messages_over_a_few_connections_arrive_once_each(run, server, options, tag):
    messages = [message(tag, number) for number in range(60)]
    receipts = run(deliver(server.url, messages, connections=3, messages_per_connection=15, **options))
    assert [(receipt.index, receipt.error, receipt.accepted) for receipt in receipts] == [
        (number, None, [ANN]) for number in range(60)
    ]
    assert subjects(arrived(server, tag)) == sorted(map(str, range(60)))


HARD = [
    (b"", b""),
    (b".", b".\r\n"),
    (b".\r\n", b".\r\n"),
    (b"..\n.\n\n.x", b"..\r\n.\r\n\r\n.x\r\n"),
    (b"a\rb\r\r\nc\n\r\n", b"a\r\nb\r\n\r\nc\r\n\r\n"),
    (b"\r\n.\r\n\r\n.\r\nQUIT\r\n", b"\r\n.\r\n\r\n.\r\nQUIT\r\n"),
    (b"x" * 998 + b"\r\n" + b"." * 998 + b"\r\n", b"x" * 998 + b"\r\n" + b"." * 998 + b"\r\n"),
    (b".\n" * 30_000, b".\r\n" * 30_000),
]


def test_every_line_and_dot_arrives_as_it_was(run, server, options, tag):
    async def main():
        async with bulkmail.Connection(server.url, **options) as connection:
            for number, (body, _) in enumerate(HARD):
                whole = message(tag, number, body)
                cut = len(whole) - len(body) // 2
                for data in (whole, iter([whole[:cut], whole[cut:]])):
                    assert (await connection.send(bulkmail.Envelope(NEWS, [ANN]), data)).accepted == [ANN]

    run(main())
    expected = [message(tag, number, body) for number, (_, body) in enumerate(HARD) for _ in range(2)]
    assert sorted(copy.content for copy in arrived(server, tag)) == sorted(expected)


def test_refusals_at_each_step_cost_nobody_else_a_message(run, server, options, tag):
    async def main():
        async with bulkmail.Connection(server.url, **options) as connection:
            return [
                await outcome(connection, NEWS, [ANN, "unknown@example.test", "later@example.test"], message(tag, 1)),
                await outcome(connection, NEWS, ["unknown1@example.test", "unknown2@example.test"], message(tag, 2)),
                await outcome(connection, "refused@example.test", [ANN], message(tag, 3)),
                await outcome(connection, NEWS, [ANN], message(tag, "refuse 4")),
                await outcome(connection, NEWS, ["later@example.test"], iter([message(tag, 5)])),
                await outcome(connection, NEWS, [ANN, BOB], message(tag, 6)),
            ]

    some, nobody, sender, content, later, well = run(main())
    assert some.accepted == [ANN]
    assert [(one.address, one.reply.code // 100, one.error.permanent) for one in some.rejected] == [
        ("unknown@example.test", 5, True),
        ("later@example.test", 4, False),
    ]
    assert (type(nobody), code(nobody), nobody.scope) == (EnvelopeRefused, 550, "recipient")
    assert (type(sender), code(sender)) == (EnvelopeRefused, 550)
    assert type(content) is MessageRefused and code(content) in (550, 554) and content.permanent
    assert type(later) is EnvelopeRefused and not later.permanent
    assert well.accepted == [ANN, BOB]
    assert [(copy.to, subjects([copy])) for copy in sorted(arrived(server, tag))] == [
        (ANN, ["1"]),
        (ANN, ["6"]),
        (BOB, ["6"]),
    ]


def test_what_is_too_big_is_refused_and_the_next_message_is_not(run, server, kind, options, tag):
    big = message(tag, "big", b"0123456789abcdef\r\n" * (SIZE_LIMIT // 16))

    def pieces():
        return (big[at : at + 30_000] for at in range(0, len(big), 30_000))

    async def main():
        results = []
        for data, size in [(big, None), (pieces(), len(big)), (pieces(), None)]:
            async with bulkmail.Connection(server.url, **options) as connection:
                results.append(await outcome(connection, NEWS, [ANN], data, size=size))
                results.append(await outcome(connection, NEWS, [ANN], message(tag, "small")))
        return results

    results = run(main())
    refusals, wells = results[::2], results[1::2]
    assert [(type(refusal).__name__, refusal.permanent) for refusal in refusals] == [("MessageRefused", True)] * 3
    assert [code(refusal) for refusal in refusals] == [None, None, 550 if kind == "haraka" else 552]
    if kind == "exim BDAT":
        # It takes the rest of a chunk that is too big for commands, and hangs up.
        assert isinstance(wells.pop(), ConnectionLost)
    assert [well.accepted for well in wells] == [[ANN]] * len(wells)
    assert subjects(arrived(server, tag)) == ["small"] * len(wells)


def test_eight_bits_and_addresses_beyond_ascii(run, server, options, tag):
    data = f"X-Tag: {tag}\nFrom: {NEWS}\nSubject: x\n\nGrüße \N{SNOWMAN}\n"

    async def main():
        async with bulkmail.Connection(server.url, **options) as connection:
            plain = await connection.send(bulkmail.Envelope(NEWS, [ANN]), data)
            return plain, await connection.send(bulkmail.Envelope("jös@example.test", ["grün@example.test"]), data)

    assert [receipt.accepted for receipt in run(main())] == [[ANN], ["grün@example.test"]]
    expected = data.replace("\n", "\r\n").encode()
    assert sorted(arrived(server, tag)) == [
        (ANN, expected, NEWS),
        ("grün@example.test", expected, "jös@example.test"),
    ]


def test_reset_and_noop_between_messages(run, server, options, tag):
    async def main():
        async with bulkmail.Connection(server.url, **options) as connection:
            for number in range(3):
                assert (await connection.noop()).code == 250
                assert (await connection.send(bulkmail.Envelope(NEWS, [ANN]), message(tag, number))).accepted
                assert (await connection.reset()).code == 250
            assert (await connection.mail(NEWS)).code == 250

    run(main())
    assert subjects(arrived(server, tag)) == ["0", "1", "2"]


def test_many_recipients_of_one_transaction(run, server, options, tag):
    people = [f"{'unknown' if number % 10 == 3 else 'p'}{number}@example.test" for number in range(90)]
    good = [person for person in people if person.startswith("p")]

    async def main():
        async with bulkmail.Connection(server.url, **options) as connection:
            return await connection.send(bulkmail.Envelope(NEWS, people), message(tag))

    receipt = run(main())
    assert receipt.accepted == good
    assert [one.address for one in receipt.rejected] == [person for person in people if person not in good]
    assert sorted(copy.to for copy in arrived(server, tag)) == sorted(good)


def test_a_stream_of_messages_of_which_some_are_refused_each_from_its_own_sender(run, server, options, tag):
    def envelope(number):
        refused = number % 10
        subject = f"refuse {number}" if refused == 4 else number
        sender = f"{'refused' if refused == 7 else 'sender'}{number}@example.test"
        recipients = {1: ["unknown@example.test"], 2: ["unknown@example.test", ANN]}.get(refused, [ANN])
        return bulkmail.Envelope(sender, recipients), message(tag, subject)

    stream = map(envelope, range(300))
    receipts = run(deliver(server.url, stream, connections=2, messages_per_connection=70, **options))
    kinds = {receipt.index: type(receipt.error) for receipt in receipts}
    expected = {1: EnvelopeRefused, 7: EnvelopeRefused, 4: MessageRefused}
    assert len(receipts) == 300
    assert kinds == {number: expected.get(number % 10, type(None)) for number in range(300)}
    good = [str(number) for number in range(300) if number % 10 not in expected]
    copies = arrived(server, tag)
    assert subjects(copies) == sorted(good)
    # A server that keeps a failed transaction open would take the next message under its sender.
    assert sorted(copy.sender for copy in copies) == sorted(f"sender{number}@example.test" for number in good)


@pytest.mark.parametrize("pieces", [0, 1, 3])
def test_a_source_that_breaks_off_delivers_nothing(run, server, kind, options, tag, pieces):
    def source():
        yield from [message(tag, "half")] + [b"0123456789abcde\n" * 2000] * pieces
        raise OSError("the disk is gone")

    async def main():
        connection = bulkmail.Connection(server.url, **options)
        await connection.connect()
        with pytest.raises(OSError, match="the disk is gone"):
            await connection.send(bulkmail.Envelope(NEWS, [ANN]), source())
        after = await outcome(connection, NEWS, [ANN], message(tag, "after"))
        await connection.quit()
        return after

    after = run(main())
    if kind.endswith("BDAT"):
        assert after.accepted == [ANN]
    # By DATA what has begun can only be ended by hanging up.
    assert subjects(arrived(server, tag)) == ["after"] * (not isinstance(after, Exception))


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_over_tls(run, name, certificates, tmp_path, tag, tls):
    with start(name, tmp_path / "server", certificates, tls=tls) as server:
        messages = [message(tag, number, b"x" * 70 + b"\r\n") for number in range(30)]
        ca_file = str(certificates.ca_file)
        receipts = run(deliver(server.url, messages, connections=2, ca_file=ca_file))
        assert [(receipt.error, receipt.tls) for receipt in receipts] == [(None, "TLSv1.3")] * 30
        assert sorted(copy.content for copy in arrived(server, tag)) == sorted(messages)


@pytest.mark.parametrize("name", SERVERS)
def test_a_right_login_sends_and_a_wrong_one_is_tried_once(run, name, certificates, tmp_path, tag):
    def tries(log):
        return len(re.findall(r" C: AUTH [A-Z]", log.read_text()))

    with start(name, tmp_path / "server", certificates, login=True) as server:
        right, wrong = tmp_path / "right.log", tmp_path / "wrong.log"
        password = PASSWORD.replace("/", "%2F").replace(" ", "%20")
        url = server.url.replace("//", f"//{USER}:{password}@")
        messages = [message(tag, number) for number in range(6)]
        receipts = run(deliver(url, messages, connections=1, wire_log=str(right)))
        assert [receipt.error for receipt in receipts] == [None] * 6 and tries(right) == 1
        url = server.url.replace("//", f"//{USER}:wrong@")
        receipts = run(deliver(url, messages, connections=4, wire_log=str(wrong)))
        assert {type(receipt.error) for receipt in receipts} == {AuthError} and tries(wrong) == 1
        assert subjects(arrived(server, tag)) == sorted(map(str, range(6)))
        assert PASSWORD not in right.read_text()


async def logged_in(url, mechanism, **secret):
    async with bulkmail.Connection(url, auth=mechanism.lower()) as connection:
        await connection.login(USER, **secret)
        return connection.info.auth, (await connection.send(bulkmail.Envelope(NEWS, [ANN]), message("login"))).accepted


@pytest.mark.parametrize("name", SERVERS[:3])
def test_each_mechanism_that_a_server_knows(run, name, certificates, tmp_path):
    offered = {"postfix": PASSWORDS, "smtp-server": METHODS, "exim": ("PLAIN", "LOGIN", "CRAM-MD5")}[name]
    with start(name, tmp_path / "server", certificates, login=True) as server:
        for mechanism in offered:
            secret = {"token": TOKEN} if mechanism == "XOAUTH2" else {"password": PASSWORD}
            assert run(logged_in(server.url, mechanism, **secret)) == (mechanism.lower(), [ANN])
            with pytest.raises(AuthError):
                run(logged_in(server.url, mechanism, **dict.fromkeys(secret, "wrong")))
        assert len(arrived(server, "login")) == len(offered)


def test_haraka_which_refuses_what_is_sent_ahead_behind_the_data(run, start_haraka):
    # RFC 2920 section 3.1 allows it; Haraka fears smuggling (GHSA-rp4q-8m6x-c43c): "503 … pipelined after end of DATA".
    server = start_haraka()
    receipts = run(deliver(server.url, [message("haraka", number) for number in range(20)], connections=1))
    assert [receipt.error for receipt in receipts] == [None] * 20
    assert subjects(arrived(server, "haraka")) == sorted(map(str, range(20)))


def test_opensmtpd_which_does_not_pipeline(run, start_opensmtpd):
    server = start_opensmtpd()

    def envelope(number):
        sender = f"{'refused' if number % 10 == 7 else 'sender'}{number}@example.test"
        recipients = {1: ["unknown@example.test"], 2: ["unknown@example.test", ANN]}.get(number % 10, [ANN])
        return bulkmail.Envelope(sender, recipients), message("opensmtpd", number, b".\r\n..\r\n.x\r\n")

    receipts = run(deliver(server.url, map(envelope, range(40)), connections=2))
    refused = {receipt.index for receipt in receipts if isinstance(receipt.error, EnvelopeRefused)}
    assert refused == {number for number in range(40) if number % 10 in (1, 7)}
    delivered = [_stored(content) for content in server.wait_for(32)]
    senders = sorted(copy.sender for copy in delivered)
    assert senders == sorted(f"sender{number}@example.test" for number in range(40) if number not in refused)
    assert all(copy.content.endswith(b"\r\n\r\n.\r\n..\r\n.x\r\n") for copy in delivered)
