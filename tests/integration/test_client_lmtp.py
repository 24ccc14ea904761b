"""LMTP against servers that others wrote: Dovecot over TCP and a Unix socket, npm's smtp-server."""

from __future__ import annotations

import pytest

import bulkmail
from bulkmail.errors import EnvelopeRefused, MessageRefused
from integration.servers.dovecot import FULL, QUOTA, dovecot

ANN, BOB, CY, NEWS = "ann@example.test", "bob@example.test", "cy@example.test", "news@example.test"
LONG = b"x" * 70 + b"\r\n"


def message(number, body=b"hello\r\n.dot\r\n"):
    return f"From: {NEWS}\r\nTo: {ANN}\r\nSubject: {number}\r\n\r\n".encode() + body


@pytest.fixture(scope="module")
def shared():
    with dovecot() as server:
        yield server


@pytest.fixture(params=["TCP", "Unix socket"])
def url(request, shared):
    return shared.url if request.param == "TCP" else shared.unix_url


def held(server, address, start=b"From: "):
    """How many messages there are, and what the last one holds from its header's From on."""
    contents = server.contents(address)
    last = contents[-1] if contents else b""
    return len(contents), last[last.find(start) :].replace(b"\n", b"\r\n")


async def one(url, recipients, data, **options):
    async with bulkmail.Connection(url, **options) as connection:
        return await connection.send(bulkmail.Envelope(NEWS, recipients), data)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_dovecot_s_verdict_for_each_recipient(run, shared, url, streamed):
    data = message(1, b".\r\n..\r\n" + LONG * (QUOTA // 70))
    before = {who: held(shared, who)[0] for who in (ANN, BOB, FULL)}
    receipt = run(
        one(url, [ANN, "stranger@example.test", FULL, BOB], iter([data[:70], data[70:]]) if streamed else data)
    )
    assert receipt.accepted == [ANN, BOB] and receipt.error is None
    assert [(who.address, who.reply.code, who.reply.enhanced) for who in receipt.rejected] == [
        ("stranger@example.test", 550, "5.1.1"),
        (FULL, 552, "5.2.2"),
    ]
    assert [type(who.error) for who in receipt.rejected] == [EnvelopeRefused, MessageRefused]
    assert [who.error.scope for who in receipt.rejected] == ["recipient", "recipient"]
    assert [held(shared, who) for who in (ANN, BOB)] == [(before[who] + 1, data) for who in (ANN, BOB)]
    assert held(shared, FULL)[0] == before[FULL]


def test_dovecot_refuses_everybody_at_once_or_after_the_data(run, url):
    big = message(2, LONG * (QUOTA // 70))

    async def main():
        refusals = []
        async with bulkmail.Connection(url) as connection:
            for recipients in [["stranger@example.test"], [FULL], ["stranger@example.test", FULL]]:
                with pytest.raises((EnvelopeRefused, MessageRefused)) as refused:
                    await connection.send(bulkmail.Envelope(NEWS, recipients), big)
                refusals.append((type(refused.value), refused.value.reply.code))
            return refusals, await connection.send(bulkmail.Envelope(NEWS, [ANN]), message(3))

    refusals, receipt = run(main())
    assert refusals[:2] == [(EnvelopeRefused, 550), (MessageRefused, 552)]
    assert refusals[2] in refusals[:2] and receipt.accepted == [ANN]


def test_dovecot_takes_many_messages_over_a_few_connections(run, shared, url):
    before = held(shared, CY)[0]

    async def main():
        async with bulkmail.Mailer(url, connections=3) as mailer:
            envelope = bulkmail.Envelope(NEWS, [CY, FULL, "stranger@example.test"])
            stream = ((envelope, message(number, LONG * (QUOTA // 70))) for number in range(40))
            return [receipt async for receipt in mailer.send_many(stream)]

    receipts = run(main())
    assert sorted(receipt.index for receipt in receipts) == list(range(40))
    assert all(receipt.accepted == [CY] and receipt.error is None for receipt in receipts)
    assert all({who.address for who in receipt.rejected} == {FULL, "stranger@example.test"} for receipt in receipts)
    assert held(shared, CY)[0] == before + 40


def test_dovecot_with_starttls(run, start_dovecot, certificates):
    server = start_dovecot(tls="starttls")

    async def main():
        async with bulkmail.Connection(server.url, ca_file=str(certificates.ca_file)) as connection:
            await connection.send(bulkmail.Envelope(NEWS, [ANN]), message(4))
            return connection.tls

    assert run(main()) == "TLSv1.3" and held(server, ANN) == (1, message(4))


def test_a_source_that_breaks_off_delivers_nothing_by_lmtp(run, shared, url):
    before = held(shared, BOB)[0]

    def source():
        yield message(5, LONG * 2000)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        run(one(url, [BOB], source()))
    assert run(one(url, [BOB], message(6))).accepted == [BOB]
    assert held(shared, BOB) == (before + 1, message(6))


def test_smtp_server_s_verdict_for_each_recipient(run, start_smtp_server):
    server = start_smtp_server(lmtp=True)
    receipt = run(one(server.url, ["unknown@example.test", ANN, FULL, BOB], message(7)))
    assert receipt.accepted == [ANN, BOB]
    assert [(who.address, who.reply.code) for who in receipt.rejected] == [("unknown@example.test", 550), (FULL, 552)]
    (mail,) = server.mails
    assert mail.content == message(7)
