"""The thread that a run's ledger lives in, so that the event loop never waits for a disk.

Owns      the ledger between `Writer(ledger)` and `close()`: nobody else may call it meanwhile.
Promises  work is done in the order it was given; advances that wait together are one commit; a callback runs on the
          loop, once, after what it answers is committed, and never inside the call that asked.
Errors    go to the callback or the future: the thread itself does not die of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from bulkmail.job.ledger import Advance, Chunk, Ledger, merge

T = TypeVar("T")
Done = Callable[[BaseException | None], None]
Lease = tuple[list[Chunk], float | None]
LeasedEach = Callable[[list[Lease], BaseException | None], None]

Answer = tuple[Callable[[Any, BaseException | None], None], Any, BaseException | None]  # callback, its arguments

# An advance's callback is what frees its window, so callers hold few; this many waiting means one that never waits.
MAX_MERGED = 64


class Asked(Protocol):
    """What a scheduler asks of its ledger, which answers on the loop: a Writer, or a line to one in another process."""

    def submit(self, batch: Advance, done: Done) -> None: ...

    def lease_each(self, routes: list[str], chunks: int, now: float, done: LeasedEach) -> None: ...


class Writer:
    """submit(advance, done), lease_each(routes, chunks, now, done): for the scheduler, no future or task each.

    call: for the rest.
    """

    def __init__(self, ledger: Ledger, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """loop: where callbacks run; the running one by default."""
        self._ledger = ledger
        self._loop = loop or asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # A daemon: a run that is left at once (second signal) must not wait for the disk.
        self._thread = threading.Thread(target=self._run, name="bulkmail-journal", daemon=True)
        self._closed = False
        self._ended: asyncio.Future[None]
        self._thread.start()

    # ---- called on the loop ------------------------------------------------------------------------------------------

    def submit(self, batch: Advance, done: Done) -> None:
        """Commit; then done(None), or done(error) and nothing was changed. The batch is the writer's from here on."""
        self._put((batch, done))

    def lease_each(self, routes: list[str], chunks: int, now: float, done: LeasedEach) -> None:
        """Up to so many chunks of each route: done([(chunks, next_due)], None), one for each, or done([], error).

        next_due is asked where there are no chunks, and None otherwise.
        """

        def work() -> list[Lease]:
            found = ((route, self._ledger.lease(chunks, now, [route])) for route in routes)
            return [(leased, None if leased else self._ledger.next_due(now, [route])) for route, leased in found]

        self._put((work, lambda result, error: done(result or [], error)))

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> asyncio.Future[T]:
        """Any method of the ledger, in the writer's thread: `await writer.call(ledger.counts)`."""
        future: asyncio.Future[T] = self._loop.create_future()

        def answer(result: T | None, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is None:
                future.set_result(result)  # type: ignore[arg-type]
            else:
                future.set_exception(error)

        self._put((lambda: function(*args, **kwargs), answer))
        return future

    async def close(self) -> None:
        """Finish what was given, run its callbacks, end the thread; the ledger is the caller's again. Idempotent."""
        if not self._closed:
            self._closed = True
            self._ended = self._loop.create_future()
            self._queue.put(None)
        await asyncio.shield(self._ended)
        self._thread.join()

    def _put(self, item: tuple[Any, Any]) -> None:
        if self._closed:
            raise RuntimeError("the journal's writer is closed")
        self._queue.put(item)

    # ---- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        item = self._queue.get()
        while item is not None:
            work, answer = item
            if isinstance(work, Advance):
                item = self._commit([item])
            else:
                self._answer([(answer, *_attempt(work))])
                item = self._queue.get()
        self._answer([(lambda *_: self._ended.set_result(None), None, None)])

    def _commit(self, items: list[tuple[Advance, Done]]) -> Any:
        """Commit an advance and those that wait right behind it; the next item, which is not of them."""
        following = self._next_waiting()
        while following is not _NOTHING and following is not None and isinstance(following[0], Advance):
            items.append(following)
            following = self._next_waiting() if len(items) < MAX_MERGED else _NOTHING
        _, error = _attempt(lambda: self._ledger.advance(merge([batch for batch, _ in items])))
        self._answer([(_without_result(done), None, error) for _, done in items])
        return self._queue.get() if following is _NOTHING else following

    def _next_waiting(self) -> Any:
        try:
            return self._queue.get_nowait()
        except queue.Empty:
            return _NOTHING

    def _answer(self, answers: list[Answer]) -> None:
        """Run callbacks on the loop: one wake-up for all. A loop that is closed has nobody left to tell."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._run_answers, answers)

    def _run_answers(self, answers: list[Answer]) -> None:
        for answer, result, error in answers:
            try:
                answer(result, error)
            except Exception as exc:
                message = "a callback of the journal's writer failed"
                self._loop.call_exception_handler({"message": message, "exception": exc})


_NOTHING = object()


def _without_result(done: Done) -> Callable[[Any, BaseException | None], None]:
    return lambda _, error: done(error)


def _attempt(work: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    try:
        return work(), None
    except BaseException as exc:
        return None, exc
