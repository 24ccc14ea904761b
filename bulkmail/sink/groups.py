"""Work on the disk that is done for many messages at once, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Groups(Generic[Item]):
    """While one group is at work in a thread, whoever comes is gathered for the next.

    work     called in a thread, one call at a time, with the items of a group; the outcome of each: None or its error
    threads  where it runs

    How many wait is bounded by whoever calls join(): each connection has one message at most.
    """

    def __init__(self, work: Callable[[list[Item]], Sequence[OSError | None]], threads: ThreadPoolExecutor) -> None:
        self._work, self._threads = work, threads
        self._waiting: list[tuple[Item, asyncio.Future[None]]] = []
        self._runner: asyncio.Task[None] | None = None

    async def join(self, item: Item) -> None:
        """Returns once the work is done for `item`. OSError if it failed for that."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append((item, done))
        if self._runner is None:
            self._runner = loop.create_task(self._run())
        await done

    async def _run(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting, []
                items = [item for item, _ in group]
                outcomes = await asyncio.get_running_loop().run_in_executor(self._threads, self._do, items)
                for (_, done), error in zip(group, outcomes, strict=True):
                    tell(done, error)
        finally:
            self._runner = None

    def _do(self, items: list[Item]) -> Sequence[Exception | None]:
        try:
            return self._work(items)
        except Exception as error:  # nobody may be left waiting
            return [error] * len(items)


def tell(done: asyncio.Future[None], error: Exception | None) -> None:
    if done.done():  # whoever waited was cancelled
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
