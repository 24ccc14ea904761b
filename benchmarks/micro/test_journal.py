"""What a recipient costs in the journal: details added, commits of 512, alone and beside a busy event loop.

Figures are for one commit of 512 recipients over 4 chunks, or for one call, as each test says.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from bulkmail.job.detail import DetailBuffer, bad_step, decode, tally
from bulkmail.job.journal import Journal
from bulkmail.job.ledger import DEFERRED, Advance, Chunk, Trouble, pack
from bulkmail.job.report import iter_report, status
from bulkmail.job.writer import Writer

NOW = 1_700_000_000.0
IN_HAND = 4
COMMIT = 512
EACH = COMMIT // IN_HAND
COMMITS = 200
DELIVERED = ord("D")
# Rows of 60 to 180 bytes: what packs them is their differences, so these must not be regular.
OFFSETS = list(itertools.accumulate(random.Random(1).choices(range(60, 180), k=1000)))


class Pin:
    path, format, size, mtime_ns, digest = "/lists/news.jsonl", "jsonl", 1, 1, "d"


def make_journal(path: Path, chunks: int) -> Journal:
    journal = Journal.create(path, job="news", manifest_digest="m", pin=Pin)
    with journal.fill() as filler:
        for i in range(chunks):
            filler.add_chunk("*", pack(range(1 + i * 1000, 1001 + i * 1000), OFFSETS), 1000)
    return journal


def replies() -> list[bytes]:
    return [b"250 2.0.0 Ok: queued as %011X\r\n" % (i * 2654435761 * 40503 % 2**44) for i in range(COMMIT)]


class Sender:
    """Settles what the last commit claimed and claims as much again, over the chunks in hand."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.buffer = DetailBuffer()
        self.replies = replies()
        self.serial = itertools.count(1)
        self.hand: list[Chunk] = []

    def settle(self) -> Advance:
        """The next advance: EACH outcomes in each chunk, with details."""
        if not self.hand:
            self.hand = self.journal.lease(IN_HAND, NOW)
        batch = Advance(serial=next(self.serial))
        queued = iter(self.replies)
        for chunk in self.hand:
            start, end = chunk.claimed - EACH, chunk.claimed
            for i in range(max(0, start), end):
                self.buffer.add(chunk.no, i, 1, 1, 1, 10.0, 10.05, 250, next(queued), DELIVERED)
            chunk.outcome[:end] = b"D" * end
            chunk.claimed = min(chunk.n, end + EACH)
            batch.chunks.append((chunk.no, chunk.fence, chunk.claimed, bytes(chunk.outcome)))
        batch.details = self.buffer.flush()
        if end == chunk.n:
            self.hand = []
        return batch


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Sender]:
    journal = make_journal(tmp_path / "news.journal", 1200)
    yield Sender(journal)
    journal.close()


def test_advance_of_512_with_details(benchmark: Any, sender: Sender) -> None:
    """In the writer's thread, with nothing beside it."""
    benchmark.pedantic(sender.journal.advance, setup=lambda: ((sender.settle(),), {}), rounds=1500)
    assert sender.journal.counts().delivered > 600_000


def test_advance_of_512_outcomes_alone(benchmark: Any, sender: Sender) -> None:
    def setup() -> tuple[tuple[Advance], dict[str, Any]]:
        batch = sender.settle()
        batch.details = []
        return (batch,), {}

    benchmark.pedantic(sender.journal.advance, setup=setup, rounds=1500)


def test_advance_of_one_recipient(benchmark: Any, sender: Sender) -> None:
    """A slow job claims and settles one at a time."""
    (chunk,) = sender.journal.lease(1, NOW)

    def setup() -> tuple[tuple[Advance], dict[str, Any]]:
        chunk.outcome[chunk.claimed - 1 : chunk.claimed] = b"D"[: chunk.claimed]
        chunk.claimed += 1
        return (
            Advance([(chunk.no, chunk.fence, chunk.claimed, bytes(chunk.outcome))], serial=next(sender.serial)),
        ), {}

    benchmark.pedantic(sender.journal.advance, setup=setup, rounds=990)


def test_advance_of_512_deferred(benchmark: Any, sender: Sender) -> None:
    """Everybody is refused for now: a row of trouble each."""
    numbers = itertools.count(1)

    def setup() -> tuple[tuple[Advance], dict[str, Any]]:
        batch = sender.settle()
        batch.details = []
        batch.troubles = [
            Trouble(
                f"user{n}@example.com", n, 1, 0, 1, DEFERRED, "greylisted", 450, "4.2.0", "4.2.0 try again", 1, 1, NOW
            )
            for n in itertools.islice(numbers, COMMIT)
        ]
        return (batch,), {}

    benchmark.pedantic(sender.journal.advance, setup=setup, rounds=100)


