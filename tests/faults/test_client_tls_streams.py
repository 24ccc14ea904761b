"""Streamed messages over TLS: the transport says when it has room again, also when it was never full."""

from __future__ import annotations

import asyncio

import pytest

from bulkmail.smtp.connection import Connection
from bulkmail.smtp.envelope import Envelope
from faults.mails import WELL
from faults.scripted import expect, hello, offer, scripted, send, serve, start_tls

pytestmark = pytest.mark.usefixtures("both_ways")

ANN = Envelope("news@example.test", ["ann@example.test"])
CONTENT = b"line of a message that is larger than a socket takes at once\r\n" * 10_000


@pytest.mark.parametrize("implicit", [True, False], ids=["smtps", "STARTTLS"])
def test_one_stream_after_the_other_arrives(run, certificates, implicit):
    context = certificates.server_context()
    begin = [*hello("STARTTLS"), expect(rb"STARTTLS"), send(b"220 go\r\n"), start_tls(context)]
    upgraded = [*begin, expect(rb"EHLO \S+"), send(offer("PIPELINING")), serve()]

    async def main():
        async with (
            scripted(WELL if implicit else upgraded, implicit_tls=context if implicit else None) as server,
            asyncio.timeout(30),
            Connection(server.url, ca_file=str(certificates.ca_file)) as connection,
        ):
            for _ in range(3):
                await connection.send(ANN, (CONTENT[at : at + 70_000] for at in range(0, len(CONTENT), 70_000)))
                await connection.send(ANN, b"between\r\n")
            return server.contents()

    assert run(main()) == [CONTENT, b"between\r\n"] * 3
