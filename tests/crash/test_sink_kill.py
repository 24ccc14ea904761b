"""kill -9 while the sink stores: every message that was answered with 250 is there, whole, and on record.

The incident: a server that said "queued" before the message was where its readers look, or wrote half of it.
"""

from __future__ import annotations

import asyncio
import json
import mailbox
import signal
import subprocess
from pathlib import Path

import pytest

from integration import cli_program
from integration.servers.common import stop
from integration.sink_program import read_ports, sink
from unit.sink.sink_client import HELLO, MAIL, RCPT, Client

CLIENTS = 8
BEFORE = 300  # messages that are answered before the kill
LINES = b"".join(b"line %d\r\n" % number for number in range(200))


def content_of(name: bytes) -> bytes:
    return b"Subject: " + name + b"\r\n\r\n" + LINES + b"end of " + name + b"\r\n"


async def send_until_killed(process: subprocess.Popen[str], port: int) -> dict[str, bytes]:
    """What was answered: the reply's id, and the message's name."""
    answered: dict[str, bytes] = {}

    async def send(number: int) -> None:
        async with Client(port) as client:
            await client.say(HELLO)
            for count in range(100_000):
                name = b"%d-%d" % (number, count)
                content = content_of(name)
                client.writer.write(MAIL + RCPT + b"BDAT %d LAST\r\n" % len(content) + content)
                replies = [await client.reply() for _ in range(3)]
                if not replies[2].startswith("250"):
                    return
                answered[replies[2].split()[-1]] = name
                if len(answered) == BEFORE:
                    process.send_signal(signal.SIGKILL)

    clients = [asyncio.create_task(send(number)) for number in range(CLIENTS)]
    for outcome in await asyncio.gather(*clients, return_exceptions=True):
        assert outcome is None or isinstance(outcome, ConnectionError), outcome
    return answered


def killed(folder: Path, *options: str) -> dict[str, bytes]:
    process = cli_program.start("sink", "--listen=127.0.0.1:0", *options, cwd=folder)
    try:
        (port,) = read_ports(process, 1)
        answered = asyncio.run(send_until_killed(process, port))
    finally:
        stop(process)
        process.communicate()
    assert len(answered) >= BEFORE
    return answered


@pytest.mark.parametrize("options", [[], ["--fsync"]], ids=["plain", "fsync"])
def test_what_was_answered_is_in_the_maildir(options: list[str], tmp_path: Path) -> None:
    box = tmp_path / "box"
    answered = killed(tmp_path, "--store", "box", *options)
    lines = (box / "envelopes.jsonl").read_bytes().splitlines(keepends=True)
    envelopes = [json.loads(line) for line in lines if line.endswith(b"\n")]
    by_id = {envelope["id"]: envelope for envelope in envelopes}
    for ident, name in answered.items():
        assert (box / by_id[ident]["file"]).read_bytes() == content_of(name)
    for file in (box / "new").iterdir():  # those that were not answered in time are whole, too
        assert file.read_bytes() == content_of(file.read_bytes()[9:].partition(b"\r")[0])
    with sink(tmp_path) as again:  # it goes on
        assert asyncio.run(one_more(again.port)).startswith("250")
    assert all(json.loads(line) for line in (box / "envelopes.jsonl").read_bytes().splitlines())


def test_what_was_answered_is_in_the_mbox(tmp_path: Path) -> None:
    answered = killed(tmp_path, "--mbox", "box")
    box = mailbox.mbox(tmp_path / "box", create=False)
    whole = {content_of(name).replace(b"\r\n", b"\n") for name in answered.values()}
    assert whole <= {box.get_bytes(key) for key in box.keys()}  # noqa: SIM118  # a mailbox iterates over its values
    box.close()


async def one_more(port: int) -> str:
    async with Client(port) as client:
        await client.say(HELLO)
        return await client.deliver()
