"""How large a journal is: bytes for each delivered recipient, with the replies of a real server.

    python benchmarks/micro/journal_size.py [RECIPIENTS...]         (default: 100000 1000000)

Replies are Postfix's, `250 2.0.0 Ok: queued as ...`, with queue ids as it makes them (src/global/mail_queue.h): short
ones, the microseconds of the moment and the inode in hexadecimal, and long ones (enable_long_queue_ids), the moment in
seconds and microseconds and the inode in base 52.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bulkmail.job.detail import DetailBuffer
from bulkmail.job.journal import Journal
from bulkmail.job.ledger import CHUNK_SIZE, DELIVERED, Advance, pack

BASE_52 = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
RATE = 2000.0  # messages a second
COMMIT = 512
ROW = 60  # bytes of a recipient in the list
INODES = 4096  # that a queue of this size goes through again and again


class Pin(NamedTuple):
    path: str = "/lists/news.jsonl"
    format: str = "jsonl"
    size: int = 1
    mtime_ns: int = 1
    digest: str | None = "d"


def base_52(number: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, 52)
        text = BASE_52[digit] + text
    return text


def queue_ids(long: bool) -> Iterator[tuple[float, str]]:
    """(moment, queue id) of one message after the other."""
    chance, moment = random.Random(1), 1_700_000_000.0
    while True:
        moment += chance.expovariate(RATE)
        seconds, micros = int(moment), int(moment % 1 * 1e6)
        inode = 1_310_000 + chance.randrange(INODES)
        if long:
            yield moment, f"{base_52(seconds):0>6}{base_52(micros):0>4}z{base_52(inode)}"
        else:
            yield moment, f"{micros:05X}{inode:X}"


def fill(journal: Journal, recipients: int) -> None:
    with journal.fill() as filler:
        for first in range(1, recipients + 1, CHUNK_SIZE):
            n = min(CHUNK_SIZE, recipients + 1 - first)
            filler.add_chunk("*", pack(range(first, first + n), range(first * ROW, (first + n) * ROW, ROW)), n)
        filler.set_total(recipients)


def deliver(journal: Journal, long: bool) -> None:
    """As a run does it: two chunks in hand, a commit for every 512 recipients."""
    ids, main, details = queue_ids(long), journal.name_id("main"), DetailBuffer()
    while chunks := journal.lease(2, 1.0):
        order = [(chunk, place) for chunk in chunks for place in range(chunk.n)]
        for start in range(0, len(order), COMMIT):
            for chunk, place in order[start : start + COMMIT]:
                moment, name = next(ids)
                reply = b"250 2.0.0 Ok: queued as %s\r\n" % name.encode()
                details.add(chunk.no, place, 1, main, 0, moment - 0.01, moment, 250, reply, DELIVERED)
                chunk.outcome[place] = DELIVERED
                chunk.claimed = max(chunk.claimed, place + 1)
            rows = [(chunk.no, chunk.fence, chunk.claimed, bytes(chunk.outcome)) for chunk in chunks]
            touched = {chunk.no for chunk, _ in order[start : start + COMMIT]}
            journal.advance(Advance([row for row in rows if row[0] in touched], details=details.flush()))


def measure(recipients: int, long: bool) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "news.journal"
        with Journal.create(path, job="news", manifest_digest="m", pin=Pin()) as journal:
            fill(journal, recipients)
            deliver(journal, long)
            journal.finish("finished")
        return path.stat().st_size / recipients


def main() -> None:
    for recipients in [int(text) for text in sys.argv[1:]] or [100_000, 1_000_000]:
        for long in (False, True):
            kind = "long" if long else "short"
            print(
                f"{recipients:>9,} recipients, {kind} queue ids: {measure(recipients, long):.1f} bytes each", flush=True
            )


if __name__ == "__main__":
    main()
