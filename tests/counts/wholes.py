"""Whole runs against a server, 20 connections, messages of 2 KB; steps as those of pieces.py.

SINK and CHUNKING_SINK in the environment are the ports of a server without CHUNKING and of one with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bulkmail import Envelope, Mailer
from bulkmail.cli import main as bulkmail
from bulkmail.net.loop import run
from counts.pieces import BODY, Steps

CONNECTIONS = 20
TEXT = "Dear {{ name }},\n" + "the quick brown fox jumps over the lazy dog, and a newsletter goes on\n" * 20
CONTENT = BODY.removesuffix(b".\r\n")


def port(chunking: bool) -> str:
    return os.environ["CHUNKING_SINK" if chunking else "SINK"]


def command(*arguments: str) -> dict[str, Any]:
    """What `bulkmail ARGUMENTS --json` prints in the end."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        bulkmail([*arguments, "--json"], standalone_mode=False)
    found: dict[str, Any] = json.loads(out.getvalue().splitlines()[-1])
    return found


def write_job(folder: Path, count: int, *, chunking: bool, shared: bool) -> Path:
    with (folder / "list.jsonl").open("w") as file:
        file.writelines(f'{{"email": "user{n}@example.test", "name": "Reader {n}"}}\n' for n in range(count))
    os.utime(folder / "list.jsonl", (0, 0))
    options = {"connections": CONNECTIONS, "messages_per_connection": 0}
    relay = {"name": "sink", "url": f"smtp://127.0.0.1:{port(chunking)}?tls=never", **options}
    to = {"to": "readers@example.test"} if shared else {"to": "{{ name }} <{{ email }}>"}
    text = TEXT.replace("{{ name }}", "reader") if shared else TEXT
    message = {"from": "news@example.test", **to, "subject": "Notes", "text": text}
    manifest = {"job": "counts", "message": message, "recipients": "list.jsonl", "relays": [relay]}
    path = folder / "counts.json"
    path.write_text(json.dumps({**manifest, "journal": "counts.journal"}))
    return path


def send(*, chunking: bool = False, shared: bool = False) -> Steps:
    def piece(count: int) -> Iterator[None]:
        with tempfile.TemporaryDirectory() as folder:
            manifest = write_job(Path(folder), count, chunking=chunking, shared=shared)
            yield
            summary = command("send", str(manifest), "--no-progress")
            yield
        assert summary["delivered"] == count

    return piece


def bench(*, chunking: bool = False) -> Steps:
    def piece(count: int) -> Iterator[None]:
        url = f"smtp://127.0.0.1:{port(chunking)}?tls=never"
        yield
        summary = command("bench", url, f"--messages={count}", f"--connections={CONNECTIONS}", "--size=2000")
        yield
        assert summary["messages"] == count

    return piece


async def stream(mails: list[tuple[Envelope, bytes]], url: str) -> int:
    taken = 0
    async with Mailer(url, tls="never", connections=CONNECTIONS, messages_per_connection=0) as mailer:
        async for receipt in mailer.send_many(mails):
            taken += receipt.error is None
    return taken


def send_many(count: int) -> Iterator[None]:
    mails = [(Envelope("news@example.test", [f"user{n}@example.test"]), CONTENT) for n in range(count)]
    yield
    taken = run(stream(mails, f"smtp://127.0.0.1:{port(False)}"))
    yield
    assert taken == count


async def tasks(count: int, url: str) -> int:
    """As applications do that send one mail at a time: each task awaits its own."""

    async def share(mailer: Mailer, numbers: range) -> int:
        for number in numbers:
            await mailer.send(CONTENT, envelope=Envelope("news@example.test", [f"user{number}@example.test"]))
        return len(numbers)

    async with Mailer(url, tls="never", connections=CONNECTIONS, messages_per_connection=0) as mailer:
        return sum(await asyncio.gather(*(share(mailer, range(first, count, 100)) for first in range(100))))


def singles(count: int) -> Iterator[None]:
    yield
    taken = run(tasks(count, f"smtp://127.0.0.1:{port(False)}"))
    yield
    assert taken == count


WHOLES: dict[str, Steps] = {
    "send": send(),
    "send, CHUNKING": send(chunking=True),
    "send, shared": send(shared=True),
    "bench": bench(),
    "bench, CHUNKING": bench(chunking=True),
    "send_many": send_many,
    "singles": singles,
}
