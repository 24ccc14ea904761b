"""The writer: work in order, callbacks on the loop, errors to whoever asked, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from bulkmail.errors import JournalError
from bulkmail.job.ledger import Advance, Chunk, Fenced, merge
from bulkmail.job.memory_ledger import MemoryLedger
from bulkmail.job.writer import Lease, Writer
from unit.job.journal_tools import fill, new_journal, settle

NOW = 1_700_000_000.0
Run = Callable[[Coroutine[Any, Any, Any]], Any]


class SlowLedger(MemoryLedger):
    """Its commits wait until they are let go, and are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.commits = 0

    def advance(self, batch: Advance) -> None:
        self.entered.set()
        assert self.gate.wait(10)
        self.commits += 1
        super().advance(batch)


async def lease(writer: Writer, limit: int) -> list[Chunk]:
    answer: asyncio.Future[list[Chunk]] = asyncio.get_running_loop().create_future()

    def done(leases: list[Lease], error: BaseException | None) -> None:
        answer.set_exception(error) if error else answer.set_result(leases[0][0])

    writer.lease_each(["*"], limit, NOW, done)
    return await answer


async def submit(writer: Writer, batch: Advance) -> None:
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    writer.submit(batch, lambda error: answer.set_exception(error) if error else answer.set_result(None))
    await answer


def test_a_journal_is_driven_through_it(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        journal = new_journal(tmp_path / "news.journal")
        fill(journal, chunks=2, n=4)
        writer = Writer(journal)
        (chunk,) = await lease(writer, 1)
        assert await writer.call(journal.next_due, NOW) == NOW
        await submit(writer, settle(chunk, b"DDF"))
        assert (await writer.call(journal.counts)).delivered == 2
        await writer.call(journal.finish, "stopped", "enough")
        await writer.close()
        assert journal.counts().failed == 1  # the caller's again
        journal.close()

    run(main())


def test_callbacks_run_on_the_loop_in_order_and_never_inside_the_call(run: Run) -> None:
    async def main() -> None:
        ledger = MemoryLedger()
        fill(ledger)
        writer = Writer(ledger)
        seen: list[object] = []
        here = threading.get_ident()
        for i in range(50):
            writer.submit(Advance(), lambda error, i=i: seen.append((i, error, threading.get_ident())))
            if i % 7 == 0:
                writer.lease_each([], 0, NOW, lambda _, error, i=i: seen.append((i, error, threading.get_ident())))
        assert seen == []
        await writer.close()
        assert seen == [(i, None, here) for i in range(50) for _ in range(2 if i % 7 == 0 else 1)]

    run(main())


def test_advances_that_wait_together_are_one_commit(run: Run) -> None:
    async def main() -> None:
        ledger = SlowLedger()
        fill(ledger, n=9)
        (chunk,) = ledger.lease(1, NOW)
        writer = Writer(ledger)
        answered: list[int] = []
        for i in range(9):
            batch = settle(chunk, b"D" * (i + 1), serial=i + 1)
            writer.submit(batch, lambda error, i=i: answered.append(i))
            if i == 0:
                assert ledger.entered.wait(10)  # the first is alone; the others wait behind it
        ledger.gate.set()
        await writer.close()
        assert (ledger.commits, answered) == (2, list(range(9)))
        assert ledger.counts().delivered == 9

    run(main())


def test_an_error_goes_to_all_whose_commit_it_was_and_the_writer_goes_on(run: Run) -> None:
    async def main() -> None:
        ledger = MemoryLedger()
        fill(ledger, chunks=2, n=2)
        writer = Writer(ledger)
        chunk, other = await lease(writer, 2)
        with pytest.raises(Fenced):
            await submit(writer, Advance([(chunk.no, 99, 1, b"D.")]))
        with pytest.raises(JournalError):
            await writer.call(ledger.late, [(chunk.no, 0, ord("D"))])
        await submit(writer, settle(other, b"DD"))
        assert (await writer.call(ledger.counts)).delivered == 2
        await writer.close()

    run(main())


def test_a_callback_that_fails_is_reported_and_the_next_one_runs(run: Run) -> None:
    async def main() -> None:
        writer = Writer(MemoryLedger())
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
        answered: list[object] = []
        writer.submit(Advance(), lambda error: {}["missing"])  # type: ignore[misc, index]
        writer.submit(Advance(), answered.append)
        await writer.close()
        assert [type(error) for error in reported] == [KeyError]
        assert answered == [None]

    run(main())


def test_closing_finishes_what_was_given_and_ends_the_thread(run: Run) -> None:
    async def main() -> None:
        ledger = SlowLedger()
        fill(ledger, n=1)
        (chunk,) = ledger.lease(1, NOW)
        writer = Writer(ledger)
        answered: list[object] = []
        writer.submit(settle(chunk, b"D"), answered.append)
        asyncio.get_running_loop().call_later(0.01, ledger.gate.set)
        await asyncio.gather(writer.close(), writer.close())
        assert answered == [None]
        assert not any(thread.name == "bulkmail-journal" for thread in threading.enumerate())
        with pytest.raises(RuntimeError, match="closed"):
            writer.submit(Advance(), answered.append)
        await writer.close()

    run(main())


def test_a_loop_that_was_left_does_not_keep_the_process(tmp_path: Path) -> None:
    """The second signal leaves at once: the loop closes under the writer."""
    ledger = SlowLedger()
    loop = asyncio.new_event_loop()
    writer = Writer(ledger, loop)
    writer.submit(Advance(), lambda error: None)
    assert ledger.entered.wait(10)
    loop.close()
    assert writer._thread.daemon
    ledger.gate.set()
    writer._queue.put(None)
    writer._thread.join(10)
    assert not writer._thread.is_alive()


def test_a_cancelled_question_is_not_answered(run: Run) -> None:
    async def main() -> None:
        writer = Writer(MemoryLedger())
        future = writer.call(lambda: 1)
        future.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await future
        assert await writer.call(lambda: 2) == 2
        await writer.close()

    run(main())


def test_merging_keeps_the_newest_word_on_each_chunk() -> None:
    merged = merge(
        [
            Advance([(1, 1, 2, b"D.."), (2, 1, 1, b"F")], [(1, b"a")], progress={"attempts": 1}, serial=1),
            Advance([(1, 1, 3, b"DD.")], [(1, b"b"), (2, b"c")], serial=2),
        ]
    )
    assert sorted(merged.chunks) == [(1, 1, 3, b"DD."), (2, 1, 1, b"F")]
    assert merged.details == [(1, b"a"), (1, b"b"), (2, b"c")]
    assert (merged.progress, merged.serial) == ({"attempts": 1}, 2)
