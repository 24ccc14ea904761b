"""The published smuggling sequences as data for our client: what it sends is one message for servers of every kind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bulkmail import Mailer
from bulkmail.errors import MessageError
from bulkmail.smtp.connection import Connection
from bulkmail.smtp.envelope import Envelope
from bulkmail.wire.body import encode_body, encode_message, end_body
from faults.scripted import hello, scripted, serve
from smuggling import LINE_ENDS, NEIGHBOURS, PUBLISHED, SMUGGLED, Row, messages_seen, smuggling

ANN = Envelope("news@example.test", ["ann@example.test"])
OFFERS = {"DATA": (), "DATA pipelined": ("PIPELINING",), "BDAT": ("PIPELINING", "CHUNKING")}


def assert_one(text: bytes) -> None:
    for kind in LINE_ENDS:
        assert messages_seen(text, kind) == 1, (kind, text)
    assert text.endswith(b"\r\n.\r\n")


def sent(data: Any, offer: tuple[str, ...], mailer: bool = False) -> tuple[bytes, list[bytes]]:
    """All that the client said, and the messages that a server took."""

    async def main() -> tuple[bytes, list[bytes]]:
        async with scripted([*hello(*offer), serve()]) as server:
            if mailer:
                async with Mailer(server.url) as many:
                    await many.send(data, envelope=ANN)
            else:
                async with Connection(server.url) as connection:
                    await connection.send(ANN, data)
            taken = server.contents()
            assert not any(lone in content.replace(b"\r\n", b"") for content in taken for lone in (b"\r", b"\n"))
            return bytes(server.peers[0].said), taken

    return asyncio.run(asyncio.wait_for(main(), 20))


def text_of(said: bytes) -> bytes:
    """What stands between DATA and QUIT."""
    _, found, text = said.partition(b"DATA\r\n")
    assert found
    return text.removesuffix(b"QUIT\r\n")


def byte_by_byte(data: bytes) -> Any:
    return (data[n : n + 1] for n in range(len(data)))


@pytest.mark.parametrize("row", [*PUBLISHED, *NEIGHBOURS], ids=lambda row: repr(row.end))
def test_the_encoder_leaves_one_end_however_it_is_fed(row: Row) -> None:
    for eol in (b"\r\n", b"\n"):
        data = smuggling(row, eol)
        assert_one(encode_message(data))
        place = data.index(row.end)
        for cut in range(place, place + len(row.end) + 1):
            first, carry = encode_body(data[:cut], 0)
            second, carry = encode_body(data[cut:], carry)
            assert_one(first + second + end_body(carry))


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("form", ["whole", "byte by byte"])
def test_a_connection_sends_one_message(offer: str, form: str) -> None:
    for row in PUBLISHED:
        data = smuggling(row)
        said, taken = sent(data if form == "whole" else byte_by_byte(data), OFFERS[offer])
        assert len(taken) == 1 and SMUGGLED.count(b"evil") == taken[0].count(b"evil")
        if offer != "BDAT":
            assert_one(text_of(said))


@pytest.mark.parametrize("offer", OFFERS)
def test_a_mailer_sends_one_message(offer: str) -> None:
    for row in PUBLISHED:
        if b"\x00" in row.end:  # some servers dropped NULs, and then saw the real end
            with pytest.raises(MessageError, match="there is a NUL"):
                sent(smuggling(row), OFFERS[offer], mailer=True)
            continue
        said, taken = sent(smuggling(row), OFFERS[offer], mailer=True)
        assert len(taken) == 1
        if offer != "BDAT":
            assert_one(text_of(said))
