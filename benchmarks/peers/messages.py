"""The messages of the benchmark: one ready-made for the peers, and a template of the same size for `bulkmail send`."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

SENDER = "news@example.test"
MANIFEST = "bench.json"
WIDTH = 72
TEXT = (
    "this month we looked at what it takes to send a letter to everybody who asked for one and to nobody else, how a "
    "list is kept clean, why a server says not now, and what a quiet evening with a packet trace can teach about both"
)

# What a recipient's copy has of its own at 2 KB, and ten of them at 20 KB.
SLOTS = ("Dear {{ name }},", "your number is {{ id }}", "https://example.test/read/{{ id }}")


def prose(size: int, *, dots: bool = False) -> str:
    """About `size` characters of lines of WIDTH; with `dots`, every twentieth line begins with one."""
    words, lines, total = itertools.cycle(TEXT.split()), [], 0
    while total < size:
        line = "." if dots and len(lines) % 20 == 19 else next(words)
        while len(line) < WIDTH - 10:
            line += " " + next(words)
        line = line[: max(1, size - total - 1)]
        lines.append(line)
        total += len(line) + 1
    return "\n".join(lines) + "\n"


def message(size: int) -> bytes:
    """A message of exactly `size` bytes as it stands before its dots are doubled: 7-bit, CRLF, no line over 78."""
    headers = (
        f"From: Example News <{SENDER}>\r\nTo: Ann Reader <user1@example.test>\r\nSubject: Notes for Ann Reader\r\n"
        "Date: Fri, 21 Nov 2025 09:00:00 +0000\r\nMessage-ID: <1.bench@example.test>\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=us-ascii\r\nContent-Transfer-Encoding: 7bit\r\n\r\n"
    )
    room = size - len(headers) - 2
    body = prose(room, dots=size > 4096).replace("\n", "\r\n")[:room].rstrip("\r\n")
    filled = headers + body + "x" * (room - len(body)) + "\r\n"
    assert len(filled) == size
    return filled.encode("ascii")


def paragraphs(filler: int, slots: int) -> str:
    """Prose of about `filler` characters with `slots` marks in between."""
    text = prose(filler)
    marks = itertools.islice(itertools.cycle(SLOTS), slots)
    step = max(1, len(text) // slots)
    pieces = [text[at : at + step] for at in range(0, len(text), step)]
    return "".join(f"{mark}\n{piece}" for mark, piece in itertools.zip_longest(marks, pieces, fillvalue=""))


def html(filler: int, slots: int) -> str:
    prose = paragraphs(filler, slots).replace("\n\n", "\n</p>\n<p>\n")
    return f"<!DOCTYPE html>\n<html><body>\n<p>\n{prose}</p>\n</body></html>\n"


def write_job(folder: Path, *, size: int, filler: int, recipients: int, url: str, connections: int) -> Path:
    """Write manifest, templates and recipients of a personalised job; returns the manifest's path.

    size     2 KB class: text alone, 3 slots; above 4 KB: text and html, 10 slots
    filler   characters of prose in all, which decide how large the messages come out
    """
    folder.mkdir(parents=True, exist_ok=True)
    body = {"text": {"file": "news.txt"}}
    if size > 4096:
        (folder / "news.txt").write_text(paragraphs(filler // 3, 3))
        (folder / "news.html").write_text(html(filler - filler // 3, 7))
        body["html"] = {"file": "news.html"}
    else:
        (folder / "news.txt").write_text(paragraphs(filler, 3))
    write_recipients(folder / "recipients.jsonl", recipients)
    relay = {"name": "sink", "url": url, "connections": connections, "messages_per_connection": 0}
    manifest = {
        "job": "bench",
        "message": {
            "from": f"Example News <{SENDER}>",
            "to": "{{ name }} <{{ email }}>",
            "subject": "Notes for {{ name }}",
            **body,
        },
        "recipients": "recipients.jsonl",
        "relays": [relay],
        "journal": "bench.journal",
    }
    path = folder / MANIFEST
    path.write_text(json.dumps(manifest, indent=1))
    return path


def write_recipients(path: Path, count: int) -> None:
    """`count` subscribers as JSON lines, each with an address, a name and an id of its own."""
    with path.open("w") as file:
        file.writelines(
            f'{{"email": "user{number}@example.test", "name": "Reader {number}", "id": "r{number:07d}"}}\n'
            for number in range(count)
        )
    os.utime(path, (0, 0))
