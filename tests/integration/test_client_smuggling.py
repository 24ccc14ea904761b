"""The published smuggling sequences as data for our client, to servers that others wrote: each message is one there."""

from __future__ import annotations

import asyncio
import re

from bulkmail import Connection, Envelope
from smuggling import PUBLISHED, SMUGGLED, smuggling

ANN = Envelope("news@example.test", ["ann@example.test"])
ROWS = [row for row in PUBLISHED if b"\x00" not in row.end]  # a NUL is no mail: some servers refuse it, some drop it
LAST = b"Subject: last\r\n\r\nlast\r\n"


async def send_all(url: str) -> None:
    async with Connection(url) as connection:
        for row in ROWS:
            data = smuggling(row)
            await connection.send(ANN, data)
            await connection.send(ANN, (data[n : n + 1] for n in range(len(data))))
        await connection.send(ANN, LAST)


def assert_one_each(contents: list[bytes]) -> None:
    assert len(contents) == 2 * len(ROWS) + 1
    subjects = [re.search(rb"^Subject: (\w+)", content, re.M) for content in contents]
    assert sorted(subject[1] for subject in subjects if subject) == [b"last"] + [b"one"] * (2 * len(ROWS))
    evil = SMUGGLED.count(b"evil")
    assert all(content.count(b"evil") == evil for content in contents if b"Subject: one" in content)


def test_postfix_sees_one_message_each(start_postfix):
    server = start_postfix()
    asyncio.run(send_all(server.url))
    assert_one_each(server.wait_for(2 * len(ROWS) + 1))


def test_aiosmtpd_sees_one_message_each(start_aiosmtpd):
    server = start_aiosmtpd()
    asyncio.run(send_all(server.url))
    assert_one_each([mail.content for mail in server.mails])


def test_exim_sees_one_message_each(start_exim):
    server = start_exim()
    asyncio.run(send_all(server.url))
    assert_one_each(server.wait_for(2 * len(ROWS) + 1))