class BusyLoop:
    """Callbacks of `seconds` each, back to back, that hold the GIL: a loop with more to do than it can."""

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self.on = True
        self._step()

    def _step(self) -> None:
        end = time.perf_counter() + self._seconds
        while time.perf_counter() < end:
            pass
        if self.on:
            self._loop.call_soon(self._step)


@pytest.mark.parametrize("callback_us", [10, 200])
def test_commits_beside_a_busy_loop(benchmark: Any, sender: Sender, callback_us: int) -> None:
    """One round: COMMITS advances of 512 through the Writer, one after the other. extra_info: one of them."""

    async def main() -> float:
        done = asyncio.get_running_loop().create_future()
        writer = Writer(sender.journal)

        def next_commit(error: BaseException | None, left: int) -> None:
            assert error is None
            if left:
                writer.submit(sender.settle(), lambda error: next_commit(error, left - 1))
            else:
                done.set_result(None)

        began, busy = time.perf_counter(), BusyLoop(callback_us / 1e6)
        next_commit(None, COMMITS)
        await done
        busy.on = False
        await writer.close()
        return time.perf_counter() - began

    def round_() -> None:
        benchmark.extra_info["commit_us"] = round(uvloop.run(main()) / COMMITS * 1e6)

    benchmark.pedantic(round_, rounds=3)


def test_detail_add(benchmark: Any) -> None:
    """512 calls from Python, and one flush; from Cython the call itself costs a tenth."""
    buffer, texts = DetailBuffer(), replies()

    def add() -> list[tuple[int, bytes]]:
        for i in range(COMMIT):
            buffer.add(i & 3, i >> 2, 1, 1, 1, 10.0, 10.05, 250, texts[i], DELIVERED)
        return buffer.flush()

    assert sum(len(list(decode(section))) for _, section in benchmark(add)) == COMMIT


def test_detail_flush(benchmark: Any) -> None:
    texts = replies()

    def setup() -> tuple[tuple[DetailBuffer], dict[str, Any]]:
        buffer = DetailBuffer()
        for i in range(COMMIT):
            buffer.add(i & 3, i >> 2, 1, 1, 1, 10.0, 10.05, 250, texts[i], DELIVERED)
        return (buffer,), {}

    benchmark.pedantic(DetailBuffer.flush, setup=setup, rounds=500)


@pytest.mark.parametrize(
    "function", [lambda outcome: tally(outcome, 1000), lambda outcome: bad_step(outcome, outcome, 1000)]
)
def test_a_thousand_outcome_bytes(benchmark: Any, function: Callable[[bytes], Any]) -> None:
    benchmark(function, b"DDDDDDDDDF" * 100)


def test_fill_and_lease_a_million(benchmark: Any, tmp_path: Path) -> None:
    paths = (tmp_path / f"{i}.journal" for i in itertools.count())

    def fill() -> Journal:
        journal = make_journal(next(paths), 1000)
        assert len(journal.lease(1000, NOW)[-1].numbers) == 1000
        return journal

    journal = benchmark.pedantic(fill, rounds=2)
    benchmark.extra_info["bytes_per_recipient"] = round(
        journal.path.with_name(journal.path.name + "-wal").stat().st_size / 1e6, 2
    )


def test_status_of_ten_million(benchmark: Any, tmp_path: Path) -> None:
    path = tmp_path / "news.journal"
    packed = pack(range(1, 1001), OFFSETS)
    with Journal.create(path, job="news", manifest_digest="m", pin=Pin) as journal, journal.fill() as filler:
        for _ in range(10_000):
            filler.add_chunk("*", packed, 1000)
    assert benchmark.pedantic(status, (path,), rounds=5)["recipients"] == 10_000_000
    benchmark.extra_info["bytes_per_recipient"] = round(path.stat().st_size / 1e7, 2)


def test_report_of_fifty_thousand(benchmark: Any, sender: Sender) -> None:
    """One round: all lines of 50 chunks, addresses from a list in memory."""
    for _ in range(8 * 12):
        sender.journal.advance(sender.settle())

    def read(offsets: Any) -> list[dict[str, str]]:
        return [{"email": "user@example.com"} for _ in offsets]

    def report() -> int:
        return sum(1 for _ in itertools.islice(iter_report(sender.journal.path, read=read), 50_000))

    assert benchmark.pedantic(report, rounds=2) == 50_000
