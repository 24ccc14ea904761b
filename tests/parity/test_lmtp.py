"""LMTP: a verdict for each recipient after the content; some refused are in the receipt, all refused is an error."""

from __future__ import annotations

import pytest

from bulkmail.errors import EnvelopeRefused, MessageRefused
from bulkmail.smtp.connection import Connection
from bulkmail.smtp.envelope import Envelope
from faults.scripted import GREETING, content, expect, offer, scripted, send, serve

SIX = [f"u{n}@example.test" for n in range(1, 7)]
REFUSED = b"550 5.2.1 not here\r\n"


def lmtp(refused_rcpt, verdicts):
    """One message: which recipients are refused at RCPT, and the verdicts of the others, as lists of replies."""
    rcpts = [reply for n in range(6) for reply in (expect(rb"RCPT .*"), send(refused_rcpt.get(n, b"250 ok\r\n")))]
    hello = [send(GREETING), expect(rb"LHLO \S+"), send(offer())]
    data = [expect(rb"DATA"), send(b"354 go\r\n"), content(), *map(send, verdicts)]
    return [*hello, expect(rb"MAIL .*"), send(b"250 ok\r\n"), *rcpts, *data, serve()]


async def sent(script, **options):
    async with (
        scripted(script) as server,
        Connection(server.url.replace("smtp:", "lmtp:"), **options) as connection,
    ):
        try:
            result = await connection.send(Envelope("news@example.test", SIX), b"hello\r\n")
        except (EnvelopeRefused, MessageRefused) as error:
            result = error
        await connection.noop()
        return result


def test_verdicts_that_differ_are_told_apart(run):
    verdicts = [REFUSED if n % 2 == 0 else b"250 taken\r\n" for n in range(5)]
    receipt = run(sent(lmtp({1: b"550 5.1.1 unknown\r\n"}, verdicts)))
    assert receipt.accepted == ["u3@example.test", "u5@example.test"]
    rejected = {r.address: (type(r.error), r.reply.enhanced) for r in receipt.rejected}
    assert rejected == {
        "u1@example.test": (MessageRefused, "5.2.1"),
        "u2@example.test": (EnvelopeRefused, "5.1.1"),
        "u4@example.test": (MessageRefused, "5.2.1"),
        "u6@example.test": (MessageRefused, "5.2.1"),
    }
    assert receipt.error is None


def test_refused_for_everybody_after_the_content_is_an_error(run):
    error = run(sent(lmtp({}, [REFUSED] * 6)))
    assert type(error) is MessageRefused and error.reply.code == 550 and error.command == "end of data"


@pytest.mark.parametrize("code", [250, 451])
def test_all_verdicts_may_come_at_once(run, code):
    result = run(sent(lmtp({}, [b"%d x\r\n" % code * 6])))
    if code == 250:
        assert result.accepted == SIX and result.rejected == []
    else:
        assert type(result) is MessageRefused and not result.permanent
